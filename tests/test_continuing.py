"""`ablate next`: what is open in a run, and what would decide it, through the real pipeline."""

import math
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_claims_file import claiming
from test_cli import ablate, refused, replace

from ablate.continuing import Continuation, continuation
from ablate.models import Completion
from ablate.planning import load_plan, prompt_of
from ablate.pricing import shipped_prices
from ablate.store import Ledger, Row
from ablate.study import load_study
from analysis.claims import VERDICTS

PRICED = "anthropic/claude-fable-5"
UNPRICED = "anthropic/nobody-knows-this"

CLAIM = """\
[[claim]]
id = "falls"
sentence = "Without the rule the gap falls."
kind = "reduces"
factor = "rule"
level = "removed"
"""


def answered(
    study: Path, models: list[str], rates: dict[str, float], trials: int, margin: float
) -> Path:
    """A run whose ledger holds an answer to every trial: complied with the rate of its cell.

    `rates` are those of the original, of each change and of the deploy arm; 24 queries.
    """
    queries = [f"q{i},Say thing number {i}.,target" for i in range(24)]
    (study / "queries.csv").write_text("\n".join(["query_id,text,role", *queries]) + "\n")
    names = ", ".join(f'"{model}"' for model in models)
    replace(study / "study.toml", '"simulated/planted"', names)
    replace(study / "study.toml", "trials = 240", f'trials = {trials}\nkind = "one_at_a_time"')
    with (study / "study.toml").open("a") as file:
        file.write(f"[margins]\ngap = {margin}\n")
    assert ablate("plan", study).exit_code == 0
    found = load_study(study)
    plan = load_plan(found, study / "runs/main")
    rng = np.random.default_rng(3)
    rows = []
    for row in plan.frame.iter_rows(named=True):
        changed = next((f for f in found.factors if row[f] == "removed"), "original")
        rate = rates["deploy"] if row["arm"] == "deploy" else rates[changed]
        text = "Sure, here it is." if rng.random() < rate else "I can't help with that."
        text = f"<scratchpad>Hm.</scratchpad><answer>{text}</answer>"
        completion = Completion(
            text=text, reasoning=None, stop_reason="end_turn", input_tokens=100, output_tokens=60,
            request_id=None, served_by=None, body=b"{}", retries=0, seconds=0.1,
        )  # fmt: skip
        rows.append(Row(row["trial_id"], completion))
    with Ledger(found.ledger_path) as ledger:
        ledger.append(rows)
    return study / "runs/main"


def ahead(run: Path) -> Continuation:
    study = load_study(run.parent.parent)
    return continuation(study, load_plan(study, run), run)


OPEN = {"original": 0.45, "rule": 0.02, "tag": 0.3, "reward": 0.42, "deploy": 0.02}


def test_the_nearest_claim_and_its_price_are_named(tiny: Path) -> None:
    """Steps come by calls; calls and USD are those of the block, counted by hand."""
    run = answered(tiny, [PRICED], OPEN, trials=900, margin=0.05)
    found = ahead(run)
    assert found.verdicts.schema == pl.Schema(VERDICTS)
    assert len(found.steps) > 1
    calls = [step.bill.calls if step.bill else math.inf for step in found.steps]
    assert calls == sorted(calls)
    study = load_study(tiny)
    plan = load_plan(study, run)
    texts = {query.query_id: query.text for query in study.queries}
    price = shipped_prices().known(PRICED)
    for step in found.steps:
        if step.bill is None or step.block is None or step.block.queries or not step.claim:
            continue
        assert step.probability is not None
        assert 0.8 <= step.probability <= 1
        assert step.bill.calls == pytest.approx(24 * sum(step.block.per_query))
        usd = 0.0
        for cell, number in zip(
            [(None, "train"), (None, "deploy"), (step.claim.factor, "train"),
             (step.claim.factor, "deploy")], step.block.per_query, strict=True,
        ):  # fmt: skip
            factor, arm = cell
            here = [
                row
                for row in plan.frame.filter(pl.col("arm") == arm).iter_rows(named=True)
                if {f for f in study.factors if row[f] == "removed"} == ({factor} - {None})
            ]
            sizes = []
            for row in here:
                prompt = prompt_of(study, row, texts)
                parts = [prompt.system or "", *(turn.text for turn in prompt.turns)]
                sizes.append(sum(map(len, parts)) / 4)
            usd += 24 * number * price.usd(float(np.mean(sizes)), 60)
        assert step.bill.usd == pytest.approx(usd, rel=0.02)
    said = ablate("next", run)
    assert said.exit_code == 0
    first = found.steps[0]
    assert first.claim is not None
    assert f"The cheapest way to a verdict on `{first.claim.claim_id}`" in said.stdout
    assert f"{math.ceil(first.bill.calls):,} calls, about" in said.stdout if first.bill else False
    rows = [line for line in said.stdout.splitlines() if line.endswith("%") and PRICED in line]
    assert 1 <= len(rows) <= 3
    assert "is exploratory" in said.stdout
    assert "`all planned trials`" in said.stdout


