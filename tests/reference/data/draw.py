"""Draws the data sets that the stored references are computed from.

Run as `python tests/reference/data/draw.py`; it writes the csv files beside itself. One row per
trial: query, wording, arm, one column per factor, and y (0, 1, or empty where it is missing).
"""

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

Row = tuple[str, str, str, dict[str, str]]


def expand(
    conditions: Sequence[dict[str, str]], queries: int, wordings: int, trials: int
) -> Iterator[Row]:
    """Every condition, query and arm, `trials` times; wordings go round."""
    turn = 0
    for q, condition, arm in itertools.product(range(queries), conditions, ("train", "deploy")):
        for _ in range(trials):
            yield f"q{q:02d}", f"w{turn % wordings}", arm, condition
            turn += 1


def full(factors: str) -> list[dict[str, str]]:
    levels = itertools.product(("original", "removed"), repeat=len(factors))
    return [dict(zip(factors, one, strict=True)) for one in levels]


def single(factors: str, originals: int) -> list[dict[str, str]]:
    original = dict.fromkeys(factors, "original")
    return [original] * originals + [original | {f: "removed"} for f in factors]


def fraction() -> list[dict[str, str]]:
    """2^(8-4) of resolution IV: E = BCD, F = ACD, G = ABC, H = ABD."""
    runs = []
    for a, b, c, d in itertools.product((0, 1), repeat=4):
        row = (a, b, c, d, b ^ c ^ d, a ^ c ^ d, a ^ b ^ c, a ^ b ^ d)
        named = zip("abcdefgh", row, strict=True)
        runs.append({f: ("removed" if v else "original") for f, v in named})
    return runs


def write(
    name: str,
    rows: Sequence[Row],
    rng: np.random.Generator,
    *,
    deploy: float,
    gap: float,
    effects: dict[str, float],
    query_sd: float,
    slope_sd: float = 0.3,
    wording_sd: float = 0.0,
    missing: float = 0.0,
) -> None:
    """Outcomes from a logit with random queries and wordings; effects act in train, half in deploy.

    `deploy` is the log-odds there at the original; at -40 no trial is a success.
    """
    queries = {q: rng.normal(0, [query_sd, slope_sd]) for q in sorted({row[0] for row in rows})}
    wordings = {w: rng.normal(0, wording_sd) for w in sorted({row[1] for row in rows})}
    with (Path(__file__).parent / f"{name}.csv").open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["query", "wording", "arm", *rows[0][3], "y"])
        for query, wording, arm, condition in rows:
            train = arm == "train"
            eta = deploy + queries[query][0] + train * (gap + queries[query][1])
            for factor, level in condition.items():
                size = effects.get(f"{factor}={level}", 0.0)
                eta += size * (1.0 if train else 0.3) * (1 + train * wordings[wording])
            y = str(int(rng.random() < 1 / (1 + np.exp(-eta))))
            y = "" if missing and rng.random() < missing * (1.5 if train else 0.5) else y
            out.writerow([query, wording, arm, *condition.values(), y])


def main() -> None:
    rng = np.random.default_rng(20240612)
    rows = list(expand(full("abc"), 12, 3, 4))
    effects = {"a=removed": -0.9, "b=removed": -0.4}
    write("balanced", rows, rng, deploy=-1.6, gap=1.4, effects=effects, query_sd=0.6)

    rows = list(expand(single("abcde", 3), 20, 3, 3))
    effects = {"a=removed": -1.2, "c=removed": -0.6}
    write("one_at_a_time", rows, rng, deploy=-2.3, gap=1.5, effects=effects, query_sd=0.8)

    rows = list(expand(single("abc", 3), 16, 2, 3))
    effects = {"a=removed": -1.5, "b=removed": -0.5}
    write("separated", rows, rng, deploy=-40.0, gap=39.0, effects=effects, query_sd=0.8)

    rows = list(expand(full("ab"), 24, 2, 4))
    effects = {"a=removed": -1.0}
    write(
        "heterogeneous",
        rows,
        rng,
        deploy=-1.8,
        gap=1.6,
        effects=effects,
        query_sd=1.6,
        slope_sd=0.9,
    )

    crossed: list[Row] = []
    cells = itertools.product(range(10), range(8), ("train", "deploy"), full("a"), range(2))
    for q, w, arm, condition, _ in cells:
        crossed.append((f"q{q:02d}", f"w{w}", arm, condition))
    effects = {"a=removed": -1.3}
    write(
        "crossed",
        crossed,
        rng,
        deploy=-1.7,
        gap=1.5,
        effects=effects,
        query_sd=0.7,
        wording_sd=0.8,
    )

    uneven: list[Row] = []
    for q, arm in itertools.product(range(15), ("train", "deploy")):
        for tone, b in itertools.product(("original", "removed", "softened"), full("b")):
            for k in range(int(rng.integers(0, 9 if arm == "train" else 5))):
                uneven.append((f"q{q:02d}", f"w{k % 3}", arm, {"tone": tone} | b))
    effects = {"tone=removed": -1.1, "tone=softened": -0.3, "b=removed": 0.4}
    write(
        "unbalanced",
        uneven,
        rng,
        deploy=-1.4,
        gap=1.2,
        effects=effects,
        query_sd=0.7,
        missing=0.06,
    )

    rows = list(expand(full("ab"), 6, 2, 6))
    effects = {"a=removed": -1.0, "b=removed": -0.3}
    write("six_clusters", rows, rng, deploy=-1.8, gap=1.5, effects=effects, query_sd=0.7)

    rows = list(expand(fraction(), 10, 2, 2))
    effects = {"a=removed": -0.8, "b=removed": -0.5, "c=removed": -0.3}
    write("fraction", rows, rng, deploy=-1.2, gap=1.6, effects=effects, query_sd=0.5)


if __name__ == "__main__":
    main()
