"""What the catalog lists: plugins, where they come from, and what can be set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from steerkit.api.hookspecs import Options, Spec

Status = Literal["ok", "broken", "invalid", "clash", "outdated", "newer"]

_EMPTY: Final = (list, dict, set, tuple, frozenset)


@dataclass(frozen=True)
class Origin:
    """Where a plugin comes from.

    Args:
        entry_point: its name in the group ``steerkit``.
        module: the module that the entry point names.
        distribution: the installed distribution that declares it.
        version: of that distribution.
    """

    entry_point: str
    module: str
    distribution: str = "(not installed)"
    version: str = ""

    def __str__(self) -> str:
        return f"{' '.join(part for part in (self.distribution, self.version) if part)} (module {self.module})"

    @property
    def selector(self) -> str:
        """What to disable this plugin by, and no other one."""
        return f"{self.distribution}:{self.entry_point}"

    def matches(self, names: Iterable[str]) -> bool:
        """Whether the plugin is among ``names``, compared as package indexes do.

        Args:
            names: entry points, distributions, or ``distribution:entry_point``, which no other plugin answers to.
        """
        wanted = [*names]
        if not wanted:
            return False
        # Only who disables plugins waits for it.
        from packaging.utils import canonicalize_name

        own = {canonicalize_name(name) for name in (self.entry_point, self.distribution, self.selector)}
        return any(canonicalize_name(name.strip()) in own for name in wanted)


@dataclass(frozen=True)
class Option:
    """One field of a plugin's options, for people to read.

    Args:
        name: as recipes write it.
        type: its type as text.
        default: its default as a JSON value; None where it is required or computed.
        required: whether a recipe must give it.
        description: one line.
        computed: whether its default is computed when the options are made.
    """

    name: str
    type: str
    default: Any
    required: bool
    description: str
    computed: bool = False


@dataclass(frozen=True)
class Entry:
    """A plugin as ``steerkit plugins`` lists it.

    Args:
        origin: where it comes from.
        status: ``ok``; ``broken`` where it can't be imported; ``invalid`` where it breaks the contract;
            ``clash`` where another one has its kind and name; ``outdated`` and ``newer`` where it was written for
            an older or a newer version of the contract.
        spec: what it provides; None where it is broken or invalid.
        cause: what is wrong with it.
        options: what a recipe may set.
    """

    origin: Origin
    status: Status = "ok"
    spec: Spec | None = None
    cause: str = ""
    options: tuple[Option, ...] = ()

    @property
    def kind(self) -> str:
        """The kind, or ``""`` where the plugin didn't get so far as to say."""
        return self.spec.kind if self.spec else ""

    @property
    def name(self) -> str:
        """The plugin's name, or its entry point's where it is broken."""
        return self.spec.name if self.spec else self.origin.entry_point


def describe_options(model: type[Options]) -> tuple[Option, ...]:
    """Return the fields of an options model as text and JSON values."""
    described = []
    for name, info in model.model_fields.items():
        # A plugin's own function may want the other options, or torch: it isn't called to make a list.
        computed = info.default_factory is not None and info.default_factory not in _EMPTY
        default = None if info.is_required() or computed else info.get_default(call_default_factory=True)
        described.append(
            Option(
                name=name,
                type=_type_text(info.annotation),
                default=_plain(default),
                required=info.is_required(),
                description=info.description or "",
                computed=computed,
            )
        )
    return tuple(described)


def _type_text(annotation: Any) -> str:
    """An annotation as people write it: ``list[str]``, ``'a' | 'b'``, ``float | None``."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is None or annotation is type(None):
        return "None"
    if annotation is Ellipsis:
        return "..."
    if origin is Annotated:
        return _type_text(inner[0])
    if origin is Literal:
        return " | ".join(repr(value) for value in inner)
    if origin in (Union, UnionType):
        return " | ".join(_type_text(item) for item in inner)
    name = getattr(origin or annotation, "__name__", str(annotation))
    return f"{name}[{', '.join(_type_text(item) for item in inner)}]" if inner else str(name)


def _plain(value: Any) -> Any:
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value, fallback=repr)
