"""A stranger's table: columns found by name, the right arms compared, and bad files refused."""

import csv
import io
import math
import random
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from ablate.cli import app
from ablate.foreign import Columns, ForeignError, fit_trials, read_trials
from analysis import ObservationsError

NAMES = [
    "", "model", "item", "paraphrase", "tier", "f_rule", "f_tag", "f_note", "yes", "af", "human",
    "text", "share",
]  # fmt: skip
MAPPED = ["--arm", "tier", "--train", "free", "--deploy", "paid", "--query", "item"]
ASKED = ["--factors", "f_*", "--outcomes", "yes"]
Row = dict[str, Any]


def trials(*, seed: int = 0, repeats: int = 3, missing: float = 0.1) -> list[Row]:
    """Two models, nine queries, two factors and a third that is inert, three tiers; shuffled."""
    chance = random.Random(seed)
    found: list[Row] = []
    for model in ("alpha", "beta"):
        for item in range(9):
            ease = chance.uniform(-0.1, 0.1)
            for rule in ("original", "removed", "softened"):
                for tag in (1, 0):
                    for tier in ("free", "paid", "audit"):
                        for i in range(repeats):
                            rate = 0.3 + ease + 0.15 * tag
                            rate += (tier == "free") * (0.4 if rule == "original" else 0.1)
                            row: Row = dict.fromkeys(NAMES)
                            row |= {"": len(found), "model": model, "item": f"q{item}"}
                            row |= {"paraphrase": f"w{i}", "tier": tier, "f_rule": rule}
                            row |= {"f_tag": tag, "f_note": "present" if i else "absent"}
                            yes, known = chance.random() < rate, chance.random() >= missing
                            row |= {"yes": int(yes) if known else None, "af": int(not yes)}
                            row |= {"human": int(yes) if i == 0 else None, "share": 1 + i}
                            found.append(row | {"text": 'He said "a, b"\nand left; {{x}}'})
    chance.shuffle(found)
    return found


def csv_text(rows: list[Row]) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trials as csv, in a folder and with a name that are no patterns."""
    path = tmp_path_factory.mktemp("data") / "their [1] trials*.csv"
    path.write_text(csv_text(trials()), "utf-8")
    return path


def ablate(*arguments: object) -> Result:
    """One command in this process; a traceback fails the test."""
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def tables(out: Path) -> dict[str, list[dict[str, str]]]:
    """The written csv files, read without the package."""
    found = {}
    for name in ("gaps", "effects", "coefficients"):
        with (out / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            found[name] = list(csv.DictReader(file))
    return found


def rates(rows: list[Row], tier: str, **levels: Any) -> dict[str, float]:
    """Mean outcome per query in a tier, by a loop."""
    values = defaultdict(list)
    for row in rows:
        own = row["tier"] == tier and row["yes"] is not None
        if own and all(row[name] == level for name, level in levels.items()):
            values[row["item"]].append(row["yes"])
    return {item: mean(found) for item, found in values.items()}


def differences(rows: list[Row], **levels: Any) -> dict[str, float]:
    """Free minus paid in each query."""
    free, paid = (rates(rows, tier, **levels) for tier in ("free", "paid"))
    return {item: free[item] - paid[item] for item in free.keys() & paid.keys()}


def row_of(rows: list[dict[str, str]], **values: str) -> dict[str, str]:
    (found,) = [row for row in rows if all(row[name] == value for name, value in values.items())]
    return found


def test_gaps_and_simple_effects_are_those_of_a_loop(table: Path, tmp_path: Path) -> None:
    """Arms, queries, factors and models are taken for what they are; other columns for nothing."""
    done = ablate("fit", "--trials", table, *MAPPED, "--factors", "f_rule,f_tag", "--outcomes",
                  "yes", "--out", tmp_path / "out")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = tables(tmp_path / "out")
    original = {"f_rule": "original", "f_tag": 1}
    changes = [("f_rule", "removed"), ("f_rule", "softened"), ("f_tag", 0)]
    for model in ("alpha", "beta"):
        own = [row for row in trials() if row["model"] == model]
        before = differences(own, **original)
        gap = row_of(found["gaps"], model=model, condition="original")
        free, paid = (rates(own, tier, **original) for tier in ("free", "paid"))
        assert float(gap["rate_train"]) == pytest.approx(mean(free.values()))
        assert float(gap["rate_deploy"]) == pytest.approx(mean(paid.values()))
        assert float(gap["gap"]) == pytest.approx(mean(before.values()))
        error = stdev(before.values()) / math.sqrt(len(before))
        assert float(gap["std_error"]) == pytest.approx(error)
        assert (gap["contrast"], gap["f_rule"], gap["f_tag"]) == ("train-deploy", "original", "1")
        for factor, level in changes:
            after = differences(own, **original | {factor: level})
            change = [after[item] - before[item] for item in after.keys() & before.keys()]
            row = row_of(found["effects"], model=model, estimand="gap_effect_simple",
                         factor=factor, level=str(level), role="primary")  # fmt: skip
            assert float(row["estimate"]) == pytest.approx(mean(change))
            assert float(row["std_error"]) == pytest.approx(stdev(change) / math.sqrt(len(change)))
            assert row["contrast"] == "train-deploy"


def test_the_other_arm_first_turns_every_sign(table: Path, tmp_path: Path) -> None:
    """Train and deploy are the values that were named, not an order of the table's."""
    for name, (train, deploy) in {"a": ("free", "paid"), "b": ("paid", "free")}.items():
        done = ablate("fit", "--trials", table, "--arm", "tier", "--query", "item", *ASKED,
                      "--train", train, "--deploy", deploy, "--out", tmp_path / name)  # fmt: skip
        assert done.exit_code == 0, done.output
    first, other = tables(tmp_path / "a"), tables(tmp_path / "b")
    there = {(r["model"], r["condition"]): r for r in first["gaps"]}
    for row in other["gaps"]:
        twin = there[row["model"], row["condition"]]
        assert float(row["gap"]) == pytest.approx(-float(twin["gap"]))
        assert row["rate_train"] == twin["rate_deploy"]
    estimates = [
        {(r["model"], r["factor"], r["level"]): float(r["estimate"]) for r in t["effects"]
         if r["estimand"] == "gap_effect_averaged" and r["role"] == "primary"}
        for t in (first, other)
    ]  # fmt: skip
    assert estimates[0] == pytest.approx({key: -value for key, value in estimates[1].items()})


