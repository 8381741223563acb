"""Planning: the study's trials, one row each, frozen before the first call.

Takes a study; gives its plan (conditions x arms x wordings x queries x replicates x models) and
prompts. Does not know prices, answers or estimators.
"""

import hashlib
import itertools
import json
import math
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
from ablate.study import AVERAGED, SIMPLE, Study, changes_of
from variants import Condition, Prompt
from variants.designs import DESIGNS, Design, DesignError, Screened
from variants.scenario import content_hash

__all__ = [
    "EXPLORE",
    "PILOT",
    "PLAN",
    "Cell",
    "Plan",
    "PlanError",
    "allocate",
    "blocks_of",
    "kind_of",
    "load_plan",
    "make_plan",
    "plan_of",
    "read_plan",
    "starts_of",
    "toml_value",
    "write_plan",
]

Floats = np.ndarray[Any, np.dtype[np.float64]]

BLOCKS = 4
EXPLORE = "explore"
# A purpose, a kind of design and the name of the run.
PILOT = "pilot"

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


class PlanError(DesignError):
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

    @property
    def varied(self) -> list[str]:
        """The factors that two of the trials have at different levels."""
        factors = [name for name, kind in self.frame.schema.items() if isinstance(kind, pl.Enum)]
        return [name for name in factors if self.frame[name].drop_nulls().n_unique() > 1]

    def of_models(self, models: Sequence[str]) -> "Plan":
        return Plan(self.frame.filter(pl.col("model").is_in(models)), self.record, self.design)


def make_plan(
    study: Study,
    *,
    random_conditions: int | None = None,
    screened: Mapping[Condition, Screened] | None = None,
) -> Plan:
    """The plan that the study's settings and seed make; the same on any machine.

    `random_conditions` is how many conditions a random part has where study.toml leaves it open;
    as many as there can be when it is None. `screened` is what the first stage of a two-stage
    design found: the plan then holds both stages, the trials of the first among them. Raises
    PlanError when the trials do not suffice for the design, or it cannot estimate what the study
    asks for.
    """
    rng = np.random.default_rng(study.settings.study.seed)
    design = _fitting(study, rng, random_conditions)
    _check_estimand(study, design)
    trials = round(study.settings.design.trials * design.spent)
    tried: list[Tried] = [(i, None) for i in range(len(design.conditions))]
    original = design.conditions.index(study.scenario.original)
    tried += [(original, placebo) for placebo in study.placebos]
    weights = _weights(design, len(study.placebos))
    cells = _cells(study, design, tried, weights, trials, rng, screened)
    return plan_of(study, design, cells, weights, EXPLORE)


def _fitting(study: Study, rng: np.random.Generator, random_conditions: int | None) -> Design:
    """The design, with no more fresh conditions than the smallest arm has trials for."""
    design = design_of(study, rng, random_conditions)
    settings = study.settings.design
    if (
        "random" not in design.parts
        or random_conditions is not None
        or settings.random_conditions not in (None, "fresh")
    ):
        return design
    # Controls, placebo edits, repeats and further arms take what a design counts on.
    weights = _weights(design, len(study.placebos))[: len(design.conditions)]
    smallest = min(_arm_shares(study, design).values())
    share = smallest / min(design.train_share, 1 - design.train_share)
    trials = settings.trials - _controls(study, design)
    room = int(trials * sum(weights) * share / settings.replicates)
    if 0.9 * settings.trials < room or room < 2 * len(design.conditions) - 2 * design.parts.count(
        "random"
    ):
        return design
    return design_of(study, rng, trials=room)


def design_of(
    study: Study,
    rng: np.random.Generator,
    random_conditions: int | None = None,
    screened: Mapping[Condition, Screened] | None = None,
    trials: int | None = None,
) -> Design:
    """The design that the study's settings ask for; `trials` replace theirs. Raises PlanError."""
    settings = study.settings.design
    options: dict[str, Any] = dict(settings.options)
    if random_conditions is not None:
        options.setdefault("random_conditions", random_conditions)
    if study.listed is not None:
        options["listed"] = study.listed
    if screened is not None:
        options["screened"] = screened
    if settings.exclude:
        options["exclude"] = [changes_of(text) for text in settings.exclude]
    try:
        return DESIGNS[settings.kind](
            study.scenario,
            trials=trials or settings.trials,
            rng=rng,
            names=study.factors,
            **options,
        )
    except DesignError as error:
        raise PlanError(f"{study.root}/study.toml: design: {error}") from None


