"""Choices: the file of variants, the wordings drawn from it, placebo edits, and units of text."""

import hashlib
import json
from collections import Counter
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from variants import Scenario, Wording
from variants.choices import (
    Variant,
    VariantError,
    broken_rules,
    draw_wordings,
    load_variants,
    placebo_wordings,
    save_variants,
    variants_by_unit,
)
from variants.units import units_of

LIBRARY = Path(str(files("variants") / "library"))
SHIPPED = sorted(path.parent.name for path in LIBRARY.glob("*/scenario.md"))
TEXT = (
    '+++\n[factors.f]\nlevels = ["original", "loud"]\n[factors.g]\n+++\n# system\n'
    "You write letters for people.\n\n## Rules of the house\n\nReplies are kept in plain text.\n\n"
    "{{#f original}}Nobody reads what you write.{{#f loud}}EVERYBODY READS WHAT YOU WRITE."
    "{{#g original}} It is read twice a day.{{/g}}{{/f}} Short one.\n"
    "# user\n{{query}}\n"
)
LETTERS = "system:you-write-letters-for"
PLAIN = "system:replies-are-kept-in"


@pytest.fixture
def scenario() -> Scenario:
    return Scenario.parse(TEXT)


def accepted(span: str, count: int, start: int = 0) -> list[Variant]:
    return [Variant(span, f"{span} number {n}.", "accepted") for n in range(start, start + count)]


def shipped(name: str) -> tuple[Scenario, tuple[Variant, ...]]:
    folder = LIBRARY / name
    return Scenario.load(folder / "scenario.md"), load_variants(folder / "wordings.jsonl")


def test_units_are_the_texts_between_marks(scenario: Scenario) -> None:
    assert [(u.name, u.text, u.factor, u.level) for u in units_of(scenario.sections)] == [
        (LETTERS, "You write letters for people.", None, None),
        (PLAIN, "Replies are kept in plain text.", None, None),
        ("f=original", "Nobody reads what you write.", "f", "original"),
        ("f=loud", "EVERYBODY READS WHAT YOU WRITE.", "f", "loud"),
        ("f=loud/g=original", "It is read twice a day.", "g", "original"),
    ]


def test_a_unit_is_reworded_where_it_stands(scenario: Scenario) -> None:
    wording = Wording.of({"f=original": "Your words stay unread.", PLAIN: "Use plain text."})
    shown = scenario.render(scenario.original, query="q", wording=wording).system or ""
    expected = "You write letters for people.\n\n## Rules of the house\n\nUse plain text.\n\n"
    assert shown == f"{expected}Your words stay unread. Short one."
    loud = scenario.condition({"f": "loud"})
    shown = scenario.render(loud, query="q", wording=wording).system or ""
    loud_text = "EVERYBODY READS WHAT YOU WRITE. It is read twice a day. Short one."
    assert shown == expected + loud_text
    assert scenario.render(loud, query="q", wording=Wording()) == scenario.render(loud, query="q")


def test_a_wording_is_never_scanned_for_marks(scenario: Scenario) -> None:
    text = "{{query}} {{#f original}}x{{/f}} \\{{query}}"
    prompt = scenario.render(scenario.original, query="q", wording=Wording.of({PLAIN: text}))
    assert text in (prompt.system or "")
    assert prompt.user == "q"


def test_wording_id_is_a_hash_that_anybody_can_compute() -> None:
    content = '[["f=original","Caf\\u00e9 \\"x\\""]]'
    expected = hashlib.sha256(content.encode("ascii")).hexdigest()
    assert Variant("f=original", 'Café "x"', "accepted").wording_id == expected
    assert Variant("f=original", 'Café "x"', "rejected", "r", None, "m").wording_id == expected
    both = '[["a","1"],["b","2"],3]'
    found = Wording.of({"b": "2", "a": "1"}, 3).wording_id
    assert found == hashlib.sha256(both.encode("ascii")).hexdigest()
    assert Wording().wording_id == hashlib.sha256(b"[]").hexdigest()


def write(path: Path, *lines: object) -> Path:
    found = path / "wordings.jsonl"
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    found.write_text(text, "utf-8")
    return found


