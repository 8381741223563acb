"""Fixtures that several test files share: small studies, an environment without keys."""

import os
import shutil
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A study of 3 factors and 6 queries, all of whose features matter to the embedded subject."""
    return Path(shutil.copytree(DATA / "tiny", tmp_path / "tiny"))


@pytest.fixture
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's keys, proxies or waiting times of many seconds."""
    for name in list(os.environ):
        if name.startswith(("ANTHROPIC_", "ABLATE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr("anthropic._base_client.INITIAL_RETRY_DELAY", 0.001)
