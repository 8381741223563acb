"""Planning: the study's trials, one row each, frozen before the first call.

Takes a study; gives its plan (conditions x arms x wordings x queries x replicates x models) and
prompts. Does not know prices, answers or estimators.
"""

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ablate import __version__
from ablate.queries import Query
from ablate.study import Study
from variants import Condition, Prompt
from variants.designs import DESIGNS, Design, DesignError
from variants.scenario import content_hash

__all__ = ["PLAN", "Plan", "PlanError", "load_plan", "make_plan", "write_plan"]

BLOCKS = 4
PURPOSE = "explore"

# The columns of plan.parquet; the factor columns stand before assignment_probability.
PLAN: dict[str, Any] = {
    "trial_id": pl.String,
    "model": pl.String,
    "scenario": pl.String,
    "condition_id": pl.String,
    "wording_id": pl.String,
    "query_id": pl.String,
    "arm": pl.String,
    "replicate": pl.Int64,
    "prompt_id": pl.String,
    "purpose": pl.String,
    "block": pl.Int64,
    "placebo": pl.String,
    "assignment_probability": pl.Float64,
    "design_weight": pl.Float64,
}


class PlanError(ValueError):
    """A plan that cannot be made, or does not belong to the study as it stands."""


@dataclass(frozen=True)
class Plan:
    """The trials of a run: `frame` has one row each, in running order (columns: PLAN, factors).

    `design` is there only when the plan has just been made; `record` is what plan.toml holds.
    """

    frame: pl.DataFrame
    record: Mapping[str, Any]
    design: Design | None = None

    @cached_property
    def trial_ids(self) -> list[str]:
        return self.frame["trial_id"].to_list()

    def of_models(self, models: Sequence[str]) -> "Plan":
        return Plan(self.frame.filter(pl.col("model").is_in(models)), self.record, self.design)


def make_plan(study: Study) -> Plan:
    """The plan that the study's settings and seed make; the same on any machine.

    Raises PlanError when the trials do not suffice for the design.
    """
    settings = study.settings.design
    rng = np.random.default_rng(study.settings.study.seed)
    try:
        design = DESIGNS[settings.kind](
            study.scenario,
            trials=settings.trials,
            rng=rng,
            names=study.factors,
            **settings.options,
        )
    except DesignError as error:
        raise PlanError(f"{study.root}/study.toml: design: {error}") from None
    cells = _cells(study, design, rng)
    rows = [row for model in study.subjects for row in _trials(study, design, cells, model)]
    frame = pl.DataFrame(rows, schema=plan_schema(study), orient="row")
    return Plan(frame, _record(study, design, frame.height), design)


def plan_schema(study: Study) -> dict[str, Any]:
    """The columns of this study's plan, factors as enumerations with the reference first."""
    schema: dict[str, Any] = {}
    for column, kind in PLAN.items():
        if column == "assignment_probability":
            schema |= {factor: pl.Enum(levels) for factor, levels in study.factors.items()}
        schema[column] = kind
    return schema


@dataclass(frozen=True, slots=True)
class Cell:
    """A condition in an arm with a query: `trials` of them, in `block`.

    Their wordings go round from the `wording`-th on; `placebo` is the edit made in all of them.
    """

    condition: int
    arm: str
    query: Query
    trials: int
    block: int
    wording: int
    placebo: str | None


def _cells(study: Study, design: Design, rng: np.random.Generator) -> list[Cell]:
    """All cells in running order: by block, conditions shuffled within, arms interleaved."""
    targets = [query for query in study.queries if query.role == "target"]
    controls = [query for query in study.queries if query.role == "control"]
    fixed = [i for i, part in enumerate(design.parts) if part != "random"]
    arms = _arm_shares(study, design)
    # Controls never enter a gap: one call each where over-refusal is of interest.
    spent = len(controls) * len(fixed) * len(arms)
    trials = study.settings.design.trials - spent
    tried: list[tuple[int, str | None]] = [(i, None) for i in range(len(design.conditions))]
    tried += [(design.parts.index("original"), placebo) for placebo in study.placebos]
    if trials < 2 * len(tried):
        what = f"{len(design.conditions)} conditions"
        if study.placebos:
            what += f" and {len(study.placebos)} placebo edits"
        raise PlanError(
            f"{study.root}/study.toml: design.trials: {what} need at "
            f"least {spent + 2 * len(tried)} trials: set more, or vary fewer factors"
        )
    if len(targets) < 2:
        raise PlanError(f"{study.queries_path}: a gap needs at least two queries of role target")
    blocks = _blocks(study.queries, rng)
    weights = _weights(design, len(study.placebos))
    shares = _allocate(weights, targets, arms, trials, study.settings.design.replicates, rng)
    # A query starts with the same wording everywhere, so that conditions and arms are compared
    # within wordings; the queries share the wordings out among them.
    starts = dict(zip([q.query_id for q in study.queries], _starts(study, rng), strict=True))
    cells = [
        Cell(
            condition=tried[place][0],
            arm=arm,
            query=targets[q],
            trials=count,
            block=blocks[targets[q].query_id],
            wording=starts[targets[q].query_id],
            placebo=tried[place][1],
        )
        for (place, arm), counts in shares.items()
        for q, count in enumerate(counts.tolist())
        if count
    ]
    cells += [
        Cell(condition, arm, query, 1, blocks[query.query_id], starts[query.query_id], None)
        for condition in fixed
        for arm in arms
        for query in controls
    ]
    places = {
        (block, tried[place]): order
        for block in range(1, BLOCKS + 1)
        for order, place in enumerate(rng.permutation(len(tried)).tolist())
    }
    order = {query.query_id: i for i, query in enumerate(study.queries)}
    return sorted(
        cells,
        key=lambda c: (
            c.block, places[c.block, (c.condition, c.placebo)], order[c.query.query_id], c.arm
        ),
    )  # fmt: skip


