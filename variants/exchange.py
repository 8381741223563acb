"""D-optimal sets of runs by coordinate exchange.

Takes the number of levels of each factor, the interactions of the model, a generator, and a
function that settles a choice of levels; gives the runs, their model matrix and its efficiency.
Does not know scenarios, names of factors, arms or trials: a run is a tuple of level indices,
0 the reference, -1 where a factor is not applicable.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ExchangeError", "d_efficiency", "d_optimal_runs", "model_matrix", "model_terms"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Run = tuple[int, ...]
Settle = Callable[[Run], Run | None]
Term = tuple[tuple[int, int], ...]

# Relative differences of determinants below this are ties: rounding differs between machines,
# and the worst starts lose half of the 16 digits.
_TIE = 1e-7
# A run that adds less than this share of its squared length to the span adds nothing.
_SPAN = 1e-6
# So many choices or fewer are settled once and for all.
_TABULATED = 1 << 12
# All costs are about nanoseconds, but counted and not measured: the same on every machine.
_WORK = 1_500_000_000
_START, _VISIT, _EXCHANGE, _SETTLE, _LOOK_UP = 300_000, 70_000, 40_000, 8_000, 2_000


class ExchangeError(ValueError):
    """Runs that cannot be found; `columns` are those of the model that no run can estimate."""

    def __init__(self, message: str, columns: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.columns = columns


def d_optimal_runs(
    levels: Sequence[int],
    runs: int,
    *,
    rng: np.random.Generator,
    settle: Settle | None = None,
    interactions: Sequence[tuple[int, int]] = (),
    starts: int = 200,
    keep: Sequence[Run] = (),
    seeds: Sequence[Ints] = (),
) -> Ints:
    """Settled runs (runs, factors) with the largest |X'X| found, the kept ones first.

    From each seed and from `starts` random sets, single levels are exchanged while that enlarges
    the determinant (Meyer and Nachtsheim 1995); a fixed amount of work bounds the starts.
    `levels` is how many each factor has. `settle` takes a choice of a level per factor and gives
    the run as it is rendered, with -1 for a factor that is not applicable, or None when it is
    forbidden. `seeds` are sets of at most `runs` choices; their levels are renamed so that the
    first row becomes the first kept run. At equal determinants the set with fewer repeated runs
    is taken. Raises ExchangeError for too few runs, and for a model that no runs can estimate.
    """
    terms = _terms(tuple(levels), tuple(interactions))
    space = _Space(tuple(levels), settle)
    kept = _kept(space, keep)
    _check(terms, runs, kept, starts, seeds)
    budget = _Budget(_WORK)
    pool = _Pool(space, terms, rng, kept)
    best: _Set | None = None
    for seed in itertools.chain((_renamed(seed, kept, levels) for seed in seeds), [None] * starts):
        spent = space.spent
        found = _start(pool, runs, seed)
        budget.left -= _START + space.spent - spent
        _descend(found, space, terms, budget)
        if best is None or _better(found, best):
            best = found
        perfect = best.log_efficiency > -_TIE and best.repeats <= max(0, runs - math.prod(levels))
        if perfect or budget.left <= 0:
            break
    assert best is not None
    return best.rows


def model_terms(
    levels: Sequence[int], interactions: Sequence[tuple[int, int]] = ()
) -> tuple[Term, ...]:
    """What each column of the model matrix is about: (factor, level) pairs, none for the intercept.

    Columns of a factor span the differences of its levels from the reference, in that order.
    """
    mains: list[list[Term]] = [
        [((factor, level),) for level in range(1, count)] for factor, count in enumerate(levels)
    ]
    products = [(*a, *b) for i, j in interactions for a in mains[i] for b in mains[j]]
    return ((), *itertools.chain.from_iterable(mains), *products)


def model_matrix(
    runs: Sequence[Run] | Ints,
    levels: Sequence[int],
    interactions: Sequence[tuple[int, int]] = (),
) -> Floats:
    """Intercept, main effects and products of main effects (runs, parameters), as `model_terms`.

    A factor has normalised Helmert contrasts: -1 and 1 for two levels, and orthogonal columns of
    mean square 1 over levels equally often. Where it is not applicable it is coded as at its
    reference, so that the columns span those of indicators which are 0 at both. Raises
    ExchangeError for levels or interactions that make no model.
    """
    terms = _terms(tuple(levels), tuple(interactions))
    return terms.matrix(terms.index(np.asarray(runs, dtype=np.int64).reshape(-1, len(levels))))


def d_efficiency(X: Floats) -> float | None:
    """|X'X|^(1/p) / N of a model matrix (N, p), in (0, 1]; None when it is singular.

    In the coding of `model_matrix` it is relative to an orthogonal array of as many runs, with
    all levels and chosen pairs equally often: 1 for an orthogonal two-level design. With several
    levels, needs or exclusions such an array may not exist, and the best possible is below 1.
    """
    count, parameters = X.shape
    if count < parameters or np.linalg.matrix_rank(X) < parameters:
        return None
    return math.exp(_log_efficiency(X))


@dataclass(frozen=True, slots=True)
class _Terms:
    """The model as a table: each level of a term is a cell with its row of columns.

    A run is in one cell of each term, and its row of the model matrix is the sum of theirs.
    `cells` is (cells, parameters); `first` is the first cell of each factor, `pair_first` of each
    interaction.
    """

    levels: tuple[int, ...]
    first: Ints
    pairs: Ints
    pair_first: Ints
    cells: Floats

    @property
    def parameters(self) -> int:
        return int(self.cells.shape[1])

    def index(self, rows: Ints) -> Ints:
        """Settled runs (n, factors) -> the cell of each term (n, terms)."""
        shown = np.maximum(rows, 0)
        intercept = np.zeros((len(rows), 1), dtype=np.int64)
        if not len(self.pairs):
            return np.concatenate([intercept, shown + self.first], axis=1)
        a, b = self.pairs.T
        products = shown[:, a] * np.take(self.levels, b) + shown[:, b] + self.pair_first
        return np.concatenate([intercept, shown + self.first, products], axis=1)

    def matrix(self, index: Ints) -> Floats:
        """Cells of each run (n, terms) -> model matrix (n, parameters)."""
        member = np.zeros((len(index), len(self.cells)))
        member[np.arange(len(index))[:, None], index] = 1.0
        return member @ self.cells

    def dispersion(self, index: Ints) -> Floats:
        """The inverse of X'X between cells (cells, cells)."""
        X = self.matrix(index)
        return self.cells @ np.linalg.inv(X.T @ X) @ self.cells.T


