"""One module per library. Each has ``PACKAGES``, ``IMPORTS``, ``VARIANTS``, ``HOW`` and a class ``Driver``.

``Driver(folder, variant)`` loads the model as the library's user would. ``extract(positive, negative)`` returns
``[layers, d_model]``: mean of the first texts minus mean of the second ones, of every block's output at the last
token. ``add_all(vectors)`` and ``ablate(direction)`` are contexts that yield a ``Steered``; ``ABLATE_AT`` names the
places of ``definition.PLACES`` at which ``ablate`` acts. A job that a library has no way of doing raises
``NotOffered``.

The libraries are imported by name, because this project doesn't depend on them: a test holds every ``import`` of the
checkout to what the project declares.
"""
