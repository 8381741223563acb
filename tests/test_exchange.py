"""D-optimal runs: true optima by brute force, known efficiencies, and constraints that hold."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard

from variants.exchange import (
    ExchangeError,
    d_efficiency,
    d_optimal_runs,
    model_matrix,
    model_terms,
)

Run = tuple[int, ...]
Settle = Callable[[Run], Run | None]


def seeded(seed: int = 0) -> np.random.Generator:
    """A generator of its own for each call."""
    return np.random.default_rng(seed)


def indicators(
    runs: Iterable[Sequence[int]], levels: Sequence[int], pairs: Sequence[tuple[int, int]] = ()
) -> list[list[int]]:
    """Treatment coding written out: 1 at a level other than the reference, 0 elsewhere."""
    table = []
    for run in runs:
        mains = [[int(run[f] == at) for at in range(1, m)] for f, m in enumerate(levels)]
        products = [a * b for i, j in pairs for a in mains[i] for b in mains[j]]
        table.append([1, *itertools.chain.from_iterable(mains), *products])
    return table


def determinant(X: Sequence[Sequence[int]]) -> Fraction:
    """|X'X| in exact arithmetic, by elimination."""
    columns = list(zip(*X, strict=True))
    left = [[Fraction(sum(map(int.__mul__, a, b))) for b in columns] for a in columns]
    product = Fraction(1)
    for step in range(len(left)):
        pivot = next((i for i in range(step, len(left)) if left[i][step]), None)
        if pivot is None:
            return Fraction(0)
        if pivot != step:
            left[step], left[pivot], product = left[pivot], left[step], -product
        product *= left[step][step]
        for i in range(step + 1, len(left)):
            share = left[i][step] / left[step][step]
            left[i] = [a - share * b for a, b in zip(left[i], left[step], strict=True)]
    return product


def best_of_all(
    levels: Sequence[int],
    count: int,
    settle: Settle | None = None,
    pairs: Sequence[tuple[int, int]] = (),
    keep: Sequence[Run] = (),
) -> float:
    """The largest |X'X| over every multiset of allowed runs that holds the kept ones."""
    every = itertools.product(*map(range, levels))
    runs = sorted({run for run in map(settle or tuple, every) if run is not None})
    X = np.array(indicators(runs, levels, pairs), dtype=float)
    start = [runs.index(run) for run in keep]
    chosen = np.array(
        [
            [*start, *rest]
            for rest in itertools.combinations_with_replacement(range(len(runs)), count - len(keep))
        ]
    )
    products = np.einsum("snp,snq->spq", X[chosen], X[chosen])
    return float(np.linalg.det(products).max())


def needs_first(run: Run) -> Run:
    """The second factor is shown only with the first at its reference."""
    return run if run[0] == 0 else (run[0], -1, *run[2:])


def never_both(run: Run) -> Run | None:
    """The first and last factor are never both away from their reference."""
    return None if run[0] and run[-1] else run


def needs_and_never(run: Run) -> Run | None:
    """Both rules at once."""
    return never_both(needs_first(run))


def needs_two(run: Run) -> Run:
    """The third factor is shown only with the first two at their reference."""
    return run if run[0] == run[1] == 0 else (*run[:2], -1, *run[3:])


@pytest.mark.parametrize(
    ("levels", "count", "settle", "pairs"),
    [
        ((2, 2, 2), 4, None, ()),
        ((2, 2, 2), 5, None, ()),
        ((2, 2, 2), 6, None, ()),
        ((2, 2, 2), 7, None, [(0, 2)]),
        ((2, 2, 2), 8, None, [(0, 1), (1, 2), (0, 2)]),
        ((3, 2), 4, None, ()),
        ((3, 2), 5, None, ()),
        ((2, 3), 7, None, [(0, 1)]),
        ((3, 3), 7, None, ()),
        ((2, 2, 2, 2), 6, None, ()),
        ((2, 2, 2), 6, needs_first, ()),
        ((2, 3, 2), 6, needs_first, ()),
        ((2, 2, 2), 5, never_both, ()),
        ((3, 2, 2), 6, never_both, ()),
        ((2, 3, 2), 6, needs_and_never, ()),
        ((2, 2, 2, 2), 6, needs_two, ()),
        ((3, 2, 2), 7, needs_first, [(0, 2)]),
    ],
)
def test_finds_the_best_of_all_sets(
    levels: Run, count: int, settle: Settle | None, pairs: Sequence[tuple[int, int]]
) -> None:
    """No multiset of allowed runs has a larger determinant, with and without a kept run."""
    origin = (0,) * len(levels)
    for keep in ([], [origin]):
        found = d_optimal_runs(
            levels, count, rng=seeded(), settle=settle, interactions=pairs, keep=keep
        )
        reached = float(determinant(indicators(found.tolist(), levels, pairs)))
        assert reached == pytest.approx(best_of_all(levels, count, settle, pairs, keep), rel=1e-6)


