"""Documents: a scenario's fictional documents as training data for fine-tuning.

Takes a study whose scenario states its propositions in `<document>` blocks; writes one JSON object
a line. Does not know how a model is trained: the trained model is studied by its id.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from ablate.study import Study

__all__ = ["DocumentsError", "write_documents"]

_DOCUMENT = re.compile(r'<document(?: title="([^"\n]*)")?>\s*(.*?)\s*</document>', re.DOTALL)


class DocumentsError(ValueError):
    """A scenario without documents; the message says which one has them."""


def write_documents(study: Study, changes: Mapping[str, str], out: Path) -> int:
    """Write the documents of a condition in every wording of the study; gives their number.

    Each line has `text` (title, blank line, body), `title`, `condition` and `wording_id`. A
    document that says the same in two wordings is written once. Raises DocumentsError,
    ScenarioError.
    """
    condition = study.scenario.condition(changes)
    rows: dict[str, dict[str, str]] = {}
    for wording_id, wording in study.wordings.items():
        prompt = study.scenario.render(
            condition, arm=next(iter(study.scenario.arms), None), query="", wording=wording
        )
        for text in (prompt.system or "", *(turn.text for turn in prompt.turns)):
            for found in _DOCUMENT.finditer(text):
                title, body = found[1] or "", found[2]
                whole = f"{title}\n\n{body}" if title else body
                rows.setdefault(
                    whole,
                    {
                        "text": whole,
                        "title": title,
                        "condition": str(condition),
                        "wording_id": wording_id,
                    },
                )
    if not rows:
        raise DocumentsError(
            f"{study.scenario_path}: no <document> in it: `ablate init DIR --scenario documents` "
            "makes a study that has them"
        )
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows.values()]
    out.write_text("".join(lines), "utf-8")
    return len(rows)
