"""claims.toml: what a study claims, and what is wrong with a file of claims."""

from pathlib import Path

import pytest
from test_cli import ablate, refused, replace

from ablate.claims import ClaimsError, Varied, claims_of, load_claims
from ablate.planning import load_plan
from ablate.study import load_study
from variants import Scenario

SOUND = """\
[[claim]]
id = "rule-1"
sentence = "It is only the rule."
kind = "eliminates"
factor = "rule"
level = "removed"
source = "A reply to the paper."

[[claim]]
id = "reward"
sentence = "The reward does not matter."
kind = "irrelevant"
factor = "reward"
level = "removed"
margin = 0.03
outcome = "af_reasoning"
estimand = "gap_effect_simple"
"""


def claiming(study: Path, text: str) -> Path:
    """The study with this claims.toml."""
    (study / "claims.toml").write_text(text, "utf-8")
    if "claims" not in (study / "study.toml").read_text("utf-8"):
        replace(study / "study.toml", 'name = "tiny"', 'name = "tiny"\nclaims = "claims.toml"')
    return study / "claims.toml"


def test_claims_are_read_with_their_defaults(tiny: Path) -> None:
    """The margin is left to the study, the estimand is the study's, but for what is eliminated."""
    claiming(tiny, SOUND + SOUND.replace("rule-1", "c").replace('"reward"\nsent', '"d"\nsent'))
    replace(tiny / "study.toml", "[design]", 'estimand = "gap_effect_averaged"\n[design]')
    text = (tiny / "claims.toml").read_text("utf-8").replace('estimand = "gap_effect_simple"\n', "")
    (tiny / "claims.toml").write_text(text, "utf-8")
    first, second, *_ = load_study(tiny).claims
    assert (first.claim_id, first.kind, first.margin) == ("rule-1", "eliminates", None)
    assert (first.estimand, first.outcome) == ("gap_effect_simple", "complied")
    assert first.source == "A reply to the paper."
    assert (second.margin, second.outcome) == (0.03, "af_reasoning")
    assert second.estimand == "gap_effect_averaged"


FAULTS = {
    "toml": ("[[claim]\n", "Expected"),
    "top key": (SOUND.replace("[[claim]]", "[[claims]]"), "claims: unknown key (did you mean `cl"),
    "not a list": ("claim = 1\n", "write each claim under [[claim]]"),
    "empty": ("", "add a [[claim]]"),
    "key": (SOUND.replace("source", "sorce"), "sorce: unknown key (did you mean `source`?)"),
    "missing": (SOUND.replace('kind = "eliminates"\n', ""), "kind: missing; add it"),
    "kind": (SOUND.replace("eliminates", "eliminate"), "did you mean `eliminates`?"),
    "later": (SOUND.replace("irrelevant", "fragile"), "is not judged yet"),
    "factor": (SOUND.replace('"rule"', '"rules"'), "unknown factor `rules` (did you mean `rule`?)"),
    "level": (SOUND.replace('level = "removed"', 'level = "remove"'), "did you mean `removed`?"),
    "reference": (SOUND.replace('level = "removed"', 'level = "original"'), "compared with"),
    "not tried": (
        SOUND.replace('level = "removed"', 'level = "filler"'),
        "add it to design.levels",
    ),
    "outcome": (SOUND.replace("af_reasoning", "reasoning"), "did you mean `af_reasoning`?"),
    "estimand": (SOUND.replace("gap_effect_simple", "simple"), "there is gap_effect_simple"),
    "what is eliminated on average": (
        SOUND.replace('source = "A reply to the paper."', 'estimand = "gap_effect_averaged"'),
        "set the estimand to gap_effect_simple",
    ),
    "margin": (SOUND.replace("0.03", '"3 points"'), "margin: must be a number"),
    "contradictory margin": (SOUND.replace("0.03", "0.6"), "set it above 0 and below 0.5"),
    "twice": (SOUND.replace("rule-1", "reward"), "id: stands twice"),
    "id": (SOUND.replace("rule-1", "rule 1"), "id: use letters"),
    "text": (SOUND.replace('"It is only the rule."', '" "'), "sentence: must be a text"),
    "size": (SOUND + "size = 0.1\n", "only `reduces` and `increases`"),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS)