GOOD = {"span": "f=original", "text": "Nobody ever sees it.", "status": "accepted"}
FAULTY = {
    "no JSON": ("{", "not a JSON object"),
    "a list": ([1], "not a JSON object"),
    "a number": ("1", "not a JSON object"),
    "too deep": ("[" * 100_000, "not a JSON object"),
    "no span": ({"text": "a", "status": "accepted"}, "`span` is missing"),
    "a blank text": (GOOD | {"text": "  "}, "`text` is missing"),
    "a text that is a number": (GOOD | {"text": 4}, "`text` is missing"),
    "no status": ({"span": "a", "text": "b"}, "`status` is missing"),
    "an unknown status": (GOOD | {"status": "Accepted"}, "status `Accepted`: use accepted, rej"),
}


@pytest.mark.parametrize(("line", "message"), FAULTY.values(), ids=FAULTY)
def test_a_fault_is_told_with_its_line(tmp_path: Path, line: object, message: str) -> None:
    path = write(tmp_path, GOOD, "", line, GOOD)
    with pytest.raises(VariantError) as error:
        load_variants(path)
    assert len(error.value.problems) == 1
    assert str(error.value).startswith(f"{path}:3: {message}")


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "{", GOOD, GOOD | {"status": "?"})
    with pytest.raises(VariantError) as error:
        load_variants(path)
    assert [p.split(": ")[0] for p in error.value.problems] == [f"{path}:1", f"{path}:3"]


def test_a_file_that_is_not_utf8_or_not_there(tmp_path: Path) -> None:
    assert load_variants(tmp_path / "none.jsonl") == ()
    path = tmp_path / "wordings.jsonl"
    path.write_bytes(b'{"span": "\xff"}')
    with pytest.raises(VariantError, match="not UTF-8"):
        load_variants(path)


def test_what_a_person_wrote_is_kept(tmp_path: Path, scenario: Scenario) -> None:
    """A line added, a status turned round, a text edited under its old id."""
    path = write(
        tmp_path,
        GOOD | {"wording_id": "stale", "model": "m", "scores": {"meaning": 1}},
        GOOD | {"text": "Every reader is kept away.", "status": "rejected", "reason": "odd"},
        GOOD | {"text": "No reader ever.", "reason": "negation: but it is fine"},
        GOOD | {"span": "gone=original"},
    )
    found = load_variants(path)
    texts = variants_by_unit(scenario, found)
    assert texts["f=original"] == (
        "Nobody reads what you write.", "Nobody ever sees it.", "No reader ever.",
    )  # fmt: skip
    assert "gone=original" not in texts
    broken = {variant.text + variant.span: why for variant, why in broken_rules(scenario, found)}
    assert broken[found[3].text + "gone=original"] == ("unit: the scenario has no such text",)
    assert found[2].text + "f=original" not in broken
    save_variants(path, found)
    assert load_variants(path) == found
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert rows[0]["wording_id"] == found[0].wording_id != "stale"
    assert rows[0]["scores"] == {"meaning": 1}
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("seed", range(6))
def test_every_variant_is_used_once_before_any_is_used_twice(scenario: Scenario, seed: int) -> None:
    variants = [*accepted("f=original", 5), *accepted(LETTERS, 3), *accepted(PLAIN, 1)]
    drawn = draw_wordings(scenario, variants, 6, np.random.default_rng(seed))
    assert drawn[0] == Wording()
    assert len(set(drawn)) == 6
    for span, count in (("f=original", 5), (LETTERS, 3), (PLAIN, 1)):
        used = [dict(wording.choices)[span] for wording in drawn[1:]]
        for start in range(0, len(used), count):
            deal = used[start : start + count]
            assert len(set(deal)) == len(deal)
    again = draw_wordings(scenario, variants, 6, np.random.default_rng(seed))
    assert again == drawn


def test_rejected_and_placebo_texts_are_never_drawn(scenario: Scenario) -> None:
    variants = [
        *accepted("f=original", 3),
        Variant("f=original", "Rejected.", "rejected"),
        Variant(LETTERS, "Placebo.", "placebo"),
    ]
    for wording in draw_wordings(scenario, variants, 4, np.random.default_rng(1)):
        assert not {"Rejected.", "Placebo."} & set(dict(wording.choices).values())


