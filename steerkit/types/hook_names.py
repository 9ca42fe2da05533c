"""Names of places in a model that people know from TransformerLens and nnterp, and the sites that they mean here.

The one table of them. A name means the site as it is verified on the model: a contribution as it is added to the
stream, also where those libraries read what a module of a given name puts out (``docs/positions.md`` tells where).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from steerkit.errors import SiteError, nearest

_LAYER: Final = "<layer>"

HOOK_NAMES: Final[Mapping[str, str]] = {
    # TransformerLens
    "hook_embed": "embed",
    "blocks.<layer>.hook_resid_pre": "blocks.<layer>.resid_pre",
    "blocks.<layer>.hook_attn_out": "blocks.<layer>.attn_out",
    "blocks.<layer>.hook_resid_mid": "blocks.<layer>.resid_mid",
    "blocks.<layer>.hook_mlp_out": "blocks.<layer>.mlp_out",
    "blocks.<layer>.hook_resid_post": "blocks.<layer>.resid_post",
    "blocks.<layer>.attn.hook_z": "blocks.<layer>.head_out",
    # nnterp
    "token_embeddings": "embed",
    "layers_input[<layer>]": "blocks.<layer>.resid_pre",
    "attentions_output[<layer>]": "blocks.<layer>.attn_out",
    "mlps_output[<layer>]": "blocks.<layer>.mlp_out",
    "layers_output[<layer>]": "blocks.<layer>.resid_post",
}
"""Name to site. In a layer's place may stand what patterns have there: ``*``, ``8-20``, ``[0.6]``."""

_SCORES: Final = "there is no site within attention before its heads' outputs"
_READ_ONLY: Final = "what a module reads behind a norm is no part of the stream; edit the stream before it"

NO_SITES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("hook_q", "hook_k", "hook_v", "hook_rot_q", "hook_rot_k"), _SCORES),
    **dict.fromkeys(("hook_attn_scores", "hook_pattern", "attention_probabilities"), _SCORES),
    "hook_result": "a head is read before the output projection, at head_out, and not behind it",
    **dict.fromkeys(("hook_pre", "hook_pre_linear", "hook_post"), "there is no site within an MLP"),
    **dict.fromkeys(("hook_scale", "hook_normalized", "attentions_input", "mlps_input"), _READ_ONLY),
    **dict.fromkeys(
        ("hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input", "hook_mlp_in"),
        "the stream is one for all that reads it; an edit at resid_pre or resid_mid reaches all of them",
    ),
    "hook_pos_embed": "embed is the sum of all embeddings, as it enters the stream",
    "hook_tokens": "tokens are no stream",
    **dict.fromkeys(("logits", "next_token_probs"), "logits are no part of the stream"),
}
"""Names without a site: the last part of a TransformerLens name, the first of nnterp's; and why there is none."""

_WHICH: Final = r"(?P<which>-?\d+|\*|\d+-\d+|\[[\d.]+(?:-[\d.]+)?\])"
_FORMS: Final = [
    (re.compile(re.escape(name).replace(re.escape(_LAYER), _WHICH) + r"(?P<head>\[\d+\])?"), site)
    for name, site in HOOK_NAMES.items()
]
_HOOK: Final = re.compile(r"(?:.*\.)?(?P<last>hook_[a-z0-9_]+)(?:\[.*)?")
_ACCESSOR: Final = re.compile(
    r"(?P<first>attention_probabilities|[a-z]+_(?:input|output)|next_token_probs|logits)(\[.*)?"
)


def own_form(text: str) -> str:
    """The text form of a site or pattern that a known hook name means; any other text as it is.

    Raises:
        SiteError: for a hook's name that means no site here, with the sites that there are.
    """
    written = text.strip().replace(" ", "")
    for form, site in _FORMS:
        match = form.fullmatch(written)
        if match is not None:
            which = match.groupdict().get("which") or ""
            return site.replace(_LAYER, which) + (match["head"] or "")
    hook, accessor = _HOOK.fullmatch(written), _ACCESSOR.fullmatch(written)
    if hook is None and accessor is None:
        return text
    part = hook["last"] if hook else accessor["first"] if accessor else ""
    if part in NO_SITES:
        known = ", ".join(dict.fromkeys(HOOK_NAMES.values()))
        raise SiteError(f"{text!r} means no site: {NO_SITES[part]}. Sites: {known}.")
    raise SiteError(f"{text!r} is no hook that means a site. {nearest(_general(written), HOOK_NAMES, 'hook name')}")


def _general(written: str) -> str:
    """A name with ``<layer>`` in place of its number, to be compared."""
    return re.sub(rf"(?<=^blocks\.){_WHICH}(?=\.)|(?<=\[).+(?=\]$)", _LAYER, written)