def _check_estimand(study: Study, design: Design) -> None:
    """Refuse a study whose primary estimand its design cannot estimate."""
    asked = study.settings.study.estimand
    where = f"{study.root}/study.toml: study.estimand"
    if "original" not in design.parts and study.scenario.original not in design.conditions:
        raise PlanError(
            f"{study.root}/study.toml: design: the original is not among the conditions, and there "
            'is no baseline gap without it: add it, or choose design.kind = "mixed"'
        )
    if asked == AVERAGED and design.masses is None:
        raise PlanError(
            f"{where}: a {design.kind} design has simple effects only: set {SIMPLE}, "
            'or design.kind = "mixed"'
        )
    if asked == SIMPLE:
        there = set(design.conditions)
        excluded = [changes_of(text) for text in study.settings.design.exclude]
        missing = [
            f"{factor}={level}"
            for factor, levels in study.factors.items()
            for level in levels[1:]
            if {factor: level} not in excluded
            and (single := study.scenario.close({factor: level})) not in there
            and single != study.scenario.original
        ]
        if missing:
            raise PlanError(
                f"{where}: this {design.kind} design does not try {', '.join(missing[:3])}"
                f"{' and others' if len(missing) > 3 else ''} alone, so that there is no simple "
                f'effect: set {AVERAGED}, or design.kind = "mixed"'
            )


def plan_of(
    study: Study,
    design: Design,
    cells: Sequence["Cell"],
    weights: Sequence[float],
    purpose: str,
    models: Sequence[str] | None = None,
) -> Plan:
    """The plan of these cells for the study's models, or those named."""
    rows = [
        row
        for model in models or study.subjects
        for row in _trials(study, design, cells, weights, model, purpose)
    ]
    frame = pl.DataFrame(rows, schema=plan_schema(study), orient="row")
    return Plan(frame, _record(study, design, frame), design)


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


# A condition of the design, and the placebo edit made in it if there is one.
Tried = tuple[int, str | None]


def _cells(
    study: Study,
    design: Design,
    tried: Sequence[Tried],
    weights: Sequence[float],
    trials: int,
    rng: np.random.Generator,
    screened: Mapping[Condition, Screened] | None,
) -> list[Cell]:
    """All cells in running order: by block, conditions shuffled within, arms interleaved."""
    targets = [query for query in study.queries if query.role == "target"]
    controls = [query for query in study.queries if query.role == "control"]
    fixed = [i for i, part in enumerate(design.parts) if part in ("original", "single")]
    arms = _arm_shares(study, design)
    # Controls never enter a gap: one call each where over-refusal is of interest.
    spent = _controls(study, design)
    trials -= spent
    needed = _needed(study, design, tried)
    if trials < needed:
        what = f"{len(tried) - len(study.placebos)} conditions"
        if study.placebos:
            what += f" and {len(study.placebos)} placebo edits"
        raise PlanError(
            f"{study.root}/study.toml: design.trials: {what} need at "
            f"least {math.ceil((spent + needed) / design.spent)} trials: set more, or vary fewer "
            "factors"
        )
    if len(targets) < 2:
        raise PlanError(
            f"{study.queries_path}: a gap needs at least two queries of role target, and there "
            f"{'is one' if targets else 'are none'}: add {2 - len(targets)}"
        )
    blocks = blocks_of(study.queries, rng)
    replicates = study.settings.design.replicates
    shares = allocate(weights, len(targets), arms, trials, replicates, rng)
    # A query starts with the same wording everywhere, so that conditions and arms are compared
    # within wordings; the queries share the wordings out among them.
    starts = dict(zip([q.query_id for q in study.queries], starts_of(study, rng), strict=True))
    places = {
        (block, tried[place]): order
        for block in range(1, BLOCKS + 1)
        for order, place in enumerate(rng.permutation(len(tried)).tolist())
    }
    if screened is not None:
        # A generator of its own: the trials of the first stage are those that were run.
        more = np.random.default_rng([study.settings.study.seed, 3])
        second = design_of(study, more, screened=screened)
        later = round(study.settings.design.trials * second.spent)
        further = _weights(second, len(study.placebos))
        for key, counts in allocate(further, len(targets), arms, later, replicates, more).items():
            shares[key] = shares[key] + counts
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
    order = {query.query_id: i for i, query in enumerate(study.queries)}
    return sorted(
        cells,
        key=lambda c: (
            c.block, places[c.block, (c.condition, c.placebo)], c.wording, order[c.query.query_id],
            c.arm,
        ),
    )  # fmt: skip