def _weights(design: Design, placebos: int) -> list[float]:
    """Shares of the trials for every condition and placebo edit, an edit's as a single change's."""
    singles = [w for w, p in zip(design.weights, design.parts, strict=True) if p == "single"]
    edit = sum(singles) / len(singles)
    return [w / (1 + placebos * edit) for w in (*design.weights, *([edit] * placebos))]


def _starts(study: Study, rng: np.random.Generator) -> list[int]:
    """The wording that each query starts with: every wording with as many queries, and roles."""
    starts: dict[int, int] = {}
    for role in ("target", "control"):
        of_role = [i for i, query in enumerate(study.queries) if query.role == role]
        for place, i in enumerate(rng.permutation(len(of_role)).tolist()):
            starts[of_role[i]] = place % len(study.wordings)
    return [starts[i] for i in range(len(study.queries))]


def _arm_shares(study: Study, design: Design) -> dict[str, float]:
    """Share of the trials in each arm; arms other than train split the rest."""
    others = len(study.scenario.arms) - 1
    return {
        arm: design.train_share if arm == "train" else (1 - design.train_share) / others
        for arm in study.scenario.arms
    }


def _blocks(queries: Sequence[Query], rng: np.random.Generator) -> dict[str, int]:
    """A block for each query, every category and role spread over all blocks."""
    strata: dict[tuple[str, str], list[Query]] = {}
    for query in queries:
        strata.setdefault((query.role, query.category), []).append(query)
    blocks: dict[str, int] = {}
    for stratum in strata.values():
        for i in rng.permutation(len(stratum)):
            blocks[stratum[i].query_id] = len(blocks) % BLOCKS + 1
    return blocks