def test_csv_and_parquet_give_the_same_numbers(table: Path, tmp_path: Path) -> None:
    """Text that looks like numbers and typed columns mean the same."""
    typed = tmp_path / "x[y]*.parquet"
    pl.DataFrame(trials(), infer_schema_length=None).write_parquet(typed)
    for name, path in {"c": table, "p": typed}.items():
        done = ablate("fit", "--trials", path, *MAPPED, *ASKED, "--wording", "paraphrase",
                      "--weight", "share", "--out", tmp_path / name)  # fmt: skip
        assert done.exit_code == 0, done.output
        assert "3 wordings" in done.output
    assert tables(tmp_path / "c") == tables(tmp_path / "p")


def test_what_was_read_left_out_and_taken_for_reference_is_said(table: Path) -> None:
    """The counts are those of a loop; levels of 0 and 1 are put into words."""
    done = ablate("fit", "--trials", table, *MAPPED, "--factors", "f_*", "--outcomes", "yes,af",
                  "--label", "yes=human", "--reference", "f_rule=softened")  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = trials()
    kept = [row for row in rows if row["tier"] != "audit"]
    assert f"{len(kept):,} trials, 9 queries, 2 model(s)" in done.output
    assert f"{len(rows) - len(kept)} rows whose `tier` is another: audit" in done.output
    labels = [sum(r["human"] is not None for r in kept if r["tier"] == t) for t in ("free", "paid")]
    assert f"`yes` in `human`: {labels[0]} in free, {labels[1]} in paid" in done.output
    assert "f_rule = softened; f_tag = 1 (of 0 and 1" in done.output
    assert "the text as it was); f_note = present." in done.output
    assert "Nothing is written: --out DIR" in done.output
    for name in ("alpha, yes", "alpha, af", "beta, yes", "beta, af"):
        assert f"\n{name}: baseline gap " in done.output
    assert done.output.count("What each change does") == 4
    gap = mean(differences([r for r in rows if r["model"] == "beta"], f_rule="softened", f_tag=1,
                           f_note="present").values())  # fmt: skip
    assert f"beta, yes: baseline gap {100 * gap:+.1f} points" in done.output


def small(**changes: Any) -> pl.DataFrame:
    """Eight trials of one model with the default names of columns; `changes` replace columns."""
    frame = pl.DataFrame(
        {
            "query_id": ["a", "b"] * 4,
            "arm": ["train", "train", "deploy", "deploy"] * 2,
            "f": ["original"] * 4 + ["removed"] * 4,
            "y": [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, None],
        }
    )
    return frame.with_columns(pl.Series(n, values, strict=False) for n, values in changes.items())


