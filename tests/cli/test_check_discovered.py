"""What `check` tells of models that nobody declared, before any weight is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerkit.cli.main import main
from tests.small_run import RECIPE


def checked(tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, *overrides: str) -> tuple[object, str]:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE.replace("tiny-random:llama", source))
    words = [word for one in overrides for word in ("--set", one)]
    with pytest.raises(SystemExit) as leaving:
        main(["check", str(recipe), *words])
    said = capsys.readouterr()
    return leaving.value.code, " ".join((said.out + said.err).split())


def test_an_ablation_everywhere_is_refused_where_blocks_are_no_sums(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = checked(tmp_path, capsys, "tiny-random:opt-post-norm")
    assert code == 2
    assert "conditions.without.0.ablate: What writes to the stream can't be edited everywhere" in said
    assert "final_layer_norm" in said and said.count("can't be edited everywhere") == 1


def test_the_ends_of_such_blocks_may_be_ablated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends = "conditions.without.0.ablate.sites=[blocks.*.resid_post]"
    code, said = checked(tmp_path, capsys, "tiny-random:opt-post-norm", ends)
    assert not code and "can't be edited everywhere" not in said


def test_a_tiny_model_that_nobody_declared_is_auto_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = checked(tmp_path, capsys, "tiny-random:gpt2")
    assert not code and "checked when the model is loaded" not in said