def _terms(levels: Run, interactions: tuple[tuple[int, int], ...]) -> _Terms:
    if not levels or min(levels) < 2:
        raise ExchangeError(f"levels are {list(levels)}: give at least one factor, each two levels")
    for pair in interactions:
        if len({*pair}) != 2 or not all(0 <= factor < len(levels) for factor in pair):
            raise ExchangeError(
                f"interaction {pair}: name two of the factors 0 to {len(levels) - 1}"
            )
    if len({frozenset(pair) for pair in interactions}) < len(interactions):
        raise ExchangeError("an interaction is named twice: name each one once")
    contrasts = [_contrasts(count) for count in levels]
    products = [np.asarray(np.kron(contrasts[i], contrasts[j]), float) for i, j in interactions]
    blocks = [np.ones((1, 1)), *contrasts, *products]
    ends = np.cumsum([block.shape for block in blocks], axis=0, dtype=np.int64)
    cells = np.zeros(tuple(ends[-1]))
    for block, (row, column) in zip(blocks, ends.tolist(), strict=True):
        cells[row - block.shape[0] : row, column - block.shape[1] : column] = block
    return _Terms(
        levels=levels,
        first=ends[: len(levels), 0],
        pairs=np.array(interactions, dtype=np.int64).reshape(-1, 2),
        pair_first=ends[len(levels) : -1, 0],
        cells=cells,
    )


def _contrasts(count: int) -> Floats:
    """Helmert contrasts (levels, levels - 1) of mean square 1."""
    contrasts = np.zeros((count, count - 1))
    for level in range(1, count):
        scale = math.sqrt(count / (level * (level + 1)))
        contrasts[:level, level - 1] = -scale
        contrasts[level, level - 1] = level * scale
    return contrasts


@dataclass(slots=True)
class _Budget:
    left: int


