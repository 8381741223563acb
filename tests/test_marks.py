"""The marks of a scenario file: sections, spans, escapes, and the place of every fault."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import texts

from variants import Prompt, Scenario, ScenarioError
from variants.removals import replay

HEAD = """+++
[arms]
train = "free tier"
deploy = "paid tier"
[factors.f]
levels = ["original", "removed", "loud", "soft"]
[factors.g]
levels = ["original", "removed", "loud"]
[factors.h]
+++
"""
BODY_LINE = HEAD.count("\n") + 1


def condition(text: str) -> dict[str, str]:
    """`f=removed g=loud` as levels."""
    return dict(pair.split("=") for pair in text.split())


def render(source: str, levels: str = "", arm: str = "train", query: str = "Q") -> Prompt:
    """The prompt of a scenario text."""
    scenario = Scenario.parse(source)
    return scenario.render(scenario.condition(condition(levels)), arm=arm, query=query)


def turns(prompt: Prompt) -> list[tuple[str, str]]:
    """Role and text of every turn."""
    return [(turn.role, turn.text) for turn in prompt.turns]


def fault(source: str) -> ScenarioError:
    """The error of a faulty scenario text."""
    with pytest.raises(ScenarioError) as caught:
        Scenario.parse(source)
    return caught.value


TEXTS = {
    # what is special, and what is not
    "plain text": ("Hello.", "", "Hello."),
    "nothing": ("", "", ""),
    "white space is kept": (" \t a \n\n b  ", "", " \t a \n\n b  "),
    "tags": ("<SCRATCHPAD_REASONING>x</a>", "", "<SCRATCHPAD_REASONING>x</a>"),
    "double braces": ("{{x}} {{}} {{ }}", "", "{{x}} {{}} {{ }}"),
    "templates": ("{% if a %}$x ${y} %s %(z)s {0}", "", "{% if a %}$x ${y} %s %(z)s {0}"),
    "query with a space is text": ("{{ query}}{{query }}", "", "{{ query}}{{query }}"),
    "query in capitals is text": ("{{Query}}", "", "{{Query}}"),
    "comment braces": ("{# f original #}", "", "{# f original #}"),
    "one brace before a mark": ("{{{#f original}}a{{/f}}}", "", "{a}"),
    "two braces before a mark": ("{{{{#f original}}a{{/f}}}}", "", "{{a}}"),
    "wide characters": ("é🦊שלום\u202e\u2028\x85\x0c", "", "é🦊שלום\u202e\u2028\x85\x0c"),
    "NUL": ("a\0b", "", "a\0b"),
    "lone CR": ("a\r# user\rb", "", "a\r# user\rb"),
    "settings line in the body": ("+++\nx = 1\n+++", "", "+++\nx = 1\n+++"),
    # backslashes
    "backslashes far from marks": (r"a\b \\ \n \{ \{{ \# user", "", r"a\b \\ \n \{ \{{ \# user"),
    "backslash before other braces": (r"\{{x}} \\{{x}}", "", r"\{{x}} \\{{x}}"),
    "1 before an open mark": (r"\{{#f original}}", "", "{{#f original}}"),
    "2 before an open mark": (r"\\{{#f original}}a{{/f}}", "", r"\a"),
    "3 before an open mark": (r"\\\{{#f original}}", "", r"\{{#f original}}"),
    "4 before an open mark": (r"\\\\{{#f original}}a{{/f}}", "", r"\\a"),
    "5 before an open mark": (r"\\\\\{{#f original}}", "", r"\\{{#f original}}"),
    "1 before a close mark": (r"{{#f original}}a\{{/f}}b{{/f}}", "", "a{{/f}}b"),
    "2 before a close mark": (r"{{#f original}}a\\{{/f}}b", "", "a\\b"),
    "3 before a close mark": (r"{{#f original}}a\\\{{/f}}{{/f}}", "", r"a\{{/f}}"),
    "1 before a query": (r"\{{query}}", "", "{{query}}"),
    "3 before a query": (r"\\\{{query}}", "", r"\{{query}}"),
    "1 before what is no whole mark": (r"\{{#", "", "{{#"),
    "1 before a bad close": (r"\{{/ x", "", "{{/ x"),
    "escaped, then a mark": (r"\{{#{{#f original}}a{{/f}}", "", "{{#a"),
    "escaped brace run": (r"{\{{#x}}", "", "{{{#x}}"),
    "1 before a heading": ("a\n\\# user\nb", "", "a\n# user\nb"),
    "3 before a heading": ("a\n\\\\\\# user\nb", "", "a\n\\# user\nb"),
    "escaped heading first": ("\\# system\nb", "", "# system\nb"),
    "escaped heading last": ("b\n\\# assistant", "", "b\n# assistant"),
    "escaped heading in a line": ("a \\# user\nb", "", "a \\# user\nb"),
    "escaped other heading": ("\\# tool\n\\# User\n\\## user", "", "\\# tool\n\\# User\n\\## user"),
    "escaped heading with a tail": ("\\# user \n\\# users", "", "\\# user \n\\# users"),
    "heading after a mark": (
        "{{#f original}}# user\n{{/f}}# user{{#f original}}{{/f}}",
        "",
        "# user\n# user",
    ),
    # headings that are none
    "not a heading": (
        "## user\n# User\n # user\n# user \n#user\n# tool",
        "",
        "## user\n# User\n # user\n# user \n#user\n# tool",
    ),
    # spans and levels
    "original": ("a{{#f original}}b{{/f}}c", "", "abc"),
    "removed": ("a{{#f original}}b{{/f}}c", "f=removed", "ac"),
    "named level": ("{{#f original}}a{{#f loud}}A{{/f}}", "f=loud", "A"),
    "other named level keeps the original": ("{{#f original}}a{{#f loud}}A{{/f}}", "f=soft", "a"),
    "level order in the span is free": ("{{#f loud}}A{{#f original}}a{{/f}}", "", "a"),
    "text of other levels is gone": (
        "{{#f loud}}A{{#f soft}}s{{#f original}}a{{/f}}",
        "f=soft",
        "s",
    ),
    "empty text deletes": ("x{{#f original}}a{{#f loud}}{{/f}}y", "f=loud", "xy"),
    "empty original": ("x{{#f original}}{{#f loud}}A{{/f}}y", "", "xy"),
    "no original": ("x{{#f loud}}A{{/f}}y", "", "xy"),
    "no original, added": ("x{{#f loud}}A{{/f}}y", "f=loud", "xAy"),
    "no original, other level": ("x{{#f loud}}A{{/f}}y", "f=soft", "xy"),
    "bridge": ("x{{#f original}}a{{#f removed}} b {{/f}}y", "f=removed", "x b y"),
    "bridge is not in the original": ("x{{#f original}}a{{#f removed}}b{{/f}}y", "", "xay"),
    "bridge is not in another level": ("x{{#f removed}}b{{#f original}}a{{/f}}y", "f=loud", "xay"),
    "bridge alone": ("x{{#f removed}}b{{/f}}y", "f=soft", "xy"),
    "white space belongs to the level": (
        "x\n{{#f original}}\n a \n{{#f loud}} A{{/f}}\ny",
        "",
        "x\n\n a \n\ny",
    ),
    "white space of the other level": (
        "x\n{{#f original}}\n a \n{{#f loud}} A{{/f}}\ny",
        "f=loud",
        "x\n A\ny",
    ),
    "CRLF inside a span": ("{{#f original}}\r\na\r\n{{/f}}b", "", "\r\na\r\nb"),
    "adjacent spans": ("{{#f original}}a{{/f}}{{#g original}}b{{/g}}", "", "ab"),
    # Mended: the white space that parted the cut text from what follows it goes with it.
    "between adjacent spans": (
        "{{#f original}}a{{/f}} \n{{#g original}}b{{/g}}",
        "f=removed",
        "b",
    ),
    # Mended: nothing is left for the space to part.
    "both adjacent spans away": (
        "{{#f original}}a{{/f}} {{#g original}}b{{/g}}",
        "f=removed g=removed",
        "",
    ),
    "one factor in two spans": ("{{#f original}}a{{/f}}/{{#f original}}b{{/f}}", "f=removed", "/"),
    # Mended: a dash with nothing behind it on its line reads as an empty list item.
    "a dash left alone": ("{{#f original}}a{{/f}}-{{#f original}}b{{/f}}", "f=removed", ""),
    "one span keeps, one changes": (
        "{{#f original}}a{{#f loud}}A{{/f}}{{#f original}}b{{/f}}",
        "f=loud",
        "Ab",
    ),
    # nesting
    "nested": ("{{#f original}}a{{#g original}}b{{/g}}c{{/f}}d", "", "abcd"),
    "inner away": ("{{#f original}}a{{#g original}}b{{/g}}c{{/f}}d", "g=removed", "acd"),
    "outer away": ("{{#f original}}a{{#g original}}b{{/g}}c{{/f}}d", "f=removed", "d"),
    "both away": ("{{#f original}}a{{#g original}}b{{/g}}c{{/f}}d", "f=removed g=removed", "d"),
    "level without a text keeps the inner span": (
        "{{#f original}}a{{#g original}}b{{#g loud}}B{{/g}}{{/f}}",
        "f=loud g=loud",
        "aB",
    ),
    "inner span of another level": (
        "{{#f original}}a{{#f loud}}{{#g original}}b{{/g}}A{{/f}}",
        "f=loud",
        "bA",
    ),
    "the same inner factor at two levels": (
        "{{#f original}}{{#g original}}1{{/g}}{{#f loud}}{{#g original}}2{{#g loud}}3{{/g}}{{/f}}",
        "f=loud g=loud",
        "3",
    ),
    "inner span in a bridge": (
        "{{#f original}}a{{#f removed}}{{#g original}}b{{/g}}{{/f}}",
        "f=removed",
        "b",
    ),
    "three deep": (
        "{{#f original}}{{#g original}}{{#h original}}x{{/h}}y{{/g}}z{{/f}}",
        "h=removed",
        "yz",
    ),
    "switch after a nested span": (
        "{{#f original}}{{#g original}}b{{/g}}{{#f loud}}A{{/f}}",
        "f=loud",
        "A",
    ),
    # arms
    "arm": ("{{#arm train}}free{{#arm deploy}}paid{{/arm}}", "", "free"),
    "no text for this arm": ("x{{#arm deploy}}paid{{/arm}}", "", "x"),
    "arm in a factor": ("{{#f original}}{{#arm train}}t{{#arm deploy}}d{{/arm}}!{{/f}}", "", "t!"),
    "arm in a removed factor": ("{{#f original}}{{#arm train}}t{{/arm}}!{{/f}}", "f=removed", ""),
    "factor in an arm": ("{{#arm train}}{{#f original}}t{{/f}}.{{#arm deploy}}d{{/arm}}", "", "t."),
    "removed factor in an arm": ("{{#arm train}}{{#f original}}t{{/f}}.{{/arm}}", "f=removed", "."),
    "factor in the other arm": ("{{#arm deploy}}{{#f original}}t{{/f}}.{{/arm}}", "f=loud", ""),
}


@pytest.mark.parametrize(("body", "levels", "expected"), TEXTS.values(), ids=TEXTS)
def test_a_section_renders(body: str, levels: str, expected: str) -> None:
    """A section's text at some levels in the train arm, byte for byte."""
    prompt = render(f"{HEAD}# system\n{body}\n# user\n{{{{query}}}}", levels)
    assert (prompt.system, turns(prompt)) == (expected, [("user", "Q")])


