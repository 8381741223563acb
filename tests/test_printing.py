"""Printing: a scenario as a file that reads back as itself and renders the same bytes."""

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import ARMS, Draft, chosen_levels, drafts, texts

from variants import Scenario
from variants.printing import print_scenario, toml

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
LIBRARY = Path(str(files("variants"))) / "library"
BODY = (
    "# system\n{{#ff original}}One is here. Two is there.{{#ff loud}}LOUD{{/ff}}\n"
    "# user\n{{#gg original}}x{{/gg}}{{query}}\n"
)


def reprinted(scenario: Scenario) -> Scenario:
    """The scenario read back from its own print, which is a fixed point of printing."""
    text = print_scenario(scenario)
    again = Scenario.parse(text, path="elsewhere.md")
    assert print_scenario(again) == text
    return again


@given(st.data())
@settings(max_examples=250, deadline=None, suppress_health_check=SLOW)
def test_a_printed_draft_reads_back_and_renders_alike(data: st.DataObject) -> None:
    """Traps, odd scripts and all line breaks included, every arm of some conditions is the same."""
    draft: Draft = data.draw(drafts())
    found = Scenario.parse(draft.source)
    again = reprinted(found)
    assert again == found
    for _ in range(3):
        condition = found.close(data.draw(chosen_levels(draft.levels)))
        for arm in ARMS:
            query = data.draw(texts(2))
            one = found.render(condition, arm=arm, query=query)
            assert again.render(condition, arm=arm, query=query) == one


@given(texts(8))
@settings(max_examples=200, deadline=None, suppress_health_check=SLOW)
def test_a_plain_text_becomes_a_file(text: str) -> None:
    """A file without settings is printed with them, and its text is escaped."""
    found = Scenario.parse(f" {text}")
    again = reprinted(found)
    assert again == found
    prompt = again.render(again.original, query="Q")
    assert (prompt.system, prompt.user) == (f" {text}", "Q")


