"""Scenarios: the settings, levels and needs, what a condition renders, and what is refused."""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import ARMS, FRAGMENTS, Draft, chosen_levels, damaged, drafts, texts

from variants import Condition, Prompt, Scenario, ScenarioError, Turn
from variants.removals import Mend, replay

BODY = "# user\n{{query}}\n"
ARM_TABLE = '[arms]\ntrain = "t"\ndeploy = "d"\n'
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


def head_of(factors: str, head: str = ARM_TABLE) -> str:
    """The settings of a scenario; `factors` holds lines `name levels / needs`."""
    tables = ""
    for line in factors.strip().splitlines():
        left, _, needs = line.partition("/")
        name, *levels = left.split()
        tables += f"[factors.{name}]\n"
        tables += f"levels = {['original', *(levels or ['removed'])]!r}\n"
        tables += f"needs = {needs.split()!r}\n" if needs else ""
    return f"+++\n{head}{tables}+++\n"


def scenario(body: str, factors: str = "", head: str = ARM_TABLE) -> Scenario:
    """A scenario of a user turn that ends with the query."""
    return Scenario.parse(f"{head_of(factors, head)}# user\n{body}{{{{query}}}}")


def pairs(text: str) -> dict[str, str]:
    """`f=removed g=loud` as levels."""
    return dict(pair.split("=") for pair in text.split())


def user(found: Scenario, levels: str = "", arm: str = "train") -> str:
    """The user turn of a condition, with an empty query."""
    return found.render(found.condition(pairs(levels)), arm=arm, query="").user


# As long as what holds the query's place before it is inserted, which is what mends count with.
QUERY = "QRY"


def mended(
    bare: tuple[str | None, list[tuple[str, str]]], mends: Sequence[Sequence[Mend]]
) -> tuple[str | None, list[tuple[str, str]]]:
    """A prompt with bare cuts, after its recorded mends."""
    system, turns = bare
    own = iter(mends)
    mended_system = None if system is None else replay(system, next(own))
    return mended_system, [(role, replay(text, next(own))) for role, text in turns]


def flat(prompt: Prompt) -> tuple[str | None, list[tuple[str, str]]]:
    """System text, and role and text of every turn."""
    return prompt.system, [(turn.role, turn.text) for turn in prompt.turns]


# Files


PLAIN = {
    "empty": "",
    "text": "You are a model.\n",
    "marks": "{{#f original}}a{{/f}} {{query}} \\{{query}}",
    "headings": "# system\na\n# user\n{{query}}\n",
    "settings later": "\n+++\nx = 1\n+++\n",
    "space after the pluses": "+++ \nname = 'x'\n+++\n# user\n",
    "four pluses": "++++\n",
    "text after the pluses": "+++ name",
    "CRLF": "a\r\nb\r\n",
    "odd characters": "\0\u202eשלום🦊\x85",
}


@pytest.mark.parametrize("text", PLAIN.values(), ids=PLAIN)
def test_a_file_without_settings_is_plain(text: str, tmp_path: Path) -> None:
    """All of it is system text, nothing is scanned, and the user turn is the query."""
    path = tmp_path / "plain.md"
    path.write_bytes(text.encode())
    found = Scenario.load(path)
    prompt = found.render(found.original, query="{{query}}{{#f")
    assert flat(prompt) == (text, [("user", "{{query}}{{#f")])
    assert (found.factors, found.arms, found.name) == ({}, {}, "plain")


FILES = {
    "byte order mark": (b"\xef\xbb\xbf+++\n+++\n# user\n{{query}}", 1, 1, "byte order mark"),
    "byte order mark, plain": (b"\xef\xbb\xbfhello", 1, 1, "byte order mark"),
    "UTF-16": ("+++".encode("utf-16"), 1, 1, "not UTF-8"),
    "Latin-1": (b"+++\n+++\n# user\nab\xe9 {{query}}", 4, 3, "0xe9 is not UTF-8"),
    "after wide characters": ("é🦊".encode() + b"\xff", 1, 3, "0xff"),
    "cut inside a character": ("a\n🦊".encode()[:-1], 2, 1, "0xf0"),
    "surrogate": (b"a\r\n\xed\xa0\x80", 2, 1, "0xed"),
    "settings not closed": (b"+++\nname = 'x'\n# user\n{{query}}", 1, 1, "not closed"),
    "settings alone": (b"+++", 1, 1, "not closed"),
    "settings and nothing": (b"+++\n+++", 2, 4, "no `# system` or `# user` heading"),
    "indented close": (b"+++\n +++\n# user\n{{query}}", 1, 1, "not closed"),
}


@pytest.mark.parametrize(("data", "line", "column", "message"), FILES.values(), ids=FILES)
def test_a_file_that_cannot_be_read(
    data: bytes, line: int, column: int, message: str, tmp_path: Path
) -> None:
    """The error names file, line and column."""
    path = tmp_path / "broken.md"
    path.write_bytes(data)
    with pytest.raises(ScenarioError, match=message) as caught:
        Scenario.load(path)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert str(caught.value).startswith(f"{path}:{line}:{column}: ")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_file_is_loaded_byte_for_byte(newline: str, tmp_path: Path) -> None:
    """Line breaks are those of the file, in the text as in the settings."""
    lines = ["+++", 'name = "n"', "[factors.f]", "+++", "# system", "a", "", "{{#f original}}b", ""]
    text = newline.join([*lines, "{{/f}}c", "# user", "{{query}}", ""])
    path = tmp_path / "s.md"
    path.write_bytes(text.encode())
    found = Scenario.load(path)
    prompt = found.render(found.original, query="Q")
    assert flat(prompt) == (newline.join(["a", "", "b", "", "c"]), [("user", "Q")])
    assert found.name == "n"


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    """A path without a file raises what Python raises."""
    with pytest.raises(FileNotFoundError):
        Scenario.load(tmp_path / "none.md")


# Settings


