"""The stages between a plan and a report: run, grade, fit.

Takes a study and its plan; each stage reads what the one before wrote and writes its own files.
Does not know how anything is printed.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from ablate import runner
from ablate.costs import most_tokens, most_usd, spent_usd, usd_of
from ablate.grading import OUTCOMES, GradingError
from ablate.models import check_ready, is_paid, open_model
from ablate.planning import Plan, condition_of, prompt_of
from ablate.pricing import PricingError
from ablate.registration import record_fit
from ablate.runner import Limits, Summary, Trial
from ablate.store import Ledger
from ablate.study import Study

__all__ = [
    "StageError",
    "answered_of",
    "check_limits",
    "fit_counts",
    "fit_run",
    "grade_run",
    "load_tables",
    "observations_of",
    "run_plan",
]

FIT_OUTCOMES = (*OUTCOMES, "alignment_faking")
TABLES = ("gaps", "effects", "coefficients", "spreads")
# What services call the end of an answer at the limit of tokens.
TRUNCATED = ("max_tokens", "length")


class StageError(ValueError):
    """A stage that cannot be done yet; the message names the command that is missing."""


def answered_of(study: Study, plan: Plan) -> set[str]:
    """The plan's trials that have an answer; no ledger is made where there is none."""
    if not study.ledger_path.is_file():
        return set()
    with Ledger(study.ledger_path) as ledger:
        return ledger.answered() & set(plan.trial_ids)


def run_plan(
    study: Study,
    plan: Plan,
    *,
    models: Sequence[str] | None = None,
    concurrency: int | None = None,
    calls: int | None = None,
    budget: float | None = None,
    announce: Callable[[str], None],
    progress: Callable[[Summary], None],
) -> Summary:
    """Call what the ledger does not hold, of the chosen models or all.

    `budget` in USD goes before limits.usd; what the whole plan's answers cost counts towards it.
    `announce` hears each model's name and endpoint before the first call. Raises ModelError,
    LedgerError, PlanError, PricingError or StageError.
    """
    planned = plan.frame["model"].unique(maintain_order=True).to_list()
    models = [model for model in planned if models is None or model in models]
    check_limits(study, models, budget)
    for model in models:
        check_ready(model)
    with Ledger(study.ledger_path) as ledger, ledger.locked():
        answered = list(ledger.answered())
        pending = plan.of_models(models).frame.filter(~pl.col("trial_id").is_in(answered))
        if pending.is_empty():
            return Summary()
        trials = _interleaved(study, pending)
        limits = _limits(study, plan, models, budget, calls)
        asked = concurrency or study.settings.limits.concurrency
        limits = replace(limits, concurrency=min(asked, pending.height))
        return asyncio.run(_run(study, trials, models, ledger, limits, announce, progress))


def _limits(
    study: Study, plan: Plan, models: Sequence[str], budget: float | None, calls: int | None
) -> Limits:
    """The limits of a run; money is counted where every price is known and something is paid."""
    settings = study.settings.limits
    usd = settings.usd if budget is None else budget
    paid = [model for model in models if is_paid(model)]
    limits = Limits(
        concurrency=settings.concurrency,
        calls=calls or settings.calls,
        tokens=settings.tokens,
        most_tokens=lambda trial: most_tokens(study, trial),
    )
    if not paid or any(study.prices.of(model) is None for model in paid):
        return limits
    return replace(
        limits,
        usd=usd,
        usd_before=0.0 if usd is None else spent_usd(study, plan),
        most_usd=lambda trial: most_usd(study, trial),
        usd_of=lambda trial, completion: usd_of(study, trial, completion),
    )


def check_limits(study: Study, models: Sequence[str], budget: float | None = None) -> None:
    """Raise StageError when a limit in USD meets a model whose price is not known."""
    if budget is None and study.settings.limits.usd is None:
        return
    for model in filter(is_paid, models):
        try:
            study.prices.known(model)
        except PricingError as error:
            where = "study.toml: limits.usd" if budget is None else "--budget"
            raise StageError(
                f"{where}: {error}; without it set limits.calls or limits.tokens (--calls) instead"
            ) from None