@pytest.mark.parametrize(("body", "levels", "expected"), TEXTS.values(), ids=TEXTS)
def test_a_last_section_renders(body: str, levels: str, expected: str) -> None:
    """The same texts in the last section, which ends with the file."""
    prompt = render(f"{HEAD}# user\n{{{{query}}}}\n# assistant\n{body}\n", levels)
    assert (prompt.system, turns(prompt)) == (None, [("user", "Q"), ("assistant", expected)])


# Body of the user turn, levels, the text with its bare cuts, the text that is sent, and the kinds
# of mend; the three characters `***` are the query's.
SEAMS = {
    "two spaces become one": (
        "One. {{#f original}}Two.{{/f}} Three.{{query}}",
        "f=removed",
        "One.  Three.***",
        "One. Three.***",
        ["white space"],
    ),
    "a line of its own": (
        "One.\n{{#f original}}Two.{{/f}}\nThree.{{query}}",
        "f=removed",
        "One.\n\nThree.***",
        "One.\nThree.***",
        ["white space"],
    ),
    "nothing to mend": (
        "One.{{#f original}} Two.{{/f}} Three.{{query}}",
        "f=removed",
        "One. Three.***",
        "One. Three.***",
        [],
    ),
    "white space that was odd before stays": (
        "One.  {{#f original}}Two. {{/f}}Three   four.{{query}}",
        "f=removed",
        "One.  Three   four.***",
        "One.  Three   four.***",
        [],
    ),
    "a bullet with nothing behind it": (
        "- one\n- {{#f original}}two{{/f}}\n- three\n{{query}}",
        "f=removed",
        "- one\n- \n- three\n***",
        "- one\n- three\n***",
        ["white space", "bullet"],
    ),
    "a list that counts on": (
        "1. one\n{{#f original}}2. two\n{{/f}}3. three\n{{query}}",
        "f=removed",
        "1. one\n3. three\n***",
        "1. one\n2. three\n***",
        ["numbering"],
    ),
    "a connective that pointed at the cut": (
        "{{#f original}}One is so. {{/f}}However, two is so.{{query}}",
        "f=removed",
        "However, two is so.***",
        "Two is so.***",
        ["connective", "capital"],
    ),
    "a bridge is not mended": (
        "One. {{#f original}}Two.{{#f removed}}{{/f}} Three.{{query}}",
        "f=removed",
        "One.  Three.***",
        "One.  Three.***",
        [],
    ),
    "behind the query": (
        "{{query}}\nOne. {{#f original}}Two.{{/f}} Three.",
        "f=removed",
        "***\nOne.  Three.",
        "***\nOne. Three.",
        ["white space"],
    ),
    "before the query": (
        "{{#f original}}Two. {{/f}}{{query}}",
        "f=removed",
        "***",
        "***",
        [],
    ),
    "around the query": (
        "One. {{#f original}}Two.{{/f}} {{query}} {{#g original}}Three.{{/g}} Four.",
        "f=removed g=removed",
        "One.  ***  Four.",
        "One. *** Four.",
        ["white space", "white space"],
    ),
}


