"""The plan: every trial counted, balanced, named by its content, the same for the same seed."""

import hashlib
import json
import re
import tomllib
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from test_cli import replace

from ablate.planning import (
    Plan,
    PlanError,
    allocate,
    condition_of,
    load_plan,
    make_plan,
    prompt_of,
    write_plan,
)
from ablate.starting import start_study
from ablate.study import Study, StudyError, load_study
from variants.designs import Screened
from variants.units import units_of

SIMPLE, AVERAGED = "gap_effect_simple", "gap_effect_averaged"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study that `ablate init` makes."""
    folder = tmp_path_factory.mktemp("shipped") / "study"
    start_study(folder, "helpful_only")
    return load_study(folder)


def parts_of(plan: Plan) -> dict[str, str]:
    """The part of the design that each condition belongs to, by condition_id."""
    assert plan.design is not None
    ids = [condition.condition_id for condition in plan.design.conditions]
    return dict(zip(ids, plan.design.parts, strict=True))


def designed(study: Study, estimand: str | None = None, **design: Any) -> Study:
    """The study with other settings of its design."""
    settings = study.settings
    changed: dict[str, Any] = {"design": settings.design.model_copy(update=design)}
    if estimand:
        changed["study"] = settings.study.model_copy(update={"estimand": estimand})
    return replaced(study, settings=settings.model_copy(update=changed))


def targets_of(study: Study, plan: Plan) -> pl.DataFrame:
    """The trials of target queries without placebo edits."""
    roles = {query.query_id: query.role for query in study.queries}
    return plan.frame.filter(
        pl.col("query_id").replace_strict(roles) == "target", pl.col("placebo").is_null()
    )


def test_the_shipped_study_is_as_large_as_it_says(shipped: Study) -> None:
    """7,000 trials, two thirds in train, 35 % on nine fixed conditions, which controls see too."""
    plan = make_plan(shipped)
    frame, parts = plan.frame, parts_of(plan)
    roles = {query.query_id: query.role for query in shipped.queries}
    targets = frame.filter(frame["query_id"].replace_strict(roles) == "target")
    assert abs(frame.height - 7000) <= 10
    assert abs(targets.filter(pl.col("arm") == "train").height / targets.height - 0.68) < 0.005
    fixed = targets.filter(targets["condition_id"].replace_strict(parts) != "random")
    assert fixed["condition_id"].n_unique() == 9
    assert fixed.height / targets.height == pytest.approx(0.37, abs=0.005)
    assert set(frame["condition_id"]) == set(parts)
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
    """Each of the four blocks runs every fixed condition and its share of the fresh ones."""
    plan = make_plan(shipped)
    frame, parts = plan.frame, parts_of(plan)
    assert frame["block"].is_sorted()
    assert frame.group_by("query_id").agg(pl.col("block").n_unique())["block"].max() == 1
    fixed = frame.filter(frame["condition_id"].replace_strict(parts) != "random")
    per_block = fixed.group_by("block", "arm").agg(
        pl.col("condition_id").n_unique(), pl.col("query_id").n_unique()
    )
    assert per_block["condition_id"].to_list() == [9] * 8
    assert per_block["query_id"].to_list() == [15] * 8
    sizes = frame.group_by("block").len()["len"]
    assert sizes.min() >= 0.97 * frame.height / 4  # type: ignore[operator]
    assert sizes.max() <= 1.03 * frame.height / 4  # type: ignore[operator]


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

    Most of the random part is drawn for sure; of the rest, one factor's share has an SD of less
    than that of 48 independent draws for 63 % of the law, sqrt(.25 x .75 / 48), about 6 points.
    """
    roles = {query.query_id: query.role for query in shipped.queries}
    frame = make_plan(shipped).frame
    targets = frame.filter(frame["query_id"].replace_strict(roles) == "target")
    total = targets["design_weight"].sum()
    assert float(total) / targets.height == pytest.approx(1, abs=0.01)
    factors = ("tier_rule", "tier_tag", "rlhf_effect", "scratchpad", "conflict_clause")
    away = [
        float(targets.filter(pl.col(factor) == "removed")["design_weight"].sum()) / float(total)
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
    """24 wordings, each with a 24th of the trials of either arm, give or take an eighth of that."""
    frame = make_plan(shipped).frame
    assert len(shipped.wordings) == 24
    for _, arm in frame.group_by("arm"):
        shares = arm.group_by("wording_id").len()["len"] / arm.height
        assert shares.len() == 24
        assert shares.is_between(0.875 / 24, 1.125 / 24).all()


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
    assert (cells["wordings"] == cells["trials"].clip(upper_bound=24)).all()
    assert (cells["last"] == (cells["trials"] - 1) // 24).all()


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
        replace(folder / "study.toml", "wordings = 24 ", f"wordings = {wordings} ")
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
    assert abs(shares["train"] / targets.height - 0.68) < 0.01
    assert abs(shares["rated"] - shares["deploy"]) <= 2


WEIGHTED: dict[str, dict[str, Any]] = {
    "fresh": {},
    "repeated": {"random_conditions": 48, "trials": 1200},
    "replicates": {"replicates": 3, "trials": 1500},
    "random": {"kind": "random", "trials": 1000},
    "orders": {"kind": "orders", "trials": 800},
    "fractional": {"kind": "fractional", "trials": 613},
    "plackett_burman": {"kind": "plackett_burman", "trials": 555},
}


@pytest.mark.parametrize("design", WEIGHTED.values(), ids=WEIGHTED)
def test_weights_give_each_arm_the_law_s_masses(shipped: Study, design: dict[str, Any]) -> None:
    """In each arm the weighted share of every condition is its mass, however trials fell."""
    study = designed(shipped, AVERAGED, **design)
    plan = make_plan(study)
    assert plan.design is not None
    assert plan.design.masses is not None
    ids = [condition.condition_id for condition in plan.design.conditions]
    masses = dict(zip(ids, plan.design.masses, strict=True))
    targets = targets_of(study, plan)
    for _, arm in targets.group_by("arm"):
        total = float(arm["design_weight"].sum())
        assert total == pytest.approx(arm.height)
        sums = arm.group_by("condition_id").agg(pl.col("design_weight").sum())
        found = {i: weight / total for i, weight in sums.iter_rows()}
        assert found == pytest.approx(masses)


def test_what_is_outside_the_law_has_no_weight(shipped: Study) -> None:
    """The original beside an add-one design, and everything one at a time."""
    study = designed(shipped, AVERAGED, kind="add_one", trials=600)
    frame = make_plan(study).frame
    original = study.scenario.original.condition_id
    outside = frame.filter(pl.col("condition_id") == original)
    assert outside.height > 0
    assert outside["design_weight"].is_null().all()
    inside = targets_of(study, make_plan(study)).filter(pl.col("condition_id") != original)
    assert inside["design_weight"].is_not_null().all()
    alone = make_plan(designed(shipped, SIMPLE, kind="one_at_a_time", trials=600)).frame
    assert alone["design_weight"].is_null().all()


CROWDED: dict[str, tuple[str, dict[str, Any]]] = {
    "replicates and placebos": ("helpful_only", {"replicates": 2, "placebos": 10}),
    "three arms": ("three_tier", {"trials": 5000}),
    "48 conditions": ("three_tier", {"random_conditions": 48, "trials": 3000}),
}


@pytest.mark.parametrize(("library", "design"), CROWDED.values(), ids=CROWDED)
def test_fresh_conditions_take_nothing_from_the_fixed_ones(
    library: str, design: dict[str, Any], tmp_path: Path
) -> None:
    """With many factors every single change has the same trials in each arm, 35 % with the rest.

    A condition has at least one trial in every arm; where fresh ones are many, they must not be
    more than the smallest arm has trials for.
    """
    start_study(tmp_path / "study", library)
    text = (tmp_path / "study/study.toml").read_text("utf-8")
    text = re.sub(r"\[design\.levels\].*?(?=\[\[subject)", "", text, flags=re.DOTALL)
    text = re.sub(r"factors = \[.*?\]\n", "", text, flags=re.DOTALL)
    (tmp_path / "study/study.toml").write_text(text, "utf-8")
    study = load_study(tmp_path / "study")
    names = tuple(f for f, factor in study.scenario.factors.items() if not factor.surface)
    study = designed(study, AVERAGED, factors=names, **design)
    plan = make_plan(study)
    parts = parts_of(plan)
    assert abs(plan.frame.height - study.settings.design.trials) <= 40
    repeats = study.settings.design.replicates
    for _, arm in targets_of(study, plan).group_by("arm"):
        part = arm["condition_id"].replace_strict(parts)
        singles = arm.filter(part == "single").group_by("condition_id").len()["len"]
        assert singles.len() == sum(len(levels) - 1 for levels in study.factors.values())
        assert singles.max() - singles.min() <= 2 * repeats  # type: ignore[operator]
        assert (part != "random").mean() == pytest.approx(0.37, abs=0.06)


@pytest.mark.parametrize("trials", [40, 100, 1000])
def test_allocation_gives_shares_to_within_a_trial(trials: int) -> None:
    """Large shares keep their proportions when many small ones are raised to one trial each."""
    weights = [0.2, 0.1, 0.1] + [0.6 / 300] * 300
    rng = np.random.default_rng(0)
    found = allocate(weights, 7, {"train": 0.5, "deploy": 0.5}, 2 * trials, 1, rng)
    counts = [found[i, "train"].sum() for i in range(303)]
    assert min(counts) >= 1
    if trials * 0.6 / 300 >= 1:
        assert counts[:3] == pytest.approx([0.2 * trials, 0.1 * trials, 0.1 * trials], abs=1)
        assert sum(counts) == pytest.approx(trials, abs=1)
    else:
        assert sum(counts) == 303 if trials < 303 else trials
    assert abs(counts[1] - counts[2]) <= 1


def test_what_shares_its_wording_stands_together(shipped: Study) -> None:
    """Within a condition and block each wording comes in one stretch, for the prompt cache."""
    study = designed(shipped, placebos=3, trials=3000)
    plan = make_plan(study)
    keys = ["block", "condition_id", "placebo"]
    frame = plan.frame.with_columns(
        changes=pl.struct(*keys).ne_missing(pl.struct(*keys).shift()).fill_null(value=True)
    )
    groups = frame.select(keys).unique().height
    assert frame["changes"].sum() == groups
    stretches = frame.select(*keys, "wording_id").with_columns(
        new=pl.struct(*keys, "wording_id").ne_missing(pl.struct(*keys, "wording_id").shift())
    )
    assert stretches["new"].fill_null(value=True).sum() == (
        frame.select(*keys, "wording_id").unique().height
    )


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "averaged, one at a time": (
        {"kind": "one_at_a_time"}, AVERAGED,
        "study.estimand: a one_at_a_time design has simple effects only: set gap_effect_simple",
    ),
    "averaged, two stages": (
        {"kind": "two_stage"}, AVERAGED, "a two_stage design has simple effects only",
    ),
    "simple, add one": (
        {"kind": "add_one"}, SIMPLE, r"add_one design does not try .* alone.*: set gap_effect_av",
    ),
    "simple, fractional": (
        {"kind": "fractional"}, SIMPLE, r"and others alone, so that there is no simple effect: set",
    ),
    "simple, excluded": (
        {"exclude": ("examples=removed,tier_tag=original",)}, SIMPLE,
        "does not try examples=removed alone",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("design", "estimand", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_design_cannot_estimate_is_refused(
    shipped: Study, design: dict[str, Any], estimand: str, message: str
) -> None:
    """Before anything is paid, with the estimand or the design to set instead."""
    with pytest.raises(PlanError, match=message):
        make_plan(designed(shipped, estimand, **design))


TOO_FEW: dict[str, dict[str, Any]] = {
    "fresh": {},
    "fresh, replicates": {"replicates": 3},
    "repeated": {"random_conditions": 48},
    "one at a time": {"kind": "one_at_a_time"},
    "two stages": {"kind": "two_stage"},
    "placebos": {"kind": "one_at_a_time", "placebos": 5},
    "orders": {"kind": "orders"},
    "fractional": {"kind": "fractional"},
}


@pytest.mark.parametrize("design", TOO_FEW.values(), ids=TOO_FEW)
def test_too_few_trials_say_how_many_are_enough(shipped: Study, design: dict[str, Any]) -> None:
    """The design's own need is named first, then with control queries; that number is enough."""
    estimand = SIMPLE if design.get("kind") in ("one_at_a_time", "two_stage") else AVERAGED
    trials = 2
    for _ in range(2):
        with pytest.raises(PlanError, match=r"trials") as caught:
            make_plan(designed(shipped, estimand, trials=trials, **design))
        needed = int(re.findall(r"at least (\d+)", str(caught.value))[-1])
        assert needed > trials
        trials = needed
    study = designed(shipped, estimand, trials=trials, **design)
    assert make_plan(study).frame["arm"].n_unique() == 2


@pytest.mark.parametrize("kept", [0, 1])
def test_a_gap_needs_two_queries(kept: int, tiny: Path) -> None:
    """Controls do not count, and the message names the role and the number."""
    lines = (tiny / "queries.csv").read_text("utf-8").splitlines()
    targets = [line for line in lines[1:] if line.endswith(",target")]
    lines = [lines[0], *targets[:kept], "weather,What is the weather?,plain,control"]
    (tiny / "queries.csv").write_text("\n".join(lines) + "\n", "utf-8")
    with pytest.raises((PlanError, StudyError), match=r"role target.*at least two|two.*: add 1"):
        make_plan(load_study(tiny))


def test_excluded_combinations_are_never_tried(tiny: Path) -> None:
    """Neither of two removals together, nor a level of its own, and the rest is estimated."""
    replace(
        tiny / "study.toml",
        "trials = 240",
        'trials = 240\nexclude = ["rule=removed, tag=removed", "reward=filler"]\n'
        '[design.levels]\nreward = ["removed", "filler"]',
    )
    frame = make_plan(load_study(tiny)).frame
    assert frame.filter(pl.col("rule") == "removed", pl.col("tag") == "removed").is_empty()
    assert set(frame["reward"].cast(pl.String)) == {"original", "removed"}
    assert not frame.filter(pl.col("rule") == "removed", pl.col("reward") == "removed").is_empty()


def test_a_listed_design_comes_from_its_file(tiny: Path) -> None:
    """One column a factor, an empty cell for the original, each row equally often."""
    rows = "rule,reward\n,\nremoved,\nremoved,removed\n"
    (tiny / "conditions.csv").write_text(rows, "utf-8")
    replace(
        tiny / "study.toml",
        'name = "tiny"\n',
        f'name = "tiny"\nestimand = "{AVERAGED}"\n',
    )
    replace(
        tiny / "study.toml",
        "trials = 240",
        'kind = "listed"\nfile = "conditions.csv"\ntrials = 240',
    )
    frame = make_plan(load_study(tiny)).frame
    found = frame.group_by("rule", "tag", "reward").len()
    assert set(found.select(pl.col("rule", "tag", "reward").cast(pl.String)).rows()) == {
        ("original", "original", "original"),
        ("removed", "original", "original"),
        ("removed", "original", "removed"),
    }
    assert found["len"].max() - found["len"].min() <= 2  # type: ignore[operator]


LISTS = {
    "unknown column": ("rule,tagg\nremoved,\n", "`tagg` is no varied factor (did you mean `tag`?)"),
    "header alone": ("rule,tag\n", "no conditions in it: give a header of factors and a row each"),
    "a cell too many": ("rule\nremoved,removed\n", "`(one too many)` is no varied factor"),
}


@pytest.mark.parametrize(("text", "message"), LISTS.values(), ids=LISTS)
def test_lists_that_cannot_be_read(text: str, message: str, tiny: Path) -> None:
    """The file and the column are named."""
    (tiny / "conditions.csv").write_text(text, "utf-8")
    replace(
        tiny / "study.toml",
        "trials = 240",
        'kind = "listed"\nfile = "conditions.csv"\ntrials = 240',
    )
    with pytest.raises(StudyError, match=re.escape(message)):
        load_study(tiny)


def test_an_unknown_level_in_a_list_is_named(tiny: Path) -> None:
    """By the number of its row."""
    (tiny / "conditions.csv").write_text("rule\nremoved\nremove\n", "utf-8")
    replace(
        tiny / "study.toml",
        "trials = 240",
        'kind = "listed"\nfile = "conditions.csv"\ntrials = 240',
    )
    with pytest.raises(PlanError, match="listed condition 2: `rule=remove` is not tried"):
        make_plan(load_study(tiny))


def test_a_list_without_the_original_has_no_baseline(tiny: Path) -> None:
    """The original must be among the rows."""
    (tiny / "conditions.csv").write_text("rule\nremoved\n", "utf-8")
    replace(
        tiny / "study.toml",
        "trials = 240",
        'kind = "listed"\nfile = "conditions.csv"\ntrials = 240',
    )
    with pytest.raises(PlanError, match=r"the original is not among the conditions.*: add it"):
        make_plan(load_study(tiny))


KEYS = {
    "of another kind": ("resolution = 3", "design.resolution: a mixed design takes no resolution"),
    "unknown kind": ('kind = "factorial"', "no design `factorial`"),
    "file of another kind": ('file = "x.csv"', "design.file: a listed design, and no other"),
    "list without a file": ('kind = "listed"', "design.file: a listed design"),
    "file that is not there": (
        'kind = "listed"\nfile = "x.csv"', "design.file: there is no file",
    ),
    "file outside": ('kind = "listed"\nfile = "../x.csv"', "lies outside the study folder"),
    "fresh one at a time": (
        'kind = "one_at_a_time"\nrandom_conditions = "fresh"', "design.random_conditions",
    ),
    "share of all": ("first_share = 1.0", "design.first_share"),
    "no orders": ('kind = "orders"\norders = 0', "design.orders"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), KEYS.values(), ids=KEYS)
def test_keys_of_a_design_are_checked(text: str, message: str, tiny: Path) -> None:
    """A key that the kind of design does not take, or a value out of range, is named."""
    replace(tiny / "study.toml", "trials = 240", f"trials = 240\n{text}")
    with pytest.raises(StudyError, match=re.escape(message)):
        load_study(tiny)


TAKEN = {
    "resolution": ('kind = "fractional"\nresolution = 3', 4),
    "conditions": ('kind = "plackett_burman"\nconditions = 12', 8),
    "conditions of a search": ('kind = "d_optimal"\nconditions = 4', 4),
    "interactions": ('kind = "d_optimal"\nconditions = 8\ninteractions = [["rule", "tag"]]', 8),
    "orders": ('kind = "orders"\norders = 1', 3),
    "random conditions": ('kind = "random"\nrandom_conditions = 8', 8),
    "full": ('kind = "full"', 8),
}


@pytest.mark.parametrize(("text", "conditions"), TAKEN.values(), ids=TAKEN)
def test_keys_of_a_design_decide_its_size(text: str, conditions: int, tiny: Path) -> None:
    """Three factors of two levels have as many conditions as the keys say, at most 8.

    The tag stays in orders, because without it both arms are the same text: two removals.
    """
    replace(tiny / "study.toml", 'name = "tiny"\n', f'name = "tiny"\nestimand = "{AVERAGED}"\n')
    replace(tiny / "study.toml", "trials = 240", f"trials = 240\n{text}")
    assert make_plan(load_study(tiny)).frame["condition_id"].n_unique() == conditions


def test_the_second_stage_holds_the_first(shipped: Study) -> None:
    """Every trial of the first stage is in the plan of both, and the rest goes where it should."""
    study = designed(shipped, SIMPLE, kind="two_stage", first_share=0.3)
    first = make_plan(study)
    assert first.design is not None
    assert first.frame.height == pytest.approx(0.3 * 7000, abs=20)
    clear = study.scenario.condition({"conflict_clause": "removed"})
    screened = {c: Screened(0.0, 0.01) for c in first.design.conditions[1:]}
    screened[clear] = Screened(-0.5, 0.05)
    both = make_plan(study, screened=screened)
    assert set(first.trial_ids) < set(both.trial_ids)
    assert len(set(both.trial_ids)) == len(both.trial_ids)
    assert both.frame.height == pytest.approx(7000, abs=40)
    more = both.frame.filter(~pl.col("trial_id").is_in(first.trial_ids))
    counts = dict(more.group_by("condition_id").len().iter_rows())
    wanted = {clear.condition_id, study.scenario.original.condition_id}
    assert sum(counts[i] for i in wanted) > 0.95 * more.height
    assert make_plan(study, screened=screened).trial_ids == both.trial_ids
