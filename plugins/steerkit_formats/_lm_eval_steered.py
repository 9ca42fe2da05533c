"""Files for ``lm_eval --model steered`` of EleutherAI/lm-evaluation-harness.

Read in that repository: ``lm_eval/models/hf_steered.py`` (a mapping from names of modules, within the model's base, to
``steering_vector``, ``steering_coefficient``, ``action``, ``bias`` and ``head_index``; ``add`` adds to what the module
puts out, at all tokens), and the same file before version 0.4.9.2, where ``add`` takes the last hookpoint's vector at
each of them, and looks up ``bias``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from steerkit.api.blocks import output_of
from steerkit.api.format import Contents, Format, Written
from steerkit.errors import ArtifactError
from steerkit_formats._common import SITES, not_kept, of_blocks, one_vector
from steerkit_formats._torch_file import saved
from steerkit_formats.lm_eval_steered import LmEvalSteeredOptions

_OLD: Final = (
    "Versions of lm-evaluation-harness before 0.4.9.2 add the last hookpoint's vector at every hookpoint: with one of "
    "them write a direction at one site."
)
_EVERYWHERE: Final = "The harness adds the vectors at all tokens, of prompts and of what is generated."


class LmEvalSteeredFormat(Format[LmEvalSteeredOptions]):
    """One direction, added at blocks' outputs."""

    def sniff(self, path: Path) -> bool:
        """No: the format is only written."""
        return False

    def write(self, contents: Contents) -> Written:
        """The file.

        Raises:
            ArtifactError: for several directions, several vectors at one site, and sites that aren't blocks' outputs.
        """
        lost = [*not_kept(contents, (SITES,)), _EVERYWHERE]
        if len(contents.directions) > 1:
            raise ArtifactError("A hookpoint takes one vector. Write each direction to a file of its own.")
        (direction,) = contents.directions.values()
        wanted = {site: output_of(site) for site in direction.sites}
        blocks = of_blocks(direction, wanted, "Hookpoints are written for the outputs of blocks")
        held = {
            self.options.hookpoint.replace("{layer}", str(layer)): {
                "steering_vector": one_vector(direction, site, "A hookpoint"),
                "steering_coefficient": self.options.coefficient,
                "action": "add",
                "bias": None,
                "head_index": None,
            }
            for layer, site in blocks.items()
        }
        if len(held) > 1:
            lost.append(_OLD)
        return Written(saved(held), tuple(lost))
