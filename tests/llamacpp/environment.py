"""An environment with llama.cpp beside the core's own: ``python -m tests.llamacpp.environment FOLDER``.

It holds llama-cpp-python, its convert script and its loader of control vectors, and takes the rest from the environment
that this runs in. llama-cpp-python comes as source, and its build takes minutes; the wheel is kept in steerkit's cache,
so that a second environment takes seconds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from typing import Final

from steerkit.bundled import cache_folder

HERE: Final = Path(__file__).parent
REQUIREMENTS: Final = HERE / "requirements.txt"
LOADER: Final = HERE / "load_control_vector.cpp"
_PACKAGE: Final = "llama-cpp-python"
_SHARED: Final = "steerkit_core.pth"


def cache() -> Path:
    """Where source, wheel and loader are kept."""
    return cache_folder() / "llamacpp" / pin()


def pin() -> str:
    """The version of llama-cpp-python."""
    lines = [line.partition("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines()]
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{_PACKAGE}=="))


def source() -> Path:
    """llama.cpp's source, as the package brings it."""
    return cache() / f"llama_cpp_python-{pin()}" / "vendor" / "llama.cpp"


def convert_script() -> Path:
    """What makes a GGUF of a checkpoint."""
    return source() / "convert_hf_to_gguf.py"


def loader() -> Path:
    """The program that reads control vectors as llama-server does."""
    return cache() / "load_control_vector"


def make(folder: Path) -> None:
    """Make the environment, or what of it isn't there yet."""
    fetch_source()
    wheel = fetch_wheel()
    python = folder / "bin" / "python"
    if not python.exists():
        say(f"Making {folder}")
        run(sys.executable, "-m", "venv", folder)
    pip(python, "install", "--no-deps", "--find-links", wheel.parent, "-r", REQUIREMENTS)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    # Packages of the core's environment stand behind the environment's own.
    (site / _SHARED).write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    build_loader(site / "llama_cpp" / "lib")


def fetch_source() -> None:
    """Bring the package's source into the cache, once."""
    if source().exists():
        return
    kept = cache()
    kept.mkdir(parents=True, exist_ok=True)
    say(f"Fetching {_PACKAGE} {pin()}")
    pip(sys.executable, "download", "--no-deps", "--no-binary", _PACKAGE, "--dest", kept, f"{_PACKAGE}=={pin()}")
    (archive,) = kept.glob("*.tar.gz")
    unpacked = kept / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(archive) as file:
        file.extractall(unpacked, filter="data")
    next(unpacked.iterdir()).rename(source().parent.parent)
    unpacked.rmdir()


def fetch_wheel() -> Path:
    """The wheel, built once."""
    found = sorted(cache().glob("*.whl"))
    if not found:
        say(f"Building {_PACKAGE} {pin()}: ten minutes on two cores, and kept in {cache()}")
        pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", cache(), next(cache().glob("*.tar.gz")))
        found = sorted(cache().glob("*.whl"))
    return found[0]


def build_loader(libraries: Path) -> None:
    """llama.cpp's own function that loads control vectors, as a program: the package has no binding for it."""
    built, mark = loader(), cache() / "load_control_vector.for"
    made_for = f"{libraries}\n{LOADER.read_text()}"
    if built.exists() and mark.exists() and mark.read_text() == made_for:
        return
    say("Building llama.cpp's loader of control vectors")
    root = source()
    include = [f"-I{root / part}" for part in ("common", "include", "ggml/include", "vendor")]
    common = [root / "common" / f"{name}.cpp" for name in ("common", "log", "json")]
    # What of these files the loader doesn't call would need the whole rest of llama.cpp, and is dropped.
    dropping = ["-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections"]
    linked = [f"-L{libraries}", "-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath,{libraries}", "-lpthread"]
    run(os.environ.get("CXX", "c++"), "-std=c++17", *dropping, *include, LOADER, *common, *linked, "-o", built)
    mark.write_text(made_for)


def pip(python: str | Path, command: str, *arguments: str | Path) -> None:
    """Call pip."""
    run(python, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *arguments)


def run(*command: str | Path) -> None:
    """Call a program. What it says on errors is shown."""
    subprocess.run([str(part) for part in command], check=True)


def say(text: str) -> None:
    """Tell what takes time."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    make(Path(sys.argv[1]).absolute())
