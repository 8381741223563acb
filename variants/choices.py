"""Choices: the variants of each unit of a scenario, and the wordings drawn from them.

Takes wordings.jsonl, one variant a line; gives checked variants, whole wordings (one accepted
variant for every unit) and placebo edits (one unit of unmarked text in another form).
Does not know how variants are made or what a trial is.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from variants.generated import FILLERS
from variants.scenario import Scenario, Wording
from variants.sentences import sentences
from variants.units import units_of
from variants.wordings import check_wording

__all__ = [
    "STATUSES",
    "Variant",
    "VariantError",
    "broken_rules",
    "draw_wordings",
    "load_variants",
    "placebo_wordings",
    "save_variants",
    "variants_by_unit",
]

ACCEPTED, REJECTED, PLACEBO = STATUSES = ("accepted", "rejected", "placebo")


class VariantError(ValueError):
    """Variants that cannot be used; `problems` holds every fault found."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True)
class Variant:
    """Another text for one unit, the row of wordings.jsonl.

    `span` names the unit. `status` is accepted, rejected or placebo; what a person writes there
    stands. `reason` says which rule or judge spoke against it, empty when none did: an accepted
    variant with a reason has been overruled. `model` is who wrote it, `hand` for a person.
    """

    span: str
    text: str
    status: str
    reason: str = ""
    scores: Mapping[str, Any] | None = None
    model: str | None = None
    program_hash: str | None = None

    @property
    def wording_id(self) -> str:
        """The id of the wording that differs from the source in this unit alone."""
        return Wording.of({self.span: self.text}).wording_id


def load_variants(path: Path) -> tuple[Variant, ...]:
    """Read wordings.jsonl; none where there is no file. Raises VariantError."""
    if not path.is_file():
        return ()
    found, problems = [], []
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise VariantError([f"{path}: not UTF-8: save it as UTF-8"]) from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(_variant(json.loads(line)))
        except (ValueError, RecursionError) as error:
            what = str(error) if isinstance(error, VariantError) else "not a JSON object"
            problems.append(f"{path}:{number}: {what}")
    if problems:
        raise VariantError(problems)
    return tuple(found)


def _variant(row: object) -> Variant:
    if not isinstance(row, dict):
        raise VariantError(["not a JSON object"])
    for key in ("span", "text", "status"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise VariantError([f"`{key}` is missing"])
    if row["status"] not in STATUSES:
        raise VariantError([f"status `{row['status']}`: use {', '.join(STATUSES)}"])
    known = {name: row.get(name) for name in ("scores", "model", "program_hash")}
    return Variant(row["span"], row["text"], row["status"], str(row.get("reason") or ""), **known)


def save_variants(path: Path, variants: Iterable[Variant]) -> None:
    """Write wordings.jsonl whole, or not at all."""
    rows = [{"wording_id": variant.wording_id} | asdict(variant) for variant in variants]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    partial.replace(path)


def variants_by_unit(scenario: Scenario, variants: Iterable[Variant]) -> dict[str, tuple[str, ...]]:
    """Unit -> its texts in wordings, the source's first."""
    texts = {unit.name: [unit.text] for unit in units_of(scenario.sections)}
    for variant in variants:
        known = texts.get(variant.span, [])
        if variant.status == ACCEPTED and variant.text not in known:
            known.append(variant.text)
    return {name: tuple(found) for name, found in texts.items()}


def draw_wordings(
    scenario: Scenario,
    variants: Iterable[Variant],
    count: int,
    rng: np.random.Generator,
    by_sentence: Collection[str] = (),
) -> tuple[Wording, ...]:
    """Draw `count` whole wordings, the source's own first.

    Of factors `by_sentence`, whose sentences are left out one by one, only variants with as many
    sentences are drawn.

    Each unit's variants are dealt out on their own in a random order, so that every one of them is
    used before any is used again. Raises VariantError when two wordings would be the same.
    """
    texts = variants_by_unit(scenario, variants)
    counted = {name for name in texts if any(f"{f}=" in name for f in by_sentence)}
    for name in counted:
        source = texts[name][0]
        texts[name] = tuple(t for t in texts[name] if _sentences(t) == _sentences(source))
    wordings = [Wording()]
    decks: dict[str, list[str]] = {name: [] for name in texts}
    for number in range(1, count):
        chosen = {}
        for name, (_source, *others) in texts.items():
            if not others:
                continue
            if not decks[name]:
                decks[name] = [others[i] for i in rng.permutation(len(others)).tolist()]
            chosen[name] = decks[name].pop()
        wordings.append(Wording.of(chosen, number % FILLERS))
    if len({w.choices for w in wordings}) < count:
        most = max((len(found) for found in texts.values()), default=1)
        raise VariantError(
            [
                f"{count} wordings are asked for, but no text has more than {most}: "
                f"set wordings = {most}, or make more with `ablate paraphrase`"
            ]
        )
    return tuple(wordings)


def _sentences(text: str) -> int:
    return sum(1 for _ in sentences(text))


def placebo_wordings(
    scenario: Scenario, variants: Iterable[Variant], count: int, rng: np.random.Generator
) -> tuple[Wording, ...]:
    """`count` of the placebo edits, spread over the units that have any. Raises VariantError."""
    # A row of marked text is no placebo: `broken_rules` tells of it.
    units = {unit.name for unit in units_of(scenario.sections) if unit.factor is None}
    edits: dict[str, list[str]] = {}
    for variant in variants:
        if variant.status == PLACEBO and variant.span in units:
            edits.setdefault(variant.span, []).append(variant.text)
    total = sum(map(len, edits.values()))
    if count > total:
        raise VariantError(
            [f"{count} placebo edits are asked for, and there are {total}: set placebos = {total}"]
        )
    for name, found in edits.items():
        edits[name] = [found[i] for i in rng.permutation(len(found)).tolist()]
    chosen: list[Wording] = []
    while len(chosen) < count:
        for name in [name for name in edits if edits[name]][: count - len(chosen)]:
            chosen.append(Wording.of({name: edits[name].pop()}))
    return tuple(chosen)


def broken_rules(
    scenario: Scenario, variants: Sequence[Variant]
) -> list[tuple[Variant, tuple[str, ...]]]:
    """The variants that stand against a rule without anybody having said so.

    Also those of units that the scenario does not have, and placebo edits of marked text.
    """
    units = {unit.name: unit for unit in units_of(scenario.sections)}
    found: list[tuple[Variant, tuple[str, ...]]] = []
    for variant in variants:
        unit = units.get(variant.span)
        if unit is None:
            found.append((variant, ("unit: the scenario has no such text",)))
        elif variant.status == PLACEBO:
            if unit.factor is not None:
                found.append((variant, (f"placebo: it touches the factor `{unit.factor}`",)))
        elif variant.status == ACCEPTED and not variant.reason:
            check = check_wording(unit.text, variant.text)
            if not check.ok:
                found.append((variant, check.reasons))
    return found
