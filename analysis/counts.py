"""Counts: gaps and contrasts from a table of successes, one row a condition.

Takes condition, trials and successes in both arms, and a reference condition; gives gaps with
unpaired errors and differences from the reference. Rows may share queries, of which a table of
counts says nothing: an assumed correlation stands in for it.
Does not know trials, features or where the table is from.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from scipy import special

from analysis.effects import SIMPLE
from analysis.gaps import CONTRAST
from analysis.intervals import newcombe, normal_quantile, z_interval
from analysis.multiplicity import holm

__all__ = [
    "Count",
    "CountsError",
    "Difference",
    "differences",
    "load_counts",
    "read_counts",
    "read_text_csv",
    "trials_needed",
]

REQUIRED = ("condition", "n_train", "k_train", "n_deploy", "k_deploy")
NUMBERS = REQUIRED[1:]
POWER = 0.8
ALPHA = 0.05


class CountsError(ValueError):
    """A table of counts that cannot be used; `problems` holds every fault with row and column."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


@dataclass(frozen=True, slots=True)
class Count:
    """One condition: trials and successes per arm; `others` holds the further columns."""

    model: str | None
    condition: str
    n_train: int
    k_train: int
    n_deploy: int
    k_deploy: int
    others: Mapping[str, str | None]

    @property
    def rates(self) -> tuple[float, float]:
        return self.k_train / self.n_train, self.k_deploy / self.n_deploy

    @property
    def gap(self) -> float:
        train, deploy = self.rates
        return train - deploy

    @property
    def variance(self) -> float:
        """`p1 q1 / n1 + p0 q0 / n0`: that of the gap of independent samples."""
        train, deploy = self.rates
        return train * (1 - train) / self.n_train + deploy * (1 - deploy) / self.n_deploy

    @property
    def std_error(self) -> float | None:
        """None when neither arm varies: there is then no information about the error."""
        return math.sqrt(self.variance) or None

    @property
    def bounds(self) -> tuple[float, float]:
        """Newcombe's interval of the gap."""
        found = newcombe(self.k_train, self.n_train, self.k_deploy, self.n_deploy)
        return found.low, found.high

    @property
    def boundary(self) -> bool:
        """Whether an arm is at 0 or at 1."""
        return any(rate in (0.0, 1.0) for rate in self.rates)

    def as_row(self, outcome: str) -> dict[str, Any]:
        """The row of gaps.csv."""
        low, high = self.bounds
        train, deploy = self.rates
        return {
            "model": self.model,
            "condition": self.condition,
            "outcome": outcome,
            "contrast": CONTRAST,
            "n_train": self.n_train,
            "n_deploy": self.n_deploy,
            "rate_train": train,
            "rate_deploy": deploy,
            "gap": self.gap,
            "std_error": self.std_error,
            "conf_low": low,
            "conf_high": high,
            "method": "unpaired, newcombe",
            "note": "boundary" if self.boundary else None,
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """A condition's gap minus the reference's, with z on the unpaired errors.

    The error, the test and the bounds are None when one of the two gaps has no error.
    """

    count: Count
    reference: Count
    estimate: float
    std_error: float | None
    statistic: float | None
    p_value: float | None
    p_holm: float | None
    low: float | None
    high: float | None

    def p_equivalent(self, margin: float) -> float | None:
        """TOST p-value that the difference lies within `margin` of 0 (Schuirmann 1987)."""
        if self.std_error is None:
            return None
        worst = (abs(self.estimate) - margin) / self.std_error
        return float(special.ndtr(worst))

    def as_row(self, outcome: str) -> dict[str, Any]:
        """The row of effects.csv."""
        train, deploy = self.count.rates
        train0, deploy0 = self.reference.rates
        return {
            "model": self.count.model,
            "outcome": outcome,
            "contrast": CONTRAST,
            "estimand": SIMPLE,
            "factor": "condition",
            "level": self.count.condition,
            "reference": self.reference.condition,
            "estimate": self.estimate,
            "train_part": train - train0,
            "deploy_part": deploy - deploy0,
            "std_error": self.std_error,
            "statistic": self.statistic,
            "p_value": self.p_value,
            "p_holm": self.p_holm,
            "conf_low": self.low,
            "conf_high": self.high,
            "n_trials": sum(c.n_train + c.n_deploy for c in (self.count, self.reference)),
            "family": "conditions",
            "correction": "raw",
            "role": "primary",
            "method": "unpaired, z",
            "note": "boundary" if self.count.boundary or self.reference.boundary else None,
        }


def read_counts(frame: pl.DataFrame, *, name: str = "counts") -> tuple[Count, ...]:
    """Check a table of counts; `name` is named in messages. Raises CountsError with every fault.

    Rows are numbered from 1 below the header. Columns besides the required ones and `model` are
    kept as text.
    """
    missing = [column for column in REQUIRED if column not in frame.columns]
    if missing:
        raise CountsError(
            [f"{name}: no column {', '.join(missing)}; it has {', '.join(frame.columns)}"]
        )
    if frame.is_empty():
        raise CountsError([f"{name}: the table has no rows"])
    problems: list[str] = []
    counts: list[Count] = []
    seen: dict[tuple[str | None, str], int] = {}
    others = [c for c in frame.columns if c not in (*REQUIRED, "model")]
    for number, row in enumerate(frame.iter_rows(named=True), start=1):
        where = f"{name}: row {number}"
        condition = "" if row["condition"] is None else str(row["condition"]).strip()
        model = None if row.get("model") in (None, "") else str(row["model"])
        if not condition:
            problems.append(f"{where}, column condition: missing: name the condition")
        elif (model, condition) in seen:
            problems.append(
                f"{where}, column condition: `{condition}` stands in row "
                f"{seen[model, condition]} too: each condition of a model has one row"
            )
        seen.setdefault((model, condition), number)
        cells = {c: _whole(row[c], f"{where}, column {c}", problems) for c in NUMBERS}
        for arm in ("train", "deploy"):
            n, k = cells[f"n_{arm}"], cells[f"k_{arm}"]
            if n == 0:
                problems.append(f"{where}, column n_{arm}: 0 trials: leave the row out")
            if n is not None and k is not None and k > n:
                problems.append(f"{where}, column k_{arm}: {k} of {n}: more successes than trials")
        kept = {c: None if row[c] is None else str(row[c]) for c in others}
        n1, k1, n0, k0 = (cells[c] or 0 for c in NUMBERS)
        counts.append(Count(model, condition, n1, k1, n0, k0, kept))
    if problems:
        raise CountsError(problems)
    return tuple(counts)


def load_counts(path: Path) -> tuple[Count, ...]:
    """The counts of a csv file. Raises CountsError."""
    return read_counts(read_text_csv(path), name=str(path))


def read_text_csv(path: Path) -> pl.DataFrame:
    """A csv file with every cell as text, so that faults can be shown as they stand."""
    try:
        return pl.read_csv(path.read_bytes(), infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CountsError([f"{path}: cannot be read: {first}"]) from None


def _whole(value: object, where: str, problems: list[str]) -> int | None:
    """A cell as a number of trials; a fault is one message."""
    text = "" if value is None else str(value).strip()
    if not text or text.lower() in ("null", "na", "nan"):
        problems.append(f"{where}: missing: a count is a whole number from 0")
    elif "%" in text:
        problems.append(f"{where}: {text}: a percentage: give the number of trials it stands for")
    else:
        try:
            number = float(text)
        except ValueError:
            problems.append(f"{where}: {text!r} is not a number")
            return None
        if not number.is_integer():
            problems.append(f"{where}: {text} is not whole: a count is a whole number from 0")
        elif number < 0:
            problems.append(f"{where}: {text} is negative: a count is a whole number from 0")
        else:
            return int(number)
    return None


def differences(
    counts: Sequence[Count], reference: str, *, correlation: float = 0.0
) -> tuple[Difference, ...]:
    """Each condition against the reference condition of its own model; Holm within the model.

    `correlation` is that of the outcomes of one query in two conditions, the smaller sample
    nested in the larger: `cov = rho se_1 se_0 sqrt(n_small / n_large)`. Models without the
    reference are left out. Raises CountsError when no model has it.
    """
    references = {c.model: c for c in counts if c.condition == reference}
    if not references:
        known = ", ".join(dict.fromkeys(c.condition for c in counts))
        raise CountsError([f"no row has the reference condition `{reference}`; there is {known}"])
    found: list[Difference] = []
    for model, base in references.items():
        rows = [c for c in counts if c.model == model and c is not base]
        tested = [_difference(row, base, correlation) for row in rows]
        corrected = holm([row.p_value for row in tested])
        found += [replace(d, p_holm=p) for d, p in zip(tested, corrected, strict=True)]
    return tuple(found)


def _difference(count: Count, base: Count, correlation: float) -> Difference:
    estimate = count.gap - base.gap
    one, zero = count.std_error, base.std_error
    if one is None or zero is None:
        return Difference(count, base, estimate, None, None, None, None, None, None)
    sizes = [c.n_train + c.n_deploy for c in (count, base)]
    shared = correlation * one * zero * math.sqrt(min(sizes) / max(sizes))
    error = math.sqrt(one**2 + zero**2 - 2 * shared)
    bounds = z_interval(estimate, error)
    return Difference(
        count,
        base,
        estimate,
        error,
        bounds.statistic,
        bounds.p_value,
        None,
        bounds.low,
        bounds.high,
    )


def trials_needed(
    difference: Difference, size: float, *, correlation: float = 0.0, equivalence: bool = False
) -> int:
    """Queries per arm in each of the two conditions that would have settled a contrast.

    With 80 % power at 5 %: to find a true difference of `size`, or with `equivalence` to show a
    true difference of 0 to lie within `size` (TOST). One trial per query, rates as observed.
    """
    one, zero = (_per_trial(c) for c in (difference.count, difference.reference))
    variance = one + zero - 2 * correlation * math.sqrt(one * zero)
    if equivalence:
        reach = normal_quantile(1 - ALPHA) + normal_quantile(1 - (1 - POWER) / 2)
    else:
        reach = normal_quantile(1 - ALPHA / 2) + normal_quantile(POWER)
    return math.ceil(reach**2 * variance / size**2)


def _per_trial(count: Count) -> float:
    train, deploy = count.rates
    return train * (1 - train) + deploy * (1 - deploy)