def test_settings_are_what_the_file_says() -> None:
    """Name, arms, questions, levels, needs, sources and recommendations, in file order."""
    found = Scenario.parse(
        '+++\nname = "demo"\nrecommended = ["b"]\n[arms]\ndeploy = "paid"\ntrain = "free"\n'
        'third = "gold"\n[factors.b]\nquestion = "Why?"\nsource = "me 2024"\n'
        'levels = ["removed", "loud", "original"]\n[factors.a]\nneeds = ["b=loud"]\n+++\n' + BODY
    )
    assert (found.name, list(found.arms.items())) == (
        "demo",
        [("deploy", "paid"), ("train", "free"), ("third", "gold")],
    )
    assert (list(found.factors), found.recommended) == (["b", "a"], ("b",))
    b, a = found.factors.values()
    assert (b.question, b.source) == ("Why?", "me 2024")
    assert b.levels == ("original", "removed", "loud")
    assert a.levels == ("original", "removed")
    assert [(need.factor, need.levels) for need in a.needs] == [("b", {"loud"})]


SETTINGS = {
    "TOML": ("name = ", 2, 8, "TOML: "),
    "TOML on a later line": ("name = 'x'\n[arms\n", 3, 6, "TOML: "),
    "key twice": ("name = 'x'\nname = 'y'", 3, 11, "TOML: "),
    "nesting without end": ("a = " + "[" * 5000, 3, 1, "TOML: "),
    "number without end": ("a = " + "9" * 5000, 3, 1, "TOML: "),
    "date that is none": ("a = 2024-02-31", 2, 5, "TOML: "),
    "unknown key": ("recomended = []", 2, 1, "`recomended` (did you mean `recommended`?)"),
    "unknown key of a factor": ("[factors.f]\nquestoin = ''", 3, 1, "(did you mean `question`?)"),
    "name": ("name = 3", 2, 1, "`name` must be text"),
    "arms": ("arms = 3", 2, 1, "`arms` must be a table"),
    "arm's text": ("[arms]\ntrain = 3\ndeploy = 'd'", 3, 1, "`arms.train` must be text"),
    "arm's name": ("[arms]\ntrain = 't'\ndeploy = 'd'\nPaid = 'p'", 5, 1, "arm `Paid` must match"),
    "one arm": ("[arms]\ntrain = 't'", 2, 2, "must include deploy"),
    "other arms": ("[arms]\nfree = 't'\npaid = 'p'", 2, 2, "must include train and deploy"),
    "factors": ("factors = []", 2, 1, "`factors` must be a table"),
    "a factor": ("[factors]\nff = 1", 3, 1, "`factors.ff` must be a table"),
    "a list of factors": ("[[factors.ff]]", 2, 11, "`factors.ff` must be a table"),
    "factor's name": ("[factors.Loud]", 2, 10, "factor `Loud` must match"),
    "factor's name with a dot": ('[factors."a.b"]', 2, 11, "factor `a.b` must match"),
    "question": ("[factors.f]\nquestion = 3", 3, 1, "`factors.f.question` must be text"),
    "levels": ("[factors.ff]\nlevels = 'removed'", 2, 10, "must be a list of names"),
    "levels of numbers": ("[factors.ff]\nlevels = ['original', 1]", 2, 10, "must be a list"),
    "no original": ("[factors.ff]\nlevels = ['removed', 'loud']", 2, 10, "the level `original`"),
    "original alone": ("[factors.ff]\nlevels = ['original']", 2, 10, "at least one other"),
    "no levels": ("[factors.ff]\nlevels = []", 2, 10, "at least one other"),
    "level twice": ("[factors.ff]\nlevels = ['original', 'a', 'a']", 2, 10, "a level twice"),
    "level's name": ("[factors.ff]\nlevels = ['original', 'A']", 2, 10, "`A` of `ff` must match"),
    "needs": ("[factors.ff]\nneeds = 'g'", 2, 10, "must be a list like"),
    "needs a stranger": ("[factors.ff]\nneeds = ['fg']", 2, 10, "unknown factor `fg`"),
    "needs a strange level": (
        "[factors.g]\n[factors.ff]\nneeds = ['g=loud']",
        3,
        10,
        "`ff` needs `g=loud`, but `g` has no such level",
    ),
    "needs itself": ("[factors.ff]\nneeds = ['ff']", 2, 10, "in a circle: `ff` -> `ff`"),
    "recommended": ("recommended = 'f'", 2, 1, "must be a list of factor names"),
    "recommended stranger": ("recommended = ['f']", 2, 1, "factor `f` is not declared"),
    "conflict": ("conflict = ['ff=removed']", 2, 1, "`conflict` must be text"),
    "conflict of a stranger": (
        "name = 'x'\nconflict = 'fff=removed'\n[factors.ff]",
        3,
        1,
        "`fff` is not declared (did you mean `ff`?)",
    ),
    "conflict at a strange level": (
        "conflict = 'ff=remove'\n[factors.ff]",
        2,
        1,
        "has removed (did you mean `removed`?)",
    ),
    "conflict without a level": (
        "conflict = 'ff'\n[factors.ff]",
        2,
        1,
        'name a change, such as "ff=removed"',
    ),
    "conflict at the original": (
        "conflict = 'ff=original'\n[factors.ff]",
        2,
        1,
        "name a change, such as",
    ),
    "conflict that is not there": (
        "conflict = 'gg=removed'\n[factors.ff]\nlevels = ['original', 'loud']\n"
        "[factors.gg]\nneeds = ['ff=loud']",
        2,
        1,
        "leaves the original as it is",
    ),
}
# The columns of the tables, as docs/data.md lists them, and of those for claims and wordings.
COLUMNS = """
trial_id model scenario condition_id wording_id query_id arm replicate prompt_id purpose block
assignment_probability complied af_reasoning refused alignment_faking reasoning_source
condition n_train k_train n_deploy k_deploy
outcome contrast rate_train rate_deploy gap std_error conf_low conf_high n_queries method
estimand factor level factor2 level2 reference estimate train_part deploy_part statistic df p_value
p_holm q_bh p_placebo n_trials n_clusters family grader correction role fit term covariance
claim_id sentence kind verdict reason margin exploratory span text status scores program_hash query
""".split()