def as_csv(path: Path, frame: pl.DataFrame) -> Path:
    frame.write_csv(path)
    return path


def test_model_and_wording_may_be_absent(tmp_path: Path) -> None:
    """The smallest table has five things: arm, query, a factor, an outcome, and a file."""
    said = fit_trials(as_csv(tmp_path / "t.csv", small()), Columns(["f"], ["y"]))
    # Original: a 1 - 0, b 1 - 1.
    assert "\ny: baseline gap +50.0 points" in said
    assert "100.0 % in train, 50.0 % in deploy" in said


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["f_*"], ("f_a", "f_b", "f_c")),
        (["f_a,f_c"], ("f_a", "f_c")),
        (["f_c", "f_?"], ("f_c", "f_a", "f_b")),
        (["f_[ab]"], ("f_a", "f_b")),
        (["arm[train]"], ("arm[train]",)),
        (["one, two"], ("one, two",)),
        ([" f_a , f_b "], ("f_a", "f_b")),
        (["*"], ("f_a", "f_b", "f_c", "arm[train]", "armt", "one, two")),
        (["a*"], ("arm[train]", "armt")),
    ],
)
def test_factors_are_names_or_globs(
    given: list[str], expected: tuple[str, ...], tmp_path: Path
) -> None:
    """A name that is a column is no pattern; a pattern leaves out what has another part."""
    names = ["f_a", "f_b", "f_c", "arm[train]", "armt", "one, two"]
    frame = small().drop("f").with_columns(pl.Series(n, [0, 1] * 4) for n in names)
    frame = frame.with_columns(f_y=pl.col("y"), model=pl.lit("m"), wording_id=pl.lit("w"))
    path = as_csv(tmp_path / "t.csv", frame)
    found = read_trials(path, Columns(given, ["f_y"], weight="y"))
    assert found.factors == expected
    assert found.outcomes == ("f_y",)
    assert found.wording == "wording_id"


def test_a_name_with_the_sign_of_a_pair(tmp_path: Path) -> None:
    """A factor or a column may hold `=`; the known name decides where the pair is cut."""
    frame = small().rename({"f": "f=1"}).with_columns(pl.col("y").alias("by=hand"))
    columns = Columns(["f=1"], ["y"], labels=["y=by=hand"], references=["f=1=removed"])
    found = read_trials(as_csv(tmp_path / "t.csv", frame), columns)
    assert found.reference == {"f=1": "removed"}
    assert found.labels == {"y": "by=hand"}


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "0", "", "NA", "0.5", "1.0", "0", "1"], [1, 0, None, None, 0.5, 1, 0, 1]),
        (["True", "FALSE", "true", "", '""', " 1 ", "0", "1"], [1, 0, 1, None, None, 1, 0, 1]),
    ],
)
def test_cells_of_an_outcome(cells: list[str], expected: list[Any], tmp_path: Path) -> None:
    """Numbers and true and false in any case; an empty cell and NA are missing."""
    rows = small().drop("y").rows()
    lines = ["query_id,arm,f,y", *(",".join([*row, c]) for row, c in zip(rows, cells, strict=True))]
    (tmp_path / "t.csv").write_text("\ufeff" + "\r\n".join(lines) + "\r\n\r\n", "utf-8")
    found = read_trials(tmp_path / "t.csv", Columns(["f"], ["y"])).frame
    assert found["y"].to_list() == expected


@pytest.mark.parametrize(
    ("yes", "no"), [("TRUE", "FALSE"), ("True", "False"), ("1", "0"), ("1.0", "0.0")]
)
def test_a_yes_or_no_of_any_language_has_yes_for_reference(
    yes: str, no: str, tmp_path: Path
) -> None:
    """R and pandas write booleans in their own case; the level is as it stands in the file."""
    path = as_csv(tmp_path / "t.csv", small(f=[yes] * 4 + [no] * 4))
    said = fit_trials(path, Columns(["f"], ["y"]))
    assert f"Reference levels: f = {yes} (of {no} and {yes}" in said
    assert "baseline gap +50.0 points" in said


def test_long_cells_and_a_last_column_with_gaps_are_no_fault(tmp_path: Path) -> None:
    """A transcript of 300 kB, with line breaks, in a table whose last cells are often empty."""
    frame = small(text=["He, she\n" * 40_000] * 8, last=[None, "x"] * 4)
    said = fit_trials(as_csv(tmp_path / "t.csv", frame), Columns(["f"], ["y"]))
    assert "8 trials" in said


