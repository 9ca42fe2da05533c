"""Requests of other plugins that steer vLLM: vllm-lens, EasySteer, hotwire-vllm and vLLM-Hook.

Each adds at the output of a decoder block, counted from 0: ``resid_post``. What fits is written in the plugin's own
form, from its public source:

* vllm-lens 1.2.1 (github.com/UKGovernmentBEIS/vllm-lens, commit 7d252f7): ``vllm_xargs.apply_steering_vectors``, a JSON
  text; a tensor is base64 of its bytes with dtype and shape. Vectors act at all tokens, or at absolute ones.
* EasySteer on vLLM 0.26 (github.com/ZJU-REAL/EasySteer, commit 312c6d8, with EasySteer-vllm-v1 6267ca0): the field
  ``steering``; payloads of kind ``direction`` (added) and ``lowrank`` (``h + (h P1) P2ᵀ``), with a sha256 of their
  content; where-clauses by phase.
* hotwire-vllm 0.1.2 (the wheel on the package index): vectors ``[n_layers, width]`` in ``$HOTWIRE_VECTORS/NAME.pt``,
  and ``vllm_xargs.hotwire``, a JSON text that names one row each.
* vLLM-Hook 0.1.0 (github.com/IBM/vLLM-Hook, commit 631b0f9): a ``.pt`` with ``dir`` for the method ``add_vector`` at
  one layer, and a configuration file; it steers every request.
"""

from __future__ import annotations

import io
import json
from base64 import b64encode
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from steerkit.errors import counted
from steerkit.exporting.additions import SERVE, request_of, require_outputs, summed
from steerkit.exporting.kinds import Written
from steerkit.types import Positions

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.api.program import Program, ProgramUpdate

ALL: Final = Positions("all")
GENERATED: Final = Positions("generated")
_PHASES: Final = {"prompt": "prompt", "": "prompt", "generated": "generation", "completion": "generation"}
_EASYSTEER: Final = request_of("EasySteer")
_ROUNDED: Final = "It adds in the model's own dtype, rounded vector by vector."


def write_vllm_lens(program: Program) -> Written:
    """The fields that a request of vllm-lens has beside its prompt.

    Raises:
        AttachError: for anything but vectors that are added at outputs of blocks, at all tokens.
    """
    _, vectors = summed(program, request_of("vllm-lens"), (ALL,))
    told = {
        "activations": _tensor(_stacked(list(vectors.values()))),
        "layer_indices": list(vectors),
        "scale": 1.0,
        "norm_match": False,
        "position_indices": None,
    }
    request = {
        "vllm_xargs": {"apply_steering_vectors": json.dumps([told])},
        # vllm-lens salts no cache: plain requests would go on from steered ones.
        "cache_salt": f"steerkit-{program.digest}",
    }
    lost = "Send it with every request that is steered, cache_salt included, and that salt with no other."
    return Written(_json(request), (lost, _ROUNDED))


def write_easysteer(program: Program) -> Written:
    """The fields that a request of EasySteer has beside its prompt.

    Raises:
        AttachError: for updates elsewhere than at outputs of blocks, schedules, and positions that its clauses lack.
    """
    require_outputs(program, _EASYSTEER)
    vectors: list[dict[str, Any]] = []
    for update in program.updates:
        apply = _clause(program, update)
        layers = [update.site.layer]
        if update.reads is not None and update.writes is not None:
            parts = {"projector1": update.reads.T.contiguous(), "projector2": update.writes.T.contiguous()}
            vectors.append(_vector("lm_steer", "lowrank", parts, layers, apply))
        if update.bias is not None:
            parts = {f"layer.{layers[0]}": update.bias}
            vectors.append(_vector("direct", "direction", parts, layers, apply))
    algorithms = sorted({one["algorithm"] for one in vectors})
    lost = [f"Its server must be started with --enable-steer-vector --steer-algorithms {' '.join(algorithms)}."]
    if any(update.positions.role in ("prompt", "") for update in program.updates):
        lost.append("In a prompt that is too short EasySteer takes the last token instead; steerkit refuses it.")
    request = {"steering": {"vectors": vectors, "conflict": "sequential"}}
    return Written(_json(request), (*lost, _ROUNDED))


