"""Objects ``SteeringVector`` of steering-vectors/steering-vectors in files of ``torch.save``.

Read in that repository: ``steering_vectors/steering_vector.py`` (a dataclass of ``layer_activations``, vectors by
layer, and ``layer_type``; vectors are added to outputs of modules) and ``steering_vectors/layer_matching.py`` (which
modules these are; layers count from 0). Of the class nothing is imported: its two fields are all that is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from steerkit.api.format import Contents, Format, Given, Places
from steerkit.errors import ArtifactError
from steerkit.types import Site
from steerkit_formats._common import Reading, places_at
from steerkit_formats._torch_file import Made, NoTorchFileError, TensorOutline, load, outline, sniffed
from steerkit_formats.steering_vectors import SteeringVectorsOptions

CLASS: Final = "steering_vectors.steering_vector.SteeringVector"
_STREAMS: Final = {"decoder_block": "resid_post", "self_attn": "attn_out", "mlp": "mlp_out"}
_AS_ADDED: Final = (
    "Its vectors are for what a block's {module} puts out; here they act on what is added to the stream, which is the "
    "same but for models that scale or norm it behind that module (Gemma 2 and later, Granite)."
)


class _Fields:
    """Stands for the class: what it holds are plain fields."""


class SteeringVectorsFormat(Format[SteeringVectorsOptions]):
    """One direction at the layers of ``layer_activations``."""

    def sniff(self, path: Path) -> bool:
        """Whether a file's object is of that class."""
        held = sniffed(path)
        return isinstance(held, Made) and _names_class(held)

    def places(self, path: Path, given: Given = Given()) -> Mapping[str, Places]:
        """Sites and widths."""
        held = sniffed(path)
        if not isinstance(held, Made) or not isinstance(held.state, dict):
            return {}
        try:
            vectors = _by_site(held.state, path)
        except ArtifactError:
            return {}
        if not all(isinstance(one, TensorOutline) for one in vectors.values()):
            return {}
        return {path.stem: places_at(list(vectors), [one.shape for one in vectors.values()], None)}

    def fault(self, path: Path) -> str | None:
        """That its layer type is none of the stream."""
        try:
            held = outline(path).value
            _by_site(held.state if isinstance(held, Made) else None, path)
        except NoTorchFileError as error:
            return f"{path} {error}."
        except ArtifactError as error:
            return str(error)
        return None

    def read(self, path: Path, given: Given = Given()) -> Contents:
        """Read one direction, called as the file is.

        Raises:
            ArtifactError: where the file is missing, damaged, a bare pickle, or holds anything but such an object; for
                a layer type that is behind a norm; for NaN or infinite values; where other sites are given.
        """
        held = load(path, {CLASS: _Fields})
        state = vars(held) if isinstance(held, _Fields) else None
        vectors = _by_site(state, path)
        reading = Reading(path, given, "steering_vectors")
        kind = str((state or {}).get("layer_type"))
        if kind != "decoder_block":
            reading.lost.append(_AS_ADDED.format(module={"self_attn": "attention"}.get(kind, "MLP")))
        reading.add(path.stem, vectors, None, provenance={"layer_type": kind})
        return reading.contents()


def _names_class(held: Made) -> bool:
    """Whether what would be made is of that class: by itself, or by the helper that makes any object."""
    named = [held.name, *(getattr(one, "name", "") for one in held.arguments)] if held.arguments else [held.name]
    return CLASS in named


def _by_site(state: Any, path: Path) -> dict[Site, Any]:
    """Vectors by site, of the fields' values or of their outlines."""
    kind = state.get("layer_type", "decoder_block") if isinstance(state, dict) else None
    by_layer = state.get("layer_activations") if isinstance(state, dict) else None
    if not isinstance(by_layer, dict) or not by_layer or not isinstance(kind, str):
        raise ArtifactError(f"{path} holds no SteeringVector with layer_activations and a layer_type.")
    if kind not in _STREAMS:
        raise ArtifactError(
            f"{path}: its vectors are for {kind}, whose output is behind a norm and no part of the stream. Train it "
            "with layer_type='decoder_block'."
        )
    for layer in by_layer:
        if not isinstance(layer, int) or isinstance(layer, bool) or layer < 0:
            raise ArtifactError(f"{path}: {layer!r} is no block's number. Number layers from 0.")
    return {Site(_STREAMS[kind], layer): by_layer[layer] for layer in sorted(by_layer)}
