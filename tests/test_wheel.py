"""The wheel holds exactly the three packages and works where nothing else of the project is."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ablate", "variants", "analysis")
BIN = "Scripts" if os.name == "nt" else "bin"

pytestmark = pytest.mark.xdist_group("wheel")  # one build and one environment for all of them

# Prints where each module of the packages was found; importing them all needs every dependency.
IMPORT_ALL = """
import importlib, pkgutil, sys
for package in map(importlib.import_module, sys.argv[1:]):
    print(package.__file__)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            print(importlib.import_module(module.name).__file__)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a command that must succeed, without the settings of the calling environment."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def runtime(wheel_metadata: Distribution) -> dict[str, Distribution]:
    """The distributions that a requirement of the wheel leads to on this machine, by name."""
    found: dict[str, Distribution] = {}
    visited: set[tuple[str, str]] = set()
    todo = [Requirement(line) for line in wheel_metadata.requires or []]
    todo = [wanted for wanted in todo if not wanted.marker or wanted.marker.evaluate({"extra": ""})]
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        here = found[name] = distribution(name)
        for extra in ["", *wanted.extras]:
            if (name, extra) in visited:
                continue
            visited.add((name, extra))
            further = [Requirement(line) for line in here.requires or []]
            todo += [r for r in further if not r.marker or r.marker.evaluate({"extra": extra})]
    return found


def link(source: Distribution, target: Path) -> None:
    """Shows one installed distribution, and no other, to another environment."""
    for name in {file.parts[0] for file in source.files or [] if file.parts[0] != ".."}:
        entry = target / name
        if name != "__pycache__" and not entry.exists():
            entry.symlink_to(Path(str(source.locate_file(name))))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a download."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and, linked one by one, only what the wheel requires."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    python = folder / BIN / "python"
    run(python, "-m", "pip", "install", "--no-index", "--no-deps", wheel, cwd=folder)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    (metadata,) = Path(site.strip()).glob("ablate_framing-*.dist-info")
    for required in runtime(Distribution.at(metadata)).values():
        link(required, Path(site.strip()))
    return folder


def test_the_wheel_holds_the_three_packages_and_its_metadata(wheel: Path) -> None:
    """Every source file is in it, data files too, and nothing else."""
    names = {PurePosixPath(name) for name in zipfile.ZipFile(wheel).namelist()}
    others = {name.parts[0] for name in names} - set(PACKAGES)
    assert [
        name for name in others if not re.fullmatch(r"ablate_framing-.+\.dist-info", name)
    ] == []
    sources = {
        PurePosixPath(path.relative_to(ROOT).as_posix())
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.parts[0] in PACKAGES} == sources
    for data in ("scenario.md", "queries.csv"):
        assert PurePosixPath("variants/library/helpful_only", data) in names


def test_the_wheel_names_every_dependency(environment: Path) -> None:
    """Nothing that its modules or their dependencies need is missing there."""
    python = environment / BIN / "python"
    assert "No broken requirements" in run(python, "-m", "pip", "check", cwd=environment)
    places = run(python, "-c", IMPORT_ALL, *PACKAGES, cwd=environment).splitlines()
    assert len(places) >= len(PACKAGES)
    assert [p for p in places if not Path(p).is_relative_to(environment)] == []


def test_the_command_of_the_wheel_runs(environment: Path) -> None:
    """`ablate --help` answers from the wheel alone."""
    assert "Usage" in run(environment / BIN / "ablate", "--help", cwd=environment)
