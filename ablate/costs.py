"""Costs: what a plan's open trials cost in calls, tokens and USD, and what a run has spent.

Takes a study, its plan and its ledger; gives a Cost, and the worst case and the price of a call.
Does not know how a model is called, or where a run stops.
"""

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import polars as pl

from ablate.models import Completion, is_paid
from ablate.planning import Plan, PlanError, condition_of, prompt_of
from ablate.pricing import MILLION, Price
from ablate.runner import Trial
from ablate.store import Ledger
from ablate.study import Study
from variants import Prompt

__all__ = [
    "Cost",
    "ModelCost",
    "Range",
    "check_block",
    "cost_of",
    "most_tokens",
    "most_usd",
    "spent_usd",
    "usd_of",
]

# Models differ; four characters a token is close enough for an estimate before the first call.
CHARACTERS_PER_TOKEN = 4
# Before there are answers: a scratchpad and a reply seldom fill more of the room they are given.
OUTPUT_SHARE = 1 / 3
MEASURED_FROM = 20
# A cached prefix lives for five minutes after its last use: at a call a second, so many calls.
CACHED_CALLS = 300


@dataclass(frozen=True, slots=True)
class Range:
    """USD at the expected output, and at the most output there can be."""

    expected: float
    most: float


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What is left of a plan for one model; None where a price is not known.

    `output_tokens` are expected from `measured` answers, or from a third of max_tokens where that
    is 0. `one_by_one` is without caching, `cached` with every system text sent once and then read
    while it lives, which takes calls that wait for the first one of its text.
    """

    model: str
    paid: bool
    price: Price | None
    calls: int
    input_tokens: int
    output_tokens: int
    most_output_tokens: int
    measured: int = 0
    one_by_one: Range | None = None
    cached: Range | None = None
    batches: Range | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What is left of a plan, by model in the plan's order; input tokens are an estimate."""

    models: tuple[ModelCost, ...]

    @property
    def calls(self) -> int:
        return sum(model.calls for model in self.models)

    @property
    def input_tokens(self) -> int:
        return sum(model.input_tokens for model in self.models)

    @property
    def output_tokens(self) -> int:
        return sum(model.output_tokens for model in self.models)

    @property
    def most_output_tokens(self) -> int:
        return sum(model.most_output_tokens for model in self.models)

    @property
    def one_by_one(self) -> Range | None:
        return _total(model.one_by_one for model in self.models if model.paid)

    @property
    def cached(self) -> Range | None:
        return _total(model.cached for model in self.models if model.paid)

    @property
    def batches(self) -> Range | None:
        return _total(model.batches for model in self.models if model.paid)


def _total(ranges: Iterable[Range | None]) -> Range | None:
    """The sum; None when one is not known, or when there is nothing to pay."""
    known = list(ranges)
    expected, most = 0.0, 0.0
    for each in known:
        if each is None:
            return None
        expected += each.expected
        most += each.most
    return Range(expected, most) if known else None


def cost_of(study: Study, plan: Plan) -> Cost:
    """The cost of the trials that have no answer yet."""
    usage = _usage(study)
    pending = plan.frame.join(usage, on="trial_id", how="anti", maintain_order="left")
    sized = _sized(study, pending)
    outputs = _outputs(study, plan, usage)
    found = []
    for model in plan.frame["model"].unique(maintain_order=True):
        own = sized.filter(pl.col("model") == model)
        found.append(_model_cost(study, model, own, *outputs.get(model, (None, 0))))
    return Cost(tuple(found))


def check_block(study: Study, plan: Plan) -> None:
    """Raise PlanError when a limit of the study would end the run within its first block.

    A block holds the whole design on its queries: with less than one there is nothing to fit.
    """
    limits, trials = study.settings.limits, plan.frame.height
    if not trials or (limits.calls, limits.tokens, limits.usd) == (None, None, None):
        return
    share = max(plan.frame.group_by("block").len()["len"].to_list()) / trials
    cost = cost_of(study, plan)
    usd = cost.one_by_one
    for name, limit, whole in (
        ("calls", limits.calls, float(cost.calls)),
        ("tokens", limits.tokens, float(cost.input_tokens + cost.output_tokens)),
        ("usd", limits.usd, usd.expected if usd is not None else None),
    ):
        if limit is None or whole is None or limit >= share * whole:
            continue
        block = share * whole
        # Blocks are not equally large to the last call: a little less is safe.
        most = math.floor(0.95 * study.settings.design.trials * limit / block)
        raise PlanError(
            f"{study.root}/study.toml: limits.{name}: {limit:,} is less than the {block:,.2f} that "
            f"one of {plan.frame['block'].n_unique()} blocks takes: set it to at least "
            f"{math.ceil(block):,} ({math.ceil(whole):,} for all), or design.trials to at "
            f"most {most:,}"
        )


