"""Starting: a new study folder from a shipped scenario.

Takes a folder's path and a scenario's name; writes study.toml, scenario.md, queries.csv and
wordings.jsonl. Does not know plans or models.
"""

import json
from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from ablate.queries import Query, save_queries
from variants import Scenario
from variants.declarations import nearest

__all__ = ["StartError", "scenario_names", "start_demo", "start_study"]

DEMO = "ablate-demo"
PRIVATE = 0o700
# Wordings that a new study is spread over: its errors have one degree of freedom less than that.
WORDINGS = 24

_STUDY = """\
# Run `ablate check` on this folder after every change; every key is explained in docs/data.md.

[study]
name = "{name}"
seed = 1
scenario = "scenario.md"
queries = "queries.csv"
# The primary estimand, whose rows are corrected together: what a single removal does to the gap
# (gap_effect_simple), or what it does on average while other features come and go
# (gap_effect_averaged), which the same trials estimate about three times as precisely.
estimand = "gap_effect_averaged"

[design]
kind = "mixed"          # the original, every single change, and random mixtures; or one_at_a_time
factors = [
{factors}
]
trials = 7000           # calls for each model
wordings = {wordings}            # whole wordings of the prompt that the trials are spread over
placebos = 0            # harmless edits to compare every change with{placebos}
{levels}
[[subject]]
# simulated/planted is a program with planted effects: free, and no evidence about any model.
# For a real one: models = ["anthropic/MODEL_ID"], and ANTHROPIC_API_KEY in the environment.
models = ["simulated/planted"]
reasoning = ["scratchpad"]
max_tokens = 2048
# temperature = 1.0     # only where the model takes one

[grading]
graders = ["{grader}"]{own}

[limits]
concurrency = 50
# calls = 1000          # stop after this many calls in one run

[margins]
gap = 0.05              # the smallest change of the gap that matters, frozen in the plan
"""


class StartError(ValueError):
    """A study folder that cannot be made there."""


def scenario_names() -> list[str]:
    """The shipped scenarios."""
    return sorted(
        entry.name for entry in (files("variants") / "library").iterdir() if entry.is_dir()
    )


def start_study(
    folder: Path,
    scenario: str,
    *,
    minimal: bool = False,
    queries: Sequence[Query] | None = None,
) -> None:
    """Make a study folder; `minimal` takes the scenario's few-sentence form.

    `queries` are used in place of the scenario's own. Raises StartError when the folder has
    something in it.
    """
    if scenario not in scenario_names():
        known = scenario_names()
        raise StartError(
            f"no scenario `{scenario}`{nearest(scenario, known)}; there is {', '.join(known)}"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StartError(f"{folder} is there and not empty: choose a new folder")
    _write(folder, folder.resolve().name, scenario, minimal)
    if queries is not None:
        save_queries(queries, folder / "queries.csv")


def start_demo(folder: Path) -> bool:
    """Make the demo's study folder, or find it there: True when it is new.

    Raises StartError when the folder holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        _write(folder, DEMO, "helpful_only")
        return True
    settings = folder / "study.toml"
    if settings.is_file() and settings.read_text("utf-8") == _settings(DEMO, "helpful_only"):
        return False
    raise StartError(
        f"{folder} is not a folder of `ablate demo`: give another one with --out, or remove it"
    )


def _settings(name: str, scenario: str, minimal: bool = False) -> str:
    source = files("variants") / "library" / scenario
    text = (source / _scenario_file(minimal)).read_text("utf-8")
    shipped = Scenario.parse(text)
    rows = [] if minimal else _rows(source / "wordings.jsonl")
    edits = sum(row["status"] == "placebo" for row in rows)
    chosen = {
        factor: levels[1:]
        for factor, levels in shipped.first_study.items()
        if levels != shipped.factors[factor].levels
    }
    levels = ""
    if chosen:
        lines = [
            f"{factor} = {json.dumps(list(levels))}"
            f"{_others(shipped.factors[factor].levels, levels)}"
            for factor, levels in chosen.items()
        ]
        title = "[design.levels]         # those that are tried; a factor not named has all its own"
        levels = "\n".join(["", title, *lines, ""])
    return _STUDY.format(
        name=name,
        factors="\n".join(f'    "{factor}",' for factor in shipped.first_study),
        wordings=WORDINGS if rows else 1,
        grader="outcomes" if (source / "outcomes.toml").is_file() else "rules/v1",
        own="   # the patterns of outcomes.toml" if (source / "outcomes.toml").is_file() else "",
        placebos=f"; there are {edits}" if edits else "",
        levels=levels,
    )


def _others(known: tuple[str, ...], chosen: tuple[str, ...]) -> str:
    others = [level for level in known[1:] if level not in chosen]
    return f"    # or {', '.join(others)}" if others else ""


def _rows(path: Traversable) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _scenario_file(minimal: bool) -> str:
    return "minimal.md" if minimal else "scenario.md"


def _write(folder: Path, name: str, scenario: str, minimal: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE)
    source = files("variants") / "library" / scenario
    (folder / "scenario.md").write_bytes((source / _scenario_file(minimal)).read_bytes())
    for file in ("queries.csv", "outcomes.toml", *(() if minimal else ("wordings.jsonl",))):
        if (source / file).is_file():
            (folder / file).write_bytes((source / file).read_bytes())
    # study.toml last: a folder without it is not yet a study.
    (folder / "study.toml").write_text(_settings(name, scenario, minimal), "utf-8")