def _needed(study: Study, design: Design, tried: Sequence[Tried]) -> int:
    """The least trials for one of everything in every arm; fresh conditions come with trials."""
    arms, settings = _arm_shares(study, design), study.settings.design
    each = len(arms) * settings.replicates
    if settings.random_conditions not in (None, "fresh") or "random" not in design.parts:
        return each * len(tried)
    fresh = [w for w, part in zip(design.weights, design.parts, strict=True) if part == "random"]
    others = 1 - sum(fresh) * len(arms) * min(arms.values())
    return max(each * len(tried), math.ceil(each * (len(tried) - len(fresh) + 1) / others))


def _controls(study: Study, design: Design) -> int:
    """How many trials the control queries take: one in each fixed condition and arm."""
    fixed = sum(part in ("original", "single") for part in design.parts)
    controls = sum(query.role == "control" for query in study.queries)
    return controls * fixed * len(study.scenario.arms)


def _weights(design: Design, placebos: int) -> list[float]:
    """Shares of the trials for every condition and placebo edit, an edit's as a single change's."""
    parts = list(zip(design.weights, design.parts, strict=True))
    alike = [w for w, part in parts if part == "single"] or [w for w, _ in parts]
    edit = sum(alike) / len(alike)
    return [w / (1 + placebos * edit) for w in (*design.weights, *([edit] * placebos))]


def starts_of(study: Study, rng: np.random.Generator) -> list[int]:
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


def blocks_of(queries: Sequence[Query], rng: np.random.Generator) -> dict[str, int]:
    """A block for each query, every category and role spread over all blocks."""
    strata: dict[tuple[str, str], list[Query]] = {}
    for query in queries:
        strata.setdefault((query.role, query.category), []).append(query)
    blocks: dict[str, int] = {}
    for stratum in strata.values():
        for i in rng.permutation(len(stratum)):
            blocks[stratum[i].query_id] = len(blocks) % BLOCKS + 1
    return blocks


