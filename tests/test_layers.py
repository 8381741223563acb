"""The house rules that a reader relies on: who imports whom, one door per heavy library."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("ablate", "variants", "analysis")
DOORS = {
    "anthropic": "ablate/models.py",
    "dspy": "ablate/programs.py",
    "statsmodels": "analysis/regressions.py",
    "typer": "ablate/cli.py",
    "aiohttp": "ablate/serving.py",
}
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Top-level names of everything that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_what_its_room_may(path: Path) -> None:
    """variants and analysis know neither each other nor ablate, and heavy libraries have a door."""
    name = path.relative_to(ROOT).as_posix()
    room = name.split("/")[0]
    found = set(imports(path))
    if room != "ablate":
        assert found & (set(ROOMS) - {room}) == set()
        assert found & {"aiohttp", "httpx", "requests", "socket", "urllib"} == set()
    if room == "variants":
        assert found & {"polars", "pandas", "scipy"} == set()
    for library, door in DOORS.items():
        assert library not in found or name == door


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_are_there_and_sorted(room: str) -> None:
    """Everything in `__all__` exists, once, in order."""
    package = importlib.import_module(room)
    assert list(package.__all__) == sorted(set(package.__all__), key=str)
    for name in package.__all__:
        assert hasattr(package, name)


@pytest.mark.parametrize("command", [["--help"], ["check", "STUDY"], ["plan", "STUDY"]])
def test_light_commands_load_no_heavy_library(command: list[str], tiny: Path) -> None:
    """Help, check and plan start without anthropic, dspy and statsmodels."""
    arguments = [str(tiny) if word == "STUDY" else word for word in command]
    script = (
        "import sys; sys.argv = ['ablate', *sys.argv[1:]]\n"
        "from ablate.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print('LOADED', sorted(set(sys.modules) & {'anthropic', 'dspy', 'statsmodels'}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "LOADED []"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_says_what_it_does_not_know(path: Path) -> None:
    """Each module opens with what the room is for, in at most eight lines of prose."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    assert text
    if path.name not in ("__init__.py", "__main__.py", "cli.py"):
        assert "not know" in text
    if path.name != "simulated.py":  # its docstring is the documentation of the planted law
        assert len(text.splitlines()) <= 8


def test_a_strangers_analysis_folder_is_named(tmp_path: Path, tiny: Path) -> None:
    """`python -m ablate` in a folder with an analysis/ of its own ends in one line, exit 2."""
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "__init__.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "ablate", "check", str(tiny)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert str(tmp_path / "analysis") in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
