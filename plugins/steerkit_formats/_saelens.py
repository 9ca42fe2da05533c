"""Rows of the decoder of a sparse autoencoder of SAELens.

Read in decoderesearch/SAELens and its older home jbloomAus/SAELens: ``sae_lens/saes/sae.py`` (``cfg.json`` and
``sae_weights.safetensors``; ``W_dec`` is ``[features, width]``; what the normalisations do, and that a folder's files
don't hold the factor of ``expected_average_only_in``, by which rows are divided) and ``sae_lens/saes/transcoder.py``
(whose rows are of another place, and not rescaled).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from steerkit.api.direction_bytes import read_header
from steerkit.api.format import Contents, Format, Given, Places
from steerkit.errors import ArtifactError, SteerkitError, counted
from steerkit.types import Positions, Site
from steerkit.types.json_text import read_json
from steerkit_formats._common import Reading, content_of, places_at
from steerkit_formats.saelens import SaelensOptions

CONFIG, WEIGHTS, ROWS = "cfg.json", "sae_weights.safetensors", "W_dec"
_AVERAGE: Final = "expected_average_only_in"
_BY_TOKEN: Final = {
    "constant_norm_rescale": "the token's norm over the root of the width",
    "layer_norm": "the token's standard deviation",
}
_TRANSCODERS: Final = "transcoder"
_ALL: Final = Positions("all")


class SaelensFormat(Format[SaelensOptions]):
    """Each feature that is asked for is a direction of its own, at the place that the autoencoder reconstructs."""

    def sniff(self, path: Path) -> bool:
        """Whether a folder has both files, or a file is the weights' with a config beside it."""
        config, weights = _files(path)
        try:
            return _shape(weights) is not None and isinstance(_config(config), dict)
        except ArtifactError:
            return False

    def files(self, path: Path) -> tuple[Path, ...]:
        """Config and weights."""
        return _files(path)

    def places(self, path: Path, given: Given = Given()) -> Mapping[str, Places]:
        """Site and width of the features that are asked for."""
        config, weights = _files(path)
        try:
            told, shape = _config(config), _shape(weights)
            site = _site(told)
        except ArtifactError:
            return {}
        if shape is None:
            return {}
        sites = [site or given.site] if isinstance(site or given.site, Site) else []
        width = [(shape[1],)]
        return {
            _name(feature): places_at([one for one in sites if isinstance(one, Site)], width, _ALL)
            for feature in self.options.features
        }

    def fault(self, path: Path) -> str | None:
        """That no feature is asked for, or one that isn't there."""
        config, weights = _files(path)
        try:
            told = _config(config)
            self._require_features(path, _require_shape(weights, told))
        except ArtifactError as error:
            return str(error)
        return None

    def read(self, path: Path, given: Given = Given()) -> Contents:
        """Read the decoder rows of option ``features``, in the units of the model's own stream where that can be.

        Raises:
            ArtifactError: where a file is missing, damaged or something else; where no feature is asked for, or one
                that isn't there; for a hook name without a site where none is given; for NaN or infinite values.
        """
        config, weights = _files(path)
        told = _config(config)
        count, _ = shape = _require_shape(weights, told)
        self._require_features(path, shape)
        site = _site(told)
        own = isinstance(site, Site)
        if site is None:
            if not isinstance(given.site, Site):
                raise ArtifactError(f"{path}: {_hook(told)!r} is no hook that means a site. Give the site.")
            site = given.site
        rows = _rows(weights, self.options.features)
        reading = Reading(path, given, "saelens")
        factor = self._factor(told, reading)
        for feature, row in rows.items():
            scaled = row if factor == 1 else row / factor
            source = {"feature": feature, "features": count, "hook_name": _hook(told)}
            reading.add(_name(feature), {site: scaled}, _ALL, sites_are_given=not own, provenance=source)
        return reading.contents()

    def _require_features(self, path: Path, shape: tuple[int, int]) -> None:
        chosen = self.options.features
        if not chosen:
            raise ArtifactError(
                f"{path} has {counted(shape[0], 'feature')}, and none is asked for. Name some, as in options: "
                "{features: [12]}, or --option features=[12]."
            )
        wrong = [feature for feature in chosen if not 0 <= feature < shape[0]]
        if wrong:
            raise ArtifactError(f"{path} has features 0 to {shape[0] - 1}, and none of number {wrong[0]}.")

    def _factor(self, told: Mapping[str, Any], reading: Reading) -> float:
        """By what a row is divided to be of the stream's units; what can't be said of them is told."""
        kind = told.get("normalize_activations", "none")
        if kind == _AVERAGE and self.options.scaling_factor is not None:
            return self.options.scaling_factor
        if kind == _AVERAGE:
            reading.lost.append(
                "Activations are scaled before this autoencoder reads them, by a factor that its files don't say: the "
                "rows point where they should, and are too long or too short by it. Option scaling_factor mends that."
            )
        elif kind in _BY_TOKEN and _TRANSCODERS not in str(told.get("architecture", "")):
            reading.lost.append(
                f"This autoencoder normalises each token by itself ({kind}): the rows point where they should, and a "
                f"feature's length in the stream is a row's times {_BY_TOKEN[kind]}."
            )
        elif kind not in ("none", None, *_BY_TOKEN):
            raise ArtifactError(f"{reading.path}: its normalisation {kind!r} isn't known, so its rows can't be read.")
        return 1.0