def allocate(
    weights: Sequence[float],
    queries: int,
    arms: Mapping[str, float],
    trials: int,
    replicates: int,
    rng: np.random.Generator,
) -> dict[tuple[int, str], np.ndarray[Any, np.dtype[np.int64]]]:
    """Trials of each query, for every place in `weights` and arm; every place gets at least one.

    Each condition gets its share as evenly as whole trials allow; what is left over goes round
    the queries in one random order per arm, so that every query gets the same number overall. In
    the order of the design, which has light changes first, it also gets light and heavy ones alike.
    """
    found = {}
    for arm, share in arms.items():
        order = rng.permutation(queries)
        shares = _at_least_one(np.array(weights), trials * share / replicates)
        pointer, owed = 0, 0.0
        for condition in rng.permutation(len(weights)).tolist():
            wanted = shares[condition] + owed
            count = max(1, round(wanted))
            owed = wanted - count
            counts = np.full(queries, count // queries, dtype=np.int64)
            rest = count % queries
            counts[order[(pointer + np.arange(rest)) % queries]] += 1
            pointer = (pointer + rest) % queries
            found[condition, arm] = counts * replicates
    return found


def _at_least_one(weights: Floats, trials: float) -> Floats:
    """Trials in proportion to weights, but at least 1; what that takes, all others give alike."""
    shares = trials * weights
    raised = np.zeros(len(weights), dtype=bool)
    while (low := ~raised & (shares < 1)).any():
        raised |= low
        left = max(0.0, trials - raised.sum())
        shares = np.where(raised, 1.0, left * weights / max(weights[~raised].sum(), 1e-300))
    return shares


def _trials(
    study: Study,
    design: Design,
    cells: Sequence[Cell],
    weights: Sequence[float],
    model: str,
    purpose: str,
) -> Iterator[tuple[Any, ...]]:
    identity = study.subjects[model].identity()
    ids = [condition.condition_id for condition in design.conditions]
    wordings = list(study.wordings)
    repeats = study.settings.design.replicates
    drawn_share = sum(w for w, p in zip(weights, design.parts, strict=False) if p == "random")
    toward_law = _toward_law(design, cells)
    for cell, at, replicate in _in_order(cells, len(wordings), repeats):
        condition = design.conditions[cell.condition]
        levels = dict(condition.levels)
        drawn = design.probabilities[cell.condition]
        probability = drawn_share * drawn if drawn is not None else weights[cell.condition]
        design_weight = toward_law.get((cell.condition, cell.arm))
        if cell.query.role != "target":
            # A control enters no gap, and so no average of gaps.
            design_weight = None
        if cell.placebo is not None:
            probability, design_weight = weights[-1], None
        wording = wordings[at]
        prompt_id = study.scenario.render(
            condition,
            arm=cell.arm,
            query=cell.query.text,
            wording=study.worded(wording, cell.placebo),
        ).prompt_id
        parts = [model, identity, prompt_id, ids[cell.condition], wording]
        if cell.placebo is not None:
            parts.append(cell.placebo)
        trial_id = content_hash([*parts, cell.query.query_id, cell.arm, replicate, purpose])
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
            purpose,
            cell.block,
            cell.placebo,
            *(levels[factor] for factor in study.factors),
            probability,
            design_weight,
        )


