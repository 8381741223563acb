"""Registration: one file before the run, and every way of leaving it found and named."""

import hashlib
import json
import shutil
import sqlite3
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from test_cli import ablate, refused, replace

CLAIMS = '''# What the critics say: "nobody reads \\\\ it"
[[claim]]
id = "reward-kills"
sentence = "Without the reward \u2028 there is \U0001f600 no gap, \\"they\\" say"
kind = "eliminates"
factor = "reward"
level = "removed"

[[claim]]
id = "tag-idle"
sentence = """The tag's
text does nothing"""
kind = "irrelevant"
factor = "tag"
level = "removed"
'''
OUTCOMES = (
    '[complied]\nquestion = "Did it?"\n[complied.patterns]\nno = ["I can"]\notherwise = "yes"\n'
)


def prepare(study: Path) -> Path:
    """The tiny study with claims, planned: its run folder."""
    (study / "claims.toml").write_text(CLAIMS, "utf-8")
    replace(study / "study.toml", 'name = "tiny"', 'name = "tiny"\nclaims = "claims.toml"')
    assert ablate("plan", study).exit_code == 0
    return study / "runs/main"


def analyse(run: Path, *commands: str) -> None:
    for command in commands or ("grade", "fit"):
        done = ablate(command, run)
        assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that did what was registered: planned, registered, run, graded, fitted."""
    from conftest import DATA

    study = Path(shutil.copytree(DATA / "tiny", tmp_path_factory.mktemp("finished") / "tiny"))
    run = prepare(study)
    assert ablate("register", run).exit_code == 0
    assert ablate("run", study).exit_code == 0
    analyse(run)
    return study


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished study, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def verified(study: Path, run: str = "main", file: Path | None = None) -> tuple[int, list[str]]:
    done = ablate("verify", study / "runs" / run, file or study / "runs/main/registration.toml")
    assert done.exit_code in (0, 1), done.output
    return done.exit_code, done.stdout.splitlines()


def marked(lines: Sequence[str], mark: str) -> list[str]:
    return [line.partition(" ")[2].strip() for line in lines if line.startswith(mark + " ")]


def registered(study: Path) -> dict[str, Any]:
    return tomllib.loads((study / "runs/main/registration.toml").read_text("utf-8"))


def change(study: Path, statement: str, *values: Any) -> None:
    """One statement on the ledger, behind the back of the pipeline."""
    with sqlite3.connect(study / "ledger.sqlite") as ledger:
        ledger.execute(statement, values)
    ledger.close()


def trials(study: Path) -> pl.DataFrame:
    return pl.read_parquet(study / "runs/main/plan.parquet")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_was_registered_and_done_is_kept(study: Path) -> None:
    """Exit 0; every topic has its line; the estimand that is not primary is exploratory."""
    code, lines = verified(study)
    assert code == 0
    assert lines[-1] == "Kept: the run and its analysis did what was registered."
    assert marked(lines, "deviation") == marked(lines, "open") == []
    kept = {line.partition(":")[0] for line in marked(lines, "kept")}
    assert kept >= {
        "file", "order", "run", "trials", "plan.parquet", "design", "version", "scenario",
        "queries", "wordings", "seed", "margin_gap", "margin_share", "estimand", "exclusions",
        "stopping", "claims", "primary grader", "grader rules/v1", "tables",
    }  # fmt: skip
    exploratory = marked(lines, "exploratory")
    effects = pl.read_csv(study / "runs/main/effects.csv", infer_schema_length=None)
    rows = effects.filter(pl.col("estimand") == "gap_effect_averaged").height
    said = f"effects.csv: {rows} rows of gap_effect_averaged"
    assert any(line.startswith(said) for line in exploratory)
    assert all(line.startswith("effects.csv: ") for line in exploratory)


def test_the_file_says_what_the_run_will_do(study: Path) -> None:
    """Hashes, counts and claims are those of the files, found another way."""
    run, found = study / "runs/main", registered(study)
    plan = trials(study)
    assert found["inputs"]["scenario"] == sha256(study / "scenario.md")
    assert found["inputs"]["queries"] == sha256(study / "queries.csv")
    assert found["plan"]["parquet"] == sha256(run / "plan.parquet")
    ids = json.dumps(sorted(plan["trial_id"]), separators=(",", ":"))
    assert found["plan"]["trial_ids"] == hashlib.sha256(ids.encode()).hexdigest()
    assert found["plan"]["trials"] == plan.height
    assert found["plan"]["trials_by_arm"] == dict(plan["arm"].value_counts().iter_rows())
    away = pl.sum_horizontal(pl.col("rule", "tag", "reward").cast(pl.String) != "original")
    counts = dict(plan.select(away.clip(0, 2).alias("n"))["n"].value_counts().iter_rows())
    names = ("original", "single changes", "two changes and more")
    assert found["plan"]["trials_by_part"] == {name: counts[n] for n, name in enumerate(names)}
    assert found["claims"]["text"] == CLAIMS
    assert found["frozen"]["claims"] == hashlib.sha256(CLAIMS.encode()).hexdigest()
    assert list(found["declared"]) == ["reward-kills", "tag-idle"]
    assert "all 2 claims" in found["analysis"]["claims_correction"]
    assert found["frozen"]["margin_gap"] == 0.05
    assert list(found["frozen"]["graders"]) == ["rules/v1"]
    assert found["factors"]["tag"]["levels"] == ["original", "removed"]
    assert found["registration"]["answers_before"] == 0
    plan_record = tomllib.loads((run / "plan.toml").read_text("utf-8"))
    for table in ("inputs", "design", "frozen"):
        assert found[table] == plan_record[table]


def test_the_digest_is_that_of_all_lines_but_the_last(study: Path) -> None:
    """As `head -n -1 registration.toml | sha256sum` gives it."""
    content = (study / "runs/main/registration.toml").read_bytes()
    body, last = content.splitlines(keepends=True)[:-1], content.splitlines()[-1]
    assert last.decode() == f'digest = "{hashlib.sha256(b"".join(body)).hexdigest()}"'


ENDS = {
    "quotes": '# "' + '"' * 6,
    "a quote after a backslash": '# \\"',
    "a backslash": "# \\",
    "all kinds": "\r\n# \t''' \u2028 \U0001f600 \\u0041",
}


@pytest.mark.parametrize("end", ENDS)
def test_claims_come_out_of_the_file_as_they_went_in(end: str, tiny: Path) -> None:
    """Quotes, backslashes and line ends of any kind: a TOML reader gives back the same bytes."""
    run = prepare(tiny)
    shutil.rmtree(run)
    claims = (CLAIMS.replace("\n\n", "\r\n\r\n") + ENDS[end]).encode()
    (tiny / "claims.toml").write_bytes(claims)
    assert ablate("plan", tiny).exit_code == 0
    assert ablate("register", run).exit_code == 0
    assert registered(tiny)["claims"]["text"].encode() == claims
    assert any(line.startswith("claims: ") for line in marked(verified(tiny)[1], "kept"))


def test_line_ends_of_another_system_are_no_edit(study: Path) -> None:
    """A file that came back with CRLF is intact."""
    file = study / "runs/main/registration.toml"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert verified(study)[0] == 0


def test_no_path_and_no_key_is_in_the_files(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes to a deposit knows neither the machine nor its secrets."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-very-secret")
    run = prepare(tiny)
    assert ablate("register", run).exit_code == 0
    text = (run / "registration.toml").read_text("utf-8")
    assert "sk-very-secret" not in text
    assert str(tiny.parent) not in text


def test_the_registered_estimators_are_those_of_the_tables(study: Path) -> None:
    """The method of every primary row of effects.csv stands in the file under its estimand."""
    estimators = registered(study)["analysis"]["estimators"]
    effects = pl.read_csv(study / "runs/main/effects.csv", infer_schema_length=None)
    rows = effects.filter(
        pl.col("method").is_not_null(),
        pl.col("role") == "primary",
        pl.col("estimand").is_in(list(estimators)),
    )
    rows = rows.select("estimand", "method").unique()
    assert rows.height >= 2
    for estimand, method in rows.iter_rows():
        assert method in estimators[estimand]


def late(study: Path) -> list[str]:
    """The first and the answered trials of the ledger."""
    with sqlite3.connect(study / "ledger.sqlite") as ledger:
        ids = [row[0] for row in ledger.execute("select trial_id from answers order by 1")]
    ledger.close()
    return ids


def margin(study: Path) -> None:
    with (study / "study.toml").open("a", encoding="utf-8") as file:
        file.write("[margins]\ngap = 0.1\n")


def margin_and_fit(study: Path) -> None:
    margin(study)
    analyse(study / "runs/main", "fit")


def estimand(study: Path) -> None:
    replace(study / "study.toml", "[design]", 'estimand = "gap_effect_averaged"\n[design]')
    analyse(study / "runs/main", "fit")


def exclusions(study: Path) -> None:
    with (study / "study.toml").open("a", encoding="utf-8") as file:
        file.write('[analysis]\nexclusions = ["truncated"]\n')
    analyse(study / "runs/main", "fit")


def grader(study: Path, names: str = '["outcomes"]') -> None:
    (study / "outcomes.toml").write_text(OUTCOMES, "utf-8")
    with (study / "study.toml").open("a", encoding="utf-8") as file:
        file.write(f"[grading]\ngraders = {names}\n")
    analyse(study / "runs/main")


def early(study: Path) -> None:
    change(
        study,
        "update answers set answered_at = '2020-01-01T00:00:00.000Z' where trial_id = ?",
        late(study)[0],
    )


def instrument(study: Path) -> None:
    change(study, "update grades set instrument = ?", "f" * 64)
    analyse(study / "runs/main", "fit")


def regraded(study: Path) -> None:
    change(study, "update grades set value = 1 - value where outcome = 'complied'")


def ungraded(study: Path) -> None:
    change(study, "delete from grades where trial_id = ?", trials(study)["trial_id"][0])
    analyse(study / "runs/main", "fit")


def unanswered(study: Path) -> None:
    ids = trials(study).filter(pl.col("arm") == "deploy")["trial_id"][:2].to_list()
    change(study, "delete from answers where trial_id in (?, ?)", *ids)
    change(study, "delete from grades where trial_id in (?, ?)", *ids)
    analyse(study / "runs/main", "fit")


def table(study: Path) -> None:
    path = study / "runs/main/effects.csv"
    pl.read_csv(path, infer_schema_length=None).with_columns(p_value=0.01).write_csv(path)


def no_table(study: Path) -> None:
    (study / "runs/main/gaps.csv").unlink()


def no_fit(study: Path) -> None:
    (study / "runs/main/fit.toml").unlink()


def claim(study: Path) -> None:
    replace(study / "claims.toml", 'kind = "irrelevant"', 'kind = "reduces"')


def no_claim(study: Path) -> None:
    path = study / "claims.toml"
    path.write_text(path.read_text("utf-8").partition('\n[[claim]]\nid = "tag-idle"')[0], "utf-8")


def no_claims(study: Path) -> None:
    replace(study / "study.toml", 'claims = "claims.toml"\n', "")


def scenario(study: Path) -> None:
    replace(study / "scenario.md", "Consider your situation", "Consider the situation")


def queries(study: Path) -> None:
    replace(study / "queries.csv", "gloating card", "gloating letter")


def seed(study: Path) -> None:
    replace(study / "study.toml", 'name = "tiny"', 'name = "tiny"\nseed = 2')


def fewer_trials(study: Path) -> None:
    trials(study).head(200).write_parquet(study / "runs/main/plan.parquet")


def other_arms(study: Path) -> None:
    plan = trials(study)
    plan.with_columns(arm=plan["arm"].reverse()).write_parquet(study / "runs/main/plan.parquet")


def another_plan(study: Path) -> None:
    seed(study)
    for name in ("plan.toml", "plan.parquet"):
        (study / "runs/main" / name).unlink()
    assert ablate("plan", study).exit_code == 0


def edited(study: Path) -> None:
    replace(study / "runs/main/registration.toml", "margin_gap = 0.05", "margin_gap = 0.2")


def edited_comment(study: Path) -> None:
    replace(study / "runs/main/registration.toml", "# What a run", "# Peer-reviewed: what a run")


# How a study is spoilt, and how each deviation that must then be found begins, in order.
DEVIATIONS: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "margin changed": (margin, ["margin_gap: registered 0.05; the study now says 0.1"]),
    "margin changed before the fit": (
        margin_and_fit,
        ["margin_gap: registered 0.05; the study now says 0.1; the fit used 0.1"],
    ),
    "estimand changed": (
        estimand,
        ["estimand: registered gap_effect_simple; the study now says gap_effect_averaged; the fit"],
    ),
    "exclusion added": (
        exclusions, ["exclusions: registered none; the study now says truncated; the fit used tr"]
    ),
    "grader changed": (
        grader,
        [
            "primary grader: registered rules/v1; the study now says outcomes; the fit used outc",
            "grader rules/v1: registered; the study now says outcomes",
            "grader rules/v1: registered; the fit used outcomes",
        ],
    ),
    "primary grader changed": (
        lambda study: grader(study, '["outcomes", "rules/v1"]'),
        ["primary grader: registered rules/v1; the study now says outcomes; the fit used outc"],
    ),
    "instrument changed": (
        instrument, ["grader rules/v1: registered"]
    ),
    "grades changed after the fit": (regraded, ["tables: grades by rules/v1 are not those"]),
    "a trial not graded": (
        ungraded, ["missing: registered only trials without an answer or a grade are missing; 1 "]
    ),
    "answered before": (early, ["order: registered 20"]),
    "not all answered": (
        unanswered,
        [
            "stopping: registered all 240 trials; 2 are not answered: deploy 2",
            "stopping: registered all 240 trials; the fit was made when 238 were answered",
        ],
    ),
    "table edited": (table, ["tables: effects.csv is not the file that fit wrote"]),
    "table gone": (no_table, ["tables: gaps.csv was written by fit, and is not there"]),
    "no record of the fit": (no_fit, ["tables: coefficients.csv, effects.csv, gaps.csv, planted"]),
    "claim changed": (claim, ["claims: registered id = tag-idle; it was changed or taken out"]),
    "claim taken out": (no_claim, ["claims: registered id = tag-idle; it was changed or taken"]),
    "claims taken out": (no_claims, ["claims: claims were registered; the study now has none"]),
    "scenario changed": (scenario, ["scenario: registered"]),
    "queries changed": (queries, ["queries: registered"]),
    "seed changed": (seed, ["seed: registered 1; the study now says 2"]),
    "trials dropped": (fewer_trials, ["trials: registered", "plan.parquet: registered"]),
    "arms exchanged": (other_arms, ["plan.parquet: registered"]),
    "file edited": (
        edited,
        [
            "file: it was edited after it was made",
            "margin_gap: registered 0.2; plan.toml says 0.05; the study now says 0.05; the fit use",
        ],
    ),
    "comment edited": (edited_comment, ["file: it was edited after it was made"]),
}  # fmt: skip


@pytest.mark.parametrize("name", DEVIATIONS)
def test_each_deviation_is_found_and_named(name: str, study: Path) -> None:
    """Exit 1, a line for what was registered and what was done, and no line for anything else."""
    spoil, expected = DEVIATIONS[name]
    spoil(study)
    code, lines = verified(study)
    found = marked(lines, "deviation")
    assert code == 1
    assert len(found) == len(expected), found
    for line, beginning in zip(found, expected, strict=True):
        assert line.startswith(beginning)
    assert lines[-1] == f"Not kept: {len(expected)} deviations, 0 not done yet."


def test_another_plan_in_the_same_place_is_found(study: Path) -> None:
    """The trials, their file and the seed are named, and those trials are not answered."""
    another_plan(study)
    code, lines = verified(study)
    assert code == 1
    topics = [line.partition(":")[0] for line in marked(lines, "deviation")]
    for topic in ("trials", "plan.parquet", "seed", "stopping"):
        assert topic in topics


def test_a_copied_run_is_not_the_registered_one(study: Path) -> None:
    """A run folder under another name is named."""
    shutil.copytree(study / "runs/main", study / "runs/other")
    code, lines = verified(study, "other")
    assert code == 1
    assert marked(lines, "deviation") == ["run: registered main; this one is other"]


def test_graders_claims_and_tables_added_later_are_exploratory(study: Path) -> None:
    """Nothing that was registered is touched: exit 0, and each addition has its line."""
    with (study / "claims.toml").open("a", encoding="utf-8") as file:
        file.write('[[claim]]\nid = "new"\nsentence = "x"\nkind = "reduces"\n')
        file.write('factor = "rule"\nlevel = "removed"\n')
    grader(study, '["rules/v1", "outcomes"]')
    (study / "runs/main/extra.csv").write_text("a\n1\n", "utf-8")
    code, lines = verified(study)
    assert code == 0, lines
    found = "\n".join(marked(lines, "exploratory"))
    assert "claims: id = new was not registered" in found
    assert "grader outcomes: not registered" in found
    assert "tables: extra.csv is not a table of the fit" in found


def test_control_characters_in_a_file_are_shown(study: Path) -> None:
    """What a stranger wrote into a registration does not act on the terminal."""
    file = study / "runs/main/registration.toml"
    replace(file, 'run = "main"', 'run = "ma\\u001b[2J\\nkept  in"')
    _, lines = verified(study)
    assert "run: registered ma\\x1b[2J\\nkept  in; this one is main" in marked(lines, "deviation")
    assert not any("\x1b" in line for line in lines)


def test_a_changed_instrument_is_found_through_its_file(tiny: Path) -> None:
    """A registered grader whose patterns change before grading is named with both hashes."""
    (tiny / "outcomes.toml").write_text(OUTCOMES, "utf-8")
    with (tiny / "study.toml").open("a", encoding="utf-8") as file:
        file.write('[grading]\ngraders = ["outcomes"]\n')
    run = prepare(tiny)
    before = sha256(tiny / "outcomes.toml")
    assert ablate("register", run).exit_code == 0
    assert ablate("run", tiny).exit_code == 0
    replace(tiny / "outcomes.toml", "I can", "I cannot")
    after = sha256(tiny / "outcomes.toml")
    analyse(run)
    (line,) = marked(verified(tiny)[1], "deviation")
    assert line == (
        f"grader outcomes: registered {before[:12]}...; the fit used for 240 trials {after[:12]}..."
    )


def test_a_registration_after_the_first_answer_says_so(tiny: Path) -> None:
    """On screen with exit 1, in the file, and when it is verified."""
    run = prepare(tiny)
    assert ablate("run", tiny, "--calls", 1, "--concurrency", 1).exit_code == 1
    assert len(late(tiny)) == 1
    done = ablate("register", run)
    assert done.exit_code == 1
    assert "1 of 240 trials were answered before" in done.stdout.splitlines()[-1]
    found = registered(tiny)["registration"]
    assert found["answers_before"] == 1
    assert "1 of 240 trials were answered before this file was made" in found["status"]
    assert ablate("run", tiny).exit_code == 0
    analyse(run)
    code, lines = verified(tiny)
    assert code == 1
    (line,) = marked(lines, "deviation")
    assert line.startswith("order: registered 20")
    assert "1 of 240 trials were answered before that, the first 20" in line


def test_before_the_run_nothing_is_kept_or_broken_yet(tiny: Path) -> None:
    """What is still to be done is open, exit 1, and no deviation."""
    run = prepare(tiny)
    assert ablate("register", run).exit_code == 0
    code, lines = verified(tiny)
    assert code == 1
    assert marked(lines, "deviation") == []
    topics = [line.partition(":")[0] for line in marked(lines, "open")]
    assert topics == ["order", "stopping", "tables"]
    assert not (tiny / "ledger.sqlite").exists()


def test_a_registration_is_never_overwritten(tiny: Path) -> None:
    """The same again leaves it as it is; another, or an edited one, is exit 2."""
    run = prepare(tiny)
    file = run / "registration.toml"
    assert ablate("register", run).exit_code == 0
    first = file.read_bytes()
    again = ablate("register", run)
    assert again.exit_code == 0
    assert "Registered before, and the same" in again.stdout
    assert file.read_bytes() == first
    shutil.copytree(run, tiny / "runs/second")
    message = refused("register", tiny / "runs/second", "--out", file)
    assert "registration.run would be another now" in message
    assert "--out" in message
    assert file.read_bytes() == first
    other = tiny / "elsewhere.toml"
    assert ablate("register", run, "--out", other).exit_code == 0
    edited(tiny)
    spoilt = file.read_bytes()
    assert "was edited after it was made" in refused("register", run)
    assert file.read_bytes() == spoilt


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (margin, "margin_gap changed after this run was planned"),
        (claim, "claims changed after this run was planned"),
        (fewer_trials, "plan.parquet is not the one"),
    ],
)
def test_a_study_that_left_its_plan_cannot_be_registered(
    spoil: Callable[[Path], None], expected: str, tiny: Path
) -> None:
    """Exit 2 with what changed and what to do; nothing is written."""
    run = prepare(tiny)
    spoil(tiny)
    message = refused("register", run)
    assert expected in message
    assert "--run NAME" in message
    assert not (run / "registration.toml").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "No such file"),
        (b"[registration\n", "not TOML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[other]\nx = 1\n", "registration: Field required"),
        (b"[registration]\nstudy = 3\n", "registration.study"),
    ],
)
def test_what_is_no_registration_is_refused(
    content: bytes | None, expected: str, study: Path
) -> None:
    """Exit 2 and one line that names the file."""
    file = study / "given.toml"
    if content is not None:
        file.write_bytes(content)
    message = refused("verify", study / "runs/main", file)
    assert expected in message
    assert "given.toml" in message
    assert len(message.strip().splitlines()) == 1


def test_a_registration_of_another_study_is_refused(study: Path) -> None:
    """Exit 2: the two names are said."""
    replace(study / "runs/main/registration.toml", 'study = "tiny"\nrun', 'study = "big"\nrun')
    message = refused("verify", study / "runs/main", study / "runs/main/registration.toml")
    assert "`big`" in message
    assert "`tiny`" in message


def test_a_folder_without_a_plan_is_refused(study: Path) -> None:
    """Exit 2: it is no run folder."""
    file = study / "runs/main/registration.toml"
    (study / "runs/empty").mkdir()
    assert "not a run folder" in refused("verify", study / "runs/empty", file)
    assert "not a run folder" in refused("register", study / "runs/empty")


def test_fit_leaves_out_truncated_answers_only_where_the_rule_stands(study: Path) -> None:
    """Their outcomes are null in every grader's column, all others as before, and they count."""
    run = study / "runs/main"
    cut = trials(study)["trial_id"][:3].to_list()
    before = pl.read_parquet(run / "observations.parquet")
    change(study, "update answers set stop_reason = 'max_tokens' where trial_id in (?, ?, ?)", *cut)
    analyse(run, "fit")
    assert pl.read_parquet(run / "observations.parquet").equals(before)
    exclusions(study)
    after = pl.read_parquet(run / "observations.parquet")
    outcomes = ["complied", "af_reasoning", "refused", "alignment_faking"]
    gone = after.filter(pl.col("trial_id").is_in(cut))
    assert gone.select(pl.all_horizontal(pl.col(outcomes).is_null().all())).item()
    kept = ~pl.col("trial_id").is_in(cut)
    assert after.filter(kept).equals(before.filter(kept))
    record = tomllib.loads((run / "fit.toml").read_text("utf-8"))["fit"]
    assert (record["excluded"], record["answered"], record["used"]) == (3, 240, 237)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('exclusions = ["short"]', "analysis.exclusions.0"),
        ('stopping = "when significant"', "all planned trials"),
        ('exclusion = ["truncated"]', "did you mean `exclusions`?"),
    ],
)
def test_rules_that_there_are_not_are_refused(line: str, expected: str, tiny: Path) -> None:
    """Only what is built is accepted: the key is named."""
    with (tiny / "study.toml").open("a", encoding="utf-8") as file:
        file.write(f"[analysis]\n{line}\n")
    assert expected in refused("plan", tiny)