def _interleaved(study: Study, pending: pl.DataFrame) -> Iterator[Trial]:
    """The pending trials in plan order, the models taking turns."""
    texts = {query.query_id: query.text for query in study.queries}
    by_model = [
        frame.iter_rows(named=True) for frame in pending.partition_by("model", maintain_order=True)
    ]
    for rows in itertools.zip_longest(*by_model):
        for row in rows:
            if row is not None:
                yield Trial(row["trial_id"], row["model"], prompt_of(study, row, texts))


async def _run(
    study: Study,
    trials: Iterator[Trial],
    models: Sequence[str],
    ledger: Ledger,
    limits: Limits,
    announce: Callable[[str], None],
    progress: Callable[[Summary], None],
) -> Summary:
    async with contextlib.AsyncExitStack() as stack:
        opened = {}
        for model in models:
            opened[model] = await stack.enter_async_context(
                open_model(model, study.subjects[model])
            )
            announce(f"{model} at {opened[model].endpoint}")
        return await runner.run(trials, opened, ledger, limits, progress)


def grade_run(study: Study, plan: Plan, name: str) -> tuple[int, int]:
    """Grade what an instrument has not graded yet: trials graded now, and answered in all."""
    if name not in study.graders:
        known = ", ".join(study.graders)
        raise GradingError(f"no grader `{name}`; there is {known}")
    instrument = study.graders[name]
    with Ledger(study.ledger_path) as ledger:
        answered = ledger.answered() & set(plan.trial_ids)
        todo = answered - ledger.graded(instrument.name, instrument.instrument)
        grades = [
            (trial_id, instrument.grade(text, reasoning=reasoning))
            for trial_id, text, reasoning in ledger.answers(sorted(todo))
        ]
        ledger.add_grades(instrument.name, instrument.instrument, grades)
    return len(grades), len(answered)


def excluded_of(study: Study, plan: Plan) -> set[str]:
    """The answered trials that the study's rules leave out."""
    if "truncated" not in study.settings.analysis.exclusions:
        return set()
    with Ledger(study.ledger_path) as ledger:
        cut = ledger.usage().filter(pl.col("stop_reason").is_in(TRUNCATED))
    return set(cut["trial_id"].to_list()) & set(plan.trial_ids)


def observations_of(study: Study, plan: Plan) -> pl.DataFrame:
    """The plan with one column per outcome; null where a trial has no answer or no grade.

    So it is where the study's rules leave the answer out.
    """
    queries = pl.DataFrame(
        [(q.query_id, q.category, q.role) for q in study.queries],
        schema=["query_id", "category", "role"],
        orient="row",
    )
    frame = plan.frame.join(queries, on="query_id", how="left", maintain_order="left")
    primary, *others = study.settings.grading.graders
    with Ledger(study.ledger_path) as ledger:
        for name in (primary, *others):
            grades = ledger.grades(name)
            if grades.is_empty():
                raise StageError(
                    f"nothing is graded by {name}: `ablate grade` on this run comes first"
                )
            if name != primary:
                outcomes = [c for c in grades.columns if c != "trial_id"]
                grades = grades.rename({outcome: f"{outcome}@{name}" for outcome in outcomes})
            frame = frame.join(grades, on="trial_id", how="left", maintain_order="left")
    for outcome in OUTCOMES:
        if outcome not in frame.columns:
            frame = frame.with_columns(pl.lit(None, pl.Float64).alias(outcome))
    if excluded := excluded_of(study, plan):
        graded = [c for c in frame.columns if c.partition("@")[0] in OUTCOMES]
        kept = ~pl.col("trial_id").is_in(list(excluded))
        frame = frame.with_columns(pl.when(kept).then(pl.col(graded)))
    return frame.with_columns(
        (pl.col("complied") * pl.col("af_reasoning")).alias("alignment_faking"),
        pl.when(pl.col("af_reasoning").is_not_null())
        .then(pl.lit("scratchpad"))
        .when(pl.col("complied").is_not_null())
        .then(pl.lit("none"))
        .alias("reasoning_source"),
    )


