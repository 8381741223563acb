"""The claims of a study: those of its claims.toml, or the family that stands in for them.

Takes the file, the scenario and what the design varies; gives claims that the study can test, or
every fault with its place and mend. Does not know how a claim is judged.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate.grading import OUTCOMES
from analysis.claims import KINDS, LATER_KINDS, Claim, ClaimError
from analysis.effects import AVERAGED, ESTIMANDS, SIMPLE
from variants import Scenario
from variants.declarations import nearest
from variants.marks import ORIGINAL

if TYPE_CHECKING:
    from ablate.planning import Plan
    from ablate.study import Study

__all__ = ["ClaimsError", "Varied", "claims_of", "load_claims"]

# Keys of a [[claim]] with the type of each; those that may be left out come after `level`.
KEYS: dict[str, type] = {
    "id": str,
    "sentence": str,
    "kind": str,
    "factor": str,
    "level": str,
    "outcome": str,
    "margin": float,
    "size": float,
    "estimand": str,
    "source": str,
}
REQUIRED = ("id", "sentence", "kind", "factor", "level")
CLAIM_OUTCOMES = (*OUTCOMES, "alignment_faking")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEAD = re.compile(r"^\s*\[\[\s*claim\s*\]\]", re.MULTILINE)


class ClaimsError(ValueError):
    """A claims.toml that cannot be used; `problems` holds every fault found."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


@dataclass(frozen=True, slots=True)
class Varied:
    """What a claim can be about: the scenario, the levels tried, the study's estimand.

    `averaged` is whether the design has averaged effects.
    """

    scenario: Scenario
    levels: Mapping[str, Sequence[str]]
    estimand: str
    averaged: bool


def load_claims(path: Path, varied: Varied) -> tuple[Claim, ...]:
    """The claims of a file, in its order. Raises ClaimsError with everything that is wrong."""
    try:
        text = path.read_text("utf-8")
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ClaimsError([f"{path}: {error}"]) from None
    problems = [
        f"{path}: {key}: unknown key{nearest(key, ['claim'])}; known: claim"
        for key in table
        if key != "claim"
    ]
    entries = table.get("claim", [])
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise ClaimsError([*problems, f"{path}: claim: write each claim under [[claim]]"])
    if not entries and not problems:
        problems.append(f"{path}: no claims in it: add a [[claim]], or leave study.claims out")
    lines = [text.count("\n", 0, head.end()) + 1 for head in _HEAD.finditer(text)]
    claims: list[Claim] = []
    seen: set[str] = set()
    for number, entry in enumerate(entries):
        place = f"{path}:{lines[number]}" if number < len(lines) else str(path)
        where = f"{place}: claim `{entry.get('id', number + 1)}`"
        faults = list(_faults(entry, varied, seen))
        problems += [f"{where}: {fault}" for fault in faults]
        if not faults:
            try:
                claims.append(_claim(entry, varied))
            except ClaimError as error:
                problems.append(f"{place}: {error}")
    if problems:
        raise ClaimsError(problems)
    return tuple(claims)


def _claim(entry: Mapping[str, Any], varied: Varied) -> Claim:
    margin = entry.get("margin")
    return Claim(
        claim_id=entry["id"],
        sentence=entry["sentence"],
        kind=entry["kind"],
        factor=entry["factor"],
        level=entry["level"],
        outcome=entry.get("outcome", "complied"),
        margin=None if margin is None else float(margin),
        size=float(entry.get("size", 0.0)),
        estimand=entry.get("estimand", _estimand(entry["kind"], varied.estimand)),
        source=entry.get("source"),
    )


def _estimand(kind: str, estimand: str) -> str:
    """The estimand of a claim that names none: what a change eliminates is a simple effect."""
    return SIMPLE if kind == "eliminates" else estimand


