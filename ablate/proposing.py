"""Proposing: factors for a plain prompt, by rules or by a model.

Takes the file of a prompt; gives a scenario file's text. Does not know studies.
"""

import asyncio
import re
import tempfile
from pathlib import Path

from ablate.models import ModelError, check_ready, split_name
from ablate.store import Ledger
from variants import Scenario, ScenarioError
from variants.declarations import COLUMNS
from variants.marking import Proposal, mark
from variants.marks import Problem
from variants.sentences import sentences

__all__ = ["proposed_scenario"]


def proposed_scenario(path: Path, model: str | None) -> tuple[str, int]:
    """The marked text, and how many factors it has.

    Raises OSError, ModelError, or ScenarioError when the file is a scenario file already or none
    of text.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _no_prompt(path, "not UTF-8: save it as UTF-8") from None
    if re.match(r"\+\+\+(\r?\n|\Z)", text):
        raise _no_prompt(path, "a scenario file already: `ablate mark` takes a plain prompt")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.") or "proposed"
    proposals = None if model is None else asyncio.run(_asked(text, model))
    marked = mark(text, proposals, name=name)
    return marked, len(Scenario.parse(marked, path=str(path)).factors)


def _no_prompt(path: Path, message: str) -> ScenarioError:
    return ScenarioError([Problem(1, 1, message)], str(path))


async def _asked(text: str, model: str) -> list[Proposal]:
    if split_name(model)[0] == "simulated":
        raise ModelError(f"{model} proposes nothing: name another model, or leave --model out")
    check_ready(model)
    from ablate.calls import calling
    from ablate.programs import propose_factors

    spans = list(sentences(text))
    # Nothing but the text printed is kept: there is no study yet whose ledger could hold the call.
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.sqlite") as ledger:
        async with calling(model, ledger, purpose="mark", max_tokens=4096, concurrency=1) as caller:
            try:
                said = await propose_factors([text[a:b] for a, b in spans], caller)
            except ValueError as error:
                raise ModelError(str(error)) from None
    found: list[Proposal] = []
    taken: set[str] = set()
    reached = 0
    for called, question, first, last in sorted(said, key=lambda feature: feature[2]):
        name = re.sub(r"[^a-z0-9_-]+", "_", called.lower()).strip("_-") or "feature"
        if not name[0].isalpha() or name in COLUMNS or name in ("arm", "query"):
            name = f"feature_{name}"
        while name in taken:
            name += "_2"
        if first < reached:
            # Two features of one sentence: the first one has it.
            continue
        taken.add(name)
        reached = last + 1
        found.append(Proposal(name, question, spans[first][0], spans[last][1]))
    return found
