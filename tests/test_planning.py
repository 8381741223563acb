"""The plan: every trial counted, balanced, named by its content, the same for the same seed."""

import hashlib
import json
import re
import tomllib
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from test_cli import replace

from ablate.planning import PlanError, condition_of, load_plan, make_plan, prompt_of, write_plan
from ablate.starting import start_study
from ablate.study import Study, StudyError, load_study
from variants.units import units_of


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study that `ablate init` makes."""
    folder = tmp_path_factory.mktemp("shipped") / "study"
    start_study(folder, "helpful_only")
    return load_study(folder)


def test_the_shipped_study_is_as_large_as_it_says(shipped: Study) -> None:
    """7,000 trials, two thirds in train, 57 conditions, controls beside the fixed conditions."""
    frame = make_plan(shipped).frame
    roles = {query.query_id: query.role for query in shipped.queries}
    targets = frame.filter(frame["query_id"].replace_strict(roles) == "target")
    assert abs(frame.height - 7000) <= 10
    assert abs(targets.filter(pl.col("arm") == "train").height / targets.height - 2 / 3) < 0.005
    assert frame["condition_id"].n_unique() == 57
    controls = frame.filter(frame["query_id"].replace_strict(roles) == "control")
    assert controls.height == 12 * 9 * 2
    assert frame["trial_id"].n_unique() == frame.height


def test_every_query_gets_the_same_number_of_trials(shipped: Study) -> None:
    """Within an arm no target query has more than one trial more than another."""
    roles = {query.query_id: query.role for query in shipped.queries}
    frame = make_plan(shipped).frame
    targets = frame.filter(frame["query_id"].replace_strict(roles) == "target")
    for _, arm in targets.group_by("arm"):
        counts = arm.group_by("query_id").len()["len"]
        assert counts.len() == 48
        assert counts.max() - counts.min() <= 1  # type: ignore[operator]


def test_single_removals_meet_every_query_in_both_arms(shipped: Study) -> None:
    """Simple effects are paired by query, so no cell of the fixed part may be empty."""
    frame = make_plan(shipped).frame
    single = frame.filter(
        pl.sum_horizontal(
            (pl.col(f).cast(pl.String) == "removed").fill_null(False) for f in shipped.factors
        )
        <= 1
    )
    cells = single.group_by("condition_id", "arm").agg(pl.col("query_id").n_unique())
    assert cells.height == 9 * 2
    assert cells["query_id"].min() == len(shipped.queries)


def test_blocks_hold_the_whole_design(shipped: Study) -> None:
    """Each of the four blocks runs every condition on its own queries, block after block."""
    frame = make_plan(shipped).frame
    assert frame["block"].is_sorted()
    assert frame.group_by("query_id").agg(pl.col("block").n_unique())["block"].max() == 1
    per_block = frame.group_by("block").agg(
        pl.col("condition_id").n_unique(), pl.col("query_id").n_unique()
    )
    assert per_block["condition_id"].to_list() == [57] * 4
    assert per_block["query_id"].to_list() == [15] * 4


def test_same_seed_same_plan_other_seed_other_plan(tiny: Path) -> None:
    """The seed decides which conditions, which queries and in which order."""
    first = make_plan(load_study(tiny)).frame
    assert_frame_equal(first, make_plan(load_study(tiny)).frame)
    replace(tiny / "study.toml", 'name = "tiny"', 'name = "tiny"\nseed = 2')
    assert not first.equals(make_plan(load_study(tiny)).frame)


def test_ids_are_hashes_of_what_they_name(tiny: Path) -> None:
    """trial_id is SHA-256 over the parts that docs/data.md names, written out again."""
    study = load_study(tiny)
    texts = {query.query_id: query.text for query in study.queries}
    for row in make_plan(study).frame.head(40).iter_rows(named=True):
        prompt = prompt_of(study, row, texts)
        turns = [["user", prompt.user]]

        def digest(content: object) -> str:
            text = json.dumps(content, sort_keys=True, separators=(",", ":"))
            return hashlib.sha256(text.encode()).hexdigest()

        assert row["prompt_id"] == digest([prompt.system, turns])
        changes = sorted([f, row[f]] for f in study.factors if row[f] != "original")
        assert row["condition_id"] == digest(changes)
        identity = {"max_tokens": 256, "reasoning": "scratchpad", "temperature": None}
        parts = ["simulated/planted", identity, row["prompt_id"], row["condition_id"], digest([])]
        parts += [row["query_id"], row["arm"], row["replicate"], "explore"]
        assert row["trial_id"] == digest(parts)


def test_a_plan_survives_being_written(tiny: Path) -> None:
    """What is read back is what was made, factors as enumerations with the reference first."""
    study = load_study(tiny)
    made = make_plan(study)
    write_plan(made, study.run_dir("main"))
    read = load_plan(study, study.run_dir("main"))
    assert_frame_equal(read.frame, made.frame)
    assert read.frame.schema["rule"] == pl.Enum(["original", "removed"])
    record = tomllib.loads((study.run_dir("main") / "plan.toml").read_text("utf-8"))
    assert record["made"]["trials"] == made.frame.height


def test_conditions_come_back_from_their_rows(shipped: Study) -> None:
    """A row's levels name its condition, factors that are not applicable included."""
    plan = make_plan(shipped)
    assert plan.design is not None
    by_id = {c.condition_id: c for c in plan.design.conditions}
    for row in plan.frame.unique("condition_id").iter_rows(named=True):
        assert condition_of(shipped, row) == by_id[row["condition_id"]]