def _allocate(
    weights: Sequence[float],
    targets: Sequence[Query],
    arms: Mapping[str, float],
    trials: int,
    replicates: int,
    rng: np.random.Generator,
) -> dict[tuple[int, str], np.ndarray[Any, np.dtype[np.int64]]]:
    """Trials per place in `weights`, arm and query.

    Each condition gets its share as evenly as whole trials allow; what is left over goes round
    the queries in one random order per arm, so that every query gets the same number overall.
    """
    queries = len(targets)
    found = {}
    for arm, share in arms.items():
        order = rng.permutation(queries)
        pointer, owed = 0, 0.0
        for condition in rng.permutation(len(weights)).tolist():
            wanted = trials * share * weights[condition] / replicates + owed
            count = max(1, round(wanted))
            owed = wanted - count
            counts = np.full(queries, count // queries, dtype=np.int64)
            rest = count % queries
            counts[order[(pointer + np.arange(rest)) % queries]] += 1
            pointer = (pointer + rest) % queries
            found[condition, arm] = counts * replicates
    return found


def _trials(
    study: Study, design: Design, cells: Sequence[Cell], model: str
) -> Iterator[tuple[Any, ...]]:
    identity = study.subjects[model].identity()
    ids = [condition.condition_id for condition in design.conditions]
    wordings = list(study.wordings)
    repeats = study.settings.design.replicates
    weights = _weights(design, len(study.placebos))
    total = {part: sum(w for w, p in zip(weights, design.parts, strict=False) if p == part)
             for part in set(design.parts)}  # fmt: skip
    for cell in cells:
        condition = design.conditions[cell.condition]
        levels = dict(condition.levels)
        drawn = design.probabilities[cell.condition]
        weight = design.weights[cell.condition]
        probability = total["random"] * drawn if drawn is not None else weights[cell.condition]
        design_weight = design.masses[cell.condition] / weight if design.masses else None
        if cell.placebo is not None:
            probability, design_weight = weights[-1], None
        for number in range(cell.trials):
            # Repeats of a prompt come together; then the next wording has its turn.
            turn, repeat = divmod(number, repeats)
            wording = wordings[(cell.wording + turn) % len(wordings)]
            replicate = turn // len(wordings) * repeats + repeat
            prompt_id = study.scenario.render(
                condition,
                arm=cell.arm,
                query=cell.query.text,
                wording=study.worded(wording, cell.placebo),
            ).prompt_id
            parts = [model, identity, prompt_id, ids[cell.condition], wording]
            if cell.placebo is not None:
                parts.append(cell.placebo)
            trial_id = content_hash([*parts, cell.query.query_id, cell.arm, replicate, PURPOSE])
            yield (
                trial_id,
                model,
                study.scenario.name,
                ids[cell.condition],
                wording,
                cell.query.query_id,
                cell.arm,
                replicate,
                prompt_id,
                PURPOSE,
                cell.block,
                cell.placebo,
                *(levels[factor] for factor in study.factors),
                probability,
                design_weight,
            )


def condition_of(study: Study, row: Mapping[str, Any]) -> Condition:
    """The condition of a plan row."""
    return study.scenario.close({f: row[f] for f in study.factors if row[f] is not None})


def prompt_of(study: Study, row: Mapping[str, Any], texts: Mapping[str, str]) -> Prompt:
    """The prompt of a plan row. Raises PlanError when it is not the one that was planned."""
    prompt = study.scenario.render(
        condition_of(study, row),
        arm=row["arm"],
        query=texts[row["query_id"]],
        wording=study.worded(row["wording_id"], row["placebo"]),
    )
    if prompt.prompt_id != row["prompt_id"]:
        raise PlanError(
            f"trial {row['trial_id']}: its prompt is not the one that was planned: plan again"
        )
    return prompt


def inputs(study: Study) -> dict[str, Any]:
    """What a plan depends on: names, seeds, hashes and settings, as data for plan.toml."""
    settings = study.settings
    return {
        "study": study.name,
        "seed": settings.study.seed,
        "scenario": _sha256(study.scenario_path),
        "queries": _sha256(study.queries_path),
        # Only what the trials depend on: further variants do not touch a study of one wording.
        "wordings": content_hash([list(study.wordings), list(study.placebos)]),
        "design": settings.design.model_dump_json(),
        "models": {model: json.dumps(p.identity()) for model, p in study.subjects.items()},
    }


def _record(study: Study, design: Design, trials: int) -> dict[str, Any]:
    settings = study.settings
    frozen: dict[str, Any] = {
        "estimand": settings.study.estimand,
        "margin_gap": settings.margins.gap,
        "margin_share": settings.margins.share,
        "graders": {name: study.graders[name].instrument for name in settings.grading.graders},
    }
    if settings.study.claims:
        frozen["claims"] = _sha256(study.root / settings.study.claims)
    chosen = {
        "kind": design.kind,
        "conditions": len(design.conditions),
        "train_share": design.train_share,
        "factors": list(study.factors),
        "wordings": len(study.wordings),
        "placebos": len(study.placebos),
    }
    made = {"version": __version__, "trials": trials}
    return {"made": made, "inputs": inputs(study), "design": chosen, "frozen": frozen}


def write_plan(plan: Plan, run_dir: Path) -> None:
    """Write plan.parquet and plan.toml; plan.toml last, because it says that both are there."""
    run_dir.mkdir(parents=True, exist_ok=True)
    plan.frame.write_parquet(run_dir / "plan.parquet")
    lines = ["# What this run does, frozen before its first call. Made by `ablate plan`."]
    for table, values in plan.record.items():
        lines += ["", f"[{table}]"]
        lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    (run_dir / "plan.toml").write_text("\n".join(lines) + "\n", "utf-8")


def load_plan(study: Study, run_dir: Path) -> Plan:
    """Read a run's plan. Raises PlanError when it is not this study's, or the study has changed."""
    path = run_dir / "plan.toml"
    if not path.is_file() or not (run_dir / "plan.parquet").is_file():
        raise PlanError(f"{run_dir}: no plan in it; `ablate plan {study.root}` makes one")
    try:
        record = tomllib.loads(path.read_text("utf-8"))
        frame = pl.read_parquet(run_dir / "plan.parquet")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        raise PlanError(f"{run_dir}: the plan cannot be read: {error}") from None
    planned, now = record.get("inputs", {}), inputs(study)
    if planned.get("study") != study.name:
        raise PlanError(
            f"{run_dir}: this run belongs to the study `{planned.get('study')}`, "
            f"not to `{study.name}`: use it in its own study folder"
        )
    changed = [key for key in now if planned.get(key) != now[key]]
    if changed:
        raise PlanError(
            f"{run_dir}: {', '.join(changed)} changed after this run was planned: undo the change, "
            f"or plan another run with `ablate plan {study.root} --run NAME`"
        )
    return Plan(frame, record)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _toml(value: Any) -> str:
    """A value as TOML; JSON strings, numbers and lists are TOML too."""
    if isinstance(value, dict):
        inner = ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items())
        return f"{{ {inner} }}"
    return json.dumps(value)
