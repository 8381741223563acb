"""Review: phrases that a removal leaves pointing at nothing, and levels that nothing shows."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from strategies import Draft, drafts

from variants import Scenario
from variants.review import Dangling, dangling, unreachable

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


def scenario(body: str, factors: str = "") -> Scenario:
    """A scenario of system text; `factors` holds lines `name levels / needs`."""
    tables = "[arms]\ntrain = 't'\ndeploy = 'd'\n"
    for line in factors.strip().splitlines():
        left, _, needs = line.partition("/")
        name, *levels = left.split()
        tables += f"[factors.{name}]\nlevels = {['original', *(levels or ['removed'])]!r}\n"
        tables += f"needs = {needs.split()!r}\n" if needs else ""
    return Scenario.parse(f"+++\n{tables}+++\n# system\n{body}\n# user\n{{{{query}}}}\n")


RULE = "{{#a original}}Follow the rules. {{/a}}"
# body, factors, (phrase, factors it points at)
POINTING = {
    "nothing points": (f"{RULE}Be kind.", "a", []),
    "to a span": (f"{RULE}Keep the rules above.", "a", [("the rules above", ("a",))]),
    "to plain text": ("Follow the rules. Keep the rules above.", "", []),
    "to plain text before a span": (
        "Some rules. {{#a original}}Keep the rules above.{{/a}}", "a", [],
    ),
    "within one span": ("{{#a original}}Some rules. Keep the rules above.{{/a}}", "a", []),
    "out of the span around it": (
        f"{RULE[:-6]}{{{{#b original}}}}Keep the rules above.{{{{/b}}}}{{{{/a}}}}", "a\nb", [],
    ),
    "into a span within": (
        "{{#a original}}{{#b original}}Some rules.{{/b}} Keep the rules above.{{/a}}", "a\nb",
        [("the rules above", ("b",))],
    ),
    "to either of two spans": (
        f"{RULE}{{{{#b original}}}}More rules. {{{{/b}}}}Keep the rules above.", "a\nb",
        [("the rules above", ("a", "b"))],
    ),
    "to a span and plain text": (f"{RULE}More rules. Keep the rules above.", "a", []),
    "to nothing": ("Be kind. Keep the rules above.", "", [("the rules above", ())]),
    "the wrong way": (f"Keep the rules above. {RULE}", "a", [("the rules above", ())]),
    "forwards": (f"Keep the rules below. {RULE}", "a", [("the rules below", ("a",))]),
    "forwards to plain text": ("Keep the rules below. Some rules.", "", []),
    "another form of the word": (
        f"{RULE}Keep each rule above.", "a", [("each rule above", ("a",))],
    ),
    "mentioned": (
        f"{RULE}Keep the rules mentioned above.", "a", [("the rules mentioned above", ("a",))],
    ),
    "with an adjective": (
        f"{RULE}Keep the two simple rules above.", "a", [("the two simple rules above", ("a",))],
    ),
    "previous": (f"{RULE}Keep the previous rules.", "a", [("the previous rules", ("a",))]),
    "a time is no place": ("Recall the previous day. Wait for the next minute.", "", []),
    "numbered": (
        "{{#a original}}Rule one. {{/a}}See rule 1.", "a", [("rule 1", ("a",))],
    ),
    "two phrases": (
        f"{RULE}Keep these rules above. Keep the rules stated.", "a",
        # The second phrase points at the first, which is told of already.
        [("these rules above", ("a",))],
    ),
    "by a factor that needs the other": (
        f"{RULE}{{{{#b original}}}}Keep the rules above.{{{{/b}}}}", "a\nb / a", [],
    ),
    "by a factor that needs it through a third": (
        f"{RULE}{{{{#c original}}}}C. {{{{/c}}}}{{{{#b original}}}}Keep the rules above.{{{{/b}}}}",
        "a\nc / a\nb / c", [],
    ),
    "by a factor that needs a level without the text": (
        "{{#a original}}Some rules. {{#a loud}}LOUD. {{/a}}"
        "{{#b original}}Keep the rules above.{{/b}}",
        "a removed loud\nb / a", [("the rules above", ("a",))],
    ),
    "by a factor that needs a level that keeps the text": (
        f"{RULE}{{{{#b original}}}}Keep the rules above.{{{{/b}}}}",
        "a removed soft\nb / a=soft", [],
    ),
    "text of the arms": (
        "{{#arm train}}Some rules. {{#arm deploy}}More rules. {{/arm}}Keep the rules above.",
        "", [],
    ),
    "from a named level": (
        f"{RULE}{{{{#b original}}}}B.{{{{#b loud}}}}Keep the rules above.{{{{/b}}}}", "a\nb loud",
        [("the rules above", ("a",))],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "factors", "wanted"), POINTING.values(), ids=POINTING)
def test_phrases_that_point(
    body: str, factors: str, wanted: list[tuple[str, tuple[str, ...]]]
) -> None:
    """Each phrase whose target a condition takes away is named with the factors of the target."""
    found = dangling(scenario(body, factors))
    assert [(d.phrase, d.factors) for d in found] == wanted


def test_a_phrase_is_placed() -> None:
    """The line is that of the span around it, else of the heading."""
    found = scenario("\n\n{{#b original}}Keep the rules above.{{/b}} See the list above.", "b")
    assert dangling(found) == (
        Dangling("the rules above", (), 11),
        Dangling("the list above", (), 8),
    )


NOTHING = "no span of the text is marked with it"
NEVER = "what it needs can never be shown together"
ALIKE = "no span has a text for it: it renders like the original"
A, B, C = (f"{{{{#{name} original}}}}{name}{{{{/{name}}}}}" for name in "abc")
LOUD = "{{#a original}}a{{#a loud}}A{{/a}}"
UNSEEN = {
    "all is seen": (A + B, "a\nb", []),
    "no span": (A, "a\nb", [("b", NOTHING)]),
    "a span in an arm": ("{{#arm train}}" + A + "{{/arm}}", "a", []),
    "a level without a text": (A, "a removed loud", [("a=loud", ALIKE)]),
    "two of them": (A, "a loud soft", [("a=loud", ALIKE), ("a=soft", ALIKE)]),
    "a level with a text": (LOUD, "a removed loud", []),
    "a level with a text in one of two spans": (A + LOUD, "a removed loud", []),
    "an empty text": ("{{#a original}}a{{#a loud}}{{/a}}", "a loud", []),
    "no text at the original": ("{{#a original}}{{#a loud}}A{{/a}}", "a loud", []),
    "generated levels": (A, "a filler moved", []),
    "a level that another one needs": (A + B, "a removed loud\nb / a=loud", []),
    "a level that changes nothing for the other": (
        A + B, "a removed loud\nb / a", [("a=loud", ALIKE)],
    ),
    "needs that are met": (A + B + C, "a\nb / a\nc / b", []),
    "two levels of one factor": (
        LOUD + B, "a removed loud\nb / a=loud a=original", [("b", NEVER)],
    ),
    "inside one level, in need of another": (
        "{{#a original}}" + B + "{{#a loud}}A{{/a}}", "a removed loud\nb / a=loud", [("b", NEVER)],
    ),
    "inside removed, in need of it": (
        "{{#a original}}a{{#a removed}}" + B + "{{/a}}", "a\nb / a", [("b", NEVER)],
    ),
    "inside removed": ("{{#a original}}a{{#a removed}}" + B + "{{/a}}", "a\nb", []),
    "one of two places is open": (
        "{{#a original}}" + B + "{{#a loud}}A{{/a}}" + B, "a removed loud\nb / a=loud", [],
    ),
    "needs one that stands at another level": (
        "{{#a original}}" + B + "{{#a loud}}" + C + "{{/a}}", "a removed loud\nb\nc / b",
        [("c", NEVER)],
    ),
    "needs two that stand at different levels": (
        "{{#a original}}" + B + "{{#a loud}}{{#d original}}d{{/d}}{{/a}}" + C,
        "a removed loud\nb\nd\nc / b d", [("c", NEVER)],
    ),
    "needs the away of one that is needed": (
        A + B + C, "a\nb / a\nc / b a=removed", [("c", NEVER)],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "factors", "wanted"), UNSEEN.values(), ids=UNSEEN)
def test_what_nothing_shows(body: str, factors: str, wanted: list[tuple[str, str]]) -> None:
    """Factors without a place, with needs that exclude each other, and levels without a text."""
    assert [(w.replace(" ", ""), why) for w, why in unreachable(scenario(body, factors))] == wanted


def test_a_form_needs_no_span() -> None:
    """A factor that changes form is seen without a mark."""
    head = "+++\n[factors.ff]\nsurface = 'order'\nlevels = ['original', 'reversed']\n+++\n"
    assert not list(unreachable(Scenario.parse(f"{head}# user\n{{{{query}}}}")))


@given(drafts(words=None, factors=3))
@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
def test_what_is_never_shown_is_hidden_in_every_condition(draft: Draft) -> None:
    """A walk over all combinations of levels finds the same factors that cannot be shown."""
    found = Scenario.parse(draft.source)
    never = {name for name, why in unreachable(found) if why == NEVER}
    unplaced = {name for name, why in unreachable(found) if why == NOTHING}
    shown: set[str] = set()
    for choice in itertools.product(*draft.levels.values()):
        settled = draft.settled(dict(zip(draft.levels, choice, strict=True)))
        shown |= {name for name, level in settled.items() if level is not None}
    assert never == set(draft.levels) - shown - unplaced
    dangling(found)


def test_a_long_chain_of_needs_is_walked() -> None:
    """Three hundred factors in a row, each with a span, are no trouble."""
    chain = "\n".join([*(f"f{i} / f{i + 1}" for i in range(300)), "f300"])
    body = "".join(f"{{{{#f{i} original}}}}x{{{{/f{i}}}}}" for i in range(301))
    assert not list(unreachable(scenario(body, chain)))