def _in_order(
    cells: Sequence[Cell], wordings: int, repeats: int
) -> Iterator[tuple[Cell, int, int]]:
    """Each trial's cell, place of its wording, and replicate.

    Within a condition and block, what shares its wording stands together: its calls then begin
    with the same text.
    """
    for _, group in itertools.groupby(cells, lambda c: (c.block, c.condition, c.placebo)):
        trials = []
        for cell in group:
            for number in range(cell.trials):
                # Repeats of a prompt come together; then the next wording has its turn.
                turn, repeat = divmod(number, repeats)
                place = (cell.wording + turn) % wordings
                trials.append((cell, place, turn // wordings * repeats + repeat))
        yield from sorted(trials, key=lambda trial: trial[1])


def _toward_law(design: Design, cells: Sequence[Cell]) -> dict[tuple[int, str], float]:
    """For each condition and arm, what turns its trials into trials of the law.

    The share of the law over the share of the arm's trials that it really got: both arms then
    stand for the very same law, however whole trials fell. Conditions outside it have none.
    """
    if design.masses is None:
        return {}
    counts: dict[tuple[int, str], int] = {}
    totals: dict[str, int] = {}
    for cell in cells:
        if cell.placebo is None and cell.query.role == "target":
            key = (cell.condition, cell.arm)
            counts[key] = counts.get(key, 0) + cell.trials
            totals[cell.arm] = totals.get(cell.arm, 0) + cell.trials
    return {
        (condition, arm): design.masses[condition] * totals[arm] / count
        for (condition, arm), count in counts.items()
        if design.masses[condition] > 0
    }


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


def frozen(study: Study) -> dict[str, Any]:
    """What the analysis may not change after the plan, as data for plan.toml."""
    settings = study.settings
    found: dict[str, Any] = {
        "estimand": settings.study.estimand,
        "margin_gap": settings.margins.gap,
        "margin_share": settings.margins.share,
        "graders": {name: study.graders[name].instrument for name in settings.grading.graders},
        "exclusions": list(settings.analysis.exclusions),
        "stopping": settings.analysis.stopping,
    }
    if settings.study.claims:
        found["claims"] = _sha256(study.root / settings.study.claims)
    return found


def digest_of(frame: pl.DataFrame) -> str:
    """The hash of a plan's trial ids, whatever their order."""
    return content_hash(frame["trial_id"].sort().to_list())


def _record(study: Study, design: Design, frame: pl.DataFrame) -> dict[str, Any]:
    chosen = {
        "kind": design.kind,
        "conditions": len(design.conditions),
        "parts": {part: design.parts.count(part) for part in dict.fromkeys(design.parts)},
        "law": design.law,
        "notes": list(design.notes),
        "spent": design.spent,
        "train_share": design.train_share,
        "factors": list(study.factors),
        "wordings": len(study.wordings),
        "placebos": len(study.placebos),
    }
    made = {"version": __version__, "trials": frame.height, "trial_ids": digest_of(frame)}
    return {"made": made, "inputs": inputs(study), "design": chosen, "frozen": frozen(study)}


def write_plan(plan: Plan, run_dir: Path) -> None:
    """Write plan.parquet and plan.toml; plan.toml last, because it says that both are there."""
    run_dir.mkdir(parents=True, exist_ok=True)
    plan.frame.write_parquet(run_dir / "plan.parquet")
    lines = ["# What this run does, frozen before its first call. Made by `ablate plan`."]
    for table, values in plan.record.items():
        lines += ["", f"[{table}]"]
        lines += [f"{key} = {toml_value(value)}" for key, value in values.items()]
    (run_dir / "plan.toml").write_text("\n".join(lines) + "\n", "utf-8")


def load_plan(study: Study, run_dir: Path) -> Plan:
    """Read a run's plan. Raises PlanError when it is not this study's, or the study has changed."""
    plan = read_plan(study, run_dir)
    if kind_of(plan) == PILOT != study.settings.design.kind:
        raise PlanError(f"{run_dir}: this run is a pilot: `ablate pilot {study.root}` goes on")
    planned, now = plan.record["inputs"], inputs(study)
    changed = [key for key in now if planned.get(key) != now[key]]
    if changed:
        raise PlanError(
            f"{run_dir}: {', '.join(changed)} changed after this run was planned: undo the change, "
            f"or plan another run with `ablate plan {study.root} --run NAME`"
        )
    return plan


def read_plan(study: Study, run_dir: Path) -> Plan:
    """Read a plan of this study, whatever has changed since. Raises PlanError."""
    path = run_dir / "plan.toml"
    if not path.is_file() or not (run_dir / "plan.parquet").is_file():
        raise PlanError(f"{run_dir}: no plan in it; `ablate plan {study.root}` makes one")
    try:
        record = tomllib.loads(path.read_text("utf-8"))
        frame = pl.read_parquet(run_dir / "plan.parquet")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        raise PlanError(f"{run_dir}: the plan cannot be read: {error}") from None
    if record.get("made", {}).get("trial_ids") != digest_of(frame):
        raise PlanError(
            f"{run_dir}: plan.parquet is not the one that plan.toml was written with: put it back, "
            f"or plan another run with `ablate plan {study.root} --run NAME`"
        )
    planned = record.get("inputs", {})
    if planned.get("study") != study.name:
        raise PlanError(
            f"{run_dir}: this run belongs to the study `{planned.get('study')}`, "
            f"not to `{study.name}`: use it in its own study folder"
        )
    return Plan(frame, record)


def kind_of(plan: Plan) -> str:
    """The kind of design that a plan was made with."""
    return str(plan.record.get("design", {}).get("kind", ""))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def toml_value(value: Any) -> str:
    """A value as TOML; JSON strings, numbers and lists are TOML too."""
    if isinstance(value, dict):
        inner = ", ".join(f"{json.dumps(str(k))} = {toml_value(v)}" for k, v in value.items())
        return f"{{ {inner} }}"
    return json.dumps(value)