class _Space:
    """The choices and what they settle to, each settled at most once; `spent` is the work so far.

    `blocks` are the exchanges looked at before one is made, as (factors, levels): all of them
    (`together`) where settling costs nothing, else those of a factor, so that less is in vain.
    """

    def __init__(self, levels: Run, settle: Settle | None) -> None:
        self.levels = levels
        self.spent = 0
        self._settle = settle
        self._known: dict[bytes, bytes | None] = {}
        self._table: tuple[Ints, NDArray[np.bool_]] | None = None
        if settle and self.small:
            self._table = self._looked_up(self.every())
        single = [
            (np.full(count, factor, dtype=np.int64), np.arange(count, dtype=np.int64))
            for factor, count in enumerate(levels)
        ]
        factors, tried = (np.concatenate(part) for part in zip(*single, strict=True))
        self.together = [(factors, tried)]
        self.blocks = single if settle and self._table is None else self.together

    @property
    def small(self) -> bool:
        """Whether every choice can be looked at."""
        return math.prod(self.levels) <= _TABULATED

    def every(self) -> Ints:
        """All choices (n, factors), the last factor changing fastest."""
        return np.array(list(itertools.product(*map(range, self.levels))), dtype=np.int64)

    def settled(self, choices: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Choices (n, factors) -> runs (n, factors) and which of them are allowed (n)."""
        if self._settle is None:
            return choices, np.ones(len(choices), dtype=bool)
        if self._table is None:
            return self._looked_up(choices)
        rows, allowed = self._table
        code = np.ravel_multi_index(tuple(choices.T), self.levels)
        return rows[code], allowed[code]

    def random(self, count: int, rng: np.random.Generator) -> Ints:
        return rng.integers(np.array(self.levels), size=(count, len(self.levels)))

    def _looked_up(self, choices: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        self.spent += _LOOK_UP * len(choices)
        rows = np.zeros_like(choices)
        allowed = np.ones(len(choices), dtype=bool)
        for place, choice in enumerate(choices):
            key = choice.tobytes()
            if key not in self._known:
                self._known[key] = self._asked(tuple(choice.tolist()))
            run = self._known[key]
            if run is None:
                allowed[place] = False
            else:
                rows[place] = np.frombuffer(run, dtype=np.int16)
        return rows, allowed

    def _asked(self, choice: Run) -> bytes | None:
        assert self._settle is not None
        self.spent += _SETTLE
        run = self._settle(choice)
        return None if run is None else np.array(run, dtype=np.int16).tobytes()


@dataclass(slots=True)
class _Set:
    """The runs in work: raw choices, what they settle to, and its cells; `fixed` lead and stay."""

    choices: Ints
    rows: Ints
    index: Ints
    fixed: int
    log_efficiency: float = -math.inf

    @property
    def repeats(self) -> int:
        return len(self.rows) - len({row.tobytes() for row in self.rows})


class _Pool:
    """Where allowed choices come from: at random, and enough of them to span the model."""

    def __init__(self, space: _Space, terms: _Terms, rng: np.random.Generator, kept: Ints) -> None:
        self.space = space
        self.terms = terms
        self.kept = kept
        self._rng = rng
        self._spanning: Ints | None = None

    def allowed(self, count: int) -> Ints:
        """So many random allowed choices; where they are rare, by walks from a known one."""
        drawn = self.space.random(count, self._rng)
        wrong = np.flatnonzero(~self.space.settled(drawn)[1])
        for _ in range(20):
            if not wrong.size:
                return drawn
            drawn[wrong] = self.space.random(wrong.size, self._rng)
            wrong = wrong[~self.space.settled(drawn[wrong])[1]]
        for place in wrong.tolist():
            drawn[place] = self._walk(self._somewhere(drawn, wrong))
        return drawn

    def spanning(self) -> Ints:
        """Choices that have every allowed run among them or nearly all that a model can need."""
        if self._spanning is None:
            if self.space.small:
                every = self.space.every()
                self._spanning = self._rng.permutation(every[self.space.settled(every)[1]])
            else:
                drawn = self.allowed(8 * self.terms.parameters)
                near = [self._neighbours(choice) for choice in (*self.kept, *drawn[:20])]
                self._spanning = np.concatenate([drawn, *near])
        return self._spanning

    def _neighbours(self, choice: Ints) -> Ints:
        near = np.concatenate([_changed(choice, *block) for block in self.space.together])
        return near[self.space.settled(near)[1]]

    def _somewhere(self, drawn: Ints, wrong: Ints) -> Ints:
        origin = np.zeros((1, drawn.shape[1]), dtype=np.int64)
        known = np.concatenate([self.kept, np.delete(drawn, wrong, axis=0), origin])
        if self.space.small:
            known = np.concatenate([known, self.space.every()])
        for choice, allowed in zip(known, self.space.settled(known)[1], strict=True):
            if allowed:
                return np.asarray(choice)
        raise ExchangeError(
            "no allowed run was found: take back some exclusions, or keep one run that is allowed"
        )

    def _walk(self, choice: Ints) -> Ints:
        """A choice reached by random allowed changes of one level at a time."""
        for _ in range(3 * len(choice)):
            factor = int(self._rng.integers(len(choice)))
            level = self._rng.integers(self.space.levels[factor], size=1)
            moved = _changed(choice, np.array([factor]), level)
            if self.space.settled(moved)[1][0]:
                choice = moved[0]
        return choice


def _changed(choice: Ints, factors: Ints, levels: Ints) -> Ints:
    """One copy of the choice (n, factors) for each change of a factor to a level."""
    copies = np.repeat(choice[None], len(factors), axis=0)
    copies[np.arange(len(factors)), factors] = levels
    return copies


def _check(terms: _Terms, runs: int, kept: Ints, starts: int, seeds: Sequence[Ints]) -> None:
    if runs < terms.parameters:
        raise ExchangeError(
            f"{runs} runs cannot estimate {terms.parameters} parameters: set runs to at least "
            f"{terms.parameters}, or take out factors, levels or interactions"
        )
    if len(kept) > runs:
        raise ExchangeError(
            f"{len(kept)} runs are kept in {runs}: set runs to at least {len(kept)}"
        )
    if starts < 1 and not seeds:
        raise ExchangeError(f"starts is {starts}: set it to at least 1, or give a seed")
    for seed in seeds:
        if seed.ndim != 2 or len(seed) > runs or seed.shape[1] != len(terms.levels):
            raise ExchangeError(
                f"a seed has shape {seed.shape}: give at most {runs} runs of "
                f"{len(terms.levels)} factors"
            )


def _kept(space: _Space, keep: Sequence[Run]) -> Ints:
    """The kept runs as choices; a factor that is not applicable is put at its reference."""
    choices = np.maximum(np.array(keep, dtype=np.int64).reshape(-1, len(space.levels)), 0)
    for choice, allowed in zip(choices.tolist(), space.settled(choices)[1], strict=True):
        if not allowed:
            raise ExchangeError(f"run {tuple(choice)} is kept but forbidden: take it out of one")
    return choices


def _renamed(seed: Ints, kept: Ints, levels: Sequence[int]) -> Ints:
    """The seed with each factor's levels turned round until its first row is the first kept."""
    seed = np.maximum(seed, 0)
    if not len(kept) or not len(seed):
        return seed
    return np.asarray((seed - seed[0] + kept[0]) % np.array(levels))


def _start(pool: _Pool, runs: int, seed: Ints | None) -> _Set:
    """A set with the kept runs first, the seed or random choices after them, of full rank."""
    space, terms, fixed = pool.space, pool.terms, len(pool.kept)
    choices = pool.allowed(runs)
    if seed is not None:
        choices[: len(seed)] = np.where(space.settled(seed)[1][:, None], seed, choices[: len(seed)])
    rest = choices
    for kept in pool.kept:
        nearest = int(np.argmax((rest == kept).sum(axis=1)))
        rest = np.delete(rest, nearest, axis=0)
    choices = np.concatenate([pool.kept, rest])
    choices = _repaired(choices, fixed, pool)
    rows = space.settled(choices)[0]
    return _Set(choices, rows, terms.index(rows), fixed)


def _repaired(choices: Ints, fixed: int, pool: _Pool) -> Ints:
    """The choices, with some of those that add nothing to the span replaced until it is full."""
    space, terms = pool.space, pool.terms
    useful = _independent(terms.matrix(terms.index(space.settled(choices)[0])))
    if len(useful) == terms.parameters:
        return choices
    spanning = pool.spanning()
    both = np.concatenate([choices[useful], spanning])
    added = _independent(terms.matrix(terms.index(space.settled(both)[0])))[len(useful) :]
    if len(useful) + len(added) < terms.parameters:
        raise _inestimable(pool)
    spare = np.setdiff1d(np.arange(fixed, len(choices)), useful)
    if len(spare) < len(added):
        needed = len(choices) + len(added) - len(spare)
        raise ExchangeError(
            f"{len(choices)} runs, of which {fixed} are kept, cannot estimate {terms.parameters} "
            f"parameters: set runs to at least {needed}, or keep fewer"
        )
    choices[spare[: len(added)]] = both[added]
    return choices


def _independent(X: Floats) -> list[int]:
    """The rows, first come, that are linearly independent of those before them."""
    basis = np.zeros((0, X.shape[1]))
    chosen = []
    for place, row in enumerate(X):
        rest = row - (basis @ row) @ basis
        rest -= (basis @ rest) @ basis
        if rest @ rest > _SPAN * (row @ row):
            basis = np.vstack([basis, rest / math.sqrt(rest @ rest)])
            chosen.append(place)
            if len(chosen) == X.shape[1]:
                break
    return chosen


def _inestimable(pool: _Pool) -> ExchangeError:
    """The error that names the columns, as differences from the reference, that no run tells."""
    terms, space = pool.terms, pool.space
    rows = np.unique(space.settled(pool.spanning())[0], axis=0)
    levels = terms.levels
    pairs = [(int(i), int(j)) for i, j in terms.pairs]
    about = model_terms(levels, pairs)
    X = np.array([[all(row[f] == at for f, at in term) for term in about] for row in rows], float)
    values, vectors = np.linalg.eigh(X.T @ X / len(X))
    lost = np.linalg.norm(vectors[:, values < 1e-9], axis=1)
    columns = tuple(np.flatnonzero(lost > 1e-6).tolist())
    scope = "the" if space.small else "any of"
    return ExchangeError(
        f"{scope} {len(rows)} allowed runs can estimate only "
        f"{int((values >= 1e-9).sum())} of {terms.parameters} parameters: take out factors, "
        f"levels or interactions of the columns {list(columns)}, or take back exclusions",
        columns,
    )


def _descend(found: _Set, space: _Space, terms: _Terms, budget: _Budget) -> None:
    """Exchange single levels until none enlarges |X'X|, or the budget is spent."""
    counts = Counter(row.tobytes() for row in found.rows)
    moved = True
    for sweep in itertools.count():
        if not moved or budget.left <= 0:
            break
        # After two sweeps most runs stay, and what is around them is settled already.
        blocks = space.blocks if sweep < 2 else space.together
        moved = False
        # At 0, 1, 2, 4, 8, ...: the inverse of a bad start is inexact, later ones drift little.
        if sweep & (sweep - 1) == 0:
            E = terms.dispersion(found.index)
        for place in range(found.fixed, len(found.rows)):
            for block in blocks:
                if budget.left > 0:
                    moved |= _exchange(found, place, block, E, counts, space, terms, budget)
    found.log_efficiency = _log_efficiency(terms.matrix(found.index))


def _exchange(
    found: _Set,
    place: int,
    block: tuple[Ints, Ints],
    E: Floats,
    counts: Counter[bytes],
    space: _Space,
    terms: _Terms,
    budget: _Budget,
) -> bool:
    """Make the best exchange of a block in one run, if one is worth it; E follows."""
    spent = space.spent
    choices = _changed(found.choices[place], *block)
    rows, allowed = space.settled(choices)
    new = terms.index(rows)
    old = found.index[place]
    products = E[old].sum(axis=0)
    own = products[old].sum()
    change, square = _differences(new, old, products, E)
    cross, others = own + change, own + 2 * change + square
    ratio = np.where(allowed, (1 + others) * (1 - own) + cross**2, 0.0)
    budget.left -= _VISIT + new.size + space.spent - spent
    key = found.rows[place].tobytes()
    best = ratio.max()
    if best > 1 + _TIE:
        chosen = int(np.argmax(ratio >= best * (1 - _TIE)))
    elif counts[key] > 1:
        fresh = [row.tobytes() not in counts for row in rows]
        chosen = int(np.argmax(fresh & (ratio > 1 - _TIE)))
        if not fresh[chosen] or ratio[chosen] <= 1 - _TIE:
            return False
    else:
        return False
    both = np.stack([E[new[chosen]].sum(axis=0), products])
    middle = [[1 + others[chosen], cross[chosen]], [cross[chosen], own - 1]]
    E -= both.T @ np.linalg.solve(np.array(middle), both)
    budget.left -= _EXCHANGE + 4 * E.size
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
    counts[rows[chosen].tobytes()] += 1
    found.choices[place], found.rows[place] = choices[chosen], rows[chosen]
    found.index[place] = new[chosen]
    return True


def _differences(new: Ints, old: Ints, products: Floats, E: Floats) -> tuple[Floats, Floats]:
    """x'E(y - x) and (y - x)'E(y - x) of every candidate y; only cells that differ are read."""
    differs = new != old
    width = int(differs.sum(axis=1).max())
    if width <= 1:
        changed = differs.argmax(axis=1)[:, None]
    else:
        changed = np.argsort(~differs, axis=1, kind="stable")[:, :width]
    before, after = old[changed], np.take_along_axis(new, changed, axis=1)
    change = (products[after] - products[before]).sum(axis=1)
    cells = np.concatenate([after, before], axis=1)
    sign = np.repeat([1.0, -1.0], changed.shape[1])
    square = (E[cells[:, :, None], cells[:, None, :]] @ sign) @ sign
    return change, square


def _log_efficiency(X: Floats) -> float:
    count, parameters = X.shape
    return float(np.linalg.slogdet(X.T @ X).logabsdet) / int(parameters) - math.log(count)


def _better(found: _Set, best: _Set) -> bool:
    gain = found.log_efficiency - best.log_efficiency
    return gain > _TIE or (gain > -_TIE and found.repeats < best.repeats)
