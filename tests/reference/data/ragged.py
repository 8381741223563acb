"""Draws ragged.csv: seven queries of very different size, each trial with a fresh condition.

Run as `python tests/reference/data/ragged.py`. Columns are as in draw.py.
"""

import csv
from pathlib import Path

import numpy as np

SIZES = (6, 9, 14, 20, 31, 44, 70)


def main() -> None:
    """One csv beside this file."""
    rng = np.random.default_rng(20240613)
    with Path(__file__).with_name("ragged.csv").open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["query", "wording", "arm", "a", "b", "c", "y"])
        for q, size in enumerate(SIZES):
            level, slope = rng.normal(0, [0.9, 0.6])
            for k in range(size):
                train = k % 3 != 1
                away = rng.random(3) < (0.25, 0.5, 0.35)
                eta = -1.5 + level + train * (1.6 + slope - 1.2 * away[0] - 0.4 * away[1])
                y = int(rng.random() < 1 / (1 + np.exp(-eta)))
                levels = ("removed" if one else "original" for one in away)
                arm = "train" if train else "deploy"
                out.writerow([f"q{q}", f"w{rng.integers(4)}", arm, *levels, y])


if __name__ == "__main__":
    main()
