"""Draws trials in which gap and effect differ between queries and between wordings, all crossed.

Run as `python tests/reference/data/wordings.py`; it writes wordings.csv beside itself.
"""

import csv
import itertools
from pathlib import Path

import numpy as np


def main() -> None:
    rng = np.random.default_rng(4)
    query = rng.normal(0, 0.15, (14, 2))
    wording = rng.normal(0, 0.15, (7, 2))
    with (Path(__file__).parent / "wordings.csv").open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["query", "wording", "arm", "a", "y"])
        for q, w in itertools.product(range(14), range(7)):
            gap, effect = np.array([0.5, -0.25]) + query[q] + wording[w]
            for level, size in (("original", gap), ("removed", gap + effect)):
                for arm, rate in (("train", 0.1 + size), ("deploy", 0.1)):
                    for _ in range(2):
                        out.writerow([f"q{q:02d}", f"w{w}", arm, level, int(rng.random() < rate)])


if __name__ == "__main__":
    main()
