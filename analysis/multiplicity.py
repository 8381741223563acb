"""Multiplicity: p-values corrected for how many were looked at.

Takes p-values, None where there was no test; gives corrected ones in the same order.
Does not know which rows form a family.
"""

from collections.abc import Sequence

__all__ = ["benjamini_hochberg", "holm", "holm_threshold"]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Family-wise error rate, step down (Holm 1979)."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        corrected[i] = largest
    return corrected


def holm_threshold(others: Sequence[float], alpha: float) -> float:
    """The largest p-value that Holm rejects at `alpha`, beside the `others` of its family."""
    family = len(others) + 1
    rejected = 0
    for p in sorted(others):
        if p > alpha / (family - rejected):
            break
        rejected += 1
    return alpha / (family - rejected)


def benjamini_hochberg(p_values: Sequence[float | None]) -> list[float | None]:
    """False discovery rate, step up (Benjamini and Hochberg 1995)."""
    tested = sorted(((p, i) for i, p in enumerate(p_values) if p is not None), reverse=True)
    corrected: list[float | None] = [None] * len(p_values)
    smallest = 1.0
    for position, (p, i) in enumerate(tested):
        smallest = min(smallest, p * len(tested) / (len(tested) - position))
        corrected[i] = smallest
    return corrected
