"""A layout as the source of an adapter's module: what ``steerkit inspect MODEL --declare`` prints."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from steerkit.errors import counted
from steerkit.types import ATTN_OUT, MLP_OUT

if TYPE_CHECKING:
    from steerkit.api.architecture import Block, Layout

_WIDTH: Final = 120
_INDENT: Final = "    "
_POSITIONAL: Final = {"Tap": ("module", "side"), "Writer": ("stream", "tap"), "Heads": ("tap",)}
"""Arguments that are written without their names."""
_EACH_ON_ITS_LINE: Final = ("Block", "Layout")
_CONSTANTS: Final = {ATTN_OUT: "ATTN_OUT", MLP_OUT: "MLP_OUT"}
_CONTRACT: Final = ("ArchitectureAdapter", "Block", "Heads", "Layout", "Tap", "Writer")


@dataclass(frozen=True)
class _Call:
    """``name(...)``, or a tuple where the name is empty: what stands before each argument, and the argument."""

    name: str
    parts: tuple[tuple[str, _Node], ...]


_Node: TypeAlias = "_Call | str"
"""A call, or an expression as it is written."""


@dataclass(frozen=True)
class _Kind:
    """Blocks that are alike but for their own path: which, and what one of them is."""

    layers: tuple[int, ...]
    block: _Node


def adapter_module(
    layout: Layout, model_type: str, name: str, sizes: Mapping[str, int], refines: Collection[str] = ()
) -> str:
    """The source of a plugin's module whose adapter declares this layout.

    Args:
        layout: as it was found.
        model_type: of the model that it was found on.
        name: of the adapter.
        sizes: of the model, as ``config_sizes`` gives them. What equals one of them is read from the config.
        refines: names of the adapters that the model's type has already.

    Returns:
        a module that runs as it is. Its adapter gives an equal layout of an equal model.
    """
    kinds = _kinds(layout, sizes)
    blocks = _methods(layout, kinds)
    top = _shown(_layout(layout, sizes, given="config" if "config" in blocks else ""), 2)
    read = f"{_INDENT * 2}config = model.config.get_text_config()\n" if "config" in f"{top}{blocks}" else ""
    body = f"{read}{_INDENT * 2}return {top}\n\n{blocks}"
    streams = _used(body, _CONSTANTS.values())
    any_type = ", Any" if "Any" in blocks else ""
    return _MODULE.format(
        name=name,
        # What stands in a text of ours can be no end of it.
        model_type=re.sub(r"[^\w .:/-]", "?", model_type),
        claimed=json.dumps(model_type, ensure_ascii=False),
        any_type=any_type,
        contract=", ".join(_used(f"ArchitectureAdapter {body}", _CONTRACT)),
        streams=f"from steerkit.types import {', '.join(streams)}\n" if streams else "",
        adapter=class_name(name),
        refines=f"{_INDENT * 3}refines={_shown(_plain(tuple(refines)), 3)},\n" if refines else "",
        paths=_paths(layout),
        body=body,
    )


_SHARE: Final = "hidden_size // config.num_attention_heads"


def config_sizes(config: Any) -> dict[str, int]:
    """The numbers that a layout may be written by, as a text config says them."""
    found = {}
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim"):
        try:
            value = getattr(config, name, None)
        except Exception:  # a config whose layers differ says no number for all of them, in an error of its own
            continue
        if isinstance(value, int):
            found[name] = value
    if "head_dim" not in found and found.get("num_attention_heads"):
        # Many configs say no width of a head, and mean this one.
        found[_SHARE] = found.get("hidden_size", 0) // found["num_attention_heads"]
    return found


def class_name(name: str) -> str:
    """The class of an adapter of that name: ``Gpt2Adapter`` of ``gpt2``."""
    return f"{''.join(part.capitalize() for part in name.split('_'))}Adapter"


def adapter_name(model_type: str, taken: Collection[str]) -> str:
    """A name for an adapter of a model type that no other adapter has."""
    name = re.sub(r"[^a-z0-9]+", "_", model_type.lower()).strip("_") or "model"
    name = name if name[0].isalpha() else f"model_{name}"
    while name in taken:
        name = f"own_{name}"
    return name


def _layout(layout: Layout, sizes: Mapping[str, int], given: str) -> _Call:
    """The call of ``Layout`` with the blocks made by ``self.block``."""
    depth = _size(layout.n_layers, sizes, "num_hidden_layers")
    beside = f", {given}" if given else ""
    written = {
        "d_model": _size(layout.d_model, sizes, "hidden_size"),
        "blocks": f"tuple(self.block(layer{beside}) for layer in range({depth}))",
    }
    return _call(layout, written=written)


def _kinds(layout: Layout, sizes: Mapping[str, int]) -> list[_Kind]:
    found: dict[_Node, list[int]] = {}
    for layer, block in enumerate(layout.blocks):
        found.setdefault(_block(block, sizes), []).append(layer)
    return [_Kind(tuple(layers), block) for block, layers in found.items()]


def _block(block: Block, sizes: Mapping[str, int]) -> _Call:
    heads = block.heads
    written: dict[str, str] = {}
    if heads is not None:
        written = {
            "n_heads": _size(heads.n_heads, sizes, "num_attention_heads"),
            "d_head": _size(heads.d_head, sizes, "head_dim", _SHARE),
        }
    return _call(block, block.module, written)


def _size(value: int, sizes: Mapping[str, int], *names: str) -> str:
    """A number by the first of some names of the config's that says it."""
    return next((f"config.{name}" for name in names if sizes.get(name) == value), str(value))


