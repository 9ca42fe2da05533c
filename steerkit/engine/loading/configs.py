"""What a model's config says about its outputs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_NAMES: Final = ("_name_or_path", "name_or_path")
"""Where transformers notes what a config was loaded from, in configs within it as well."""


def config_values(config: PreTrainedConfig) -> dict[str, Any]:
    """Every value of a config as JSON has it, but for what says where it was loaded from.

    No output depends on that, so the same model in another folder has the same values.
    """
    values: dict[str, Any] = _config_without_names(json.loads(config.to_json_string(use_diff=False)))
    return values


def _config_without_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _config_without_names(item) for key, item in value.items() if key not in _NAMES}
    return [_config_without_names(item) for item in value] if isinstance(value, list) else value
