"""Whole studies on the embedded subject, repeated over seeds, with the truth beside them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from test_cli import ablate, replace

from ablate.planted import planted_effects
from ablate.starting import start_study
from ablate.study import load_study

__all__ = ["Recovered", "recover"]

ALPHA = 0.05
KEYS = ["estimand", "factor", "level"]


@dataclass(frozen=True, slots=True)
class Recovered:
    """One effect over all seeds: its truth, and how often the study was right about it."""

    estimand: str
    factor: str
    truth: float
    detectable: float | None
    right_sign: int
    covered: int
    significant: int


def recover(folder: Path, seeds: range, primary: str) -> list[Recovered]:
    """Plan, run through HTTP, grade and fit the shipped study once for each seed."""
    rows, sizes = [], {}
    for seed in seeds:
        root = folder / f"seed-{seed}"
        start_study(root, "helpful_only")
        replace(root / "study.toml", "seed = 1", f"seed = {seed}")
        # Equal trials get equal answers from the embedded subject, whatever the study's seed:
        # another request parameter makes them other trials, and so a fresh draw.
        replace(root / "study.toml", "max_tokens = 2048", f"max_tokens = {2048 + seed}")
        replace(root / "study.toml", 'estimand = "gap_effect_averaged"', f'estimand = "{primary}"')
        for command in (["run", root], ["grade", root / "runs/main"], ["fit", root / "runs/main"]):
            assert ablate(*command).exit_code == 0
        effects = pl.read_csv(root / "runs/main/effects.csv", infer_schema_length=None)
        rows.append(
            effects.filter(
                pl.col("outcome") == "complied",
                pl.col("estimand").is_in(["gap_effect_simple", "gap_effect_averaged"]),
                pl.col("role") == "primary",
                pl.col("note").ne_missing("reference"),
            )
        )
        sizes |= dict(detectable(root))
    truth = planted_effects(load_study(root))
    table = pl.concat(rows).join(truth, on=KEYS, how="left")
    in_bounds = pl.col("planted").is_between(pl.col("conf_low"), pl.col("conf_high"))
    table = table.with_columns(in_bounds.alias("covered"))
    return [
        Recovered(
            estimand=str(key[0]),
            factor=str(key[1]),
            truth=effect["planted"][0],
            detectable=sizes.get((str(key[0]), str(key[1]))),
            right_sign=int((effect["estimate"].sign() == effect["planted"].sign()).sum()),
            covered=int(
                effect["planted"].is_between(effect["conf_low"], effect["conf_high"]).sum()
            ),
            significant=int((effect["p_holm"] < ALPHA).sum() or 0),
        )
        for key, effect in table.group_by(KEYS, maintain_order=True)
    ]


def detectable(root: Path) -> Iterator[tuple[tuple[str, str], float]]:
    """The detectable sizes behind what `ablate plan` prints."""
    from ablate.foresight import detectable_sizes
    from ablate.planning import make_plan

    study = load_study(root)
    for size in detectable_sizes(study, make_plan(study)):
        if size.term is not None and size.alike is not None:
            yield (size.estimand, size.term.factor), size.alike
