"""Fixtures that several test files share: small studies in fresh folders."""

import shutil
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A study of 3 factors and 6 queries, all of whose features matter to the embedded subject."""
    return Path(shutil.copytree(DATA / "tiny", tmp_path / "tiny"))