def write_hotwire(program: Program) -> Written:
    """The file of vectors that a server of hotwire-vllm loads. The request that asks for them is told.

    Raises:
        AttachError: for anything but vectors that are added at outputs of blocks, at all or all generated tokens.
    """
    import torch

    positions, vectors = summed(program, request_of("hotwire-vllm"), (ALL, GENERATED))
    rows = torch.zeros(program.model.n_layers, program.model.d_model)
    for layer, vector in vectors.items():
        rows[layer] = vector
    name = program.name.replace("/", "-")
    later = {"decode_only": True} if positions == GENERATED else {}
    asked = [{"id": name, "layer": layer, "scale": 1.0, **later} for layer in vectors]
    field = json.dumps({"hotwire": json.dumps(asked)})
    lost = [
        f"Put it into $HOTWIRE_VECTORS as {name}.pt, and send vllm_xargs = {field}.",
        "hotwire-vllm salts no cache: send a cache_salt of your own with steered requests "
        f"({f'steerkit-{program.digest[:16]}' if not later else 'another one for each prompt'}).",
        f"It takes {counted(len(asked), 'slot')} of the server's (HOTWIRE_SLOTS, 16 unless set); where none is free, "
        "or the id isn't known, hotwire-vllm serves unsteered and logs a line.",
    ]
    if later:
        lost.append("A prompt of one token, or of which all but one are cached, counts as generated.")
    return Written(_saved(rows), (*lost, _ROUNDED))


def write_vllm_hook(program: Program) -> Written:
    """The file of a vector that vLLM-Hook loads. The configuration that names it is told.

    Raises:
        AttachError: for anything but one vector that is added at the output of one block, at all tokens.
    """
    form = request_of("vLLM-Hook")
    _, vectors = summed(program, form, (ALL,))
    if len(vectors) > 1:
        layers = ", ".join(map(str, vectors))
        raise form.refusal(program, f"it adds at blocks {layers}, and {form.name} steers one block. {SERVE}")
    ((layer, vector),) = vectors.items()
    told = {
        "method": "add_vector",
        "coefficient": 1.0,
        "optimal_layer": layer,
        "vector_path": f"{program.name.replace('/', '-')}.pt",
        "apply_at_all_positions": True,
    }
    lost = (
        f"Name it in the configuration: {json.dumps({'steering': told})}.",
        "vLLM-Hook steers every request of its engine, only where the model's blocks are model.layers, and salts no "
        "cache: reset the prefix cache when you switch it on or off.",
    )
    return Written(_saved({"dir": vector}), (*lost, _ROUNDED))


def _clause(program: Program, update: ProgramUpdate) -> dict[str, Any]:
    """EasySteer's where-clause for an update's tokens."""
    positions = update.positions
    if positions == ALL:
        return {"prompt": "all", "generation": "all"}
    phase = _PHASES.get(positions.role)
    if phase is not None and not positions.each:
        if positions.indices:
            return {f"{phase}_positions": list(positions.indices)}
        if positions.span is None:
            return {phase: "all"}
        start, stop = positions.span
        if phase == "prompt" or not any((edge or 0) < 0 for edge in (start, stop)):
            return {f"{phase}_window": [start or 0, stop]}
    why = f"it acts at {positions} ({update.site}), which its where-clauses can't say. {SERVE}"
    raise _EASYSTEER.refusal(program, why)


def _vector(
    algorithm: str, kind: str, tensors: dict[str, Tensor], layers: list[int], apply: dict[str, Any]
) -> dict[str, Any]:
    digest = sha256(f"{kind}:1".encode())
    for name in sorted(tensors):
        digest.update(f"{name}{tuple(tensors[name].shape)}".encode() + _bytes(tensors[name]))
    wire = {
        "version": 1,
        "kind": kind,
        "tensors": {
            name: {"shape": list(tensors[name].shape), "data": b64encode(_bytes(tensors[name])).decode()}
            for name in sorted(tensors)
        },
        "extra": {},
        "sha256": digest.hexdigest(),
    }
    return {"data": wire, "algorithm": algorithm, "scale": 1.0, "layers": layers, "normalize": False, "apply": apply}


def _tensor(value: Tensor) -> dict[str, Any]:
    return {
        "data": b64encode(_bytes(value)).decode(),
        "dtype": "float32",
        "original_dtype": "torch.float32",
        "shape": list(value.shape),
    }


def _stacked(vectors: list[Tensor]) -> Tensor:
    import torch

    return torch.stack(vectors)


def _bytes(value: Tensor) -> bytes:
    found: bytes = value.contiguous().numpy().astype("<f4").tobytes()
    return found


def _saved(value: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


__all__ = ["write_easysteer", "write_hotwire", "write_vllm_hook", "write_vllm_lens"]