def test_weights_turn_the_design_into_its_law(shipped: Study) -> None:
    """By design_weight, factors are away from their original with probability 1/4, but for luck.

    The 48 random conditions stand for 63 % of the law: one factor's share of them has an SD of
    sqrt(.25 x .75 / 48), about 6 points.
    """
    roles = {query.query_id: query.role for query in shipped.queries}
    frame = make_plan(shipped).frame
    targets = frame.filter(frame["query_id"].replace_strict(roles) == "target")
    total = targets["design_weight"].sum()
    assert total / targets.height == pytest.approx(1, abs=0.01)
    factors = ("tier_rule", "tier_tag", "rlhf_effect", "scratchpad", "conflict_clause")
    away = [
        targets.filter(pl.col(factor) == "removed")["design_weight"].sum() / total
        for factor in factors
    ]
    assert away == pytest.approx([0.25] * 5, abs=0.63 * 3 * 0.0625)
    assert sum(away) / 5 == pytest.approx(0.25, abs=0.03)


def test_a_changed_prompt_is_not_sent(tiny: Path) -> None:
    """A plan row whose prompt no longer renders to its hash is refused."""
    study = load_study(tiny)
    row = make_plan(study).frame.row(0, named=True)
    texts = {query.query_id: query.text + "!" for query in study.queries}
    with pytest.raises(PlanError, match="plan again"):
        prompt_of(study, row, texts)


def test_replicates_repeat_the_same_prompt(tiny: Path) -> None:
    """With replicates = 3 every rendered prompt is called a multiple of three times."""
    replace(tiny / "study.toml", "trials = 240", "trials = 240\nreplicates = 3")
    frame = make_plan(load_study(tiny)).frame
    cells = frame.group_by("condition_id", "arm", "query_id").agg(pl.col("replicate").sort())
    for replicates in cells["replicate"]:
        assert replicates.to_list() == list(range(len(replicates)))
        assert len(replicates) % 3 == 0