def _methods(layout: Layout, kinds: Sequence[_Kind]) -> str:
    """The method ``block``, and one for each kind of block where there are several."""
    given = ", config: Any" if any("config." in _flat(kind.block) for kind in kinds) else ""
    passed = ", config" if given else ""
    pattern = _pattern(layout)
    lines = [f"    def block(self, layer: int{given}) -> Block:"]
    lines += [f'        """Declare one block{", of whichever kind it is" if len(kinds) > 1 else ""}."""']
    lines += [f"        path = {f'f{chr(34)}{pattern}{chr(34)}' if pattern else '_PATHS[layer]'}"]
    if len(kinds) == 1:
        return "\n".join([*lines, f"        return {_shown(kinds[0].block, 2)}"])
    # The kind of most layers comes last, where no condition names them.
    *some, most = sorted(kinds, key=lambda kind: (len(kind.layers), kind.layers))
    for kind in sorted(some, key=lambda kind: kind.layers):
        lines += [
            f"        if layer {_among(kind.layers)}:",
            f"            return self.as_{kind.layers[0]}(path{passed})",
        ]
    lines += [f"        return self.as_{most.layers[0]}(path{passed})"]
    for kind in kinds:
        first, *others = kind.layers
        declared = f"a block as {first} is, and {counted(len(others), 'other')}" if others else f"block {first}"
        lines += [
            "",
            f"    def as_{first}(self, path: str{given}) -> Block:",
            f'        """Declare {declared}."""',
            f"        return {_shown(kind.block, 2)}",
        ]
    return "\n".join(lines)


def _among(layers: Sequence[int]) -> str:
    """The condition that a layer is one of these, with a range where they are one."""
    first, last = layers[0], layers[-1]
    if first == last:
        return f"== {first}"
    step = layers[1] - first
    if len(layers) > 2 and list(layers) == list(range(first, last + 1, step)):
        return f"in range({first}, {last + 1}{f', {step}' if step > 1 else ''})"
    return f"in {_flat(_plain(tuple(layers)))}"


def _pattern(layout: Layout) -> str:
    """The paths of all blocks with ``{layer}`` in place of their number, or nothing where they have no such form."""
    for match in re.finditer(r"(?<![^.])0(?![^.])", layout.blocks[0].module):
        before, behind = layout.blocks[0].module[: match.start()], layout.blocks[0].module[match.end() :]
        if all(block.module == f"{before}{layer}{behind}" for layer, block in enumerate(layout.blocks)):
            return f"{before}{{layer}}{behind}"
    return ""


