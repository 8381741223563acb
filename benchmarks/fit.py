"""Fitting: a million trials collapsed to cells, beside statsmodels on the rows themselves.

Both sides start from the loaded frame and end with the linear probability model and the logit,
errors clustered by query. Prints a table, a line for trials that share no condition, and then one
line of JSON; `fit_1m_s` and `peak_mb` are all tables of `fit`, from Parquet, in a process alone.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

TRIALS, QUICK_TRIALS = 1_000_000, 40_000
FACTORS = [f"f{number:02d}" for number in range(16)]
CONDITIONS, QUERIES = 256, 400
OUTCOME = "complied"
# The shorter side is timed as often, and its fastest run counted.
ROUNDS = 3

Floats = NDArray[np.float64]


def write_trials(path: Path, number: int, fresh: bool) -> None:
    """A Parquet file of trials; with `fresh` each has a condition of its own, drawn evenly."""
    rng = np.random.default_rng(1)
    # The original and all single changes are there, as in every design with simple effects.
    single = np.vstack([np.zeros((1, len(FACTORS)), bool), np.eye(len(FACTORS), dtype=bool)])
    drawn = rng.random((CONDITIONS - len(single), len(FACTORS))) < 0.5
    cells = np.resize(rng.permutation(CONDITIONS * QUERIES * 2), number)
    condition, query, train = cells // (2 * QUERIES), cells // 2 % QUERIES, cells % 2
    changed = np.vstack([single, drawn])[condition]
    if fresh:
        changed = rng.random((number, len(FACTORS))) < 0.5
    slopes = rng.normal(0, 0.15, len(FACTORS))
    odds = -1.2 + 0.6 * train + rng.normal(0, 0.8, QUERIES)[query] + changed @ slopes
    odds -= train * (changed @ (slopes / 2 + 0.05))
    pl.DataFrame(
        {
            "query_id": [f"q{place}" for place in query],
            "arm": np.where(train == 1, "train", "deploy"),
            **{f: np.where(changed[:, i], "removed", "original") for i, f in enumerate(FACTORS)},
            OUTCOME: rng.random(number) < 1 / (1 + np.exp(-odds)),
        }
    ).write_parquet(path)


def collapsed(frame: pl.DataFrame) -> dict[str, Floats]:
    """Estimates and errors of both models from cells."""
    from analysis.observations import collapse, observe
    from analysis.regressions import linear_probability, log_odds

    checked = observe(frame, factors=FACTORS, outcomes=[OUTCOME])
    cells = collapse(checked, OUTCOME, wordings=False)
    linear = linear_probability(cells.frame, OUTCOME, cells.terms, weighted=False, kind="CR1")
    odds = log_odds(cells.frame, OUTCOME, cells.terms)
    return {
        "lpm": np.array([linear.estimates, np.sqrt(np.diag(linear.covariance))]),
        "logit": np.array([odds.fitted.estimates, np.sqrt(np.diag(odds.covariance))]),
    }


def row_by_row(frame: pl.DataFrame) -> dict[str, Floats]:
    """The same from statsmodels' OLS and binomial GLM with a row for each trial."""
    import statsmodels.api as sm

    changed = frame.select(pl.col(FACTORS) == "removed").cast(pl.Float64).to_numpy()
    train = (frame["arm"] == "train").cast(pl.Float64).to_numpy()[:, None]
    levels = np.hstack([np.ones_like(train), changed])
    X = np.hstack([levels, levels * train])
    y = frame[OUTCOME].cast(pl.Float64).to_numpy()
    clusters = (frame["query_id"].rank("dense") - 1).cast(pl.Int64).to_numpy()
    # G/(G-1), without (N-1)/(N-K): the small-sample factor of CR1.
    factor = np.sqrt(QUERIES / (QUERIES - 1))
    given: dict[str, Any] = {
        "cov_type": "cluster",
        "cov_kwds": {"groups": clusters, "use_correction": False},
    }
    fits = {
        "lpm": sm.OLS(y, X).fit(**given),
        "logit": sm.GLM(y, X, family=sm.families.Binomial()).fit(**given),
    }
    return {name: np.array([fit.params, factor * fit.bse]) for name, fit in fits.items()}


def cells_of(path: Path) -> int:
    """Cells of query, condition and arm."""
    from analysis.observations import collapse, observe

    checked = observe(pl.read_parquet(path), factors=FACTORS, outcomes=[OUTCOME])
    return collapse(checked, OUTCOME, wordings=False).frame.height


def compare(path: Path, quick: bool) -> dict[str, float]:
    """Seconds of both sides, and the largest difference of any estimate or error."""
    frame = pl.read_parquet(path)
    small = frame.head(QUICK_TRIALS // 2)
    collapsed(small), row_by_row(small)  # imports, and the caches of both
    ours_s, ours = fastest(lambda: collapsed(frame), ROUNDS)
    rows_s, rows = fastest(lambda: row_by_row(frame), 1 if quick else 2)
    differences = [np.max(np.abs(ours[name] - rows[name])) for name in rows]
    return {"ours_s": ours_s, "rows_s": rows_s, "max_abs_diff": float(max(differences))}


def fastest(work: Callable[[], dict[str, Floats]], rounds: int) -> tuple[float, dict[str, Floats]]:
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - started)
    return min(seconds), found


def whole(path: Path) -> dict[str, float]:
    """Seconds from the file to all tables, imports included, and this process's peak in MB."""
    started = time.perf_counter()
    import analysis

    results = analysis.fit(pl.read_parquet(path), factors=FACTORS, outcomes=[OUTCOME])
    seconds = time.perf_counter() - started
    assert results.effects.height
    return {"s": seconds, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def alone(work: Callable[..., Any], *given: object) -> Any:
    """The work's result from a fresh process, whose peak of memory is its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *given).result()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A million trials: fit beside statsmodels.")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_TRIALS} trials, no fresh ones"
    )
    quick = parser.parse_args(arguments).quick
    number = QUICK_TRIALS if quick else TRIALS
    with tempfile.TemporaryDirectory() as folder:
        shared, fresh = Path(folder) / "shared.parquet", Path(folder) / "fresh.parquet"
        paths = (shared,) if quick else (shared, fresh)
        for path in paths:
            alone(write_trials, path, number, path == fresh)
        sides = alone(compare, shared, quick)
        fits = {path: alone(whole, path) for path in paths}
        found = {path: alone(cells_of, path) for path in paths}
    print(f"{f'{number:,} trials, {len(FACTORS)} factors':<52}{'seconds':>9}{'MB':>8}")
    print(f"{'both models from the rows, statsmodels':<52}{sides['rows_s']:>9.2f}")
    print(f"{'both models from cells':<52}{sides['ours_s']:>9.2f}")
    for path in paths:
        of = "a fresh condition each" if path == fresh else f"{CONDITIONS} conditions"
        label = f"fit from Parquet, {of}: {found[path]:,} cells"
        print(f"{label:<52}{fits[path]['s']:>9.2f}{fits[path]['mb']:>8.0f}")
    print(
        json.dumps(
            {
                "speedup_vs_row_glm": round(sides["rows_s"] / sides["ours_s"], 1),
                "max_abs_diff": sides["max_abs_diff"],
                "fit_1m_s": round(fits[shared]["s"], 2),
                "peak_mb": round(fits[shared]["mb"]),
                "n_cells": found[shared],
            }
        )
    )


if __name__ == "__main__":
    main()
