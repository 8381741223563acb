"""Choosing: how many random conditions a plan has, its second stage, and limits that end it."""

import re
from dataclasses import replace as with_changes
from pathlib import Path

import pytest
from test_cli import ablate, refused, replace

from ablate.choosing import best_plan, choose_random
from ablate.comparing import offer_of
from ablate.planning import PlanError, load_plan
from ablate.study import AVERAGED, Study, load_study

MODEL = "anthropic/claude-haiku-4-5"
PRICES = """["{model}"]
as_of = 2026-11-01
source = "a made-up table"
input = {input}
output = {output}
cache_write = {write}
cache_read = {read}
cache_minimum = 1
batch = 0.5
"""


def study_with(folder: Path, *, input_usd: float, output_usd: float, read: float) -> Study:
    """A shipped study on a model of these prices, in one wording and with few trials."""
    assert ablate("init", folder).exit_code == 0
    replace(folder / "study.toml", '"simulated/planted"', f'"{MODEL}"')
    replace(folder / "study.toml", "wordings = 24", "wordings = 1")
    prices = PRICES.format(
        model=MODEL, input=input_usd, write=1.25 * input_usd, output=output_usd, read=read
    )
    (folder / "prices.toml").write_text(prices, "utf-8")
    return load_study(folder)


def cost_of_precision(study: Study, count: int | None) -> float:
    """USD times the mean variance of the averaged effects, from one offer."""
    offer = offer_of(study, "mixed", None, count)
    assert offer.usd is not None
    variances = [
        s.within + s.sampled for s in offer.sizes if s.estimand == AVERAGED and s.within is not None
    ]
    return offer.usd * sum(variances) / len(variances)


def test_fresh_conditions_are_chosen_where_caching_saves_little(tmp_path: Path) -> None:
    """With output that dwarfs the input, repeating conditions saves nothing and aliases more."""
    study = study_with(tmp_path / "s", input_usd=0.01, output_usd=50.0, read=0.1)
    choice = choose_random(study)
    assert choice is not None
    assert choice.conditions is None
    assert cost_of_precision(study, None) < cost_of_precision(study, 48)
    assert "for the same precision" in choice.reason


def test_repeated_conditions_are_chosen_where_they_are_cheaper(tmp_path: Path) -> None:
    """With a dear input that costs next to nothing from the cache, the plan repeats conditions."""
    study = study_with(tmp_path / "s", input_usd=100.0, output_usd=0.01, read=0.001)
    choice = choose_random(study)
    assert choice is not None
    assert choice.conditions is not None
    best = cost_of_precision(study, choice.conditions)
    assert best < cost_of_precision(study, None)
    plan, again = best_plan(study)
    assert again == choice
    assert plan.design is not None
    assert plan.design.parts.count("random") == choice.conditions


def test_a_number_in_the_settings_is_not_chosen_again(tmp_path: Path) -> None:
    """What study.toml says stands; other kinds have nothing to choose."""
    study = study_with(tmp_path / "s", input_usd=1.0, output_usd=5.0, read=0.1)
    for update in ({"random_conditions": 60}, {"kind": "one_at_a_time"}):
        design = study.settings.design.model_copy(update=update)
        changed = with_changes(study, settings=study.settings.model_copy(update={"design": design}))
        assert choose_random(changed) is None


def test_limits_that_end_the_first_block_are_refused_with_what_would_do(tiny: Path) -> None:
    """The message names the limit and two ways out, and each of them works."""
    plan, _ = best_plan(load_study(tiny))
    largest = max(plan.frame.group_by("block").len()["len"])
    text = (tiny / "study.toml").read_text("utf-8")
    (tiny / "study.toml").write_text(f"{text}\n[limits]\ncalls = {largest // 2}\n", "utf-8")
    with pytest.raises(PlanError, match=r"limits\.calls") as caught:
        best_plan(load_study(tiny))
    numbers = re.search(r"at least ([\d,]+) .* at most ([\d,]+)", str(caught.value))
    assert numbers
    least, most = (int(n.replace(",", "")) for n in numbers.groups())
    assert least == largest
    assert refused("plan", tiny)
    fewer = re.sub(r"trials = \d+", f"trials = {most}", text)
    (tiny / "study.toml").write_text(f"{fewer}\n[limits]\ncalls = {largest // 2}\n", "utf-8")
    best_plan(load_study(tiny))
    (tiny / "study.toml").write_text(f"{text}\n[limits]\ncalls = {least}\n", "utf-8")
    best_plan(load_study(tiny))


def test_a_second_stage_adds_to_the_first(tiny: Path) -> None:
    """Its plan has every trial of the first stage; run calls only the new ones."""
    text = (tiny / "study.toml").read_text("utf-8")
    text = re.sub(r"(?m)^kind = .*\n", "", text)
    text = text.replace("[design]", '[design]\nkind = "two_stage"')
    (tiny / "study.toml").write_text(text, "utf-8")
    assert "one stage of two" in ablate("plan", tiny).stdout
    assert ablate("run", tiny).exit_code == 0
    main = tiny / "runs/main"
    early = refused("plan", tiny, "--run", "second", "--after", "main")
    assert "ablate fit" in early
    for stage in ("grade", "fit"):
        assert ablate(stage, main).exit_code == 0
    assert ablate("plan", tiny, "--run", "second", "--after", "main").exit_code == 0
    study = load_study(tiny)
    first, second = (load_plan(study, tiny / "runs" / name) for name in ("main", "second"))
    assert set(first.trial_ids) < set(second.trial_ids)
    asked = study.settings.design.trials
    assert abs(second.frame.height - asked) <= 0.05 * asked + 20
    done = ablate("run", tiny, "--run", "second")
    assert f"{second.frame.height - first.frame.height} answered now" in done.stdout
    assert "planned already" in refused("plan", tiny, "--run", "second", "--after", "main")


def test_only_a_two_stage_design_has_a_second_stage(tiny: Path) -> None:
    """Asking for one elsewhere says which key to set."""
    assert ablate("run", tiny).exit_code == 0
    assert 'design.kind = "two_stage"' in refused("plan", tiny, "--run", "b", "--after", "main")