@pytest.mark.parametrize(("count", "known"), [(12, 1), (16, 1), (20, 1), (24, 1), (32, 1)])
def test_eight_factors_come_close_to_orthogonal_from_random_starts(count: int, known: int) -> None:
    """Hadamard matrices of these orders exist, so the best possible efficiency is 1."""
    found = d_optimal_runs([2] * 8, count, rng=seeded(), keep=[(0,) * 8])
    X = np.array([[1, *(2 * level - 1 for level in run)] for run in found.tolist()])
    assert np.linalg.det(X.T @ X) ** (1 / 9) / count >= 0.98 * known
    assert found[0].tolist() == [0] * 8


def test_an_orthogonal_seed_is_kept_and_turned_to_the_kept_run() -> None:
    """A Hadamard seed without the original still ends as an orthogonal set that holds it."""
    seed = (1 - hadamard(16)[:, 1:12]) // 2
    seed[:, 3] = 1 - seed[:, 3]
    assert not (seed == 0).all(axis=1).any()
    found = d_optimal_runs([2] * 11, 16, rng=seeded(), keep=[(0,) * 11], seeds=[seed], starts=0)
    X = np.array([[1, *(2 * level - 1 for level in run)] for run in found.tolist()])
    assert (16 * np.eye(12) == X.T @ X).all()
    assert not found[0].any()


def test_a_multi_level_orthogonal_array_has_efficiency_one() -> None:
    """The Latin square of order 3 (Taguchi's L9) is orthogonal for four factors of 3 levels."""
    array = [(a, b, (a + b) % 3, (a + 2 * b) % 3) for a in range(3) for b in range(3)]
    assert d_efficiency(model_matrix(array, [3] * 4)) == pytest.approx(1)
    seed = (np.array(array) + np.array([1, 2, 0, 1])) % 3
    found = d_optimal_runs([3] * 4, 9, rng=seeded(), keep=[(0, 2, 0, 1)], seeds=[seed], starts=0)
    assert found[0].tolist() == [0, 2, 0, 1]
    assert d_efficiency(model_matrix(found, [3] * 4)) == pytest.approx(1)


def test_the_whole_factorial_with_interactions_has_efficiency_one() -> None:
    """Products of normalised contrasts are orthogonal over all combinations."""
    levels = (2, 3, 5)
    every = list(itertools.product(*map(range, levels)))
    X = model_matrix(every, levels, [(0, 1), (2, 1)])
    assert np.allclose(X.T @ X, 30 * np.eye(1 + 1 + 2 + 4 + 2 + 8))


def test_two_levels_are_coded_minus_one_and_one() -> None:
    """A factor that is not applicable is coded like its reference."""
    X = model_matrix([(0, 1), (1, -1)], [2, 2], [(0, 1)])
    assert X.tolist() == [[1, -1, 1, -1], [1, 1, -1, -1]]


@given(st.data())
def test_the_columns_span_those_of_treatment_coding(data: st.DataObject) -> None:
    """Each coding can be written in the other, also where factors are not applicable."""
    levels = data.draw(st.lists(st.integers(2, 4), min_size=2, max_size=4))
    pairs = data.draw(st.sampled_from([[], [(0, 1)], [(1, 0)]]))
    run = st.tuples(*(st.integers(-1, m - 1) for m in levels))
    runs = data.draw(st.lists(run, min_size=1, max_size=40))
    ours = model_matrix(runs, levels, pairs)
    plain = np.array(indicators(runs, levels, pairs), dtype=float)
    assert ours.shape == plain.shape == (len(runs), len(model_terms(levels, pairs)))
    rank = np.linalg.matrix_rank
    assert rank(ours) == rank(plain) == rank(np.hstack([ours, plain]))


def test_terms_name_the_columns_of_treatment_coding() -> None:
    """Each term is the product of the indicators it names."""
    levels, pairs = (2, 3, 2), [(0, 1), (2, 1)]
    runs = list(itertools.product(*map(range, levels)))
    about = model_terms(levels, pairs)
    named = [[int(all(run[f] == at for f, at in term)) for term in about] for run in runs]
    assert named == indicators(runs, levels, pairs)


@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 2**32))
def test_d_efficiency_is_the_determinant(columns: int, count: int, seed: int) -> None:
    """It equals |X'X|^(1/p) / N in exact arithmetic, and is None where that is 0."""
    X = seeded(seed).integers(0, 2, size=(count, columns)) * 2 - 1
    X[:, 0] = 1
    exact = float(determinant(X.tolist()))
    efficiency = d_efficiency(X.astype(float))
    if exact == 0:
        assert efficiency is None
    else:
        assert efficiency == pytest.approx(exact ** (1 / columns) / count)
        assert efficiency <= 1 + 1e-12