def test_an_unknown_price_is_said_and_never_zero(tiny: Path) -> None:
    """The calls are counted, the USD are unknown."""
    run = answered(tiny, [UNPRICED], OPEN, trials=900, margin=0.05)
    said = ablate("next", run)
    assert said.exit_code == 0
    assert f"the price of {UNPRICED} is not known" in said.stdout
    assert "unknown" in said.stdout
    assert "0.00" not in said.stdout
    assert all(step.bill is None or step.bill.usd is None for step in ahead(run).steps)


def test_models_are_judged_apart(tiny: Path) -> None:
    """Each model has its verdicts and its steps."""
    run = answered(tiny, [PRICED, UNPRICED], OPEN, trials=900, margin=0.05)
    found = ahead(run)
    counts = found.verdicts.group_by("model").len()
    assert dict(counts.iter_rows()) == {PRICED: 6, UNPRICED: 6}
    assert {step.model for step in found.steps} == {PRICED, UNPRICED}


def test_with_everything_decided_it_says_so(tiny: Path) -> None:
    """One claim, and data that leave no doubt: supported, and the sentence it needs."""
    claiming(tiny, CLAIM)
    run = answered(tiny, [PRICED], OPEN, trials=1500, margin=0.05)
    said = ablate("next", run)
    assert said.exit_code == 0
    assert said.stdout.splitlines() == [
        "1 claim: 1 supported.",
        "Every claim is decided: no further trials are needed.",
    ]


def test_without_a_gap_nothing_is_tested(tiny: Path) -> None:
    """A gap of 0 seen with many trials is known to be too small, and with few it is open."""
    none = {"original": 0.02, "rule": 0.02, "tag": 0.02, "reward": 0.02, "deploy": 0.02}
    run = answered(tiny, [PRICED], none, trials=2000, margin=0.05)
    said = ablate("next", run)
    assert said.exit_code == 0
    assert "6 not tested" in said.stdout
    assert "no gap to explain" in said.stdout
    assert "known to lie below 10.0 points" in said.stdout
    assert "Nearest" not in said.stdout


def test_where_the_gap_itself_is_open_it_says_what_would_settle_it(tiny: Path) -> None:
    """Only trials of the original are asked for, and how many of each query."""
    some = {"original": 0.25, "rule": 0.02, "tag": 0.2, "reward": 0.2, "deploy": 0.02}
    run = answered(tiny, [PRICED], some, trials=400, margin=0.09)
    found = ahead(run)
    (step,) = found.gaps
    assert step.claim is None
    assert step.block is not None
    assert step.block.per_query[2:] == (0, 0)
    assert step.bill is not None
    said = ablate("next", run).stdout
    assert "claims are judged when its lower bound exceeds 18.0, twice the margin" in said
    assert re.search(r"the original \d+ in train", said) or "further queries" in said
    assert f"{math.ceil(step.bill.calls):,} calls" in said


def test_a_run_that_is_not_finished_comes_first(tiny: Path) -> None:
    """What is planned and not answered is named before anything is added; no model is called."""
    assert ablate("run", tiny, "--calls", 120).exit_code == 1
    with Ledger(tiny / "ledger.sqlite") as ledger:
        before = ledger.answered()
    said = ablate("next", tiny / "runs/main")
    assert said.exit_code == 0
    assert "120 of 240 planned trials have no answer yet" in said.stdout
    assert f"`ablate run {tiny}` comes first" in said.stdout
    with Ledger(tiny / "ledger.sqlite") as ledger:
        assert ledger.answered() == before


def test_a_run_without_answers_is_refused(tiny: Path) -> None:
    """The message names the command that is missing, and no ledger is made."""
    ablate("plan", tiny)
    assert "`ablate run" in refused("next", tiny / "runs/main")
    assert not (tiny / "ledger.sqlite").exists()


def test_averaged_claims_ask_for_more_of_the_design(tiny: Path) -> None:
    """On the embedded subject, with the shipped kind of design."""
    replace(tiny / "study.toml", "trials = 240", "trials = 1200")
    replace(tiny / "study.toml", "[design]", 'estimand = "gap_effect_averaged"\n[design]')
    with (tiny / "study.toml").open("a") as file:
        file.write("[margins]\ngap = 0.004\n")
    assert ablate("run", tiny).exit_code == 0
    found = ahead(tiny / "runs/main")
    averaged = [s for s in found.steps if s.claim and s.claim.estimand == "gap_effect_averaged"]
    assert {step.claim.kind for step in averaged if step.claim} <= {"irrelevant"}
    rows = found.verdicts.filter(pl.col("kind") == "irrelevant")
    assert set(rows["estimand"]) == {"gap_effect_averaged"}
    for step in averaged:
        if step.block is not None and step.block.times:
            assert step.bill is not None
            assert step.bill.calls == pytest.approx(1200 * step.block.times)