@pytest.mark.parametrize(("body", "levels", "bare", "expected", "kinds"), SEAMS.values(), ids=SEAMS)
def test_seams_are_mended_and_every_mend_is_recorded(
    body: str, levels: str, bare: str, expected: str, kinds: list[str]
) -> None:
    """What is sent is the bare text with the recorded mends made, whatever the query says."""
    scenario = Scenario.parse(f"{HEAD}# system\nS.\n# user\n{body}")
    changed = scenario.condition(condition(levels))
    of_system, of_user = scenario.mends(changed, arm="train")
    assert of_system == ()
    assert [mend.kind for mend in of_user] == kinds
    assert replay(bare, of_user) == expected
    for query in ("Q", "", "a  b\n\n- ", "1. {{#f original}}"):
        prompt = scenario.render(changed, arm="train", query=query)
        assert prompt.user == expected.replace("***", query)
    assert scenario.mends(scenario.original, arm="train") == ((), ())


ARMS = {
    "switch": ("{{#arm train}}free{{#arm deploy}}paid{{/arm}}", "", "paid"),
    "no text for this arm": ("x{{#arm train}}free{{/arm}}", "", "x"),
    "empty text": ("x{{#arm deploy}}{{#arm train}}free{{/arm}}", "", "x"),
    "in a factor": ("{{#f original}}{{#arm train}}t{{#arm deploy}}d{{/arm}}!{{/f}}", "", "d!"),
    "in a level": ("{{#f original}}a{{#f loud}}{{#arm deploy}}d{{/arm}}{{/f}}", "f=loud", "d"),
    "around a factor": (
        "{{#arm deploy}}{{#f original}}t{{#f loud}}T{{/f}}.{{/arm}}",
        "f=loud",
        "T.",
    ),
    "around a nest": (
        "{{#arm deploy}}{{#f original}}a{{#g original}}b{{/g}}{{/f}}{{/arm}}",
        "g=removed",
        "a",
    ),
    "between two factors": (
        "{{#f original}}{{#arm deploy}}{{#g original}}b{{/g}}{{/arm}}{{/f}}",
        "",
        "b",
    ),
    "between two factors, outer away": (
        "{{#f original}}{{#arm deploy}}{{#g original}}b{{/g}}{{/arm}}{{/f}}x",
        "f=removed",
        "x",
    ),
}