def test_controls_are_left_out_and_counted(tmp_path: Path) -> None:
    """Harmless queries do not enter a gap, here as in a study."""
    controls = small(query_id=["c", "d"] * 4, y=[1.0, 1.0, 0.0, 0.0] * 2)
    frame = pl.concat([small(role=["target"] * 8), controls.with_columns(role=pl.lit("control"))])
    said = fit_trials(as_csv(tmp_path / "t.csv", frame), Columns(["f"], ["y"]))
    assert "8 rows whose `role` is control" in said
    assert "8 trials, 2 queries" in said
    assert "baseline gap +50.0 points" in said


def test_placebo_edits_of_an_own_table_are_not_the_original(tmp_path: Path) -> None:
    """In observations.parquet a placebo edit has every factor at its reference, and is none."""
    ids = {name: [f"{name}{i}" for i in range(8)] for name in ("trial_id", "prompt_id")}
    own = small(**ids, condition_id=["c"] * 8).with_columns(placebo=pl.lit(None, pl.String))
    edits = own.with_columns(placebo=pl.lit("edit"), f=pl.lit("original"), y=1.0)
    path = tmp_path / "observations.parquet"
    pl.concat([own, edits]).write_parquet(path)
    assert "baseline gap +50.0 points" in fit_trials(path, Columns(["f"], ["y"]))


def test_a_model_without_a_grade_is_not_passed_over(tmp_path: Path) -> None:
    """Each model and outcome that was asked for is there, with numbers or why it has none."""
    one = small(model=["a"] * 8, z=[None] * 8)
    two = small(model=["b"] * 8, y=[None] * 8, z=[1, 0] * 4)
    frame = pl.concat([one, two], how="vertical_relaxed")
    said = fit_trials(as_csv(tmp_path / "t.csv", frame), Columns(["f"], ["y", "z"]))
    assert "\na, y: baseline gap +50.0" in said
    assert "\na, z: no trial has a value" in said
    assert "\nb, y: no trial has a value" in said
    assert "\nb, z: baseline gap +0.0" in said


def test_a_table_without_the_original_says_so(tmp_path: Path) -> None:
    """Averaged effects stand; there is no baseline gap and no simple effect."""
    frame = small(g=["original", "original", "original", "original"] + ["removed"] * 4)
    frame = frame.with_columns(f=frame["f"].reverse())
    path = as_csv(tmp_path / "t.csv", frame)
    said = fit_trials(path, Columns(["f", "g"], ["y"]))
    assert "y: no baseline gap" in said
    with pytest.raises(ObservationsError, match="no estimand `best`"):
        fit_trials(path, Columns(["f"], ["y"]), primary="best")


def test_the_averaged_effect_as_primary_has_the_p_value(table: Path) -> None:
    """Holm runs over the estimand that was asked for, which the header of the table shows."""
    heads = []
    for name in ("gap_effect_simple", "gap_effect_averaged"):
        done = ablate("fit", "--trials", table, *MAPPED, *ASKED, "--estimand", name)
        assert done.exit_code == 0, done.output
        heads += [next(line for line in done.output.splitlines() if line.startswith("feature"))]
    assert heads[0].index("simple effect") < heads[0].index("p (Holm)")
    assert heads[1].index("p (Holm)") < heads[1].index("simple effect")


GOOD = "query_id,arm,f,y\na,train,original,1\nb,train,original,1\na,deploy,removed,0\n"
GOOD += "b,deploy,original,0\na,train,removed,1\n"

