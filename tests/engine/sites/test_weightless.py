"""A layout without weights is that of the model itself, or nobody says that it is."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from steerkit.api.architecture import ArchitectureAdapter, Layout
from steerkit.cli.main import main
from steerkit.engine.loading.kinds import class_for
from steerkit.engine.sites.weightless import layout_without_weights
from steerkit.errors import ModelError, UnsupportedModelError
from steerkit.sources import TINY_MODEL_TYPES
from steerkit_architectures._gemma import GemmaAdapter
from steerkit_architectures._llama import LlamaAdapter
from steerkit_architectures._qwen import QwenAdapter
from tests.architectures.conftest import NAMED, built


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERKIT_CACHE", str(tmp_path / "cache"))


class Seen(LlamaAdapter):
    """Keeps what it was shown."""

    devices: ClassVar[set[str]] = set()
    training: ClassVar[bool] = True

    def layout(self, model: Any) -> Layout:
        type(self).devices = {value.device.type for value in model.parameters()}
        type(self).training = model.training
        return super().layout(model)


@pytest.mark.parametrize("model_type", [one for one in TINY_MODEL_TYPES if one != "qwen"])
def test_the_layout_of_a_config_is_that_of_its_model(model_type: str, tmp_path: Path) -> None:
    config = built(model_type)[0].config
    config.save_pretrained(tmp_path)
    adapter = NAMED.get(model_type) or (QwenAdapter if model_type.startswith("qwen") else GemmaAdapter)
    # Of some types a wrapper is tiny, and what a checkpoint is loaded as is the language model in it.
    loaded = class_for(config).from_config(copy.deepcopy(config))
    assert layout_without_weights(str(tmp_path), tmp_path, adapter()) == adapter().layout(loaded)


def test_nothing_is_in_memory_and_nothing_is_random(tmp_path: Path) -> None:
    built("llama")[0].config.save_pretrained(tmp_path)
    state = torch.get_rng_state()
    layout_without_weights(str(tmp_path), tmp_path, Seen())
    assert Seen.devices == {"meta"} and not Seen.training
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.empty(1).device.type == "cpu"


def test_a_tiny_model_is_built_as_it_is_loaded() -> None:
    assert layout_without_weights("tiny-random:llama", None, Seen()) == built("llama")[1]


class Branching(ArchitectureAdapter):
    """Looks at a number, which there is none of on the meta device."""

    def layout(self, model: Any) -> Layout:
        return LlamaAdapter().layout(model if next(model.parameters()).sum() > 0 else None)  # type: ignore[arg-type]


class Refusing(ArchitectureAdapter):
    """Refuses in its own words."""

    def layout(self, model: Any) -> Layout:
        raise UnsupportedModelError("its streams are not one sum")


def test_what_cannot_be_known_is_said_as_the_end_of_a_sentence(tmp_path: Path) -> None:
    built("llama")[0].config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"^its modules can't be looked at \(\w+: .*meta") as caught:
        layout_without_weights(str(tmp_path), tmp_path, Branching())
    assert "\n" not in str(caught.value)
    with pytest.raises(UnsupportedModelError, match="not one sum"):
        layout_without_weights(str(tmp_path), tmp_path, Refusing())
    with pytest.raises(ModelError, match="no config"):
        layout_without_weights("some/hub-id", None, LlamaAdapter())


RECIPE = """\
name: heads
model: {source: SOURCE, chat_template: none}
data: {probe: {inline: [p1, p2, p3, p4], split: {train: 2, test: 2}}, other: {inline: [q1, q2, q3], split: {train: 3}}}
directions:
  warmth: {estimator: mean_difference, positive: probe.train, negative: other.train, site: "blocks.1.head_out[HEAD]"}
conditions:
  added: [{add: {direction: warmth}}]
evaluate:
  - kl_divergence: {data: probe.test}
"""


def checked(tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, head: int) -> tuple[int, str, str]:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("SOURCE", source).replace("HEAD", str(head)), "utf-8")
    with pytest.raises(SystemExit) as caught:
        main(["check", str(path), "--json"])
    output = capsys.readouterr()
    return int(caught.value.code or 0), output.out, output.err


@pytest.mark.parametrize("kind", ["tiny", "folder"])
def test_check_tells_of_a_head_that_the_model_lacks(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built("llama")[0].config.save_pretrained(tmp_path / "model")
    source = '"tiny-random:llama"' if kind == "tiny" else str(tmp_path / "model")
    code, _, err = checked(tmp_path, capsys, source, 4)
    assert code == 2
    assert "line 5, directions.warmth.site: No site blocks.1.head_out[4]: block 1 has 4 heads, 0 to 3." in err
    assert err.count("without its weights") == 1
    code, out, err = checked(tmp_path, capsys, source, 3)
    assert code == 0 and json.loads(out)["name"] == "heads" and "building" in err


def test_check_says_where_it_could_not_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    built("llama")[0].config.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "none-such"}), "utf-8")
    code, out, _ = checked(tmp_path, capsys, str(folder), 99)
    (note,) = (one for one in json.loads(out)["notes"] if "without weights" in one)
    assert code == 0 and "its modules can't be looked at" in note
