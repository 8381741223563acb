"""Diagnosis: what a design can tell apart, before anything is paid.

Takes conditions with their shares of the trials; gives their balance, the effects that stand for
one another, resolution and efficiency, in numbers and in words. Effects are named as the field
names them: `a` for a main effect, `a x b` for a two-factor interaction. Does not know designs by
kind, arms or errors of estimates.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from variants.exchange import d_efficiency, model_matrix
from variants.scenario import Condition

__all__ = ["Diagnosis", "PartialAlias", "diagnose", "diagnosis_text"]

# Correlations above this are the same column up to rounding.
EXACT = 1 - 1e-9
# Partial aliases below this are those of chance in any drawn design.
NOTABLE = 0.2
MOST_INTERACTIONS = 4000

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PartialAlias:
    """A main effect that holds a part of an interaction: their correlation over the trials."""

    effect: str
    interaction: str
    correlation: float


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a design can tell apart. Shares and correlations are weighted by trials.

    `balance` has the share of the trials at each level of each factor, None for not applicable.
    `aliases` are groups of effects that are one column; `partial` the strongest partial alias of
    each main effect. `inseparable` are main effects that the design cannot estimate even if there
    are no interactions; `absorbed` are interactions that main effects explain between them.
    `resolution` is None where main effects are correlated. `d_efficiency` is relative to an
    orthogonal array with all levels equally often, None where a main effect is inseparable.
    `interactions` is None where there were too many to look at.
    """

    balance: Mapping[str, Mapping[str | None, float]]
    aliases: tuple[tuple[str, ...], ...]
    partial: tuple[PartialAlias, ...]
    inseparable: tuple[str, ...]
    absorbed: tuple[str, ...]
    interactions: int | None
    resolution: int | None
    d_efficiency: float | None


def diagnose(
    conditions: Sequence[Condition],
    weights: Sequence[float],
    levels: Mapping[str, Sequence[str]],
) -> Diagnosis:
    """The diagnosis of conditions with these shares of the trials.

    `levels` are the varied factors with the levels that are tried, reference first.
    """
    return _diagnose(
        [dict(condition.levels) for condition in conditions], np.array(weights), dict(levels)
    )


