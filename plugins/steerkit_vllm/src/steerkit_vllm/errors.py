"""What a request, or whoever loads a program, can get wrong: each with the HTTP status that says so."""

from __future__ import annotations

from steerkit.errors import SteerkitError


class Refused(SteerkitError):
    """A request that never reaches a worker. ``status`` is what an HTTP server answers with, ``kind`` its name."""

    status = 400
    kind = "BadRequestError"


class UnknownProgram(Refused):
    """No program of that name or content is loaded."""

    status = 404
    kind = "NotFoundError"


class Unfit(Refused):
    """A program that this server's model, or this request, has no place for."""

    status = 422
    kind = "UnprocessableEntityError"


class Full(Refused):
    """As many programs are loaded as there is room for."""

    status = 409
    kind = "ConflictError"


class InUse(Refused):
    """A program that requests are still running with, or a name that is taken."""

    status = 409
    kind = "ConflictError"


class Forbidden(Refused):
    """A file outside of the folder from which programs may be loaded."""

    status = 403
    kind = "ForbiddenError"