@pytest.fixture(scope="module")
def with_placebos(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The shipped study with twenty placebo edits."""
    folder = tmp_path_factory.mktemp("placebos") / "study"
    start_study(folder, "helpful_only")
    replace(folder / "study.toml", "placebos = 0 ", "placebos = 20 ")
    return load_study(folder)


def test_wordings_are_spread_evenly(shipped: Study) -> None:
    """Eight wordings, each with an eighth of the trials of either arm, give or take a twentieth."""
    frame = make_plan(shipped).frame
    assert len(shipped.wordings) == 8
    for _, arm in frame.group_by("arm"):
        shares = arm.group_by("wording_id").len()["len"] / arm.height
        assert shares.len() == 8
        assert shares.is_between(0.125 * 0.95, 0.125 * 1.05).all()


def test_a_query_starts_with_the_same_wording_everywhere(shipped: Study) -> None:
    """Conditions and arms are compared within wordings: a query's first trial has the same one."""
    frame = make_plan(shipped).frame
    keys = ["condition_id", "arm", "query_id"]
    single = frame.join(frame.group_by(keys).len().filter(pl.col("len") == 1), on=keys)
    assert single.height > 1000
    assert (
        single.group_by("query_id").agg(pl.col("wording_id").n_unique())["wording_id"] == 1
    ).all()


def test_no_wording_comes_again_before_all_have_come(shipped: Study) -> None:
    """Within a cell the wordings go round, and only a second round is a replicate."""
    frame = make_plan(shipped).frame
    keys = ["condition_id", "arm", "query_id"]
    cells = frame.group_by(keys).agg(
        pl.len().alias("trials"),
        pl.col("wording_id").n_unique().alias("wordings"),
        pl.col("replicate").max().alias("last"),
    )
    assert (cells["wordings"] == cells["trials"].clip(upper_bound=8)).all()
    assert (cells["last"] == (cells["trials"] - 1) // 8).all()


def test_placebo_edits_are_tried_as_often_as_a_removal(with_placebos: Study) -> None:
    """Twenty edits of the original, each with the trials of one single change, weighing nothing."""
    frame = make_plan(with_placebos).frame
    original = with_placebos.scenario.original.condition_id
    edits = frame.filter(pl.col("placebo").is_not_null())
    assert edits["placebo"].n_unique() == 20
    assert set(edits["condition_id"]) == {original}
    assert edits["design_weight"].is_null().all()
    single = with_placebos.scenario.condition({"examples": "removed"}).condition_id
    roles = {query.query_id: query.role for query in with_placebos.queries}
    removal = frame.filter(
        pl.col("condition_id") == single,
        pl.col("query_id").replace_strict(roles) == "target",
    ).height
    sizes = edits.group_by("placebo").len()["len"]
    assert sizes.min() >= removal - 4  # type: ignore[operator]
    assert sizes.max() <= removal + 4  # type: ignore[operator]
    assert abs(frame.height - 7000) <= 40
    assert frame["trial_id"].n_unique() == frame.height


def test_a_placebo_edit_changes_its_one_text(with_placebos: Study) -> None:
    """Rendered again from the plan row, only the edited unit differs from the same wording."""
    frame = make_plan(with_placebos).frame
    texts = {query.query_id: query.text for query in with_placebos.queries}
    rows = frame.filter(pl.col("placebo").is_not_null()).unique("placebo", maintain_order=True)
    for row in rows.iter_rows(named=True):
        prompt = prompt_of(with_placebos, row, texts)
        plain = with_placebos.scenario.render(
            with_placebos.scenario.original,
            arm=row["arm"],
            query=texts[row["query_id"]],
            wording=with_placebos.wordings[row["wording_id"]],
        )
        [(unit, text)] = with_placebos.placebos[row["placebo"]].choices
        chosen = dict(with_placebos.wordings[row["wording_id"]].choices)
        units = {u.name: u.text for u in units_of(with_placebos.scenario.sections)}
        before = chosen.get(unit, units[unit])
        assert (plain.system or "").replace(before, text, 1) == prompt.system
        assert plain.turns == prompt.turns


def test_more_variants_leave_a_plan_alone_and_other_ones_do_not(tmp_path: Path) -> None:
    """A study of one wording does not care for wordings.jsonl; one of eight does."""
    for wordings, moved in ((1, False), (8, True)):
        folder = tmp_path / str(wordings)
        start_study(folder, "helpful_only")
        replace(folder / "study.toml", "wordings = 8 ", f"wordings = {wordings} ")
        study = load_study(folder)
        write_plan(make_plan(study), folder / "runs/main")
        lines = (folder / "wordings.jsonl").read_text("utf-8").splitlines(keepends=True)
        (folder / "wordings.jsonl").write_text("".join(lines[: len(lines) // 2]), "utf-8")
        if moved:
            with pytest.raises(PlanError, match="wordings changed"):
                load_plan(load_study(folder), folder / "runs/main")
        else:
            load_plan(load_study(folder), folder / "runs/main")


def test_levels_that_are_asked_for_are_tried(tmp_path: Path) -> None:
    """`design.levels` picks levels, generated ones among them; each is a single change."""
    folder = tmp_path / "study"
    start_study(folder, "helpful_only")
    replace(
        folder / "study.toml",
        'tier_rule = ["removed"]',
        'tier_rule = ["removed", "filler", "moved", "each-sentence"]',
    )
    study = load_study(folder)
    sentences = study.scenario.factors["tier_rule"].sentences
    each = tuple(f"without-{k}" for k in range(1, sentences + 1))
    assert study.factors["tier_rule"] == ("original", "removed", "filler", "moved", *each)
    frame = make_plan(study).frame
    assert set(frame["tier_rule"].drop_nulls().cast(pl.String)) == set(study.factors["tier_rule"])


LEVEL_FAULTS = {
    "factor": ('[design.levels]\nvoice = ["normative"]', "`voice` is not among the factors"),
    "level": ('[design.levels]\ntier_rule = ["remove"]', "no level `remove`"),
    "none": ('[design.levels]\ntier_rule = ["original"]', "name a level besides original"),
}


@pytest.mark.parametrize(("text", "message"), LEVEL_FAULTS.values(), ids=LEVEL_FAULTS)
def test_levels_that_are_not_there_are_named(text: str, message: str, tmp_path: Path) -> None:
    """The key, what is wrong with it, and what there is."""
    folder = tmp_path / "study"
    start_study(folder, "helpful_only")
    settings = (folder / "study.toml").read_text("utf-8")
    head, _, tail = settings.partition("[design.levels]")
    rest = tail.partition("[[subject]]")[2]
    (folder / "study.toml").write_text(f"{head}{text}\n[[subject]]{rest}", "utf-8")
    with pytest.raises(StudyError, match=re.escape(message)):
        load_study(folder)


def test_three_arms_share_the_trials(tmp_path: Path) -> None:
    """Train keeps its share; the other two arms split the rest."""
    folder = tmp_path / "study"
    start_study(folder, "three_tier")
    study = load_study(folder)
    frame = make_plan(study).frame
    roles = {query.query_id: query.role for query in study.queries}
    targets = frame.filter(frame["query_id"].replace_strict(roles) == "target")
    shares = dict(targets.group_by("arm").len().iter_rows())
    assert set(shares) == {"train", "rated", "deploy"}
    assert abs(shares["train"] / targets.height - 2 / 3) < 0.01
    assert abs(shares["rated"] - shares["deploy"]) <= 2
