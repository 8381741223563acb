"""Average marginal effects and their delta-method errors."""

import math

import numpy as np
import pytest
from binary_reference import OVERLAPPING, Trials, design, levels_of, pl, stored, trials

from analysis.firth import firth, flic
from analysis.logit import LogitFit, clustered_covariance, expit, logit
from analysis.margins import Counterfactual, average_gap, average_rate, gap_effect


def at(data: Trials, factor: str, level: str) -> Counterfactual:
    """All trials in both arms, with one factor at a level."""
    levels = levels_of(data.frame, data.factors)
    arms = []
    for arm in ("train", "deploy"):
        moved = data.frame.with_columns(pl.lit(level).alias(factor), pl.lit(arm).alias("arm"))
        arms.append(design(moved, data.factors, levels))
    return Counterfactual(*arms)


def fitted(name: str) -> tuple[np.ndarray, np.ndarray]:
    X, k, n, query = trials(name).cells()
    found = logit(X, k, n)
    assert isinstance(found, LogitFit)
    return found.estimates, clustered_covariance(X, k, n, found.estimates, query)[0]


@pytest.mark.parametrize("name", OVERLAPPING)
def test_gap_effects_and_errors_are_those_of_r(name: str) -> None:
    """Against R: predictions at set levels, gradient by numDeriv, covariance by vcovCL."""
    data = trials(name)
    b, V = fitted(name)
    factor = data.factors[0]
    removed, original = at(data, factor, "removed"), at(data, factor, "original")
    found = gap_effect(b, V, removed, original)
    margins = [found.effect, found.train, found.deploy, average_gap(b, V, original)]
    expected = stored("binary")[name]["margins"]
    np.testing.assert_allclose([m.estimate for m in margins], expected["estimate"], atol=1e-8)
    np.testing.assert_allclose([m.std_error for m in margins], expected["std_error"], rtol=1e-6)


@pytest.mark.parametrize("name", ["balanced", "unbalanced"])
def test_gradients_are_those_of_differences(name: str) -> None:
    """Central differences of the estimate give the gradient, with weights too."""
    data = trials(name)
    b, V = fitted(name)
    factor = data.factors[0]
    weights = np.random.default_rng(8).uniform(0.5, 2.0, len(data.y))
    rows = at(data, factor, "removed"), at(data, factor, "original")

    def value(b: np.ndarray) -> float:
        means = [weights @ expit(x @ b) / weights.sum() for r in rows for x in (r.train, r.deploy)]
        return (means[0] - means[1]) - (means[2] - means[3])

    found = gap_effect(b, V, *rows, weights)
    assert found.effect.estimate == pytest.approx(value(b), abs=1e-14)
    steps = np.eye(len(b)) * 1e-5
    numeric = [(value(b + step) - value(b - step)) / 2e-5 for step in steps]
    np.testing.assert_allclose(found.effect.gradient, numeric, atol=1e-9)
    gradient = np.array(numeric)
    assert found.effect.std_error == pytest.approx(math.sqrt(gradient @ V @ gradient), rel=1e-6)


def test_statsmodels_predictions_agree() -> None:
    """Mean predictions by hand from statsmodels' fit, without its marginal effects."""
    from statsmodels.discrete.discrete_model import Logit

    data = trials("balanced")
    theirs = Logit(data.y, data.X).fit(disp=0, tol=1e-12)
    removed, original = at(data, "a", "removed"), at(data, "a", "original")
    gaps = [theirs.predict(r.train).mean() - theirs.predict(r.deploy).mean() for r in
            (removed, original)]  # fmt: skip
    b, V = fitted("balanced")
    assert gap_effect(b, V, removed, original).effect.estimate == pytest.approx(
        gaps[0] - gaps[1], abs=1e-9
    )


def test_a_saturated_model_gives_the_rates_that_were_seen() -> None:
    """One factor: the gap effect is the double difference of rates, its error the binomial one."""
    X = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]], dtype=float)
    k, n = np.array([6.0, 3.0, 30.0, 12.0]), np.array([60.0, 50.0, 70.0, 80.0])
    found = logit(X, k, n)
    assert isinstance(found, LogitFit)
    removed, original = (Counterfactual(X[[2 + i]], X[[i]]) for i in (1, 0))
    effect = gap_effect(found.estimates, found.covariance, removed, original)
    p = k / n
    assert effect.effect.estimate == pytest.approx((p[3] - p[1]) - (p[2] - p[0]), abs=1e-12)
    assert effect.train.estimate == pytest.approx(p[3] - p[2], abs=1e-12)
    assert effect.deploy.estimate == pytest.approx(p[1] - p[0], abs=1e-12)
    variance = float(np.sum(p * (1 - p) / n))
    assert effect.effect.std_error == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_the_parts_add_up() -> None:
    """Effect = train part - deploy part, and = gap after - gap before."""
    data = trials("fraction")
    b, V = fitted("fraction")
    removed, original = at(data, "c", "removed"), at(data, "c", "original")
    found = gap_effect(b, V, removed, original)
    assert found.effect.estimate == found.train.estimate - found.deploy.estimate
    gaps = [average_gap(b, V, rows).estimate for rows in (removed, original)]
    assert found.effect.estimate == pytest.approx(gaps[0] - gaps[1], abs=1e-14)


def test_equal_rows_have_no_error_rather_than_error_0() -> None:
    """A level that changes nothing in either arm has an effect of exactly 0 and no error."""
    b, V = fitted("balanced")
    rows = at(trials("balanced"), "a", "original")
    effect = gap_effect(b, V, rows, rows).effect
    assert (effect.estimate, effect.std_error) == (0.0, None)


def test_firth_with_flic_gives_the_rate_of_all_trials() -> None:
    """In a separated study Firth's rates are too high, and with the refitted intercept they fit."""
    X, k, n, _ = trials("separated").cells()
    found = firth(X, k, n)
    refitted = flic(X, k, n, found.estimates, 0)
    assert refitted is not None
    overall = average_rate(refitted, found.covariance, X, n)
    assert overall.estimate == pytest.approx(k.sum() / n.sum(), abs=1e-10)
    assert average_rate(found.estimates, found.covariance, X, n).estimate > overall.estimate