def _paths(layout: Layout) -> str:
    """The constant with the blocks' paths, where these have no form in common."""
    return "" if _pattern(layout) else f"\n_PATHS = {_shown(_plain(tuple(one.module for one in layout.blocks)), 0)}\n"


def _call(value: Any, path: str | None = None, written: Mapping[str, str] | None = None) -> _Call:
    """A dataclass of the contract as the call that makes it, without what is the default anyway."""
    name, parts = type(value).__name__, list[tuple[str, _Node]]()
    for field in fields(value):
        held = getattr(value, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if default is not MISSING and held == default:
            continue
        bare = field.name in _POSITIONAL.get(name, ())
        given = (written or {}).get(field.name)
        parts.append(("" if bare else f"{field.name}=", given or _plain(held, path, written)))
    return _Call(name, tuple(parts))


def _plain(value: Any, path: str | None = None, written: Mapping[str, str] | None = None) -> _Node:
    """Any value of a layout as an expression; ``path`` is the block's, by which texts that begin so are written."""
    if is_dataclass(value):
        return _call(value, path, written)
    if isinstance(value, tuple):
        return _Call("", tuple(("", _plain(item, path, written)) for item in value))
    if not isinstance(value, str):
        return repr(value)
    if path and value == path:
        return "path"
    if path and value.startswith(f"{path}.") and re.fullmatch(r"[\w.]+", value):
        return f'f"{{path}}{value.removeprefix(path)}"'
    return _CONSTANTS.get(value) or json.dumps(value, ensure_ascii=False)


def _flat(node: _Node) -> str:
    if isinstance(node, str):
        return node
    inner = ", ".join(f"{before}{_flat(part)}" for before, part in node.parts)
    return f"{node.name}({inner}{',' if not node.name and len(node.parts) == 1 else ''})"


def _shown(node: _Node, depth: int, before: int = len("return ")) -> str:
    """An expression as a formatter would set it, begun behind ``before`` characters at an indent of ``depth``."""
    flat = _flat(node)
    alone = isinstance(node, _Call) and node.name in _EACH_ON_ITS_LINE
    if not alone and len(_INDENT) * depth + before + len(flat) + 1 <= _WIDTH:
        return flat
    inner, outer = _INDENT * (depth + 1), _INDENT * depth
    if isinstance(node, str):
        if not node.startswith('"'):
            return node
        text = json.loads(node)
        room = _WIDTH - len(inner) - len('""')
        pieces = textwrap.wrap(text, room, drop_whitespace=False, break_on_hyphens=False, replace_whitespace=False)
        lines = [f"{inner}{json.dumps(piece, ensure_ascii=False)}" for piece in pieces]
        return "\n".join(["(", *lines, f"{outer})"])
    lines = [f"{inner}{said}{_shown(part, depth + 1, len(said))}," for said, part in node.parts]
    return "\n".join([f"{node.name}(", *lines, f"{outer})"])


def _used(source: str, names: Collection[str]) -> list[str]:
    return [name for name in names if re.search(rf"\b{name}\b", source)]


_MODULE: Final = '''"""Architecture ``{name}``, declared from what a model of the type ``{model_type}`` was found to be.

A start: numbers are of the model that it was found on, unless its config says them. Prove it on this one and on others
with ``steerkit.testing.ArchitectureSuite``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING{any_type}

from steerkit.api.architecture import {contract}
from steerkit.api.hookspecs import ArchitectureSpec, hookimpl
{streams}
if TYPE_CHECKING:
    from transformers import PreTrainedModel

STEERKIT_CONTRACT = 2
{paths}

@hookimpl
def steerkit_architectures() -> list[ArchitectureSpec]:
    """Provide ``{name}``."""
    return [
        ArchitectureSpec(
            name="{name}",
            summary="Models of the type {model_type}.",
            implementation=f"{{__name__}}:{adapter}",
            model_types=({claimed},),
{refines}        )
    ]


class {adapter}(ArchitectureAdapter):
    """Models of the type {model_type}."""

    def layout(self, model: PreTrainedModel) -> Layout:
        """Declare the model's streams."""
{body}
'''