@pytest.mark.parametrize(("body", "levels", "expected"), ARMS.values(), ids=ARMS)
def test_the_other_arm_renders(body: str, levels: str, expected: str) -> None:
    """A section's text in the deploy arm."""
    prompt = render(f"{HEAD}# system\n{body}\n# user\n{{{{query}}}}", levels, arm="deploy")
    assert prompt.system == expected


SECTIONS = {
    "user alone": ("# user\n{{query}}", None, [("user", "Q")]),
    "one line break at the end goes": ("# user\n{{query}}\n", None, [("user", "Q")]),
    "only one line break goes": ("# user\n{{query}}\n\n", None, [("user", "Q\n")]),
    "CRLF at the end goes": ("# user\r\n{{query}}\r\n", None, [("user", "Q")]),
    "lone CR at the end stays": ("# user\n{{query}}\r", None, [("user", "Q\r")]),
    "CRLF inside stays": ("# user\r\na\r\n\r\n{{query}}", None, [("user", "a\r\n\r\nQ")]),
    "CR CRLF": ("# user\n{{query}}\r\r\n", None, [("user", "Q\r")]),
    "LF CRLF": ("# user\n{{query}}\n\r\n", None, [("user", "Q\n")]),
    "mixed line breaks": ("# system\r\na\n# user\n{{query}}\r\n", "a", [("user", "Q")]),
    "blank lines inside stay": ("# system\n\na\n\n# user\n{{query}}", "\na\n", [("user", "Q")]),
    "empty system": ("# system\n# user\n{{query}}", "", [("user", "Q")]),
    "empty system with its line": ("# system\n\n# user\n{{query}}", "", [("user", "Q")]),
    "system of one blank line": ("# system\n\n\n# user\n{{query}}", "\n", [("user", "Q")]),
    "empty prefill": ("# user\n{{query}}\n# assistant\n", None, [("user", "Q"), ("assistant", "")]),
    "heading at the end of file": (
        "# user\n{{query}}\n# assistant",
        None,
        [("user", "Q"), ("assistant", "")],
    ),
    "prefill": (
        "# user\n{{query}}\n# assistant\nSure",
        None,
        [("user", "Q"), ("assistant", "Sure")],
    ),
    "few-shot": (
        "# system\ns\n# user\n1\n# assistant\n2\n# user\n{{query}}",
        "s",
        [("user", "1"), ("assistant", "2"), ("user", "Q")],
    ),
    "assistant first": (
        "# assistant\nHi\n# user\n{{query}}",
        None,
        [("assistant", "Hi"), ("user", "Q")],
    ),
    "blank lines before the first heading": ("\n \r\n# user\n{{query}}", None, [("user", "Q")]),
    "query in the system text": ("# system\n{{query}}\n# user\nGo.", "Q", [("user", "Go.")]),
    "query with text around": ("# user\na {{query}} b", None, [("user", "a Q b")]),
    "query in every arm": (
        "# user\n{{#arm train}}t{{query}}{{#arm deploy}}{{query}}d{{/arm}}",
        None,
        [("user", "tQ")],
    ),
    "query at every level": (
        "# user\n{{#h original}}a{{query}}{{#h removed}}b{{query}}{{/h}}",
        None,
        [("user", "aQ")],
    ),
    "query in a span that always shows it": (
        "# user\n{{#g original}}{{query}}{{#g removed}}{{query}}!{{/g}}",
        None,
        [("user", "Q")],
    ),
    "2 backslashes before a heading": (
        "# system\na\n\\\\# user\n{{query}}",
        "a\n\\",
        [("user", "Q")],
    ),
    "4 backslashes before a heading": (
        "# system\n\\\\\\\\# user\n{{query}}",
        "\\\\",
        [("user", "Q")],
    ),
    "escaped heading with CRLF": (
        "# system\r\n\\# user\r\n# user\r\n{{query}}",
        "# user",
        [("user", "Q")],
    ),
}