@st.composite
def rules(draw: st.DrawFn) -> tuple[Run, Settle]:
    """Level counts, needs of earlier factors, and forbidden pairs that spare the reference."""
    levels = tuple(draw(st.lists(st.integers(2, 4), min_size=2, max_size=8)))
    factors = range(len(levels))
    needs = {
        f: (n, draw(st.sampled_from([0, 1])))
        for f in factors
        for n in draw(st.lists(st.integers(0, f - 1), max_size=1) if f else st.just([]))
    }
    place = st.sampled_from([(f, at) for f in factors for at in range(1, levels[f])])
    forbidden = draw(st.lists(st.tuples(place, place), max_size=3))

    def settle(choice: Run) -> Run | None:
        run: list[int] = []
        for f, level in enumerate(choice):
            outer, at = needs.get(f, (None, 0))
            run.append(level if outer is None or run[outer] == at else -1)
        if any(run[f] == a and run[g] == b for (f, a), (g, b) in forbidden):
            return None
        return tuple(run)

    return levels, settle


@settings(max_examples=40, deadline=None)
@given(rules(), st.integers(0, 6), st.integers(0, 2**32), st.data())
def test_runs_honour_needs_and_exclusions(
    case: tuple[Run, Settle], extra: int, seed: int, data: st.DataObject
) -> None:
    """Runs are settled and allowed, hold the kept ones first and estimate the model, and the same
    seed gives the same runs; a refused model cannot be estimated by all allowed runs either.
    """
    levels, settle = case
    every = [settle(choice) for choice in itertools.product(*map(range, levels))]
    allowed = sorted({run for run in every if run is not None})
    keep = data.draw(st.lists(st.sampled_from(allowed), max_size=2, unique=True))
    count = 1 + sum(m - 1 for m in levels) + extra
    whole = np.array(indicators(allowed, levels), dtype=float)

    def found() -> np.ndarray:
        return d_optimal_runs(levels, count, rng=seeded(seed), settle=settle, keep=keep, starts=2)

    values, vectors = np.linalg.eigh(whole.T @ whole)
    lost = np.flatnonzero(np.linalg.norm(vectors[:, values < 1e-9], axis=1) > 1e-6)
    helpful = np.linalg.matrix_rank(np.array(indicators(keep, levels))) if keep else 0
    if lost.size or count - len(keep) < whole.shape[1] - helpful:
        with pytest.raises(ExchangeError) as caught:
            found()
        assert caught.value.columns == tuple(lost.tolist())
        return
    runs = found()
    rows = [tuple(run) for run in runs.tolist()]
    assert len(rows) == count
    assert set(rows) <= set(allowed)
    assert rows[: len(keep)] == keep
    assert determinant(indicators(rows, levels)) > 0
    assert (runs == found()).all()


def big_rules(choice: Run) -> Run | None:
    """Thirty factors: each third one needs the one before it, and three pairs are forbidden."""
    run = [-1 if f % 3 == 2 and choice[f - 1] else level for f, level in enumerate(choice)]
    return None if (run[0] and run[3] == 1) or (run[4] == 2 and run[7] == 2) else tuple(run)


@pytest.mark.parametrize("settle", [None, big_rules])
def test_thirty_factors_of_five_levels(settle: Settle | None) -> None:
    """Far too many combinations to list: the runs are allowed, and better than random ones."""
    levels = [5] * 30
    found = d_optimal_runs(levels, 150, rng=seeded(), settle=settle, keep=[(0,) * 30])
    rule = settle or tuple
    assert all(rule(tuple(max(level, 0) for level in run)) == tuple(run) for run in found.tolist())
    assert not found[0].any()
    drawn = (rule(tuple(choice)) for choice in seeded(1).integers(0, 5, (10**4, 30)).tolist())
    random = list(itertools.islice((run for run in drawn if run is not None), 150))
    reached = d_efficiency(model_matrix(found, levels))
    chance = d_efficiency(model_matrix(random, levels))
    assert reached is not None
    assert chance is not None
    assert reached > 1.2 * chance


def test_allowed_runs_that_chance_hardly_meets_are_reached_from_the_kept_one() -> None:
    """At most two of twenty factors may be away from their reference."""

    def sparse(choice: Run) -> Run | None:
        return choice if sum(map(bool, choice)) <= 2 else None

    found = d_optimal_runs([2] * 20, 30, rng=seeded(), settle=sparse, keep=[(0,) * 20])
    assert (found.sum(axis=1) <= 2).all()
    assert determinant(indicators(found.tolist(), [2] * 20)) > 0


