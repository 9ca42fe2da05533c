"""``steerkit convert`` and ``steerkit formats`` as a user meets them: what is written, and what is refused in words."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import steerkit
from steerkit import Direction
from steerkit.cli.main import main

WIDTH = 6


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    code = left.value.code
    return code if isinstance(code, int) else 0


def convert(*words: object) -> int:
    return run("convert", *words)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What is said of a conversion that isn't made."""
    assert convert(*words) == 2
    said = capsys.readouterr()
    assert not said.out and "Traceback" not in said.err
    return " ".join(said.err.split())


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    rows = torch.arange(float(WIDTH)) + 0.1
    path = tmp_path / "ours.safetensors"
    by_site = {f"blocks.{layer}.resid_post": (rows * (layer + 1))[None] for layer in (3, 4)}
    kind = Direction(by_site, None, "-2", "kind", provenance={"estimator": "made_up"})
    steerkit.save_directions(path, [kind, Direction(rows[None], "blocks.0.mlp_out", name="odd")])
    return path


def test_there_and_back(ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, back = tmp_path / "caa", tmp_path / "back.safetensors"
    assert convert(ours, out, "--to", "caa", "--direction", "kind", "--option", "model=llama") == 0
    said = capsys.readouterr().out
    assert "caa: 1 direction, from format steerkit to caa." in said
    assert "kind at blocks.3.resid_post … blocks.4.resid_post (2 sites)" in said
    assert "Writing: Not kept of 'kind': name, positions, provenance." in said
    assert sorted(file.name for file in out.iterdir()) == ["vec_layer_3_llama.pt", "vec_layer_4_llama.pt"]
    assert convert(out, back) == 0
    assert "from format caa to steerkit" in capsys.readouterr().out
    before, (after,) = steerkit.load_directions(ours)["kind"], steerkit.load_directions(back).values()
    assert after.name == "caa" and after.sites == before.sites
    assert all(torch.equal(after.by_site[site], rows) for site, rows in before.items())
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_one_site_is_chosen_and_what_a_file_lacks_is_given(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--direction", "kind", "--at", "blocks.4.resid_post")
    assert convert(ours, tmp_path / "one.npy", *words) == 0
    assert "Writing: Read it with site: blocks.4.resid_post." in capsys.readouterr().out
    assert "doesn't say at which site" in refused(capsys, tmp_path / "one.npy", tmp_path / "two.safetensors")
    given = ("--site", "blocks.4.resid_post", "--positions", "-2")
    assert convert(tmp_path / "one.npy", tmp_path / "two.safetensors", *given) == 0
    assert "Reading" not in capsys.readouterr().out
    (found,) = steerkit.load_directions(tmp_path / "two.safetensors").values()
    assert torch.equal(found.vectors, steerkit.load_directions(ours)["kind"].at("blocks.4.resid_post").vectors)
    assert str(found.positions) == "-2"
    rows = tmp_path / "rows.npy"
    np.save(rows, np.ones((3, WIDTH), np.float32))
    pattern = ("--site", "blocks.2-3.resid_pre")
    assert "are 2 sites, and the file has 3 rows" in refused(capsys, rows, tmp_path / "3.safetensors", *pattern)


def test_nothing_is_written_over_unless_it_is_told_to(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.npz"
    out.write_bytes(b"mine")
    assert "out.npz is there already. Name another one, or write over it with --force." in refused(capsys, ours, out)
    assert out.read_bytes() == b"mine"
    assert convert(ours, out, "--force") == 0 and len(steerkit.load_directions(out, positions=-1)) == 2
    capsys.readouterr()
    assert "is the file that is read" in refused(capsys, ours, ours, "--force")
    folder = tmp_path / "vectors"
    for _ in range(2):  # the second time over the first
        words = ("--to", "caa", "--direction", "kind", "--force")
        assert convert(ours, folder, *words) == 0
    (folder / "notes.txt").write_text("mine")
    capsys.readouterr()
    assert "is a folder with other files in it" in refused(capsys, ours, folder, *words)
    assert len(list(folder.iterdir())) == 3


def test_a_full_disk_leaves_what_was_there(ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, words = tmp_path / "vectors", ("--to", "caa", "--direction", "kind", "--force")
    assert convert(ours, folder, *words) == 0
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    wrote: list[Any] = []

    def full(number: int) -> None:
        wrote.append(number)
        if len(wrote) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("steerkit.api.files.os.fsync", full)
    assert convert(ours, folder, *words, "--option", "model=other") == 2
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours.safetensors", "vectors"]


class Bomb:
    """What writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_that_would_run_code_runs_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark, out, path = tmp_path / "ran", tmp_path / "out.safetensors", tmp_path / "evil.pt"
    named = f"{os.mkdir.__module__}.mkdir"
    torch.save({"a": torch.ones(WIDTH), "b": Bomb(mark)}, path)
    formats = (None, "torch", "assistant_axis", "persona_vectors", "refusal_direction_means", "steering_vectors", "caa")
    for format in formats:
        words = () if format is None else ("--from", format)
        said = refused(capsys, path, out, *words, "--site", "embed")
        assert f"is a pickle that names {named}" in said or "files are called vec_layer_" in said, said
    torch.save(Bomb(mark), tmp_path / "vec_layer_3_m.pt")
    assert f"names {named}" in refused(capsys, tmp_path / "vec_layer_3_m.pt", out, "--from", "caa")
    path.write_bytes(pickle.dumps(Bomb(mark)))
    assert "is a bare pickle, which can run code" in refused(capsys, path, out, "--from", "torch", "--site", "embed")
    assert "is a bare pickle, which can run code" in refused(capsys, path, out)
    np.save(tmp_path / "evil.npy", np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    assert "is damaged" in refused(capsys, tmp_path / "evil.npy", out, "--site", "embed")
    assert not mark.exists() and not out.exists()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("nothing.pt", None, "There is no file"),
        ("x" * 300, None, "There is no file"),
        ("empty.pt", b"", "empty.pt is empty. Get a whole copy."),
        ("words.pt", b"hello", "words.pt is damaged or no file of torch.save."),
        ("half.npy", b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4'", "half.npy is damaged"),
        ("nan.npz", {"a@blocks.0.resid_pre": np.full(WIDTH, np.nan)}, "holds NaN or infinite values"),
        ("wide.npz", {"a": np.ones((2, 3, 4))}, "are of shape [width] or [rank, width], not [2, 3, 4]"),
        ("words.npz", {"a": np.array(["x"])}, "vectors are real numbers of at most 64 bits, not <U1"),
        ("list.svec", b"[]", "it lacks model_type and directions by layer"),
    ],
)
def test_files_that_are_no_vectors(
    name: str, data: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if isinstance(data, dict):
        np.savez(path, **data)
    elif data is not None:
        path.write_bytes(data)
    words = ("--from", "svec") if name.endswith(".svec") else ("--site", "embed")
    assert said in refused(capsys, path, tmp_path / "out.safetensors", *(() if "@" in str(data) else words))
    assert not (tmp_path / "out.safetensors").exists()


def test_what_could_be_two_formats_names_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "axis_response_avg_diff.pt"
    torch.save(torch.ones(3, WIDTH), path)
    said = refused(capsys, path, tmp_path / "out.safetensors")
    assert "could be in format assistant_axis or persona_vectors. Say which: --from assistant_axis." in said
    assert convert(path, tmp_path / "out.safetensors", "--from", "persona_vectors") == 0
    (found,) = steerkit.load_directions(tmp_path / "out.safetensors").values()
    assert [str(site) for site in found.sites] == [
        f"blocks.{at}" for at in ("0.resid_pre", "0.resid_post", "1.resid_post")
    ]
    capsys.readouterr()
    said = refused(capsys, tmp_path / "out.safetensors", tmp_path / "out.pt")
    assert "Several formats write files .pt: lm_eval_steered, refusal_direction_means, torch." in said


def test_options_go_to_the_format_that_has_them(ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, out = ("--direction", "kind"), tmp_path / "out.svec"
    assert convert(ours, out, *one, "--convention", "caa", "--option", "model_type=llama") == 0
    assert json.loads(out.read_text())["directions"].keys() == {"3", "4"}
    assert convert(ours, tmp_path / "cast.svec", *one) == 0
    assert json.loads((tmp_path / "cast.svec").read_text())["directions"].keys() == {"4", "5"}
    capsys.readouterr()
    second = tmp_path / "again.svec"
    said = refused(capsys, out, second, "--convention", "caa")
    assert "Formats svec and svec both have an option 'convention'. Say whose: --option from.convention=..." in said
    assert convert(out, second, "--option", "from.convention=caa", "--option", "to.convention=cast") == 0
    assert json.loads(second.read_text())["directions"].keys() == {"4", "5"}
    capsys.readouterr()
    for words, said in (
        (("--convention", "caa"), "Neither format steerkit nor npz has several conventions."),
        (
            ("--option", "hookpiont=x", "--to", "lm_eval_steered"),
            "has an option 'hookpiont'. Did you mean 'hookpoint'?",
        ),
        (("--option", "hookpoint=x", "--to", "lm_eval_steered"), "option hookpoint: String should match pattern"),
        (("--option", "features"), "--option takes NAME=VALUE"),
        (("--option", "a=[", "--option", "b=1"), "'[' is no value in YAML"),
        (("--to", "tosrch"), "Unknown format 'tosrch'. Did you mean 'torch'?"),
        (("--from", "lm_eval_steered"), "format lm_eval_steered is only written, and not read"),
        (("--to", "persona_vectors"), "format persona_vectors is only read, and not written"),
        (("--direction", "knid"), "has no direction 'knid'. Did you mean 'kind'?"),
        (("--direction", "kind", "--at", "blocks.9.resid_post"), "has no vectors at blocks.9.resid_post"),
    ):
        suffix = ".pt" if "lm_eval_steered" in words else ".npz"
        assert said in refused(capsys, ours, tmp_path / f"new{suffix}", *words), words
    assert "No format is known by the name 'new.xyz': files end in" in refused(capsys, ours, tmp_path / "new.xyz")
    assert "which is a folder of files" in refused(capsys, ours, tmp_path / "new.pt", "--to", "caa")
    assert "is no name for a file of format npz" in refused(capsys, ours, tmp_path / "new.pt", "--to", "npz")


def test_features_of_an_autoencoder_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.formats.test_others import autoencoder

    folder, out = autoencoder(tmp_path, torch.randn(5, WIDTH)), tmp_path / "out.safetensors"
    assert "has 5 features, and none is asked for" in refused(capsys, folder, out)
    assert "features 0 to 4, and none of number 5" in refused(capsys, folder, out, "--option", "features=[5]")
    assert convert(folder, out, "--option", "features=[4, 0]") == 0
    assert list(steerkit.load_directions(out)) == ["feature_4", "feature_0"]
    capsys.readouterr()
    (folder / "cfg.json").unlink()
    assert "is a folder, and no format knows what is in it" in refused(capsys, folder, out, "--force")


def test_a_condition_is_said_to_be_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.safetensors"
    steerkit.save_condition(path, steerkit.add(Direction(torch.ones(WIDTH), "embed")), name="c")
    assert convert(path, tmp_path / "c.npz") == 0
    assert "Writing: Condition 'c' isn't kept, for which the format has no place." in capsys.readouterr().out


def test_formats_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("formats", "--json") == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)["formats"]}
    assert listed["caa"]["reads"] and listed["caa"]["writes"] and listed["caa"]["files"] == [".pt", "a folder"]
    assert not listed["persona_vectors"]["writes"] and not listed["lm_eval_steered"]["reads"]
    assert listed["svec"]["options"] == ["convention", "model_type"]
    assert all(one["acts"] and one["summary"] for one in listed.values())
    assert run("formats") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in listed)