@pytest.mark.parametrize(("body", "system", "expected"), SECTIONS.values(), ids=SECTIONS)
def test_sections_begin_and_end_where_they_should(
    body: str, system: str | None, expected: list[tuple[str, str]]
) -> None:
    """A section runs from after its heading's line to before the last line break."""
    prompt = render(HEAD + body)
    assert (prompt.system, turns(prompt)) == (system, expected)


FAULTS = {
    # sections
    "nothing after the settings": ("", 1, 1, "no `# system` or `# user` heading"),
    "text before the first heading": (
        "\n  hello\n# user\n{{query}}",
        2,
        3,
        "before the first heading",
    ),
    "mark before the first heading": (
        "{{#f original}}a{{/f}}\n# user\n{{query}}",
        1,
        1,
        "before the first heading",
    ),
    "backslashes before the first heading": (
        "\\\\# user\n{{query}}",
        1,
        1,
        "before the first heading",
    ),
    "text without a heading": ("hello {{query}}", 1, 1, "before the first heading"),
    "heading in capitals": ("# User\n{{query}}", 1, 1, "before the first heading"),
    "second system": ("# system\na\n# system\nb\n# user\n{{query}}", 3, 1, "`# system` comes once"),
    "late system": ("# user\n{{query}}\n# system\nb", 3, 1, "before every other heading"),
    # malformed marks
    "two spaces": ("# user\nab {{#f  original}}{{query}}", 2, 4, "not a mark"),
    "no level": ("# user\n{{#f}}{{query}}", 2, 1, "not a mark"),
    "no name": ("# user\n{{# original}}{{query}}", 2, 1, "not a mark"),
    "capitals": ("# user\n{{#F original}}{{query}}", 2, 1, "not a mark"),
    "capital level": ("# user\n{{#f Original}}{{query}}", 2, 1, "not a mark"),
    "digit first": ("# user\n{{#1f original}}{{query}}", 2, 1, "not a mark"),
    "space before the braces": ("# user\n{{#f original }}{{query}}", 2, 1, "not a mark"),
    "tab": ("# user\n{{#f\toriginal}}{{query}}", 2, 1, "not a mark"),
    "line break in a mark": ("# user\n{{#f\noriginal}}{{query}}", 2, 1, "not a mark"),
    "one closing brace": ("# user\n{{#f original}{{query}}", 2, 1, "not a mark"),
    "cut at the end of file": ("# user\n{{query}}{{#f origin", 2, 10, "not a mark"),
    "level in a close": ("# user\n{{#f original}}a{{/f original}}{{query}}", 2, 17, "not a mark"),
    "space in a close": ("# user\n{{#f original}}a{{/ f}}{{query}}", 2, 17, "not a mark"),
    "accents": ("# user\n{{#fé original}}{{query}}", 2, 1, "not a mark"),
    # names
    "undeclared factor": (
        "# user\n{{query}}{{#ff original}}a{{/ff}}",
        2,
        10,
        "undeclared factor `ff` (did you mean `f`?)",
    ),
    "undeclared level": (
        "# user\n{{query}}\n{{#f lowd}}a{{/f}}",
        3,
        1,
        "undeclared level `lowd` of `f` (did you mean `loud`?)",
    ),
    "undeclared second level": (
        "# user\n{{query}}{{#h original}}a{{#h loud}}b{{/h}}",
        2,
        26,
        "undeclared level `loud` of `h`",
    ),
    "undeclared arm": (
        "# user\n{{query}}{{#arm trian}}a{{/arm}}",
        2,
        10,
        "undeclared arm `trian` (did you mean `train`?)",
    ),
    "arm without an arm's name": (
        "# user\n{{query}}{{#arm original}}a{{/arm}}",
        2,
        10,
        "undeclared arm `original`",
    ),
    # nesting
    "level twice": (
        "# user\n{{#f original}}a{{#f loud}}b{{#f original}}c{{/f}}{{query}}",
        2,
        29,
        "`f` has `original` twice in the span opened 2:1",
    ),
    "factor inside itself, same level": (
        "# user\n{{#f loud}}{{#f loud}}{{/f}}{{/f}}{{query}}",
        2,
        12,
        "twice",
    ),
    "factor inside itself": (
        "# user\n{{#f loud}}{{#g loud}}{{#f soft}}x{{/f}}{{/g}}{{/f}}{{query}}",
        2,
        23,
        "close `g`, opened 2:12, before switching `f`",
    ),
    "arm inside itself": (
        "# user\n{{#arm train}}{{#g loud}}{{#arm train}}x{{/arm}}{{/g}}{{/arm}}{{query}}",
        2,
        26,
        "close `g`, opened 2:15, before switching `arm`",
    ),
    "switch of an outer factor": (
        "# user\n{{#f loud}}\n {{#g loud}}b\n{{#f soft}}c{{/f}}{{query}}",
        4,
        1,
        "close `g`, opened 3:2, before switching `f`",
    ),
    "close of an outer factor": (
        "# user\n{{#f loud}}{{#g loud}}b{{/f}}{{/g}}{{query}}",
        2,
        24,
        "close `g`, opened 2:12, before closing `f`",
    ),
    "close of another factor": (
        "# user\n{{#f loud}}b{{/g}}{{/f}}{{query}}",
        2,
        13,
        "`g` is closed here but the open span is `f`, opened 2:1",
    ),
    "close without an open": (
        "# user\nab\n c{{/f}}{{query}}",
        3,
        3,
        "`f` is closed here but is not open",
    ),
    "closed twice": ("# user\n{{#f loud}}{{/f}}{{/f}}{{query}}", 2, 18, "is not open"),
    "unclosed": ("# user\na{{#f original}}b{{query}}\n", 2, 2, "`f` is opened here and not closed"),
    "unclosed inner": ("# user\n{{#f loud}}{{#g loud}}{{query}}", 2, 12, "`g` is opened here"),
    "span over two sections": (
        "# system\n{{#f original}}a\n# user\nb{{/f}}{{query}}",
        2,
        1,
        "`f` is opened here and not closed",
    ),
    "escaped close": ("# user\n{{#f loud}}\\{{/f}}{{query}}", 2, 1, "not closed"),
    "columns count characters": ("# user\né🦊\t{{/f}}{{query}}", 2, 4, "is not open"),
    "lines count with CRLF": ("# user\r\n\r\n x{{/f}}{{query}}", 3, 3, "is not open"),
    # the query
    "no query": ("# system\na\n# user\nb", 3, 1, "no {{query}}"),
    "no query, escaped": ("# user\n\\{{query}}", 1, 1, "no {{query}}"),
    "twice": ("# user\n{{query}} and\n {{query}}", 3, 2, "2 times"),
    "twice in two sections": ("# system\n{{query}}\n# user\n{{query}}", 4, 1, "2 times"),
    "twice at one level": (
        "# user\n{{query}}{{#f loud}}x{{query}}{{/f}}",
        2,
        22,
        "2 times in condition `f=loud`",
    ),
    "twice in one arm": (
        "# user\n{{query}}{{#arm deploy}}{{query}}{{/arm}}",
        2,
        25,
        "2 times in condition `original`, arm `deploy`",
    ),
    "never in one arm": (
        "# user\n{{#arm train}}{{query}}{{/arm}}",
        2,
        15,
        "never in condition `original`, arm `deploy`",
    ),
    "never at one level": (
        "# user\n{{#f original}}{{query}}{{/f}}",
        2,
        16,
        "never in condition `f=removed`",
    ),
    "never in the original": ("# user\n{{#f loud}}{{query}}{{/f}}", 2, 12, "never"),
    "never when two go together": (
        "# user\n{{#f original}}{{query}}{{#f removed}}{{#g original}}{{query}}{{/g}}{{/f}}",
        2,
        16,
        "never in condition `f=removed,g=removed`",
    ),
    "twice when two go together": (
        "# user\n{{#f original}}{{query}}{{#f removed}}{{/f}}{{#g removed}}{{query}}{{/g}}",
        2,
        59,
        "2 times in condition `g=removed`",
    ),
}