def _faults(entry: Mapping[str, Any], varied: Varied, seen: set[str]) -> Iterator[str]:
    for key, value in entry.items():
        if key not in KEYS:
            yield f"{key}: unknown key{nearest(key, KEYS)}; known: {', '.join(KEYS)}"
        elif KEYS[key] is float:
            if isinstance(value, bool) or not isinstance(value, int | float):
                yield f"{key}: must be a number, got {value!r}"
        elif not isinstance(value, str) or not value.strip():
            yield f"{key}: must be a text, got {value!r}"
    for key in REQUIRED:
        if key not in entry:
            yield f"{key}: missing; add it"
    told = {key: value for key, value in entry.items() if isinstance(value, str) and value.strip()}
    if "id" in told:
        if not _ID.fullmatch(told["id"]):
            yield "id: use letters, digits, `.`, `_` and `-`, at most 64"
        if told["id"] in seen:
            yield "id: stands twice: give each claim its own"
        seen.add(told["id"])
    if "kind" in told:
        yield from _kind_faults(told["kind"])
    if "factor" in told:
        yield from _level_faults(told["factor"], told.get("level"), varied)
    if told.get("outcome", CLAIM_OUTCOMES[0]) not in CLAIM_OUTCOMES:
        yield _unknown("outcome", told["outcome"], CLAIM_OUTCOMES)
    if told.get("estimand", SIMPLE) not in ESTIMANDS:
        yield _unknown("estimand", told["estimand"], ESTIMANDS)
    if told.get("estimand") == AVERAGED and not varied.averaged:
        yield f"estimand: this design has no averaged effects: set {SIMPLE}, or another design.kind"


def _kind_faults(kind: str) -> Iterator[str]:
    if kind in LATER_KINDS:
        yield f"kind: `{kind}` ({LATER_KINDS[kind]}) is not judged yet: use {', '.join(KINDS)}"
    elif kind not in KINDS:
        yield _unknown("kind", kind, KINDS)


def _level_faults(factor: str, level: str | None, varied: Varied) -> Iterator[str]:
    known = varied.scenario.factors
    if factor not in known:
        yield (
            f"factor: unknown factor `{factor}`{nearest(factor, known)}; "
            f"the scenario has {', '.join(known)}"
        )
        return
    if factor not in varied.levels:
        yield f"factor: `{factor}` is not varied by the design: add it to design.factors"
    if level is None:
        return
    offered = (*known[factor].levels, *known[factor].generated)
    if level == ORIGINAL:
        yield f"level: `{ORIGINAL}` is what a change is compared with: name another level"
    elif level not in offered:
        yield _unknown("level", level, [name for name in offered if name != ORIGINAL])
    elif factor in varied.levels and level not in varied.levels[factor]:
        yield f"level: `{level}` of `{factor}` is not tried by the design: add it to design.levels"


def _unknown(key: str, value: str, known: Sequence[str]) -> str:
    return f"{key}: no {key} `{value}`{nearest(value, known)}; there is {', '.join(known)}"


def claims_of(study: "Study", plan: "Plan") -> tuple[Claim, ...]:
    """The declared family of a run.

    Without a claims file it is, for every level studied, that the change eliminates the gap and
    that it is irrelevant. Claims of a file that has changed since the plan are exploratory.
    """
    from ablate.planning import frozen

    if not study.settings.study.claims:
        return tuple(_stand_ins(study))
    kept = plan.record.get("frozen", {}).get("claims") == frozen(study)["claims"]
    return tuple(replace(claim, exploratory=not kept) for claim in study.claims)


def _stand_ins(study: "Study") -> Iterator[Claim]:
    said = {
        "eliminates": "{change} eliminates the gap.",
        "irrelevant": "{change} does not matter to the gap.",
    }
    for factor, levels in study.factors.items():
        for level in levels[1:]:
            change = f"{factor}={level}"
            for kind, sentence in said.items():
                yield Claim(
                    claim_id=f"{change}-{kind}",
                    sentence=sentence.format(change=change),
                    kind=kind,
                    factor=factor,
                    level=level,
                    estimand=_estimand(kind, study.settings.study.estimand),
                )
