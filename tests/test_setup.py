"""The lock files say the same thing, follow pyproject.toml and name nobody's machine."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
UV_LOCK: dict[str, Any] = tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))
REQUIREMENTS_LOCK = (ROOT / "requirements.lock").read_text("utf-8")

_PIN = re.compile(r"([a-z0-9-]+)==([^\s;]+)(?: ; (.+))?$")
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[([^]]+)\])?\s*([^;]*)$")
# Written so that this file does not contain what it looks for.
_MACHINE_PATH = re.compile(r"(?<![\w.~}>)-])/(?:root|home|work|opt|Users|tmp)/\w")
_REGISTRY = re.compile(r"python[h]osted|(?:index|links|trusted)[-_](?:url|host)\s*=?\s*\S*//", re.I)


class Pin(NamedTuple):
    """One line of requirements.lock."""

    name: str
    version: str
    marker: str
    hashes: frozenset[str]


def pins() -> list[Pin]:
    """What pip installs: every requirement of requirements.lock, comments left out."""
    lines = [line for line in REQUIREMENTS_LOCK.splitlines() if not line.lstrip().startswith("#")]
    found = []
    for statement in "\n".join(lines).replace("\\\n", " ").split("\n"):
        if not statement.strip():
            continue
        requirement, *hashes = statement.split(" --hash=")
        match = _PIN.match(requirement.strip())
        assert match, f"requirements.lock: not a pin: {requirement!r}"
        name, version, marker = match.groups(default="")
        found.append(Pin(name, version, marker, frozenset(h.strip() for h in hashes)))
    return found


def project() -> dict[str, Any]:
    """The entry of this project in uv.lock."""
    (entry,) = (p for p in UV_LOCK["package"] if p["source"] == {"editable": "."})
    return dict(entry)


def reachable() -> dict[tuple[str, str], dict[str, Any]]:
    """The packages of uv.lock that the project and its dev group lead to, by name and version."""
    entries: dict[str, list[dict[str, Any]]] = {}
    for package in UV_LOCK["package"]:
        entries.setdefault(package["name"], []).append(package)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    visited: set[tuple[str, str, str]] = set()
    own = project()
    todo = [*own["dependencies"], *own["dev-dependencies"]["dev"]]
    while todo:
        wanted = todo.pop()
        for entry in entries[wanted["name"]]:
            if entry["version"] != wanted.get("version", entry["version"]):
                continue
            found[entry["name"], entry["version"]] = entry
            for extra in ["", *wanted.get("extra", [])]:
                if (key := (entry["name"], entry["version"], extra)) in visited:
                    continue
                visited.add(key)
                optional = entry.get("optional-dependencies", {})
                todo += optional.get(extra, []) if extra else entry.get("dependencies", [])
    return found


def test_both_locks_pin_the_same_versions() -> None:
    """requirements.lock is what uv.lock says, on every platform and Python."""
    assert {(pin.name, pin.version) for pin in pins()} == set(reachable())


def test_a_package_with_two_versions_has_a_marker_at_each() -> None:
    """No two pins of one package hold on the same machine."""
    by_name: dict[str, list[str]] = {}
    for pin in pins():
        by_name.setdefault(pin.name, []).append(pin.marker)
    unclear = {
        name: markers
        for name, markers in by_name.items()
        if len(markers) > 1 and ("" in markers or len(set(markers)) != len(markers))
    }
    assert not unclear


def test_every_pin_has_the_hashes_of_uv_lock() -> None:
    """pip --require-hashes accepts the very files that uv accepts."""
    locked = {
        key: frozenset(
            file["hash"] for file in [*entry.get("wheels", []), entry.get("sdist")] if file
        )
        for key, entry in reachable().items()
    }
    for pin in pins():
        assert pin.hashes, f"{pin.name}: no hash"
        assert pin.hashes == locked[pin.name, pin.version], f"{pin.name}: other hashes"


@pytest.mark.parametrize(
    ("wanted", "locked"),
    [
        (PYPROJECT["project"]["dependencies"], project()["metadata"]["requires-dist"]),
        (PYPROJECT["dependency-groups"]["dev"], project()["metadata"]["requires-dev"]["dev"]),
    ],
    ids=["dependencies", "dev"],
)
def test_uv_lock_follows_pyproject(wanted: list[str], locked: list[dict[str, Any]]) -> None:
    """A bound changed in pyproject.toml without `make lock` is found here."""
    stated = set()
    for requirement in wanted:
        match = _REQUIREMENT.match(requirement)
        assert match, f"pyproject.toml: cannot read {requirement!r}"
        name, extras, bounds = match.groups(default="")
        stated.add((name.lower(), extras, frozenset(re.split(r"\s*,\s*", bounds.strip()))))
    resolved = {
        (
            entry["name"],
            ",".join(entry.get("extras", [])),
            frozenset(entry.get("specifier", "").split(",")),
        )
        for entry in locked
        if "extra ==" not in entry.get("marker", "")
    }
    assert stated == resolved
    assert UV_LOCK["requires-python"] == PYPROJECT["project"]["requires-python"]
    assert project()["version"] == PYPROJECT["project"]["version"]


def test_no_arrow_is_installed() -> None:
    """Nothing brings pyarrow: it is as large as a quarter of all the rest."""
    assert "pyarrow" not in {pin.name for pin in pins()}


def test_no_file_names_a_place_on_a_machine() -> None:
    """No machine path in any file, no package registry outside the lock files."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    found = []
    for name in sorted(listing.stdout.decode().split("\0")):
        path = ROOT / name
        if not path.is_file() or (content := path.read_bytes()).count(b"\0"):
            continue
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
            registry = path.suffix != ".lock" and _REGISTRY.search(line)
            if registry or _MACHINE_PATH.search(line):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert not found
