"""Files of ``torch.save``: seen without torch, loaded by torch itself, and nothing that they name is ever called."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

import steerkit
from steerkit.errors import ArtifactError
from steerkit_formats._torch_file import NoTorchFileError, TensorOutline, load, outline, saved, torch_fault


def written(path: Path, value: Any, **more: Any) -> Path:
    torch.save(value, path, **more)
    return path


@pytest.mark.parametrize("protocol", [2, 3])
def test_what_a_file_holds_is_told_as_torch_loads_it(protocol: int, tmp_path: Path) -> None:
    value = {
        "text": "a text of some length, é",
        "numbers": [1, -2, 3_000_000_000, 10**30, 0.5, True, False, None],
        ("a", 1): (torch.ones(2, 3, dtype=torch.bfloat16), torch.zeros(4, dtype=torch.float64)[1:]),
        "ordered": OrderedDict(a=torch.nn.Parameter(torch.ones(5).half()), b=torch.ones(0)),
        3: torch.ones(2, dtype=torch.int64),
        "size": torch.Size([1, 2]),
    }
    path = written(tmp_path / "a.pt", value, pickle_protocol=protocol)
    seen = outline(path)
    assert not seen.names and torch_fault(path) is None
    loaded = load(path)
    assert _outlined(loaded) == seen.value
    assert loaded["numbers"] == value["numbers"] and loaded["text"] == value["text"]


def _outlined(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return TensorOutline(tuple(value.shape), str(value.dtype).removeprefix("torch."))
    if isinstance(value, dict):
        return {key: _outlined(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_outlined, value)) if type(value) in (list, tuple) else tuple(value)
    return value


def test_equal_values_give_equal_bytes_in_every_process() -> None:
    value = {"a": torch.arange(7.0), "b": {"c": torch.ones(2)}}
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; import torch; from steerkit_formats._torch_file import saved; "
        "value = {'a': torch.arange(7.0), 'b': {'c': torch.ones(2)}}; sys.stdout.buffer.write(saved(value))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert found == saved(value)
    assert saved({"a": torch.ones(2)}) != saved({"a": torch.zeros(2)})


class Bomb:
    """Whose unpickling runs what it is given."""

    def __init__(self, *made: Any) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return self.made


RAN: list[str] = []


def ran(*arguments: Any) -> None:
    RAN.append(str(arguments))


def pickled(data: bytes) -> bytes:
    """A file of torch's with a pickle of somebody's in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()


NAME = f"{__name__} ran".encode()
BOMBS = {
    "reduce": pickle.dumps(Bomb(ran, ("x",)), protocol=2),
    "reduce, protocol 4": pickle.dumps(Bomb(ran, ("x",)), protocol=4),
    "reduce with state": pickle.dumps(Bomb(ran, (), {"a": 1}), protocol=2),
    "as a key": pickle.dumps({"a": [Bomb(ran, ())]}, protocol=2),
    "inst": b"(S'x'\ni" + NAME.replace(b" ", b"\n") + b"\n.",
    "obj": b"(c" + NAME.replace(b" ", b"\n") + b"\nS'x'\no.",
    "newobj": b"\x80\x02c" + NAME.replace(b" ", b"\n") + b"\n)\x81.",
    "extension": b"\x80\x02\x82\x01.",
    "build": b"\x80\x02ccollections\nOrderedDict\n)Rc" + NAME.replace(b" ", b"\n") + b"\n(X\x01\x00\x00\x00xtRb.",
    "name with dots": b"\x80\x04\x8c\x05torch\x8c\x0fserialization.os\x93\x8c\x02ls\x85R.",
    "persistent": b"\x80\x02c" + NAME.replace(b" ", b"\n") + b"\n(X\x01\x00\x00\x00xtRQ.",
}


@pytest.mark.parametrize("case", BOMBS)
def test_no_instruction_runs_anything(case: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    RAN.clear()
    for data in (pickled(BOMBS[case]), BOMBS[case]):
        path.write_bytes(data)
        with pytest.raises(ArtifactError) as told:
            load(path)
        assert torch_fault(path) == str(told.value), "torch never saw it"
    assert not RAN
    if case in ("reduce", "reduce, protocol 4", "as a key"):
        pickle.loads(BOMBS[case])
        assert RAN, "the bomb is one"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        pickled(b""),
        pickled(b"\x80\x02}"),
        pickled(b"\x80\x02]t."),
        pickled(b"\x80\x02h\x05."),
        pickled(b"\x80\x02}(u."),
        pickled(b"\x80\x02(]]]u."),
        pickled(b"\x80\x02}]K\x01s."),
        pickled(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R."),
        pickled(b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b"."),
        pickled(b"\x80\x02]q\x00h\x00a."),
    ],
    ids=range(12),
)
def test_pickles_that_fit_nothing_are_told(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.pt"
    path.write_bytes(data)
    try:
        outline(path)
    except NoTorchFileError:
        assert torch_fault(path) is not None
    with pytest.raises(ArtifactError) as told:
        load(path)
        raise ArtifactError("It holds no vectors.")  # a list in itself is one that torch reads
    assert str(told.value).endswith(".")


def test_archives_that_unpack_to_more_than_they_are_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02]" + b"]a" * 5_000_000 + b".")
    assert path.stat().st_size < 100_000
    assert "whose parts are not packed" in (torch_fault(path) or "")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02].")
        archive.writestr("archive/constants.pkl", b"\x80\x02].")
    assert "a zip archive, but none of torch.save" in (torch_fault(path) or "")


def test_a_file_of_before_the_zip_archive_is_told_what_to_do(tmp_path: Path) -> None:
    path = written(tmp_path / "old.pt", {"a": torch.ones(2)}, _use_new_zipfile_serialization=False)
    assert "write it again with torch.save" in (torch_fault(path) or "")


def test_protocols_that_torch_reads_no_weights_of_are_told(tmp_path: Path) -> None:
    path = written(tmp_path / "new.pt", {"a": torch.ones(2)}, pickle_protocol=4)
    assert "was written with pickle protocol 4" in (torch_fault(path) or "")


def test_a_tensor_that_is_far_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(1).expand(4, 8), tmp_path / "wide.pt")
    with pytest.raises(ArtifactError, match="repeats fewer numbers"):
        steerkit.load_directions(tmp_path / "wide.pt", format="torch", site="blocks.1.resid_post")
