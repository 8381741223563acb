"""Draws estimates with sampling variances: some that differ, some closer than chance, many.

Run as `python tests/reference/data/effects.py`; it writes effects.csv beside itself: set, y, v.
"""

import csv
from pathlib import Path

import numpy as np

# How many, and the SD between their true values; errors are drawn at half their size for "alike".
SETS = {"differ": (8, 0.08), "alike": (5, 0.0), "edits": (21, 0.03), "exact": (6, 0.3)}


def main() -> None:
    rng = np.random.default_rng(21)
    with (Path(__file__).parent / "effects.csv").open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["set", "y", "v"])
        for name, (k, tau) in SETS.items():
            errors = rng.uniform(0.02, 0.07, k)
            drawn = errors / 2 if name == "alike" else errors
            for y, error in zip(rng.normal(0.12, np.hypot(tau, drawn)), errors, strict=True):
                out.writerow([name, f"{y:.6f}", f"{error**2:.8f}"])


if __name__ == "__main__":
    main()
