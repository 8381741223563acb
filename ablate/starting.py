"""Starting: a new study folder from a shipped scenario.

Takes a folder's path and a scenario's name; writes study.toml, scenario.md and queries.csv.
Does not know plans or models.
"""

from importlib.resources import files
from pathlib import Path

from variants import Scenario
from variants.declarations import nearest

__all__ = ["StartError", "scenario_names", "start_demo", "start_study"]

DEMO = "ablate-demo"
PRIVATE = 0o700

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
kind = "mixed"          # the original, every single removal, and random mixtures; or one_at_a_time
factors = [
{factors}
]
trials = 7000           # calls for each model

[[subject]]
# simulated/planted is a program with planted effects: free, and no evidence about any model.
# For a real one: models = ["anthropic/MODEL_ID"], and ANTHROPIC_API_KEY in the environment.
models = ["simulated/planted"]
reasoning = ["scratchpad"]
max_tokens = 2048
# temperature = 1.0     # only where the model takes one

[grading]
graders = ["rules/v1"]

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


def start_study(folder: Path, scenario: str) -> None:
    """Make a study folder. Raises StartError when the folder has something in it."""
    if scenario not in scenario_names():
        known = scenario_names()
        raise StartError(
            f"no scenario `{scenario}`{nearest(scenario, known)}; there is {', '.join(known)}"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StartError(f"{folder} is there and not empty: choose a new folder")
    _write(folder, folder.resolve().name, scenario)


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


def _settings(name: str, scenario: str) -> str:
    text = (files("variants") / "library" / scenario / "scenario.md").read_text("utf-8")
    factors = Scenario.parse(text).recommended
    return _STUDY.format(name=name, factors="\n".join(f'    "{factor}",' for factor in factors))


def _write(folder: Path, name: str, scenario: str) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE)
    source = files("variants") / "library" / scenario
    for file in ("scenario.md", "queries.csv"):
        (folder / file).write_bytes((source / file).read_bytes())
    # study.toml last: a folder without it is not yet a study.
    (folder / "study.toml").write_text(_settings(name, scenario), "utf-8")