def test_a_file_that_is_wrong_is_refused_by_check(text: str, message: str, tiny: Path) -> None:
    """The message names the file, the claim and the mend."""
    path = claiming(tiny, text)
    said = refused("check", tiny)
    assert message in said
    assert str(path) in said


def test_all_faults_come_at_once_each_with_its_line(tiny: Path) -> None:
    """Faults of two claims and of study.toml are in one message."""
    wrong = SOUND.replace('"rule"', '"rules"').replace("0.03", "true")
    path = claiming(tiny, wrong.replace("af_reasoning", "af_reason"))
    replace(tiny / "study.toml", "max_tokens = 256", 'reasoning = ["none", "scratchpad"]')
    said = refused("check", tiny)
    assert f"{path}:1: claim `rule-1`: factor: unknown factor `rules`" in said
    assert f"{path}:9: claim `reward`: margin: must be a number, got True" in said
    assert f"{path}:9: claim `reward`: outcome: no outcome `af_reason`" in said
    assert "reasoning: name one way of reasoning" in said


def test_a_factor_that_the_design_does_not_vary_cannot_be_claimed_about(tiny: Path) -> None:
    """The design has to try it, and averaged effects need a design that has them."""
    claiming(tiny, SOUND)
    replace(tiny / "study.toml", "[design]", '[design]\nfactors = ["rule", "tag"]')
    assert "`reward` is not varied by the design: add it to design.factors" in refused("plan", tiny)
    replace(tiny / "study.toml", ', "tag"]', ', "reward"]\nkind = "one_at_a_time"')
    assert ablate("check", tiny).exit_code in (0, 1)
    averaged = SOUND.replace("gap_effect_simple", "gap_effect_averaged")
    (tiny / "claims.toml").write_text(averaged, "utf-8")
    assert "this design has no averaged effects" in refused("plan", tiny)


def test_claims_changed_after_the_plan_are_exploratory(tiny: Path) -> None:
    """The same file is the declared family, any other one came later."""
    path = claiming(tiny, SOUND)
    assert ablate("plan", tiny).exit_code == 0
    study = load_study(tiny)
    plan = load_plan(study, study.run_dir("main"))
    assert {claim.family for claim in claims_of(study, plan)} == {"claims"}
    path.write_text(SOUND.replace("0.03", "0.04"), "utf-8")
    study = load_study(tiny)
    assert {claim.family for claim in claims_of(study, plan)} == {"exploratory"}


def test_without_a_file_every_level_is_claimed_to_do_all_and_nothing(tiny: Path) -> None:
    """Two claims for each level studied."""
    ablate("plan", tiny)
    study = load_study(tiny)
    found = claims_of(study, load_plan(study, study.run_dir("main")))
    assert {(c.factor, c.level, c.kind) for c in found} == {
        (factor, "removed", kind)
        for factor in ("rule", "tag", "reward")
        for kind in ("eliminates", "irrelevant")
    }
    assert len({c.claim_id for c in found}) == len(found) == 6
    assert study.claims == ()


def test_the_file_alone_can_be_read_with_a_scenario(tiny: Path) -> None:
    """Every fault is an entry of `problems`."""
    path = claiming(tiny, SOUND.replace('"rule"', '"rules"').replace("0.03", "true"))
    scenario = Scenario.load(tiny / "scenario.md")
    levels = {name: factor.levels for name, factor in scenario.factors.items()}
    with pytest.raises(ClaimsError) as caught:
        load_claims(path, Varied(scenario, levels, "gap_effect_simple", True))
    assert len(caught.value.problems) == 2
