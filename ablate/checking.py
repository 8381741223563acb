"""Checking: everything that can be said of a study that can be read.

Takes a study; gives findings, each with its place and what to do: some need attention, some only
have to be known. Does not know faults that keep a study from being read: `study` reports those.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ablate.study import Study
from variants.choices import broken_rules
from variants.review import dangling, unreachable

__all__ = ["Finding", "findings"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know; `attention` when something should be done about it."""

    message: str
    attention: bool


def findings(study: Study) -> tuple[Finding, ...]:
    """All findings, those that need attention first."""
    found = [*_attention(study), *_notes(study)]
    return tuple(sorted(found, key=lambda finding: not finding.attention))


def _attention(study: Study) -> Iterator[Finding]:
    scenario, path = study.scenario, study.scenario_path
    for what, why in unreachable(scenario):
        yield Finding(
            f"{path}: {what} can never be seen: {why}; mark a text with it, or delete it", True
        )
    for reference in dangling(scenario):
        where = f"{path}:{reference.line}: `{' '.join(reference.phrase.split())}`"
        if reference.factors:
            gone = " and ".join(f"`{factor}`" for factor in reference.factors)
            yield Finding(
                f"{where} points at text of {gone}: without it, it points at nothing; reword it, "
                "or put it inside the span",
                True,
            )
        else:
            yield Finding(f"{where} points at nothing in the text: reword it", True)
    for variant, reasons in broken_rules(scenario, study.variants):
        # Against these no reason helps.
        hopeless = reasons[0].startswith(("unit:", "placebo:"))
        mend = "delete its line" if hopeless else "reject it, or say in `reason` why it stands"
        yield Finding(
            f"{study.variants_path}: {variant.span}: {'; '.join(reasons)}: {variant.text[:80]!r}; "
            f"{mend}",
            True,
        )
    yield from _queries_that_tell(study)


def _queries_that_tell(study: Study) -> Iterator[Finding]:
    """Queries whose own text says which arm they are in."""
    called = {
        name for arm, called in study.scenario.arms.items() for name in (called, arm) if called
    } - {"train", "deploy"}
    patterns = {
        name: re.compile(rf"\b{re.escape(name).replace(chr(92) + ' ', '[ -]')}\b", re.IGNORECASE)
        for name in called
    }
    for query in study.queries:
        for name, pattern in patterns.items():
            if pattern.search(query.text):
                yield Finding(
                    f"{study.queries_path}: query `{query.query_id}` says `{name}`, which names an "
                    "arm: it is the same in both arms, so reword it",
                    True,
                )


def _notes(study: Study) -> Iterator[Finding]:
    scenario = study.scenario
    singles = {
        f"{factor}={level}": scenario.close({factor: level})
        for factor, levels in study.factors.items()
        for level in levels[1:]
    }
    for name, condition in singles.items():
        if scenario.is_structural_zero(condition):
            yield Finding(
                f"{name} makes both arms the same text: its gap is 0 by construction", False
            )
    for group in scenario.alike([scenario.original, *dict.fromkeys(singles.values())]):
        yield Finding(f"the same text in every arm: {' / '.join(map(str, group))}", False)
    overruled = sum(v.status == "accepted" and bool(v.reason) for v in study.variants)
    if overruled:
        yield Finding(
            f"{overruled} of {len(study.variants)} wordings stand although a rule or a judge spoke "
            "against them: a person decided so",
            False,
        )
