"""Firth's logit by the package firthmodels, for all coefficients; it agrees with R's logistf.

Run where firthmodels is installed: `python tests/reference/firthmodels_profiles.py OUT.json`.
"""

import csv
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from firthmodels import FirthLogisticRegression

DATA = Path(__file__).parent / "data"
NAMES = (
    "balanced one_at_a_time separated heterogeneous crossed unbalanced six_clusters fraction"
).split()


def design(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Columns: intercept, levels, train, train x levels; one row per trial with an outcome."""
    with (DATA / f"{name}.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["y"] != ""]
    factors = [c for c in rows[0] if c not in ("query", "wording", "arm", "y")]
    columns = [np.ones(len(rows))]
    for f in factors:
        for level in sorted({row[f] for row in rows} - {"original"}):
            columns.append(np.array([float(row[f] == level) for row in rows]))
    train = np.array([row["arm"] == "train" for row in rows], dtype=float)
    columns += [column * train for column in columns]
    return np.column_stack(columns), np.array([float(row["y"]) for row in rows])


def main(out: str) -> None:
    found: dict[str, object] = {}
    for name in NAMES:
        X, y = design(name)
        model = FirthLogisticRegression(
            fit_intercept=False, max_iter=1000, gtol=1e-7, xtol=1e-7, max_halfstep=50
        ).fit(X, y)
        model.lrt()
        bounds = model.conf_int(method="pl", max_iter=1000, tol=1e-9)
        found[name] = {
            "estimates": model.coef_.tolist(),
            "low": bounds[:, 0].tolist(),
            "high": bounds[:, 1].tolist(),
            "p": model.lrt_pvalues_.tolist(),
        }
    found["versions"] = {p: version(p) for p in ("firthmodels", "numpy", "scipy")}
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
