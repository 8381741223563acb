"""Corrected p-values agree with statsmodels and with the definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from analysis.multiplicity import benjamini_hochberg, holm, holm_threshold

METHODS = [(holm, "holm"), (benjamini_hochberg, "fdr_bh")]
P_VALUES = st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.05, 1.0])


@pytest.mark.parametrize(("correct", "name"), METHODS)
@settings(deadline=None)
@given(p_values=st.lists(P_VALUES | st.none(), min_size=1, max_size=30))
def test_corrections_agree_with_statsmodels(correct, name: str, p_values) -> None:
    """Rows with a test get what statsmodels gives them alone; rows without stay without."""
    tested = [p for p in p_values if p is not None]
    found = correct(p_values)
    assert [p is None for p in found] == [p is None for p in p_values]
    if tested:
        expected = multipletests(tested, method=name)[1]
        assert [p for p in found if p is not None] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("correct", "expected"),
    [
        # Smallest first: 5 x .001; 4 x .008; 3 x .039; then .0205 x 2 and .9 are held up.
        (holm, [0.005, 0.032, 0.117, 0.117, 0.9]),
        # Largest first: .9; 5/4 x .041; 5/3 x .039 is held down to it; 5/2 x .008; 5 x .001.
        (benjamini_hochberg, [0.005, 0.02, 0.05125, 0.05125, 0.9]),
    ],
)
def test_a_worked_example(correct, expected: list[float]) -> None:
    """Five p-values corrected by hand."""
    assert correct([0.001, 0.008, 0.039, 0.041, 0.9]) == pytest.approx(expected)


@pytest.mark.parametrize("correct", [holm, benjamini_hochberg])
@settings(deadline=None)
@given(data=st.data(), p_values=st.lists(P_VALUES, min_size=1, max_size=12))
def test_the_order_of_the_rows_is_kept(correct, data, p_values) -> None:
    """Shuffled p-values get the same corrections, shuffled."""
    order = data.draw(st.permutations(range(len(p_values))))
    straight = correct(p_values)
    assert correct([p_values[i] for i in order]) == pytest.approx([straight[i] for i in order])


@pytest.mark.parametrize("correct", [holm, benjamini_hochberg])
@pytest.mark.parametrize("p_values", [[], [None], [None, None]])
def test_no_test_gives_no_correction(correct, p_values) -> None:
    """A family without a test is returned as it is."""
    assert correct(p_values) == p_values


@pytest.mark.parametrize("correct", [holm, benjamini_hochberg])
def test_one_test_is_not_corrected(correct) -> None:
    """A family of one keeps its p-value, whatever untested rows stand beside it."""
    assert correct([None, 0.03, None]) == [None, 0.03, None]


def test_holm_holds_the_family_wise_error() -> None:
    """Among 20 uniform p-values of true nulls, a rejection comes in at most 5 % of families."""
    rng = np.random.default_rng(7)
    families = rng.random((4000, 20))
    wrong = sum(min(p for p in holm(family) if p is not None) < 0.05 for family in families)
    assert wrong / 4000 <= 0.05 + 2 * (0.05 * 0.95 / 4000) ** 0.5


@settings(deadline=None)
@given(others=st.lists(st.floats(1e-6, 1), max_size=8))
def test_the_threshold_is_where_holm_begins_to_reject(others) -> None:
    """A p-value just below it is rejected beside the others, one just above is not."""
    threshold = holm_threshold(others, 0.05)
    below, above = (holm([*others, threshold * by])[-1] for by in (1 - 1e-9, 1 + 1e-9))
    assert below <= 0.05 < above