@given(st.lists(texts(4), min_size=1, max_size=4), st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
def test_text_in_the_settings_comes_back(said: list[str], newline: str) -> None:
    """Names, questions, sources and arms may hold any character."""
    quoted = [toml(text) for text in said * 4]
    head = newline.join(
        [
            "+++",
            f"name = {toml('n' + said[0])}",
            "[arms]",
            f"train = {quoted[0]}",
            f"deploy = {quoted[1]}",
            "[factors.ff]",
            f"question = {quoted[2]}",
            f"source = {{ removed = {quoted[3]}, original = {quoted[0]} }}",
            "+++",
            "",
        ]
    )
    found = Scenario.parse(f"{head}# user\n{{{{query}}}}")
    again = reprinted(found)
    assert again == found
    assert again.name == "n" + said[0]
    assert again.factors["ff"].sources == {"removed": quoted_text(said, 3), "original": said[0]}


def quoted_text(said: list[str], place: int) -> str:
    """The text that stands at a place when a list is gone through again and again."""
    return said[place % len(said)]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_toml_strings(text: str) -> None:
    """Python's own reader of TOML gives back what was written."""

    assert tomllib.loads(f"a = {toml(text)}") == {"a": text}


SETTINGS = {
    "no settings": "[factors.ff]\nlevels = ['original', 'loud']\n[factors.gg]",
    "needs any": "[factors.ff]\nlevels=['original','removed','loud']\n[factors.gg]\nneeds=['ff']",
    "needs one": "[factors.ff]\nlevels=['original','loud']\n[factors.gg]\nneeds=['ff=loud']",
    "needs original": (
        "[factors.ff]\nlevels=['original','loud']\n[factors.gg]\nneeds=['ff=original']"
    ),
    "needs removed": (
        "[factors.ff]\nlevels=['original','removed','loud']\n[factors.gg]\nneeds=['ff=removed']"
    ),
    "needs with generated levels": (
        "[factors.ff]\nlevels=['original','filler','loud','moved','each-sentence']\n"
        "[factors.gg]\nneeds=['ff']"
    ),
    "generated levels": (
        "[factors.ff]\nlevels=['each-sentence','loud','original','filler','moved','removed']\n"
        "[factors.gg]\nlevels=['original','filler']"
    ),
    "sentences alone": (
        "recommended=['ff']\n[factors.ff]\nlevels=['original','loud','each-sentence']\n[factors.gg]"
    ),
    "recommended": "recommended=['gg']\n[factors.ff]\nlevels=['loud','original']\n[factors.gg]",
    "recommended levels": (
        "recommended=['ff=soft','gg','ff=loud']\n[factors.ff]\n"
        "levels=['original','loud','soft','removed']\n[factors.gg]"
    ),
    "recommended sentences": (
        "recommended=['ff=loud','ff=each-sentence']\n[factors.ff]\n"
        "levels=['original','removed','each-sentence','loud']\n[factors.gg]"
    ),
    "recommended twice": (
        "recommended=['ff=loud','ff=loud']\n[factors.ff]\nlevels=['original','removed','loud']\n"
        "[factors.gg]"
    ),
    "source table": (
        "[factors.ff]\nlevels=['original','each-sentence','loud']\n"
        "source.loud = 'me'\nsource.each-sentence = ''\n[factors.gg]"
    ),
    "one source": "[factors.ff]\nlevels=['original','loud']\nsource='me; you'\n[factors.gg]",
    "surface": (
        "recommended=['form=prose']\n[factors.ff]\nlevels=['original','loud']\n[factors.gg]\n"
        "[factors.form]\nsurface='bullets'\nlevels=['original','stars','prose']"
    ),
    "odd question": (
        "[factors.ff]\nlevels=['original','loud']\nquestion = '''+++\n# user\n\\'''\n[factors.gg]"
    ).replace("+++\n", "++ +\n"),
}  # fmt: skip


@pytest.mark.parametrize("head", SETTINGS.values(), ids=SETTINGS)
def test_settings_come_back(head: str) -> None:
    """All settings are the same again, and so are the prompts of every single level."""
    found = Scenario.parse(f"+++\n{head}\n+++\n{BODY}")
    again = reprinted(found)
    # The name is the file's where the settings give none.
    assert again == found
    for name, factor in found.factors.items():
        for level in factor.levels:
            condition = found.close({name: level})
            assert again.close({name: level}) == condition
            assert again.render(condition, query="Q") == found.render(condition, query="Q")


BODIES = {
    "heading that is text": "\\# user\nx",
    "backslashes before a heading": "\\\\\\# user\nx",
    "backslashes before a mark": "\\\\{{#gg original}}\\\\{{/gg}}\\\\\\{{#gg",
    "heading after a mark": "{{#gg original}}{{/gg}}# user\nx",
    "heading before a mark": "# user{{#gg original}}{{/gg}}",
    "heading inside a span": "{{#gg original}}a\n\\# system\n{{/gg}}",
    "heading at the end of a span": "{{#gg original}}a\n# system{{/gg}}\nx",
    "bare CR at the end": "x\r\r\n",
    "CR LF": "a\r\n\r\n{{#gg original}}b\r\n{{/gg}}\r\n",
    "blank lines": "\n\n\n",
    "nothing": "",
    "no text at the original": "{{#gg original}}{{#gg removed}}-{{/gg}}",
    "braces": "{{{#gg original}}}{{{/gg}}}",
    "right to left": "שלום{{#gg original}}\u202eעולם{{/gg}}🦊",
    "zero": "\0\ufeff\u2028\x85\x7f",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("role", ["system", "assistant"])
def test_bodies_come_back(body: str, role: str) -> None:
    """What is text stays text, and what is a mark a mark."""
    found = Scenario.parse(f"+++\n[factors.gg]\n+++\n# {role}\n{body}\n# user\n{{{{query}}}}\n")
    again = reprinted(found)
    assert again == found
    for level in ("original", "removed"):
        condition = found.close({"gg": level})
        assert again.render(condition, query="Q") == found.render(condition, query="Q")


@pytest.mark.parametrize(
    "path", sorted(LIBRARY.glob("*/*.md")), ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_the_library_comes_back(path: Path) -> None:
    """Every shipped scenario is the same after printing."""
    found = Scenario.load(path)
    assert reprinted(found) == found


def test_a_conflict_is_printed_back() -> None:
    """The change that takes the reason for a gap away is part of the settings."""
    head = '+++\nconflict = "ff=loud"\n[factors.ff]\nlevels = ["original", "loud"]\n[factors.gg]\n'
    found = Scenario.parse(f"{head}+++\n{BODY}")
    assert found.conflict == {"ff": "loud"}
    again = reprinted(found)
    assert again == found
    assert again.conflict == {"ff": "loud"}
    assert Scenario.parse(f"{head.replace('conflict', '# ')}+++\n{BODY}") != found
