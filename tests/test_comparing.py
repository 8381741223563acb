"""Comparing designs: what each offers for the same trials, in tables and in a figure."""

import itertools
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_cli import ablate

from ablate.comparing import FIGURE, Offer, Unfit, offers, write_comparison
from ablate.study import AVERAGED, SIMPLE, Study, load_study
from variants.designs import DESIGNS

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("shipped") / "study"
    assert ablate("init", folder).exit_code == 0
    return load_study(folder)


@pytest.fixture(scope="module")
def found(shipped: Study) -> dict[str, Offer | Unfit]:
    return {offer.kind: offer for offer in offers(shipped)}


def priced(study: Study, factors: list[str], **design: object) -> Study:
    """The study with these factors and a priced model."""
    path = study.root / "study.toml"
    text = path.read_text("utf-8")
    text = text.replace('"simulated/planted"', '"anthropic/claude-haiku-4-5"')
    path.write_text(text, "utf-8")
    settings = load_study(study.root).settings
    changed = settings.design.model_copy(update={"factors": tuple(factors), **design})
    return replace(load_study(study.root), settings=settings.model_copy(update={"design": changed}))


def test_every_kind_is_offered_or_refused_with_a_reason(
    found: dict[str, Offer | Unfit],
) -> None:
    """All kinds but a list that nobody gave; the study's own stands first."""
    assert next(iter(found)) == "mixed"
    assert set(found) == set(DESIGNS) - {"listed"}
    for offer in found.values():
        if isinstance(offer, Unfit):
            assert offer.reason


def test_a_kind_offers_the_estimands_that_it_has(found: dict[str, Offer | Unfit]) -> None:
    """One at a time has simple effects alone, a fraction averaged ones alone, mixed has both."""
    worst = {kind: set(o.worst) for kind, o in found.items() if isinstance(o, Offer)}
    assert worst["mixed"] == {SIMPLE, AVERAGED}
    assert worst["one_at_a_time"] == {SIMPLE}
    assert worst["fractional"] == {AVERAGED}


def test_what_is_left_of_a_joint_effect_is_counted(found: dict[str, Offer | Unfit]) -> None:
    """The share of a design's law with two others at their reference, over all pairs, by hand."""
    for kind in ("mixed", "full", "fractional", "d_optimal"):
        offer = found[kind]
        assert isinstance(offer, Offer)
        design = offer.plan.design
        assert design is not None
        assert design.masses is not None
        levels = [dict(condition.levels) for condition in design.conditions]
        shares = [
            sum(m for m, c in zip(design.masses, levels, strict=True)
                if c[a] == c[b] == "original")
            for a, b in itertools.combinations(offer.plan.varied, 2)
        ]  # fmt: skip
        assert offer.joint == pytest.approx(sum(shares) / len(shares), abs=1e-9)
    one = found["one_at_a_time"]
    assert isinstance(one, Offer)
    assert one.joint is None


def test_multi_level_factors_rule_out_fractions(shipped: Study, tmp_path: Path) -> None:
    """A kind that needs two levels says which factor has more, and what to do."""
    ablate("init", tmp_path / "study")
    study = priced(load_study(tmp_path / "study"), ["developer", "scratchpad"])
    refused = {o.kind: o.reason for o in offers(study) if isinstance(o, Unfit)}
    assert set(refused) == {"fractional", "plackett_burman"}
    assert "`developer` has 5 levels" in refused["fractional"]
    assert "d_optimal" in refused["fractional"]


def test_the_comparison_is_printed_and_drawn(tmp_path: Path) -> None:
    """Every kind has a row and a column, the figure a curve and a dot at what it costs."""
    ablate("init", tmp_path / "study")
    factors = ["scratchpad", "strategy_text", "examples", "rlhf_effect", "tier_rule"]
    study = priced(load_study(tmp_path / "study"), factors, trials=2000)
    said = write_comparison(study)
    fit = [offer for offer in offers(study) if isinstance(offer, Offer)]
    rows = {line.split()[0]: line for line in said.split("\n\n")[1].splitlines()[2:]}
    assert set(rows) == {offer.kind for offer in fit}
    for offer in fit:
        assert offer.usd is not None
        assert f"{offer.usd:,.2f}" in rows[offer.kind]
        assert f"{offer.plan.frame.height:,}" in rows[offer.kind]
    for factor in factors:
        assert len(re.findall(rf"^{factor} ", said, re.MULTILINE)) == 1
    root = ElementTree.parse(study.root / FIGURE).getroot()
    assert len(root.findall(f"{SVG}polyline")) == len(root.findall(f"{SVG}circle")) == len(fit)
    dots = sorted(float(dot.attrib["cx"]) for dot in root.findall(f"{SVG}circle"))
    by_cost = sorted(offer.usd or 0.0 for offer in fit)
    assert dots[0] < dots[-1]
    assert by_cost[0] < by_cost[-1]


def test_comparing_freezes_nothing(tiny: Path) -> None:
    """No run is planned, and the command ends well."""
    done = ablate("plan", tiny, "--compare")
    assert done.exit_code == 0, done.output
    assert not (tiny / "runs").exists()
    assert (tiny / FIGURE).is_file()