def _model_cost(
    study: Study, model: str, sized: pl.DataFrame, mean: float | None, measured: int
) -> ModelCost:
    """The cost of one model's open trials, in running order; `mean` output tokens if measured."""
    calls, most_each = sized.height, study.subjects[model].max_tokens
    each = most_each * OUTPUT_SHARE if mean is None else min(mean, most_each)
    price = study.prices.of(model)
    tokens = int(sized["tokens"].sum())
    outputs = round(calls * each), calls * most_each
    found = ModelCost(model, is_paid(model), price, calls, tokens, *outputs, measured)
    if price is None:
        return found
    # Calls at the price of a long prompt count so many times; elsewhere once.
    long = pl.col("tokens") > price.long_prompt if price.long_prompt is not None else pl.lit(False)
    sized = sized.with_columns(times=pl.when(long).then(price.long_factor).otherwise(1.0))
    output_usd = float(sized["times"].sum()) * price.output / MILLION

    def ranged(input_usd: float, factor: float = 1.0) -> Range:
        expected, most = (factor * (input_usd + n * output_usd) for n in (each, most_each))
        return Range(expected, most)

    plain = float((sized["tokens"] * sized["times"]).sum()) * price.input / MILLION
    cached = _cached_usd(sized, price)
    return replace(
        found,
        one_by_one=ranged(plain),
        cached=None if cached is None else ranged(cached),
        batches=None if price.batch is None else ranged(plain, price.batch),
    )


def _cached_usd(sized: pl.DataFrame, price: Price) -> float | None:
    """USD of the input when system texts are cached; None when the table does not say."""
    if price.cache_write is None or price.cache_read is None or price.cache_minimum is None:
        return None
    since = pl.col("place").cast(pl.Int64).diff().over("prefix")
    priced = (
        pl.when(pl.col("prefix_tokens") < price.cache_minimum)
        .then(price.input)
        .when(since <= CACHED_CALLS)
        .then(price.cache_read)
        .otherwise(price.cache_write)
    )
    rest = pl.col("tokens") - pl.col("prefix_tokens")
    usd = (pl.col("prefix_tokens") * priced + rest * price.input) * pl.col("times")
    return float(sized.with_row_index("place").select(usd.sum()).item()) / MILLION


def _sized(study: Study, trials: pl.DataFrame) -> pl.DataFrame:
    """The trials' model, tokens, prefix (equal where the system text is) and prefix_tokens.

    A prompt is rendered once for all queries, which differ in length alone.
    """
    keys = [*study.factors, "arm", "wording_id", "placebo"]
    groups = trials.select(keys).unique(maintain_order=True)
    systems: dict[str | None, int] = {}
    shapes = []
    for row in groups.iter_rows(named=True):
        prompt = study.scenario.render(
            condition_of(study, row),
            arm=row["arm"],
            query="\0",
            wording=study.worded(row["wording_id"], row["placebo"]),
        )
        system, size = prompt.system or "", sum(map(len, _texts(prompt)))
        slots = sum(text.count("\0") for text in _texts(prompt))
        number = systems.setdefault(prompt.system, len(systems))
        shapes.append((size - slots, slots, len(system) - system.count("\0"), system.count("\0"),
                       number))  # fmt: skip
    names = ["fixed", "slots", "prefix_fixed", "prefix_slots", "system"]
    shape = pl.DataFrame(shapes, schema=dict.fromkeys(names, pl.Int64), orient="row")
    lengths = pl.DataFrame(
        [(query.query_id, len(query.text)) for query in study.queries],
        schema={"query_id": pl.String, "length": pl.Int64},
        orient="row",
    )

    def tokens(part: str) -> pl.Expr:
        return (pl.col(f"{part}fixed") + pl.col(f"{part}slots") * pl.col("length")) // (
            CHARACTERS_PER_TOKEN
        )

    return (
        trials.select("model", "query_id", *keys)
        .join(groups.hstack(shape), on=keys, how="left", nulls_equal=True, maintain_order="left")
        .join(lengths, on="query_id", how="left", maintain_order="left")
        .select(
            "model",
            tokens=tokens(""),
            prefix_tokens=tokens("prefix_"),
            # A system text that says the query is another one for each query.
            prefix=pl.struct(
                "system", pl.when(pl.col("prefix_slots") > 0).then("query_id").alias("of")
            ),
        )
    )


