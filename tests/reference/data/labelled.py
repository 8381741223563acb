"""Draws labelled.csv: trials with a judge's verdicts, some missing, and people's labels on some.

Run as `python tests/reference/data/labelled.py`. The judge errs more in deploy. `human` was asked
for within strata arm x verdict with the chance in `probability`; `human_random` within each arm.
Every query stands in one `block` and in every `pass`.
"""

import csv
import itertools
from pathlib import Path

import numpy as np


def main() -> None:
    rng = np.random.default_rng(20240918)
    rows = []
    for q, arm, condition in itertools.product(range(16), ("train", "deploy"), (1, 2)):
        train = arm == "train"
        lift = 0.35 if train and condition == 1 else 0.12 * train
        rate = float(np.clip(rng.beta(2, 8) + lift, 0.02, 0.95))
        for number in range(8 if train else 6):
            truth = rng.random() < rate
            right = rng.random() < (0.9 if train else 0.75 if truth else 0.88)
            verdict: int | None = int(truth) if right else 1 - int(truth)
            if rng.random() < (0.09 if train else 0.04):
                verdict = None
            rows.append([f"q{q:02d}", arm, condition, q % 4 + 1, number % 3 + 1, verdict, truth])
    with (Path(__file__).parent / "labelled.csv").open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        names = ["query", "arm", "condition", "block", "pass", "y"]
        out.writerow([*names, "human", "probability", "human_random"])
        plain = {
            (arm, i)
            for arm in ("train", "deploy")
            for i in rng.choice(
                [i for i, r in enumerate(rows) if r[1] == arm and r[5] is not None], 60, False
            )
        }
        for i, (query, arm, condition, block, turn, verdict, truth) in enumerate(rows):
            chance = {1: 0.8, 0: 0.25, None: None}[verdict]
            human = int(truth) if chance and rng.random() < chance else None
            random = int(truth) if (arm, i) in plain else None
            cells = [verdict, human, chance, random]
            out.writerow(
                [query, arm, condition, block, turn, *("" if c is None else c for c in cells)]
            )


if __name__ == "__main__":
    main()