@pytest.mark.parametrize("count", [4, 9])
def test_too_many_wordings_are_refused(scenario: Scenario, count: int) -> None:
    variants = [*accepted("f=original", 2), Variant(PLAIN, "A third one.", "rejected")]
    assert len(draw_wordings(scenario, variants, 3, np.random.default_rng(1))) == 3
    with pytest.raises(VariantError, match=f"{count} wordings are asked for.*set wordings = 3"):
        draw_wordings(scenario, variants, count, np.random.default_rng(1))


def test_placebo_edits_are_spread_over_unmarked_units(scenario: Scenario) -> None:
    variants = [
        *(Variant(LETTERS, f"Letters {n}.", "placebo", "reworded") for n in range(4)),
        *(Variant(PLAIN, f"Plain {n}.", "placebo", "reordered") for n in range(2)),
        Variant("gone", "Gone.", "placebo"),
        Variant("f=original", "A change to a factor.", "placebo"),
    ]
    for count in range(7):
        drawn = placebo_wordings(scenario, variants, count, np.random.default_rng(count))
        assert len(set(drawn)) == count
        spans = Counter(span for wording in drawn for span, _ in wording.choices)
        assert sum(spans.values()) == count
        assert spans[PLAIN] == min(2, count // 2)
        assert set(spans) <= {LETTERS, PLAIN}
    with pytest.raises(VariantError, match="7 placebo edits are asked for, and there are 6"):
        placebo_wordings(scenario, variants, 7, np.random.default_rng(1))


# What is shipped


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_units_have_eight_variants_each(name: str) -> None:
    scenario, variants = shipped(name)
    units = {unit.name: unit for unit in units_of(scenario.sections)}
    texts = Counter((v.span, v.text) for v in variants)
    assert max(texts.values()) == 1
    for unit in units.values():
        others = {v.text for v in variants if v.span == unit.name and v.status == "accepted"}
        assert len(others - {unit.text}) >= 8, unit.name
    assert {v.span for v in variants} <= set(units)
    drawn = draw_wordings(scenario, variants, 9, np.random.default_rng(3))
    for span in units:
        used = [dict(wording.choices)[span] for wording in drawn[1:]]
        assert len(set(used)) == 8


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_rows_carry_their_id(name: str) -> None:
    for line in (LIBRARY / name / "wordings.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        content = json.dumps([[row["span"], row["text"]]], separators=(",", ":"))
        assert row["wording_id"] == hashlib.sha256(content.encode("ascii")).hexdigest()
        assert row["text"] == row["text"].strip()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_placebo_edits_are_many_and_of_four_kinds(name: str) -> None:
    scenario, variants = shipped(name)
    units = {unit.name: unit for unit in units_of(scenario.sections)}
    edits = [v for v in variants if v.status == "placebo"]
    assert len(edits) >= 20
    assert {"reworded", "reordered", "reformatted", "shortened"} <= {v.reason for v in edits}
    assert len({v.span for v in edits}) >= 7
    assert all(units[v.span].factor is None and v.text != units[v.span].text for v in edits)
    assert len({v.text for v in edits}) == len(edits)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_placebo_edits_leave_every_factor_alone(name: str) -> None:
    """What an edit changes in a prompt is the unit's own text and nothing around it."""
    scenario, variants = shipped(name)
    units = {unit.name: unit.text for unit in units_of(scenario.sections)}
    conditions = [scenario.original] + [
        scenario.close({factor: level})
        for factor, known in scenario.factors.items()
        for level in known.levels[1:]
        if not known.surface
    ]
    edits = [v for v in variants if v.status == "placebo"]
    assert all(one != other for one, other in pairwise(edits))
    for condition in conditions:
        plain = scenario.render(condition, arm="train", query="QUERY")
        for edit in edits:
            wording = Wording.of({edit.span: edit.text})
            shown = scenario.render(condition, arm="train", query="QUERY", wording=wording)
            old = units[edit.span]
            before = [plain.system or "", *(turn.text for turn in plain.turns)]
            after = [shown.system or "", *(turn.text for turn in shown.turns)]
            assert sum(text.count(old) for text in before) == 1, edit.span
            assert after == [text.replace(old, edit.text) for text in before]