FILES: dict[str, tuple[str, bytes, list[str]]] = {
    "an empty csv": ("t.csv", b"", ["t.csv", "empty", "header"]),
    "blank lines alone": ("t.csv", b"\n\n", ["empty"]),
    "a header alone": ("t.csv", b"query_id,arm,f,y\n", ["no rows"]),
    "a row too short": (
        "t.csv",
        (GOOD + "b,deploy,removed\n" + "a,train,original,1\n").encode(),
        ["row 6", "3 cells", "4", "quotes"],
    ),
    "a row too long": (
        "t.csv", (GOOD + "b,train,original,1,x\n").encode(), ["row 6", "5 cells", "4", "quotes"]
    ),
    "a quote left open": ("t.csv", (GOOD + '"b,deploy,original,1\n').encode(), ["row 6", "quotes"]),
    "another encoding": ("t.csv", GOOD.replace("y", "é").encode("latin-1"), ["cannot be read"]),
    "semicolons": ("t.csv", GOOD.replace(",", ";").encode(), ["';'", "commas"]),
    "two columns of a name": (
        "t.csv", GOOD.replace("\n", ",f\n").encode(), ["2 columns", "`f`", "rename"]
    ),
    "an empty parquet": ("t.parquet", b"", ["t.parquet", "cannot be read"]),
    "a csv called parquet": ("t.parquet", GOOD.encode(), ["t.parquet", "cannot be read"]),
    "a parquet with a torn end": ("t.parquet", b"PAR1" + b"x" * 90 + b"PAR1", ["cannot be read"]),
    "another ending": ("t.xlsx", GOOD.encode(), ["t.xlsx", ".csv", ".parquet"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_table_is_refused(name: str, tmp_path: Path) -> None:
    """Exit 2, the file, what is wrong with it and, where one can say so, where."""
    file, data, words = FILES[name]
    (tmp_path / file).write_bytes(data)
    done = ablate("fit", "--trials", tmp_path / file, "--factors", "f", "--outcomes", "y")
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    for word in words:
        assert word in done.stderr


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """So is a folder."""
    (tmp_path / "d.csv").mkdir()
    for name in ("no.csv", "no.parquet", "d.csv"):
        done = ablate("fit", "--trials", tmp_path / name, "--factors", "f", "--outcomes", "y")
        assert done.exit_code == 2
        assert name in done.stderr


def test_columns_that_are_not_used_may_share_a_name(tmp_path: Path) -> None:
    """Unmapped columns are ignored, whatever they are called."""
    text = "\n".join(line + f",{i},{i}" for i, line in enumerate(GOOD.splitlines()))
    (tmp_path / "t.csv").write_text(text.replace(",0,0", ",,", 1), "utf-8")
    assert read_trials(tmp_path / "t.csv", Columns(["f"], ["y"])).frame.height == 5


BAD: dict[str, tuple[pl.DataFrame, list[str], list[str]]] = {
    "no arm column": (small().rename({"arm": "tier"}), [], ["--arm", "`arm`", "tier"]),
    "no query column": (small(), ["--query", "item"], ["--query", "`item`", "query_id"]),
    "no wording column": (small(), ["--wording", "w"], ["--wording", "`w`"]),
    "no weight column": (small(), ["--weight", "w"], ["--weight", "`w`"]),
    "no such factor": (small(), ["--factors", "g"], ["--factors", "`g`", "query_id, arm, f, y"]),
    "no factor of that pattern": (small(), ["--factors", "g_*"], ["--factors", "`g_*`"]),
    "factors of commas": (small(), ["--factors", ","], ["names no column"]),
    "no such outcome": (small(), ["--outcomes", "z"], ["--outcomes", "`z`"]),
    "one arm": (small(arm=["train"] * 8), [], ["`arm`", "`deploy`", "only train"]),
    "an arm of another name": (small(), ["--train", "free"], ["`free`", "deploy, train"]),
    "one arm twice": (small(), ["--deploy", "train"], ["--train and --deploy", "`train`"]),
    "one level": (small(f=["original"] * 8), [], ["`f`", "only `original`", "leave it out"]),
    "a factor of nulls": (small(f=[None] * 8), [], ["`f`", "null", "leave it out"]),
    "no reference": (small(f=["a", "b"] * 4), [], ["`f`", "levels a, b", "f=a"]),
    "an unknown reference": (
        small(), ["--reference", "f=gone"], ["`f`", "original, removed", "`gone`"]
    ),
    "a reference for no factor": (
        small(), ["--reference", "g=a"], ["--reference g=a", "`g`", "there is f"]
    ),
    "half a reference": (small(), ["--reference", "f"], ["--reference f", "factor=level"]),
    "two references": (
        small(), ["--reference", "f=original", "--reference", "f=removed"], ["`f` is given twice"]
    ),
    "an outcome in percent": (small(y=[0, 100] * 4), [], ["`y`", "100", "[0, 1]"]),
    "an outcome below 0": (small(y=[0, -0.5] * 4), [], ["`y`", "-0.5", "[0, 1]"]),
    "an outcome of text": (small(y=["yes", "no"] * 4), [], ["`y`", "'yes'", "number"]),
    "an outcome that is NaN": (small(y=[1.0, math.nan] * 4), [], ["`y`", "NaN", "null"]),
    "no outcome at all": (small(y=[None] * 8), [], ["`y`", "null in every row", "grade"]),
    "no rows": (small().clear(), [], ["no rows"]),
    "one query": (small(query_id=["a"] * 8), [], ["`query_id`", "'a'", "--query"]),
    "a trial without a query": (
        small(query_id=["a", None, "b", "a"] * 2), [], ["`query_id`", "2 rows"]
    ),
    "a label outside [0, 1]": (
        small(h=[1, 2] * 4), ["--label", "y=h"], ["`h`", "2", "[0, 1]", "labelled"]
    ),
    "a label of text": (small(h=["1", "no"] * 4), ["--label", "y=h"], ["`h`", "'no'"]),
    "no label": (small(h=[None] * 8), ["--label", "y=h"], ["`h`", "--label"]),
    "no label column": (small(), ["--label", "y=h"], ["--label y=h", "`h`"]),
    "a label of no outcome": (small(h=[1, 0] * 4), ["--label", "z=h"], ["`z`", "--outcomes"]),
    "half a label": (small(), ["--label", "y"], ["--label y", "outcome=column"]),
    "a negative weight": (small(w=[1, -1] * 4), ["--weight", "w"], ["`w`", "-1", "0 or more"]),
    "the arm as a factor": (
        small(), ["--factors", "arm"], ["`arm`", "--arm and --factors", "one of them"]
    ),
    "an outcome as a factor": (small(), ["--factors", "y"], ["`y`", "--factors and --outcomes"]),
    "the model as a factor": (
        small(model=["original", "removed"] * 4), ["--factors", "model"], ["`model`", "rename"]
    ),
    "a factor named like a column of the tables": (
        small(note=["original", "removed"] * 4), ["--factors", "note"], ["`note`", "rename"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("name", BAD)
def test_a_table_that_cannot_be_analysed_is_refused(name: str, ending: str, tmp_path: Path) -> None:
    """Exit 2 and one message with the column and what would mend it, whatever the kind of file."""
    frame, options, words = BAD[name]
    path = tmp_path / f"t.{ending}"
    frame.write_csv(path) if ending == "csv" else frame.write_parquet(path)
    for option, value in (("--factors", "f"), ("--outcomes", "y")):
        options = options if option in options else [*options, option, value]
    done = ablate("fit", "--trials", path, *options, "--out", tmp_path / "out")
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()
    for word in words:
        assert word.lower() in done.stderr.lower()


def test_a_factor_of_a_million_levels_is_refused(tmp_path: Path) -> None:
    """An id taken for a factor is named at once, before anything is fitted."""
    n = 1_000_000
    frame = pl.DataFrame({"query_id": ["a", "b"], "arm": ["train", "deploy"], "y": [1, 0]})
    frame = pl.concat([frame] * (n // 2)).with_columns(f=pl.int_range(n))
    frame.write_parquet(tmp_path / "t.parquet")
    with pytest.raises(ObservationsError, match=r"`f` has 1000000 levels, more than 200: leave"):
        fit_trials(tmp_path / "t.parquet", Columns(["f"], ["y"]))


def test_text_of_a_file_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    """Names with control characters are shown as what they are."""
    frame = small(model=["\x1b[31mred"] * 8, f=["original"] * 4 + ["\x1b[2J"] * 4)
    path = tmp_path / "t.parquet"
    frame.write_parquet(path)
    done = ablate("fit", "--trials", path, "--factors", "f", "--outcomes", "y")
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    assert "\\x1b[31mred" in done.output


def test_options_that_do_not_go_together_are_refused(table: Path, tmp_path: Path) -> None:
    """One source of numbers at a time, and no option that would have no effect unsaid."""
    for arguments, word in (
        ([], "--trials FILE"),
        (["--trials", table, "--counts", table], "one of"),
        ([tmp_path, "--trials", table], "one of"),
        (["--trials", table], "--factors and --outcomes"),
        ([tmp_path, "--factors", "f"], "--trials"),
        ([tmp_path, "--reference", "f=a"], "--trials"),
        (["--counts", table], "--reference CONDITION"),
        (["--counts", table, "--reference", "a", "--reference", "b"], "once"),
    ):
        done = ablate("fit", *arguments)
        assert done.exit_code == 2, arguments
        assert word in done.stderr


def test_a_foreign_error_is_one_of_observations() -> None:
    """Whoever catches the errors of bad tables catches those of bad files and names too."""
    assert issubclass(ForeignError, ObservationsError)