def _diagnose(
    rows: list[dict[str, str | None]], weights: Floats, levels_of: Mapping[str, Sequence[str]]
) -> Diagnosis:
    balance = {
        name: {
            at: float(sum(w for w, row in zip(weights, rows, strict=True) if row[name] == at))
            for at in (*levels, None)
            if at is not None or any(row[name] is None for row in rows)
        }
        for name, levels in levels_of.items()
    }
    names, factor_of, mains = _mains(levels_of, rows, weights)
    root = np.sqrt(weights)[:, None]
    inseparable = _inseparable(names, mains * root, root)
    found = _interactions(levels_of, names, factor_of, mains, weights)
    return Diagnosis(
        balance=balance,
        aliases=found.groups,
        partial=found.partial,
        inseparable=inseparable,
        absorbed=found.absorbed,
        interactions=found.count,
        resolution=_resolution(mains, factor_of, weights, found),
        d_efficiency=None if inseparable else _efficiency(levels_of, rows, weights),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    groups: tuple[tuple[str, ...], ...]
    partial: tuple[PartialAlias, ...]
    absorbed: tuple[str, ...]
    count: int | None
    clear: bool


def _mains(
    levels_of: Mapping[str, Sequence[str]], rows: list[dict[str, str | None]], weights: Floats
) -> tuple[list[str], list[str], Floats]:
    """Names, factors, and the centred indicator of each changed level, one column each."""
    names, factor_of, columns = [], [], []
    for name, levels in levels_of.items():
        for at in levels[1:]:
            names.append(name if len(levels) == 2 else f"{name}[{at}]")
            factor_of.append(name)
            column = np.array([float(row[name] == at) for row in rows])
            columns.append(column - weights @ column)
    return names, factor_of, np.column_stack(columns)


def _inseparable(names: list[str], weighted: Floats, root: Floats) -> tuple[str, ...]:
    """Main effects outside the row space of intercept and main effects."""
    X = np.hstack([root, weighted])
    lengths = np.linalg.norm(X, axis=0)
    lengths[lengths == 0] = 1.0
    _, sizes, right = np.linalg.svd(X / lengths, full_matrices=False)
    space = right[sizes > 1e-8 * sizes.max()]
    kept = np.sum(space * space, axis=0)[1:]
    return tuple(name for name, share in zip(names, kept, strict=True) if share < 1 - 1e-6)


def _interactions(
    levels_of: Mapping[str, Sequence[str]],
    names: list[str],
    factor_of: list[str],
    mains: Floats,
    weights: Floats,
) -> _Found:
    """Two-factor interactions against the main effects and against each other."""
    columns = defaultdict(list)
    for i, name in enumerate(factor_of):
        columns[name].append(i)
    pairs = list(itertools.combinations(levels_of, 2))
    count = sum(len(columns[a]) * len(columns[b]) for a, b in pairs)
    if count > MOST_INTERACTIONS:
        return _Found((), (), (), None, True)
    root = np.sqrt(weights)
    unit = _unit(mains * root[:, None])
    left, sizes, _ = np.linalg.svd(unit, full_matrices=False)
    basis = left[:, sizes > 1e-8 * sizes.max(initial=0.0)]
    groups: defaultdict[bytes, list[str]] = defaultdict(list)
    for name, column in zip(names, unit.T, strict=True):
        if column.any():
            groups[_key(column)].append(name)
    strongest: dict[int, PartialAlias] = {}
    absorbed: list[str] = []
    clear = True
    for a, b in pairs:
        for i, j in itertools.product(columns[a], columns[b]):
            product = mains[:, i] * mains[:, j]
            column = _unit((product - weights @ product)[:, None] * root[:, None])[:, 0]
            interaction = f"{names[i]} x {names[j]}"
            if not column.any():
                absorbed.append(interaction)
                continue
            correlations = unit.T @ column
            correlations[[k for k, f in enumerate(factor_of) if f in (a, b)]] = 0.0
            clear &= bool(np.abs(correlations).max() < 1e-9)
            notable = (np.abs(correlations) >= NOTABLE) & (np.abs(correlations) <= EXACT)
            for k in np.flatnonzero(notable).tolist():
                size = float(correlations[k])
                if k not in strongest or abs(size) > abs(strongest[k].correlation) + 1e-9:
                    strongest[k] = PartialAlias(names[k], interaction, size)
            exact = _key(column)
            groups[exact].append(interaction)
            if len(groups[exact]) == 1 and np.linalg.norm(basis.T @ column) > EXACT:
                absorbed.append(interaction)
    return _Found(
        tuple(tuple(group) for group in groups.values() if len(group) > 1),
        tuple(found for _, found in sorted(strongest.items())),
        tuple(absorbed),
        count,
        clear,
    )


def _unit(columns: Floats) -> Floats:
    """The columns at length 1; those that never vary at 0."""
    lengths = np.linalg.norm(columns, axis=0)
    vary = lengths > 1e-9
    return np.where(vary, columns / np.where(vary, lengths, 1.0), 0.0)


def _key(column: Floats) -> bytes:
    """The same for columns that are equal up to sign and rounding."""
    rounded = np.round(column, 7) + 0.0
    first = rounded[np.flatnonzero(rounded)[0]]
    return bytes((rounded if first > 0 else -rounded + 0.0).tobytes())


def _resolution(mains: Floats, factor_of: list[str], weights: Floats, found: _Found) -> int | None:
    """3, 4 or 5 (or more) for uncorrelated main effects, by what else they are free of."""
    unit = _unit(mains * np.sqrt(weights)[:, None])
    gram = np.abs(unit.T @ unit)
    apart = np.array([[a != b for b in factor_of] for a in factor_of])
    if not unit.any(axis=0).all() or (gram[apart] > 1e-9).any() or found.count is None:
        return None
    if not found.clear:
        return 3
    return 4 if found.groups else 5


def _efficiency(
    levels_of: Mapping[str, Sequence[str]], rows: list[dict[str, str | None]], weights: Floats
) -> float | None:
    runs = np.array(
        [
            [-1 if row[n] is None else levels.index(str(row[n])) for n, levels in levels_of.items()]
            for row in rows
        ]
    )
    X = model_matrix(runs, [len(levels) for levels in levels_of.values()])
    return d_efficiency(X * np.sqrt(weights * len(rows))[:, None])


def diagnosis_text(found: Diagnosis, *, most: int = 6) -> Iterator[str]:
    """The diagnosis in lines: what cannot be told apart first."""
    if found.inseparable:
        yield f"cannot be told from other changes: {', '.join(found.inseparable)}"
    mains = [group for group in found.aliases if " x " not in group[0]]
    for group in mains[:most]:
        yield f"{group[0]} is aliased with {', '.join(group[1:])}"
    others = [group for group in found.aliases if " x " in group[0]]
    if others:
        shown = "; ".join(" = ".join(group) for group in others[:most])
        yield f"interactions that are one: {shown}{_more(len(others), most)}"
    if len(mains) > most:
        yield f"{len(mains) - most} more main effects are aliased with interactions"
    if found.partial:
        by_size = sorted(found.partial, key=lambda p: -abs(p.correlation))
        shown = "; ".join(
            f"{p.effect} with {p.interaction} ({p.correlation:+.2f})" for p in by_size[:3]
        )
        yield f"partly aliased: {shown}{_more(len(by_size), 3)}"
    if found.interactions is None:
        yield "too many interactions to look for aliases"
    elif len(found.absorbed) == found.interactions and found.absorbed:
        yield "no interaction can be told from the main effects"
    elif found.absorbed:
        shown = ", ".join(found.absorbed[:most])
        yield f"not to be told from main effects: {shown}{_more(len(found.absorbed), most)}"
    resolution = {None: "none", 3: "III", 4: "IV", 5: "V or more"}[found.resolution]
    efficiency = "none" if found.d_efficiency is None else f"{found.d_efficiency:.2f}"
    away = [
        1 - shares[next(iter(shares))] - shares.get(None, 0.0) for shares in found.balance.values()
    ]
    least, most_away = (f"{100 * share:.0f}" for share in (min(away), max(away)))
    changed = least if least == most_away else f"{least} to {most_away}"
    yield (
        f"resolution {resolution}; D-efficiency {efficiency}; "
        f"each feature changed in {changed} % of the trials"
    )


def _more(count: int, shown: int) -> str:
    return f" and {count - shown} more" if count > shown else ""
