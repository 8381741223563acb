"""Tables of counts: gaps, differences and refusals, against formulas written out again."""

import math
from pathlib import Path

import polars as pl
import pytest
from scipy.stats import norm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep
from test_cli import ablate

from analysis.counts import Count, CountsError, differences, read_counts, trials_needed

HEADER = "condition,n_train,k_train,n_deploy,k_deploy"
GOOD = f"{HEADER}\ndefault,353,50,353,10\nother,173,22,170,6\n"


def counts(text: str) -> tuple[Count, ...]:
    return read_counts(pl.read_csv(text.encode(), infer_schema=False))


def test_gap_and_unpaired_error() -> None:
    """`p1 - p0` and `sqrt(p1 q1 / n1 + p0 q0 / n0)`, with Newcombe's interval."""
    default, other = counts(GOOD)
    assert default.gap == pytest.approx(50 / 353 - 10 / 353)
    p1, p0 = 22 / 173, 6 / 170
    assert other.std_error == pytest.approx(math.sqrt(p1 * (1 - p1) / 173 + p0 * (1 - p0) / 170))
    expected = confint_proportions_2indep(22, 173, 6, 170, method="newcomb")
    assert other.bounds == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.7])
def test_difference_uses_the_assumed_correlation(rho: float) -> None:
    """z on `v1 + v0 - 2 rho se1 se0 sqrt(small / large)`, worked out a second time."""
    default, other = counts(GOOD)
    (found,) = differences((default, other), "default", correlation=rho)
    one, zero = other.std_error or 0, default.std_error or 0
    small, large = 173 + 170, 353 + 353
    error = math.sqrt(one**2 + zero**2 - 2 * rho * one * zero * math.sqrt(small / large))
    estimate = other.gap - default.gap
    assert found.estimate == pytest.approx(estimate)
    assert found.std_error == pytest.approx(error)
    assert found.p_value == pytest.approx(2 * norm.sf(abs(estimate / error)))
    assert (found.low, found.high) == pytest.approx(norm.interval(0.95, estimate, error))
    tost = max(norm.sf((estimate + 0.05) / error), norm.cdf((estimate - 0.05) / error))
    assert found.p_equivalent(0.05) == pytest.approx(tost)


def test_holm_runs_within_each_model() -> None:
    """Each model has its own reference and its own family."""
    rows = ["m,default,200,60,200,10", "m,a,200,30,200,10", "m,b,200,50,200,12"]
    rows += ["k,default,100,40,100,30", "k,a,100,10,100,8"]
    table = counts("model," + HEADER + "\n" + "\n".join(rows))
    found = differences(table, "default")
    assert [d.count.model for d in found] == ["m", "m", "k"]
    raw = [d.p_value or 0.0 for d in found]
    expected = [*multipletests(raw[:2], method="holm")[1], raw[2]]
    assert [d.p_holm for d in found] == pytest.approx(expected)


def test_no_information_is_no_zero_error() -> None:
    """Both arms without variance: no error, no test; one arm at 0 is marked."""
    table = counts(f"{HEADER}\ndefault,50,20,50,5\nnone,50,0,50,50\nedge,50,9,50,0\n")
    none, edge = differences(table, "default")
    assert table[1].std_error is None
    assert (none.std_error, none.p_value, none.p_holm, none.low) == (None, None, None, None)
    assert none.p_equivalent(0.05) is None
    assert table[2].boundary
    assert edge.p_value is not None


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        ("bad,10,11,10,1", "k_train", "more successes than trials"),
        ("bad,10,-1,10,1", "k_train", "negative"),
        ("bad,10.5,1,10,1", "n_train", "not whole"),
        ("bad,10,1,,1", "n_deploy", "missing"),
        ("bad,10,1,10,5%", "k_deploy", "percentage"),
        ("bad,10,one,10,1", "k_train", "not a number"),
        ("bad,10,inf,10,1", "k_train", "not whole"),
        ("bad,10,nan,10,1", "k_train", "missing"),
        ("bad,0,0,10,1", "n_train", "0 trials"),
        (",10,1,10,1", "condition", "missing"),
        ("default,10,1,10,1", "condition", "stands in row 1"),
    ],
)
def test_each_fault_has_row_and_column(row: str, column: str, message: str) -> None:
    """One message for one fault, with its row and its column."""
    with pytest.raises(CountsError) as error:
        counts(f"{HEADER}\ndefault,353,50,353,10\n{row}\n")
    assert len(error.value.problems) == 1
    assert f"row 2, column {column}" in error.value.problems[0]
    assert message in error.value.problems[0]


def test_all_faults_come_at_once() -> None:
    """Three bad rows, three messages."""
    with pytest.raises(CountsError) as error:
        counts(f"{HEADER}\na,10,11,10,1\nb,10,-1,10,1\nc,10,1,10,x\n")
    assert len(error.value.problems) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("condition,n_train,k_train\na,1,1\n", "no column n_deploy, k_deploy"),
        (f"{HEADER}\n", "no rows"),
    ],
)
def test_a_table_that_is_none_is_refused(text: str, message: str) -> None:
    """Missing columns and an empty table are named."""
    with pytest.raises(CountsError, match=message):
        counts(text)


def test_an_absent_reference_lists_what_there_is() -> None:
    """The message names the conditions that could be meant."""
    with pytest.raises(CountsError, match=r"`defautl`; there is default, other"):
        differences(counts(GOOD), "defautl")


@pytest.mark.parametrize("equivalence", [False, True])
def test_trials_needed_give_the_power(equivalence: bool) -> None:
    """With that many queries the chance of a verdict, by the normal law, is 80 %."""
    found = differences(counts(GOOD), "default")[0]
    n = trials_needed(found, 0.05, equivalence=equivalence)
    rates = [r for c in (found.count, found.reference) for r in c.rates]
    error = math.sqrt(sum(r * (1 - r) for r in rates) / n)
    if equivalence:
        inside = 0.05 - norm.ppf(0.95) * error
        power = norm.cdf(inside / error) - norm.cdf(-inside / error)
    else:
        power = norm.sf(norm.ppf(0.975) - 0.05 / error)
    assert power == pytest.approx(0.8, abs=0.002)


def test_fit_counts_on_the_command_line(tmp_path: Path) -> None:
    """The table is printed, and written in the columns of gaps.csv and effects.csv."""
    file = tmp_path / "counts.csv"
    file.write_text(GOOD)
    done = ablate("fit", "--counts", file, "--reference", "default", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "+11.3" in done.stdout
    gaps = pl.read_csv(tmp_path / "out/gaps.csv")
    assert gaps["gap"].to_list() == pytest.approx([40 / 353, 22 / 173 - 6 / 170])
    (effect,) = pl.read_csv(tmp_path / "out/effects.csv").to_dicts()
    assert effect["factor"] == "condition"
    assert effect["level"] == "other"
    assert effect["estimate"] == pytest.approx(22 / 173 - 6 / 170 - 40 / 353)
    assert effect["train_part"] - effect["deploy_part"] == pytest.approx(effect["estimate"])


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (GOOD, ["--reference", "nothing"], "no row has the reference"),
        (GOOD.replace("22", "222"), ["--reference", "default"], "row 2, column k_train"),
        (GOOD, [], "--reference"),
        (None, ["--reference", "default"], "cannot be read"),
    ],
)
def test_bad_counts_are_one_message(
    text: str | None, arguments: list[str], message: str, tmp_path: Path
) -> None:
    """Exit 2, one line, nothing written."""
    file = tmp_path / "counts.csv"
    if text is not None:
        file.write_text(text)
    done = ablate("fit", "--counts", file, *arguments, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