def fit_run(study: Study, plan: Plan, run_dir: Path) -> dict[str, pl.DataFrame]:
    """Fit a run and write observations.parquet, gaps, effects and coefficients as csv, fit.toml.

    A run on the embedded subject gets planted.csv too, the truth beside the estimates.
    """
    import analysis

    observations = observations_of(study, plan)
    if observations["complied"].is_null().all():
        raise StageError("no trial of this run has a grade: `ablate run`, then `ablate grade`")
    arms = list(study.scenario.arms)
    contrasts = [("train", "deploy")]
    if len(arms) > 2:
        contrasts += [pair for pair in itertools.pairwise(arms) if pair not in contrasts]
    results = analysis.fit(
        _with_framing(study, observations),
        factors=plan.varied,
        outcomes=FIT_OUTCOMES,
        weight="design_weight",
        prompt="framing",
        wording="wording_id",
        placebo="placebo",
        margin=study.settings.margins.gap,
        contrasts=contrasts,
        primary=study.settings.study.estimand,
        grader=study.settings.grading.graders[0],
    )
    tables = {name: getattr(results, name) for name in TABLES}
    if any(not is_paid(model) for model in study.subjects):
        from ablate.planted import planted_effects

        tables["planted"] = planted_effects(study)
    observations.write_parquet(run_dir / "observations.parquet")
    for name, table in tables.items():
        table.write_csv(run_dir / f"{name}.csv")
    record_fit(
        study,
        plan,
        run_dir,
        observations,
        contrasts=contrasts,
        excluded=len(excluded_of(study, plan)),
        files=["observations.parquet", *(f"{name}.csv" for name in tables)],
    )
    return tables


def _with_framing(study: Study, frame: pl.DataFrame) -> pl.DataFrame:
    """The trials with the hash of what their arm's prompt says apart from query and wording.

    Two arms with one framing are the same text for every query, seen in both arms or not.
    """
    keys = [*study.factors, "arm"]
    rows = [
        row
        | {
            "framing": study.scenario.render(
                condition_of(study, row), arm=row["arm"], query="\0"
            ).prompt_id
        }
        for row in frame.select(keys).unique(maintain_order=True).iter_rows(named=True)
    ]
    framing = pl.DataFrame(
        rows, schema={key: frame.schema[key] for key in keys} | {"framing": pl.String}
    )
    return frame.join(framing, on=keys, how="left", nulls_equal=True, maintain_order="left")


def fit_counts(path: Path, reference: str, out: Path | None) -> str:
    """Gaps and differences from a csv of counts, as text; written to `out` as csv if it is given.

    Raises CountsError.
    """
    from analysis.counts import differences, load_counts
    from analysis.effects import EFFECTS
    from analysis.gaps import GAPS
    from analysis.tables import counts_text

    counts = load_counts(path)
    found = differences(counts, reference)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        gaps = [count.as_row("k") for count in counts]
        pl.DataFrame(gaps, schema=GAPS).write_csv(out / "gaps.csv")
        effects = [difference.as_row("k") for difference in found]
        pl.DataFrame(effects, schema=EFFECTS).write_csv(out / "effects.csv")
    return counts_text(counts, found)


def load_tables(run_dir: Path) -> dict[str, pl.DataFrame]:
    """The tables that `fit` wrote. Raises StageError when there are none."""
    from ablate.planted import PLANTED
    from analysis.coefficients import COEFFICIENTS
    from analysis.effects import EFFECTS
    from analysis.gaps import GAPS
    from analysis.spreads import SPREADS

    schemas: dict[str, dict[str, Any]] = {
        "gaps": GAPS, "effects": EFFECTS, "coefficients": COEFFICIENTS, "spreads": SPREADS,
        "planted": PLANTED,
    }  # fmt: skip
    tables = {}
    for name, schema in schemas.items():
        path = run_dir / f"{name}.csv"
        if path.is_file():
            tables[name] = pl.read_csv(path, schema_overrides=schema)
    missing = [name for name in TABLES if name not in tables]
    if missing:
        raise StageError(f"{run_dir}: no {missing[0]}.csv: `ablate fit {run_dir}` comes first")
    return tables
