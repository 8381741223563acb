"""Paraphrasing: making wordings for a study's texts, by a model or by rule.

Takes a study and, where a model is to write, its name; writes every candidate into wordings.jsonl
with its fate and the reason. What a person wrote there stands. Does not know how a model is asked
or which rules there are.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ablate.calls import Caller, CallLimit, calling
from ablate.models import check_ready, split_name
from ablate.store import Ledger
from ablate.study import Study
from variants import check_wording
from variants.choices import ACCEPTED, PLACEBO, REJECTED, Variant, load_variants, save_variants
from variants.rewriter import rewrite
from variants.sentences import sentences
from variants.surface import placebo_forms
from variants.units import Unit, units_of

__all__ = ["ParaphraseError", "Progress", "paraphrase"]

PURPOSE = "paraphrase"
MAX_TOKENS = 2048
# How many candidates by rule are looked at for every wording that is wanted.
TRIED = 40
UNREADABLE = "(no readable answer)"


class ParaphraseError(ValueError):
    """A model that cannot write wordings; the message says what can."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known after a unit: its name, accepted wordings, and candidates made now."""

    unit: str
    accepted: int
    wanted: int
    made: int


def paraphrase(
    study: Study,
    *,
    model: str | None,
    judge: str | None,
    wanted: int,
    concurrency: int,
    hear: Callable[[Progress], None],
) -> tuple[Progress, ...]:
    """Make wordings until every unit has `wanted` accepted ones; done again, it goes on.

    Raises ModelError, CallLimit or LedgerError; what was made before is in wordings.jsonl.
    """
    if judge is not None and model is None:
        raise ParaphraseError(f"{judge} has nothing to judge: name the --model that writes as well")
    for name in (model, judge):
        if name is None:
            continue
        if split_name(name)[0] == "simulated":
            raise ParaphraseError(
                f"{name} answers like a subject and writes no wordings: name another model, or "
                "leave --model out for wordings by rule"
            )
        check_ready(name)
    return asyncio.run(_paraphrase(study, model, judge, wanted, concurrency, hear))