@pytest.mark.parametrize(("body", "line", "column", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_has_a_place(body: str, line: int, column: int, message: str) -> None:
    """Line and column of the fault within the body, and what the message says."""
    error = fault(HEAD + body)
    in_file = re.sub(r"\d+(?=:\d)", lambda m: str(int(m[0]) + BODY_LINE - 1), message)
    assert in_file in str(error)
    assert (error.line - BODY_LINE + 1, error.column) == (line, column)
    assert str(error).startswith(f"scenario:{error.line}:{error.column}: ")


def test_all_faults_are_told_at_once() -> None:
    """A fault in one section does not hide those of the next, nor those of the settings."""
    head = HEAD.replace("[factors.h]", '[factors.h]\nquestoin = "?"')
    error = fault(
        head + "# system\n{{#f original}}\n# user\n{{#zz original}}{{/zz}}{{/g}}{{query}}"
    )
    assert [problem.line - BODY_LINE for problem in error.problems] == [-1, 2, 4, 4]
    assert [problem.column for problem in error.problems] == [1, 1, 1, 24]


def test_deep_nesting_is_a_fault_and_no_crash() -> None:
    """A thousand spans inside one another are refused with a place."""
    names = [f"f{i}" for i in range(1000)]
    head = "+++\n" + "".join(f"[factors.{name}]\n" for name in names) + "+++\n# user\n"
    opened = "".join(f"{{{{#{name} original}}}}\n" for name in names)
    closed = "".join(f"{{{{/{name}}}}}" for name in reversed(names))
    error = fault(head + opened + "{{query}}" + closed)
    assert "deep" in str(error)
    assert 1003 < error.line < 2003


def test_fifty_spans_inside_one_another_are_fine() -> None:
    """Nesting that somebody might write is read, and the outermost removal takes all of it."""
    names = [f"f{i}" for i in range(50)]
    head = "+++\n" + "".join(f"[factors.{name}]\n" for name in names) + "+++\n# user\n"
    opened = "".join(f"{{{{#{name} original}}}}{name} " for name in names)
    closed = "".join(f"{{{{/{name}}}}}" for name in reversed(names))
    scenario = Scenario.parse(head + opened + closed + "{{query}}")
    text = scenario.render(scenario.original, query="Q").user
    assert text == " ".join(names) + " Q"
    assert scenario.render(scenario.condition({"f0": "removed"}), query="Q").user == "Q"


@given(texts(), st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_backslashes_before_marks_halve(text: str, count: int) -> None:
    """n backslashes before a mark leave n // 2, and the mark counts when n is even."""
    body = "# user\na" + "\\" * count + "{{query}}" + ("{{query}}" if count % 2 else "")
    expected = "a" + "\\" * (count // 2) + ("{{query}}" if count % 2 else "") + text
    assert render(HEAD + body, query=text).user == expected


@given(texts(), texts())
@settings(max_examples=150, deadline=None)
def test_query_text_is_never_scanned(query: str, other: str) -> None:
    """Whatever the query says, marks and headings included, it stands there as it is."""
    body = "# system\ns\n# user\n{{#f original}}a{{#f loud}}b{{/f}}{{query}}\\{{/f}}"
    for text in (query, other, query + other):
        assert render(HEAD + body, query=text).user == "a" + text + "{{/f}}"
        assert render(HEAD + body, "f=loud", query=text).user == "b" + text + "{{/f}}"