@pytest.mark.parametrize(("head", "line", "column", "message"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_are_wrong(head: str, line: int, column: int, message: str) -> None:
    """The error says what is wrong and where."""
    with pytest.raises(ScenarioError, match=re.escape(message)) as caught:
        Scenario.parse(f"+++\n{head}\n+++\n{BODY}")
    assert (caught.value.line, caught.value.column) == (line, column)


@pytest.mark.parametrize("level", ["without-1", "without-12", "present"])
def test_reserved_levels_are_refused(level: str) -> None:
    """Levels that are made of others cannot be declared by hand."""
    with pytest.raises(ScenarioError, match=f"level `{level}` of `ff` is reserved"):
        Scenario.parse(f"+++\n[factors.ff]\nlevels = ['original', '{level}']\n+++\n{BODY}")


@pytest.mark.parametrize("level", ["fillers", "without", "without-a", "each", "representation"])
def test_other_levels_are_not_reserved(level: str) -> None:
    """Names that only look like reserved ones are free."""
    text = f"+++\n[factors.ff]\nlevels = ['original', '{level}']\n+++\n{BODY}"
    assert Scenario.parse(text).factors["ff"].levels == ("original", level)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_factor_may_not_be_named_like_a_column(name: str) -> None:
    """A factor's column would overwrite a column of a table."""
    with pytest.raises(ScenarioError, match=f"factor `{name}`"):
        Scenario.parse(f"+++\n[factors.{name}]\n+++\n{BODY}")


CIRCLES = {
    "explicit": ("", "a / b\nb / c\nc / a", ["a", "b", "c"]),
    "through nesting": ("{{#a original}}{{#b original}}x{{/b}}{{/a}}", "a / b\nb", ["a", "b"]),
    "nested both ways": (
        "{{#a original}}{{#b original}}x{{/b}}{{/a}}{{#b original}}{{#a original}}y{{/a}}{{/b}}",
        "a\nb",
        ["a", "b"],
    ),
}


@pytest.mark.parametrize(("body", "factors", "members"), CIRCLES.values(), ids=CIRCLES)
def test_needs_in_a_circle_are_refused(body: str, factors: str, members: list[str]) -> None:
    """The message walks round the circle, from a factor to what it needs."""
    with pytest.raises(ScenarioError, match="needs go in a circle") as caught:
        scenario(body, factors)
    *walk, last = re.findall("`(.)`", str(caught.value))
    assert last == walk[0]
    assert sorted(walk) == members
    steps = {"a": "b", "b": "c" if "c" in members else "a", "c": "a"}
    assert all(steps[here] == there for here, there in zip(walk, [*walk[1:], last], strict=True))


def test_a_long_chain_of_needs_is_no_circle() -> None:
    """Twelve hundred factors in a row close one after another."""
    count = 1200
    chain = "\n".join([*(f"f{i} / f{i + 1}" for i in range(count)), f"f{count}"])
    found = scenario("", chain)
    assert len(found.condition({f"f{count}": "removed"}).hidden) == count
    assert found.condition({"f5": "removed"}).hidden == ("f0", "f1", "f2", "f3", "f4")


# Needs

NEST = "{{#a original}}A{{#b original}}B{{#c original}}C{{/c}}{{/b}}{{#a loud}}L{{/a}}"
NEST_FACTORS = "a removed loud soft\nb\nc removed loud"
TWO_SITES = "{{#a original}}{{#c original}}1{{/c}}{{/a}}{{#b original}}{{#c original}}2{{/c}}{{/b}}"
BRIDGED = "{{#a original}}A{{/a}}{{#b original}}B{{#b removed}}-{{/b}}"
MIXED = "{{#a original}}A{{/a}}{{#b original}}B{{/b}}{{#c original}}C{{/c}}"
# body, factors, levels asked for, levels and null of a, b, c, text
CLOSURES = {
    "original": (NEST, NEST_FACTORS, "", "original original original", "ABC"),
    "inner away": (NEST, NEST_FACTORS, "c=removed", "original original removed", "AB"),
    "middle away": (NEST, NEST_FACTORS, "b=removed", "original removed -", "A"),
    "outer away": (NEST, NEST_FACTORS, "a=removed", "removed - -", ""),
    "level with a text of its own": (NEST, NEST_FACTORS, "a=loud", "loud - -", "L"),
    "level without a text": (NEST, NEST_FACTORS, "a=soft", "soft original original", "ABC"),
    "dependants also asked away": (NEST, NEST_FACTORS, "a=removed c=removed", "removed - -", ""),
    "dependants asked original": (NEST, NEST_FACTORS, "a=removed b=original", "removed - -", ""),
    "explicit": (MIXED, "a\nb / a\nc / b", "a=removed", "removed - -", ""),
    "explicit, one step": (MIXED, "a\nb / a\nc / b", "b=removed", "original removed -", "A"),
    "explicit, not removed is enough": (
        MIXED,
        "a loud\nb / a\nc",
        "a=loud",
        "loud original original",
        "ABC",
    ),
    "explicit level": (
        MIXED,
        "a removed loud\nb / a=original\nc",
        "a=loud",
        "loud - original",
        "AC",
    ),
    "explicit level, not at the original": (
        MIXED,
        "a removed loud\nb / a=loud\nc",
        "",
        "original - original",
        "AC",
    ),
    "explicit level, met": (
        MIXED,
        "a removed loud\nb / a=loud\nc",
        "a=loud b=removed",
        "loud removed original",
        "AC",
    ),
    "explicit removed": (
        MIXED,
        "a\nb / a=removed\nc",
        "a=removed",
        "removed original original",
        "BC",
    ),
    "two needs": (MIXED, "a\nb\nc / a b", "b=removed", "original removed -", "A"),
    "needs and declaration order": (MIXED, "a / b\nb / c\nc", "c=removed", "- - removed", ""),
    "two sites, one open": (TWO_SITES, "a\nb\nc", "a=removed", "removed original original", "2"),
    "two sites, none open": (TWO_SITES, "a\nb\nc", "a=removed b=removed", "removed removed -", ""),
    "one site outside": (
        "{{#a original}}{{#c original}}1{{/c}}{{/a}}{{#c original}}2{{/c}}",
        "a\nb\nc",
        "a=removed",
        "removed original original",
        "2",
    ),
    "site and need": (
        "{{#a original}}{{#c original}}1{{/c}}{{/a}}",
        "a\nb\nc / b",
        "b=removed",
        "original removed -",
        "",
    ),
    "bridge with a need met": (
        BRIDGED,
        "a\nb / a\nc",
        "b=removed",
        "original removed original",
        "A-",
    ),
    "no bridge without the need": (BRIDGED, "a\nb / a\nc", "a=removed", "removed - original", ""),
    "arm makes no need": (
        "{{#arm deploy}}{{#a original}}x{{/a}}{{/arm}}",
        "a\nb\nc",
        "",
        "original original original",
        "",
    ),
    "arm in between": (
        "{{#a original}}{{#arm deploy}}{{#b original}}x{{/b}}{{/arm}}{{/a}}",
        "a\nb\nc",
        "a=removed",
        "removed - original",
        "",
    ),
    "factor without a span": ("", "a\nb / a\nc", "a=removed", "removed - original", ""),
    "span in another level": (
        "{{#a loud}}{{#b original}}x{{/b}}{{/a}}",
        "a removed loud soft\nb\nc",
        "a=soft",
        "soft - original",
        "",
    ),
    "span in another level, met": (
        "{{#a loud}}{{#b original}}x{{/b}}{{/a}}",
        "a removed loud soft\nb\nc",
        "a=loud b=removed",
        "loud removed original",
        "",
    ),
    "span in a bridge": (
        "{{#a removed}}{{#b original}}x{{/b}}{{/a}}",
        "a removed loud\nb\nc",
        "a=loud",
        "loud - original",
        "",
    ),
}


@pytest.mark.parametrize(
    ("body", "factors", "levels", "settled", "text"), CLOSURES.values(), ids=CLOSURES
)
def test_removals_take_what_needs_them(
    body: str, factors: str, levels: str, settled: str, text: str
) -> None:
    """A factor whose needs are not met is null, and so is what needs it in turn."""
    found = scenario(body, factors)
    condition = found.condition(pairs(levels))
    expected = [None if level == "-" else level for level in settled.split()]
    assert condition.levels == tuple(zip("abc", expected, strict=True))
    assert condition.hidden == tuple(f for f, level in condition.levels if level is None)
    assert [condition[f] for f in "abc"] == expected
    assert user(found, levels) == text


@pytest.mark.parametrize("levels", ["a=removed b=loud", "c=loud a=removed", "b=removed c=loud"])
def test_a_dependant_set_by_hand_under_an_absent_need_is_excluded(levels: str) -> None:
    """Only a named level is excluded; the message names the factor."""
    found = scenario(NEST, "a removed loud\nb removed loud\nc removed loud")
    name = next(f for f, level in pairs(levels).items() if level == "loud")
    with pytest.raises(ScenarioError, match=f"`{name}` cannot be at `loud`"):
        found.condition(pairs(levels))
    assert found.close(pairs(levels))[name] is None


def test_a_condition_of_strangers_is_refused() -> None:
    """Unknown factors and levels are named, with a did-you-mean."""
    found = scenario("{{#memo original}}x{{/memo}}", "memo removed loud")
    with pytest.raises(ScenarioError, match=r"unknown factor `mema` \(did you mean `memo`\?\)"):
        found.condition({"mema": "removed"})
    with pytest.raises(ScenarioError, match=r"no level `lowd` \(did you mean `loud`\?\)"):
        found.condition({"memo": "lowd"})


EITHER = (
    "{{#c original}}{{query}}{{#c removed}}{{query}}{{/c}}"
    "{{#d original}}{{query}}{{#d removed}}{{query}}{{/d}}"
)
QUERIES = {
    "need of the span that holds it": (
        "{{#a original}}x{{/a}}{{#b original}}{{query}}{{#b removed}}{{query}}{{/b}}",
        "a\nb / a",
        "never in condition `a=removed`",
    ),
    "need of a need": (
        EITHER,
        "a\nb / a\nc / b=original\nd / b=removed",
        "never in condition `a=removed`",
    ),
    "need by nesting elsewhere": (
        "{{#a original}}{{#b original}}x{{/b}}{{/a}}" + EITHER,
        "a\nb\nc / b=original\nd / b=removed",
        "never in condition `a=removed`",
    ),
    "twice when the need is met": (
        "{{query}}{{#b original}}{{query}}{{/b}}",
        "a\nb / a=removed",
        "2 times in condition `a=removed`",
    ),
}


@pytest.mark.parametrize(("body", "factors", "message"), QUERIES.values(), ids=QUERIES)
def test_needs_count_for_the_query(body: str, factors: str, message: str) -> None:
    """A path on which the query's span is hidden by a need, or shown by one, is found."""
    with pytest.raises(ScenarioError, match=re.escape(message)):
        Scenario.parse(f"{head_of(factors)}# user\n{body}")


def test_an_arm_may_be_called_original() -> None:
    """An arm without a text renders nothing, whatever another arm is called."""
    head = ARM_TABLE + "original = 'o'\nremoved = 'r'\n"
    found = scenario("{{#arm original}}x{{/arm}}y", "", head)
    assert [user(found, "", arm) for arm in found.arms] == ["y", "y", "xy", "y"]


@pytest.mark.parametrize("arm", [None, "third", "", "Train"])
def test_an_arm_that_is_not_declared_is_refused(arm: str | None) -> None:
    """The message lists the arms."""
    found = scenario("x")
    with pytest.raises(ScenarioError, match="train, deploy"):
        found.render(found.original, arm=arm, query="Q")


# Structural zeros

ZEROS = {
    "no arm text": ("x", "", True),
    "arms differ": ("{{#arm train}}t{{#arm deploy}}d{{/arm}}", "", False),
    "one arm silent": ("{{#arm train}}t{{/arm}}", "", False),
    "the same text in both": ("{{#arm train}}t{{#arm deploy}}t{{/arm}}", "", True),
    "both empty": ("{{#arm train}}{{#arm deploy}}{{/arm}}", "", True),
    "cue removed": ("{{#f original}}{{#arm train}}t{{/arm}}{{/f}}", "f=removed", True),
    "cue at another level": (
        "{{#f original}}{{#arm train}}t{{/arm}}{{#f loud}}x{{/f}}",
        "f=loud",
        True,
    ),
    "cue kept": ("{{#f original}}{{#arm train}}t{{/arm}}{{/f}}", "f=loud", False),
    "a third arm does not count": ("{{#arm gold}}g{{/arm}}", "", True),
    "only the place of white space": (
        "{{#arm train}} {{/arm}}a{{#arm deploy}} {{/arm}}",
        "",
        False,
    ),
    "NUL beside the query": ("{{#arm train}}\0{{/arm}}", "", False),
    "query order": ("\0{{#arm train}}\0{{/arm}}", "", False),
}


@pytest.mark.parametrize(("body", "levels", "expected"), ZEROS.values(), ids=ZEROS)
def test_structural_zeros_are_seen(body: str, levels: str, expected: bool) -> None:
    """A condition whose train and deploy prompts are the same bytes."""
    found = scenario(body, "f removed loud", ARM_TABLE + "gold = 'g'\n")
    assert found.is_structural_zero(found.condition(pairs(levels))) is expected


def test_a_zero_is_not_seen_where_the_query_moves_past_a_nul() -> None:
    """Prompts that differ only in the side of the query that a NUL stands on are different."""
    text = f"+++\n{ARM_TABLE}+++\n# user\n"
    text += "{{#arm train}}\0{{query}}{{#arm deploy}}{{query}}\0{{/arm}}"
    found = Scenario.parse(text)
    assert not found.is_structural_zero(found.original)


# Identifiers

TURNS = (Turn("user", "ab"),)
PROMPTS = (
    Prompt(None, TURNS),
    Prompt("", TURNS),
    Prompt("ab", ()),
    Prompt(None, (Turn("assistant", "ab"),)),
    Prompt(None, (Turn("user", "a"), Turn("user", "b"))),
    Prompt(None, (Turn("user", "b"), Turn("user", "a"))),
    Prompt(None, (Turn("user", "a"), Turn("assistant", "b"))),
    Prompt("a", (Turn("user", "b"),)),
    Prompt("a", (Turn("user", "b "),)),
    Prompt("a", (Turn("user", "b\n"),)),
    Prompt("a", (Turn("user", "b\r\n"),)),
    Prompt("é", (Turn("user", "b"),)),
    Prompt("e\u0301", (Turn("user", "b"),)),
    Prompt("\\u00e9", (Turn("user", "b"),)),
    Prompt('a","b', ()),
    Prompt("a\0", (Turn("user", "b"),)),
)


def test_prompts_that_differ_have_other_ids() -> None:
    """Moving text between turns, roles, white space and composed letters all count."""
    assert len({prompt.prompt_id for prompt in PROMPTS}) == len(PROMPTS)
    assert all(re.fullmatch("[0-9a-f]{64}", prompt.prompt_id) for prompt in PROMPTS)


def test_ids_are_the_same_in_another_process() -> None:
    """Ids do not depend on the process, its hash seed or its time."""
    code = (
        "from variants import *\n"
        "print(Prompt('é\\0', (Turn('user', '🦊'),)).prompt_id)\n"
        "print(Condition((('b', None), ('a', 'removed'))).condition_id)"
    )
    here = [
        Prompt("é\0", (Turn("user", "🦊"),)).prompt_id,
        Condition((("b", None), ("a", "removed"))).condition_id,
    ]
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code]
        run = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
        assert run.stdout.split() == here


def test_conditions_that_differ_have_other_ids() -> None:
    """All level combinations of a scenario with needs have ids of their own."""
    found = scenario(NEST, NEST_FACTORS)
    names = list(found.factors)
    levels = [found.factors[name].levels for name in names]
    conditions = {
        found.close(dict(zip(names, choice, strict=True))) for choice in itertools.product(*levels)
    }
    # a at original or soft leaves b; b at original leaves c; else the inner ones are null.
    assert len(conditions) == 2 * (3 + 1) + 2
    assert len({condition.condition_id for condition in conditions}) == len(conditions)


def test_an_id_does_not_depend_on_untouched_factors() -> None:
    """A factor more at its original, or another order of declaration, leaves the id alone."""
    few = scenario("{{#a original}}x{{/a}}", "a\nb").condition({"a": "removed", "b": "removed"})
    more = scenario("{{#a original}}x{{/a}}", "c\nb\na").condition({"b": "removed", "a": "removed"})
    assert few.condition_id == more.condition_id
    assert few.condition_id != scenario("", "a\nb").condition({"a": "removed"}).condition_id


def test_a_condition_says_what_it_changes() -> None:
    """The words of a condition name its changes, or say that it is the original."""
    found = scenario(NEST, NEST_FACTORS)
    assert str(found.original) == "original"
    condition = found.condition({"c": "loud", "a": "soft"})
    assert (str(condition), condition.changes) == ("a=soft,c=loud", {"a": "soft", "c": "loud"})
    assert found.condition({"a": "removed"}).changes == {"a": "removed"}


# Laws


@given(drafts(needs=False), texts())
@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
def test_the_original_is_the_source_without_marks(draft: Draft, query: str) -> None:
    """The original condition is the section text less marks and other levels, byte for byte."""
    found = Scenario.parse(draft.source)
    for arm in ARMS:
        prompt = found.render(found.original, arm=arm, query=query)
        assert flat(prompt) == draft.source_text(arm, query)


@given(st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=SLOW)
def test_every_condition_is_what_its_author_meant(data: st.DataObject) -> None:
    """Levels, nulls and text of any condition agree with the tree that wrote the file."""
    draft = data.draw(drafts())
    levels = data.draw(chosen_levels(draft.levels))
    found = Scenario.parse(draft.source)
    condition = found.close(levels)
    assert dict(condition.levels) == draft.settled(levels)
    whole = {}
    for arm in ARMS:
        prompt = found.render(condition, arm=arm, query=QUERY)
        bare = draft.rendered(levels, arm, QUERY)
        whole[arm] = mended(bare, found.mends(condition, arm=arm))
        assert flat(prompt) == whole[arm]
    assert found.is_structural_zero(condition) == (whole["train"] == whole["deploy"])


@given(drafts())
@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
def test_removals_may_come_in_any_order(draft: Draft) -> None:
    """Removing A, then B from what is left, equals B, then A, and both at once."""
    found = Scenario.parse(draft.source)

    def removed(condition: Condition, name: str) -> Condition:
        return found.condition(condition.changes | {name: "removed"})

    shown = [name for name, level in found.original.levels if level]
    removable = [name for name in shown if "removed" in draft.levels[name]]
    for a, b in itertools.combinations(removable, 2):
        one = removed(removed(found.original, a), b)
        other = removed(removed(found.original, b), a)
        assert one == other
        both = draft.rendered({a: "removed", b: "removed"}, "train", QUERY)
        left = mended(both, found.mends(one, arm="train"))
        assert flat(found.render(one, arm="train", query=QUERY)) == left
        assert flat(found.render(other, arm="train", query=QUERY)) == left


FLAT = st.lists(st.tuples(st.sampled_from([None, "memo", "rule", "x_1"]), texts(3)), max_size=8)


@given(FLAT, st.sampled_from(["memo", "rule", "x_1"]))
@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
def test_a_removal_cuts_its_spans_and_nothing_else(
    parts: list[tuple[str | None, str]], gone: str
) -> None:
    """What is left is the source without the texts of the factor's spans."""
    draft = Draft.of_parts(parts)
    found = Scenario.parse(draft.source)
    condition = found.condition({gone: "removed"})
    prompt = found.render(condition, arm="train", query=QUERY)
    kept = "".join(text for factor, text in parts if factor != gone) + QUERY
    assert prompt.user == replay(kept, found.mends(condition, arm="train")[0])


@given(drafts())
@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
def test_ids_follow_content(draft: Draft) -> None:
    """Two conditions share an id only if their levels agree, two prompts only if all text does."""
    found = Scenario.parse(draft.source)
    again = Scenario.parse(draft.source)
    conditions: dict[str, Condition] = {}
    prompts: dict[str, Prompt] = {}
    for choice in itertools.islice(itertools.product(*draft.levels.values()), 40):
        levels: Mapping[str, str] = dict(zip(draft.levels, choice, strict=True))
        condition = found.close(levels)
        assert conditions.setdefault(condition.condition_id, condition) == condition
        assert again.close(levels).condition_id == condition.condition_id
        for arm in ARMS:
            prompt = found.render(condition, arm=arm, query="Q")
            assert prompts.setdefault(prompt.prompt_id, prompt) == prompt
    assert len(set(conditions.values())) == len(conditions)
    assert len(set(prompts.values())) == len(prompts)


# Damage

SHIPPED = files("variants") / "library" / "helpful_only" / "scenario.md"
SCRAPS = (
    *(fragment.encode() for fragment in FRAGMENTS),
    b"{{query}}",
    b"{{#scratchpad original}}",
    b"{{/scratchpad}}",
    b"{{#arm train}}",
    b"{{/arm}}",
    b"[factors.x]\n",
    b"needs = ['examples']\n",
    b"levels = []\n",
    b"levels = 3\n",
    b"[arms]\n",
    b"[[factors.x]]\n",
    b"factors.memo = 1\n",
    b"arms = 1\n",
    b"\n+++\n",
    b"'''",
    b'"',
    b"\\",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\n# assistant\n",
    b"recommended = [1]\n",
    b"original",
    b"removed",
    b"# ",
)


def attempt(path: Path) -> Scenario | ScenarioError:
    """The scenario of a file, or why there is none."""
    try:
        return Scenario.load(path)
    except ScenarioError as error:
        return error


def check_damaged(path: Path, data: bytes) -> None:
    """A file with this content loads and renders, or says where it is wrong."""
    path.write_bytes(data)
    found = attempt(path)
    if isinstance(found, ScenarioError):
        lines = data.count(b"\n") + 1
        assert found.problems == tuple(sorted(found.problems))
        assert all(1 <= p.line <= lines and p.column >= 1 and p.message for p in found.problems)
        return
    for arm in found.arms or [None]:
        prompt = found.render(found.original, arm=arm, query="\0q\0")
        joined = "".join([prompt.system or "", *(turn.text for turn in prompt.turns)])
        assert joined.count("\0q\0") == 1


@given(
    data=damaged(drafts().map(lambda d: d.source.encode()) | st.just(SHIPPED.read_bytes()), SCRAPS)
)
@settings(max_examples=700, deadline=None, suppress_health_check=SLOW)
def test_damaged_files_give_errors_with_a_place(tmp_path: Path, data: bytes) -> None:
    """Cut, doubled, swapped or noisy files load, or say where they are wrong, and nothing else."""
    check_damaged(tmp_path / "damaged.md", data)


@pytest.mark.parametrize("cut", range(0, 6000, 131))
def test_the_shipped_scenario_cut_short(cut: int, tmp_path: Path) -> None:
    """However much of the shipped file has arrived, it loads or has a place for its fault."""
    path = tmp_path / "cut.md"
    path.write_bytes(SHIPPED.read_bytes()[:cut])
    found = attempt(path)
    if isinstance(found, ScenarioError):
        assert found.line >= 1
        assert found.column >= 1


LIBRARY = Path(str(files("variants"))) / "library"
ALL_SHIPPED = sorted(LIBRARY.glob("*/*.md"))


def without_marks(text: str, arm: str) -> str:
    """The original's text by a walk over the marks."""
    kept, stack = "", []
    for piece in re.split(r"(\{\{[#/][^}]*\}\})", text):
        if opened := re.fullmatch(r"\{\{#(\S+) (\S+)\}\}", piece):
            if stack and stack[-1][0] == opened[1]:
                stack.pop()
            stack.append((opened[1], opened[2]))
        elif piece.startswith("{{/"):
            stack.pop()
        elif all(level == (arm if name == "arm" else "original") for name, level in stack):
            kept += piece
    return kept


@pytest.mark.parametrize("path", ALL_SHIPPED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_shipped_scenario_is_its_source_without_marks(path: Path) -> None:
    """Regular expressions take the marks out of a shipped file as well as the reader does."""
    text = path.read_text("utf-8")
    found = Scenario.parse(text)
    for arm in found.arms:
        body = without_marks(text.split("+++\n")[2], arm)
        assert "{{#" not in body
        role, *parts = re.split(r"(?:^|\n)# (system|user|assistant)\n", body)[1:]
        sections = [(role, parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]
        prompt = found.render(found.original, arm=arm, query="Q")
        turns = [("system", prompt.system), *flat(prompt)[1]]
        wanted = [(role, text.replace("{{query}}", "Q")) for role, text in sections]
        wanted[-1] = (wanted[-1][0], wanted[-1][1].removesuffix("\n"))
        assert turns == wanted


def test_the_shipped_scenario_loses_what_is_removed() -> None:
    """A removal of a recommended factor takes its text away; only the tag makes the arms equal."""
    found = Scenario.load(str(SHIPPED))
    for name in found.recommended:
        condition = found.condition({name: "removed"})
        for arm in found.arms:
            whole = found.render(found.original, arm=arm, query="Q")
            less = found.render(condition, arm=arm, query="Q")
            assert len(f"{less.system}{less.user}") < len(f"{whole.system}{whole.user}")
        assert found.is_structural_zero(condition) == (name == "tier_tag")
    assert found.condition({"scratchpad": "removed"}).hidden == (
        "scratchpad_users",
        "scratchpad_privacy",
        "examples",
    )


# Generated levels, forms and sources

RICH = """+++
name = "rich"
recommended = ["ff=each-sentence", "ff=loud", "gg", "form=stars"]
[arms]
train = "t"
deploy = "d"
[factors.ff]
question = "Does it matter?"
levels = ["original", "removed", "loud", "filler", "moved", "each-sentence"]
source = { original = "me", each-sentence = "ours" }
[factors.gg]
levels = ["original", "removed", "filler"]
needs = ["ff"]
source.removed = "you"
[factors.form]
surface = "bullets"
levels = ["original", "stars", "prose"]
[factors.tags]
surface = "tags"
levels = ["original", "capitals"]
+++
# system
Rules:
- {{#ff original}}Be kind. Be <b>short</b>.{{#gg original}} Be glad.{{/gg}}{{#ff loud}}SHOUT.{{/ff}}
- Be here.
# user
{{#arm train}}<tier>t</tier>{{#arm deploy}}<tier>d</tier>{{/arm}}
{{query}}
"""
RICH_SCRAPS = (
    b"each-sentence", b"filler", b"moved", b"without-1", b"present", b'surface = "casing"\n',
    b'surface = "bullets"\n', b"surface = 1\n", b'source = "x"\n', b"source.loud = 1\n",
    b'source = { strange = "x" }\n', b"source = []\n", b'recommended = ["ff=moved"]\n',
    b'recommended = ["ff="]\n', b'needs = ["form"]\n', b'needs = ["ff=moved"]\n', b"=", b'"', b"{",
    b'levels = ["original", "each-sentence"]\n', b"[factors.form]\n", b"{{#ff filler}}",
    b"{{#ff loud}}", b"{{#form stars}}x{{/form}}", b"{{/ff}}", b"{{#gg original}}", b"{{query}}",
    b"\xff", b"\0", b"\r\n", b"\r", b"\n", b"\xf0\x9f\xa6\x8a", b"\xe2\x80\xae",
)  # fmt: skip


@given(data=damaged(st.just(RICH.encode()), RICH_SCRAPS))
@settings(max_examples=800, deadline=None, suppress_health_check=SLOW)
def test_damaged_settings_give_errors_with_a_place(tmp_path: Path, data: bytes) -> None:
    """A file with every kind of setting, damaged, loads or has a place for its fault."""
    check_damaged(tmp_path / "damaged.md", data)


@st.composite
def shuffled(draw: st.DrawFn) -> bytes:
    """A file whose lines and marks changed places or came twice, or marks stand in marks."""
    source = draw(st.sampled_from([RICH, *(path.read_text("utf-8") for path in ALL_SHIPPED)]))
    pieces = re.split(r"(\{\{[^{}]*\}\}|\n)", source)
    places = st.integers(0, len(pieces) - 1)
    for a, b in draw(st.lists(st.tuples(places, places), min_size=1, max_size=6)):
        what = draw(st.sampled_from(["swap", "copy", "inside", "drop"]))
        if what == "swap":
            pieces[a], pieces[b] = pieces[b], pieces[a]
        elif what == "inside":
            half = len(pieces[a]) // 2
            pieces[a] = pieces[a][:half] + pieces[b] + pieces[a][half:]
        else:
            pieces[a] = pieces[b] if what == "copy" else ""
    return "".join(pieces).encode()


@given(data=shuffled())
@settings(max_examples=700, deadline=None, suppress_health_check=SLOW)
def test_shuffled_files_give_errors_with_a_place(tmp_path: Path, data: bytes) -> None:
    """Lines and marks in other places are read, or refused with a place."""
    check_damaged(tmp_path / "damaged.md", data)


def test_rich_settings_are_what_the_file_says() -> None:
    """Sources by level, forms, levels spelled out, and the levels for a first study."""
    found = Scenario.parse(RICH)
    ff, gg, form, _ = found.factors.values()
    sentences = ("without-1", "without-2")
    assert ff.levels == ("original", "removed", "loud", "filler", "moved", *sentences)
    assert (ff.sources, ff.source) == ({"original": "me", "each-sentence": "ours"}, "me; ours")
    assert (gg.sources, gg.source) == ({"removed": "you"}, "you")
    assert (form.surface, form.generated, form.sites) == ("bullets", (), ())
    assert found.first_study == {
        "ff": ("original", *sentences, "loud"),
        "gg": ("original", "removed", "filler"),
        "form": ("original", "stars"),
    }


FORM = "[factors.form]\nsurface = 'bullets'\nlevels = ['original', 'stars']\n"
RICH_FAULTS = {
    "source of a strange level": (
        "[factors.ff]\nsource = { removde = 'x' }", 2, 10,
        "`factors.ff.source`: `ff` has no level `removde` (did you mean `removed`?)",
    ),
    "source that is no text": ("[factors.ff]\nsource.removed = 1", 2, 10, "must be text, or a"),
    "source that is a list": ("[factors.ff]\nsource = ['x']", 2, 10, "must be text, or a table"),
    "strange form": (
        "[factors.ff]\nsurface = 'bulets'", 2, 10,
        "no form `bulets` (did you mean `bullets`?)",
    ),
    "form that is no text": ("[factors.ff]\nsurface = 1", 3, 1, "surface` must be text"),
    "strange level of a form": (
        "[factors.ff]\nsurface = 'order'\nlevels = ['original', 'stars']", 2, 10,
        "level `stars` of `ff`: order can be reversed",
    ),
    "form without its levels": (
        "[factors.ff]\nsurface = 'casing'", 2, 10, "level `removed` of `ff`: casing can be lower",
    ),
    "generated level of a form": (
        "[factors.ff]\nsurface = 'order'\nlevels = ['original', 'moved']", 2, 10,
        "level `moved` of `ff` is reserved",
    ),
    "one form twice": (
        FORM + FORM.replace(".form", ".gg"), 5, 10, "`factors.gg.surface`: `form` has bullets",
    ),
    "sentences of nothing": (
        "[factors.ff]\nlevels = ['original', 'each-sentence']", 2, 10,
        "`ff` lists `each-sentence`, but has no sentence",
    ),
    "recommended strange level": (
        "recommended = ['ff=lod']\n[factors.ff]\nlevels = ['original', 'loud']", 2, 1,
        "recommended `ff=lod`: `ff` has loud (did you mean `loud`?)",
    ),
    "recommended original": (
        "recommended = ['ff=original']\n[factors.ff]", 2, 1, "`ff` has removed",
    ),
    "recommended stranger's level": (
        "recommended = ['fg=removed']\n[factors.ff]", 2, 1, "recommended factor `fg` is not",
    ),
    "needs a filler": (
        "[factors.ff]\nlevels = ['original', 'filler']\n[factors.gg]\nneeds = ['ff=filler']", 4, 10,
        "`gg` needs `ff=filler`: name a level that the file writes",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("head", "line", "column", "message"), RICH_FAULTS.values(), ids=RICH_FAULTS
)
def test_rich_settings_that_are_wrong(head: str, line: int, column: int, message: str) -> None:
    """The error says what is wrong and where."""
    with pytest.raises(ScenarioError, match=re.escape(message)) as caught:
        Scenario.parse(f"+++\n{head}\n+++\n{BODY}")
    assert (caught.value.line, caught.value.column) == (line, column)


@pytest.mark.parametrize("level", ["filler", "moved", "each-sentence"])
def test_generated_levels_are_listed_and_not_written(level: str) -> None:
    """A factor may list them; a text of its own they cannot have."""
    head = f"+++\n[factors.ff]\nlevels = ['original', '{level}']\n+++\n# user\n"
    found = Scenario.parse(f"{head}{{{{#ff original}}}}Be kind.{{{{/ff}}}} {{{{query}}}}")
    wanted = "without-1" if level == "each-sentence" else level
    assert found.factors["ff"].levels == ("original", wanted)
    with pytest.raises(ScenarioError, match="is made by the program: give it no text"):
        Scenario.parse(f"{head}{{{{#ff {level}}}}}x{{{{/ff}}}} {{{{query}}}}")


def test_no_text_is_marked_with_a_form() -> None:
    """A form changes the whole text; a mark of it is refused where it stands."""
    with pytest.raises(ScenarioError, match="`form` has a `surface`") as caught:
        Scenario.parse(
            f"+++\n{FORM}+++\n# user\na {{{{#form original}}}}x{{{{/form}}}}{{{{query}}}}"
        )
    assert (caught.value.line, caught.value.column) == (7, 3)


@pytest.mark.parametrize(
    ("recommended", "levels"),
    [
        ("'ff'", "original removed loud soft"),
        ("'ff=soft'", "original soft"),
        ("'ff=soft', 'ff=loud'", "original soft loud"),
        ("'ff=soft', 'ff=soft'", "original soft"),
        ("'ff=loud', 'ff'", "original loud removed soft"),
        ("'ff', 'ff=loud'", "original removed loud soft"),
    ],
)
def test_recommended_levels(recommended: str, levels: str) -> None:
    """An entry adds one level or all of them, none of them twice."""
    head = f"recommended = [{recommended}]\n[factors.ff]\nlevels = ['original', 'removed', 'loud', "
    found = Scenario.parse(f"+++\n{head}'soft']\n+++\n{BODY}")
    assert found.first_study == {"ff": tuple(levels.split())}
    assert found.recommended == ("ff",)