def _files(path: Path) -> tuple[Path, Path]:
    folder = path if path.is_dir() else path.parent
    return folder / CONFIG, folder / WEIGHTS if path.is_dir() else path


def _config(path: Path) -> dict[str, Any]:
    """The config, with what newer files say under ``metadata`` beside the rest."""
    try:
        told = read_json(content_of(path))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged ({error}). Get a whole copy.") from None
    if not isinstance(told, dict) or not {"d_sae", "d_in"} & told.keys():
        raise ArtifactError(f"{path} is no config of an autoencoder. Get a whole copy.")
    inner = [told[key] for key in ("metadata", "meta") if isinstance(told.get(key), dict)]
    return {**told, **(inner[0] if inner else {})}


def _shape(path: Path) -> tuple[int, int] | None:
    """Features and width of the decoder; None for any other file."""
    try:
        header, _ = read_header(path)
        rows, width = (header or {})[ROWS]["shape"]
        return (int(rows), int(width)) if rows and width else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _require_shape(path: Path, told: Mapping[str, Any]) -> tuple[int, int]:
    content_of_nothing = not path.is_file()
    shape = None if content_of_nothing else _shape(path)
    if shape is None:
        what = "isn't there" if content_of_nothing else f"is damaged, or has no decoder {ROWS}"
        raise ArtifactError(f"{path} {what}. Get a whole copy of the folder.")
    wide = told.get("d_out", told.get("d_in"))
    if wide != shape[1] and told.get("d_in") != shape[1]:
        raise ArtifactError(f"{path} has rows of width {shape[1]}, and its config says {wide}. Get a whole copy.")
    return shape


def _rows(path: Path, features: tuple[int, ...]) -> dict[int, Any]:
    """Some rows of the decoder, without the others."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            decoder = file.get_slice(ROWS)
            return {feature: decoder[feature] for feature in dict.fromkeys(features)}
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}). Get a whole copy.") from None


def _hook(told: Mapping[str, Any]) -> str:
    """The hook that a feature is written at."""
    out = told.get("hook_name_out") if _TRANSCODERS in str(told.get("architecture", "")) else None
    return str(out or told.get("hook_name") or told.get("hook_point") or "")


def _site(told: Mapping[str, Any]) -> Site | None:
    """Where a feature is written; None where its hook is none that means a site."""
    try:
        site = Site.parse(_hook(told))
        head = told.get("hook_head_index")
        return Site(site.stream, site.layer, head) if isinstance(head, int) and site.stream == "head_out" else site
    except SteerkitError:
        return None


def _name(feature: int) -> str:
    return f"feature_{feature}"