async def _paraphrase(
    study: Study,
    model: str | None,
    judge: str | None,
    wanted: int,
    concurrency: int,
    hear: Callable[[Progress], None],
) -> tuple[Progress, ...]:
    units = units_of(study.scenario.sections)
    gate = asyncio.Semaphore(concurrency)

    def rows(unit: Unit) -> list[Variant]:
        """What the file says now: a person may have written there since."""
        return [v for v in load_variants(study.variants_path) if v.span == unit.name]

    def add(new: Sequence[Variant]) -> None:
        """Write rows into the file, which is in the order of the units whoever comes first."""
        if not new:
            return
        places = {unit.name: number for number, unit in enumerate(units)}
        found = [*load_variants(study.variants_path), *new]
        found.sort(key=lambda v: places.get(v.span, len(places)))
        save_variants(study.variants_path, found)

    async with contextlib.AsyncExitStack() as stack:
        writer = reader = None
        if model is not None:
            ledger = stack.enter_context(Ledger(study.ledger_path))
            stack.enter_context(ledger.locked())
            limits = study.settings.limits
            writer = await stack.enter_async_context(
                calling(
                    model,
                    ledger,
                    purpose=PURPOSE,
                    max_tokens=MAX_TOKENS,
                    concurrency=concurrency,
                    most_calls=limits.calls,
                    most_tokens=limits.tokens,
                )
            )
            reader = await stack.enter_async_context(
                calling(
                    judge or model,
                    ledger,
                    purpose=f"{PURPOSE}-judge",
                    max_tokens=MAX_TOKENS,
                    beside=writer,
                )
            )

        async def one(unit: Unit) -> Progress:
            others = [u.text for u in units if u.name != unit.name and u.factor != unit.factor]
            made = 0
            async with gate:
                found = rows(unit)
                if unit.factor is None and len(_accepted(found)) < wanted:
                    # First, so that a unit which has all its wordings has these as well.
                    texts = {v.text for v in found}
                    add([v for v in _placebos(unit) if v.text not in texts])
                # A search that was cut off is asked again in the same words: the ledger has them.
                turn = 1 + max(map(_turn, found), default=-1)
                last = (turn // (2 * wanted) + 1) * 2 * wanted
                while len(_accepted(found := rows(unit))) < wanted and turn < last:
                    if writer is None:
                        new = _by_rule(unit, found, wanted, study.settings.study.seed)
                        turn = last
                    else:
                        new, answered = await _by_model(unit, found, others, writer, reader, turn)
                        # Without an answer: another run may find the server in a better state.
                        turn = turn + 1 if answered else last
                    made += len(new)
                    add(new)
            progress = Progress(unit.name, len(_accepted(found)), wanted, made)
            hear(progress)
            return progress

        tasks = [asyncio.create_task(one(unit)) for unit in units]
        if not tasks:
            return ()
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        except BaseException as error:
            # What is in flight is paid for: it still reaches the ledger, and nothing else is asked.
            if writer is not None:
                writer.stop(error if isinstance(error, Exception) else CallLimit("interrupted"))
            else:
                for task in tasks:
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        return tuple(task.result() for task in tasks)


def _accepted(found: Iterable[Variant]) -> list[str]:
    return [v.text for v in found if v.status == ACCEPTED]


def _turn(variant: Variant) -> int:
    """In which turn a model made it, -1 for any other variant."""
    turn = variant.scores.get("turn") if isinstance(variant.scores, Mapping) else None
    return turn if isinstance(turn, int) else -1


def _by_rule(unit: Unit, found: Sequence[Variant], wanted: int, seed: int) -> list[Variant]:
    """Candidates of the rewriter, until enough pass the rules."""
    rng = np.random.default_rng([seed, len(unit.text), sum(unit.name.encode())])
    standing = _accepted(found)
    known = {v.text for v in found}
    made = []
    for text in rewrite(unit.text, rng, TRIED * wanted):
        if len(standing) >= wanted:
            break
        if text in known:
            continue
        reasons = check_wording(unit.text, text, accepted=standing).reasons
        status = REJECTED if reasons else ACCEPTED
        made.append(Variant(unit.name, text, status, "; ".join(reasons), None, "rules"))
        if not reasons:
            standing.append(text)
    # Of the many that fail, a few show why.
    failed = [v for v in made if v.status == REJECTED][:3]
    return [v for v in made if v.status == ACCEPTED or v in failed]


async def _by_model(
    unit: Unit,
    found: Sequence[Variant],
    others: Sequence[str],
    writer: Caller,
    reader: Caller | None,
    turn: int,
) -> tuple[list[Variant], bool]:
    """The candidates of one search, and whether any of them is an answer of the model."""
    from ablate.programs import MADE_BEFORE, PROGRAM_HASH, reword

    near = _statements(others)
    known = {v.text for v in found if v.text != UNREADABLE}
    accepted = _accepted(found)
    # Rejected although nothing spoke against it: a person did not want it.
    unwanted = [v.text for v in found if v.status == REJECTED and not v.reason]

    def check(text: str) -> Sequence[str]:
        if text in known:
            return (MADE_BEFORE,)
        return check_wording(unit.text, text, propositions=near, accepted=accepted).reasons

    candidates = await reword(
        unit.text,
        writer,
        reader,
        check=check,
        propositions=[unit.text[a:b] for a, b in sentences(unit.text)] or [unit.text],
        others=near[:12],
        avoid=[*accepted, *unwanted],
        turn=turn,
        occasion=f"{unit.name} {turn}",
    )
    made = [
        Variant(
            unit.name,
            candidate.text or UNREADABLE,
            REJECTED if candidate.reason else ACCEPTED,
            candidate.reason,
            candidate.scores | {"turn": turn},
            writer.name,
            PROGRAM_HASH,
        )
        for candidate in candidates
    ]
    return made, any(candidate.answered for candidate in candidates)


def _statements(texts: Sequence[str]) -> list[str]:
    """The sentences of other features."""
    return [text[a:b] for text in texts for a, b in sentences(text) if b - a > 20]


def _placebos(unit: Unit) -> list[Variant]:
    return [
        Variant(unit.name, text, PLACEBO, kind, None, "rules")
        for kind, text in placebo_forms(unit.text)
    ]
