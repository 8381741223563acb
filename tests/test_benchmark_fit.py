"""The benchmark of fitting: cells give statsmodels' numbers, and the last line can be read."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_last_line_holds_every_figure() -> None:
    """Estimates and errors of a quick run are statsmodels' on the rows, to 1e-8."""
    run = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/fit.py"), "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    figures = json.loads(run.stdout.splitlines()[-1])
    assert set(figures) == {
        "speedup_vs_row_glm", "max_abs_diff", "fit_1m_s", "peak_mb", "n_cells",
    }  # fmt: skip
    assert 0 < figures["max_abs_diff"] <= 1e-8
    # Fewer trials than the 204,800 cells, each in a cell of its own.
    assert figures["n_cells"] == 40_000
    assert figures["peak_mb"] < 3_000