def test_distinct_runs_are_preferred() -> None:
    """Twice a half fraction and the whole factorial are equally good: the factorial is taken."""
    half = [(a, b, (a + b) % 2) for a in range(2) for b in range(2)]
    found = d_optimal_runs([2] * 3, 8, rng=seeded(), seeds=[np.array(half * 2)])
    assert len({tuple(run) for run in found.tolist()}) == 8


@pytest.mark.parametrize("seed", range(4))
def test_a_single_start_leaves_no_needless_repeats(seed: int) -> None:
    """The best nine runs of three two-level factors: the factorial and any one of it again."""
    found = d_optimal_runs([2] * 3, 9, rng=seeded(seed), starts=1)
    assert len({tuple(run) for run in found.tolist()}) == 8


def test_runs_are_repeated_where_there_are_no_others() -> None:
    """Nine runs of two two-level factors: each of the four combinations twice, one thrice."""
    found = d_optimal_runs([2, 2], 9, rng=seeded(), keep=[(0, 0)])
    counts = np.unique(found, axis=0, return_counts=True)[1]
    assert sorted(counts.tolist()) == [2, 2, 2, 3]


@pytest.mark.parametrize(
    ("levels", "count", "options", "says"),
    [
        ([2] * 8, 8, {}, "8 runs cannot estimate 9 parameters: set runs to at least 9"),
        ([2, 3], 5, {"interactions": [(0, 1)]}, "set runs to at least 6"),
        ([2, 1], 4, {}, r"levels are \[2, 1\]"),
        ([], 4, {}, "at least one factor"),
        ([2, 2], 4, {"interactions": [(0, 2)]}, "interaction .* factors 0 to 1"),
        ([2, 2], 4, {"interactions": [(0, 1), (1, 0)]}, "named twice"),
        ([2, 2], 3, {"keep": [(0, 0)] * 4}, "set runs to at least 4"),
        ([2, 2], 3, {"keep": [(0, 0)] * 2}, "set runs to at least 4, or keep fewer"),
        ([2, 2], 4, {"starts": 0}, "starts is 0"),
        ([2, 2], 4, {"seeds": [np.zeros((5, 2), dtype=np.int64)]}, "at most 4 runs of 2 factors"),
        ([2, 2], 4, {"keep": [(1, 1)], "settle": never_both}, r"run \(1, 1\) is kept but forbid"),
        ([2, 2], 4, {"settle": lambda run: None}, "no allowed run"),
    ],
)
def test_refusals_say_what_to_change(
    levels: list[int], count: int, options: dict[str, object], says: str
) -> None:
    """The message names the number and what to set it to."""
    with pytest.raises(ExchangeError, match=says):
        d_optimal_runs(levels, count, rng=seeded(), **options)  # type: ignore[arg-type]


def test_a_column_that_no_run_can_estimate_is_named() -> None:
    """A forbidden level, and two factors that only change together."""

    def no_soft(run: Run) -> Run | None:
        return None if run[1] == 2 else run

    def together(run: Run) -> Run | None:
        return run if bool(run[0]) == bool(run[2]) else None

    for settle, terms in ((no_soft, [((1, 2),)]), (together, [((0, 1),), ((2, 1),)])):
        with pytest.raises(ExchangeError, match="allowed runs can estimate only 4 of 5") as caught:
            d_optimal_runs([2, 3, 2], 12, rng=seeded(), settle=settle)
        about = model_terms([2, 3, 2])
        assert [about[column] for column in caught.value.columns] == terms


def test_an_interaction_of_a_factor_with_what_it_needs_is_refused() -> None:
    """Where the second factor is shown, the first never changes."""
    with pytest.raises(ExchangeError) as caught:
        d_optimal_runs([2, 2, 2], 12, rng=seeded(), settle=needs_first, interactions=[(0, 1)])
    assert [model_terms([2, 2, 2], [(0, 1)])[c] for c in caught.value.columns] == [((0, 1), (1, 1))]


def test_near_ties_are_broken_by_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine's rounding, simulated in the inverse, leaves the runs as they are."""

    def runs() -> list[list[list[int]]]:
        cases = ([2] * 8, 12), ([3, 2, 4, 2], 11), ([2] * 5, 16)
        return [d_optimal_runs(m, n, rng=seeded(3), starts=5).tolist() for m, n in cases]

    plain, inverse = runs(), np.linalg.inv

    def rounded(matrix: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng().uniform(-1e-11, 1e-11, matrix.shape)
        return inverse(matrix) * (1 + noise)

    monkeypatch.setattr(np.linalg, "inv", rounded)
    assert runs() == plain