def _usage(study: Study) -> pl.DataFrame:
    """Trial, input and output tokens of every answer of the study; no ledger is made for it."""
    schema = {"trial_id": pl.String, "input_tokens": pl.Int64, "output_tokens": pl.Int64}
    if not study.ledger_path.is_file():
        return pl.DataFrame(schema=schema)
    with Ledger(study.ledger_path) as ledger:
        return ledger.usage().select(pl.col(name).cast(kind) for name, kind in schema.items())


def _outputs(study: Study, plan: Plan, usage: pl.DataFrame) -> dict[str, tuple[float, int]]:
    """Mean output tokens by model over the answers of every run, the pilot's too, and how many.

    The mean, because a cost is a sum; models with fewer than 20 answers are left out.
    """
    answered = usage.drop_nulls("output_tokens")
    if answered.is_empty():
        return {}
    columns = ["trial_id", "model"]
    frames = [plan.frame.select(columns)]
    for path in sorted(study.root.glob("runs/*/plan.parquet")):
        # What is wrong with another run is said where that run is used.
        with contextlib.suppress(pl.exceptions.PolarsError, OSError):
            frames.append(pl.read_parquet(path, columns=columns))
    means = (
        pl.concat(frames)
        .unique("trial_id")
        .join(answered, on="trial_id", how="inner")
        .group_by("model")
        .agg(pl.col("output_tokens").mean().alias("mean"), pl.len().alias("count"))
        .filter(pl.col("count") >= MEASURED_FROM)
    )
    return {model: (mean, count) for model, mean, count in means.iter_rows()}


def most_tokens(study: Study, trial: Trial) -> int:
    """The most tokens that a call can take, prompt and answer."""
    return _most_input(trial.prompt) + study.subjects[trial.model].max_tokens


def most_usd(study: Study, trial: Trial) -> float:
    """The most that a call can cost. Raises PricingError when its price is not known."""
    if not is_paid(trial.model):
        return 0.0
    price = study.prices.known(trial.model)
    return price.usd(_most_input(trial.prompt), study.subjects[trial.model].max_tokens)


def usd_of(study: Study, trial: Trial, completion: Completion) -> float:
    """What a call cost; its worst case where the server gave no count of tokens."""
    if completion.input_tokens is None or completion.output_tokens is None:
        return most_usd(study, trial)
    if not is_paid(trial.model):
        return 0.0
    return study.prices.known(trial.model).usd(completion.input_tokens, completion.output_tokens)


def spent_usd(study: Study, plan: Plan) -> float:
    """What the plan's answers have cost so far. Raises PricingError when a price is not known."""
    rows = plan.frame.join(_usage(study), on="trial_id", how="inner", maintain_order="left")
    texts = {query.query_id: query.text for query in study.queries}
    spent = 0.0
    for row in rows.iter_rows(named=True):
        if not is_paid(row["model"]):
            continue
        tokens = row["input_tokens"], row["output_tokens"]
        if None in tokens:
            trial = Trial(row["trial_id"], row["model"], prompt_of(study, row, texts))
            spent += most_usd(study, trial)
        else:
            spent += study.prices.known(row["model"]).usd(*tokens)
    return spent


def _most_input(prompt: Prompt) -> int:
    # No tokenizer makes more tokens than there are bytes.
    return sum(len(text.encode()) for text in _texts(prompt))


def _texts(prompt: Prompt) -> list[str]:
    return [prompt.system or "", *(turn.text for turn in prompt.turns)]
