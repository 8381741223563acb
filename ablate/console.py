"""The console: what a person sees of a study while and after it runs.

Takes studies, plans and tables; prints. Everything that is not a result goes to standard error.
Does not know commands or exit codes; stages are imported inside, so that `--help` stays light.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablate.planning import Plan
    from ablate.runner import Summary
    from ablate.study import Study
    from variants import Prompt

__all__ = [
    "print_calls",
    "print_cost",
    "print_plan",
    "print_status",
    "print_tables",
    "progress",
    "prompt_text",
    "say",
    "visible",
]


def visible(text: str) -> str:
    """Text from files and models with control characters shown, so that none acts."""
    return "".join(
        c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def prompt_text(prompt: "Prompt") -> str:
    turns = [("system", prompt.system)] if prompt.system is not None else []
    turns += [(turn.role, turn.text) for turn in prompt.turns]
    return "\n".join(f"--- {role}\n{text}" for role, text in turns)


@contextlib.contextmanager
def progress(total: int, done: int) -> Iterator[Callable[["Summary"], None]]:
    """One line on a terminal, a plain line every few seconds elsewhere; on standard error."""
    started = last = time.monotonic()
    live = sys.stderr.isatty()
    every = 0.1 if live else 5.0

    def line(summary: "Summary") -> str:
        finished = done + summary.answered
        seconds = max(time.monotonic() - started, 1e-6)
        rate = summary.answered / seconds
        left = (total - finished) / rate if rate else 0.0
        text = f"{finished}/{total} answered, {rate:.0f} a second, {left:.0f} s left"
        return text + (f", {summary.failed} failed" if summary.failed else "")

    def hear(summary: "Summary") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < every:
            return
        last = now
        if live:
            print(f"\r\033[K{line(summary)}", end="", file=sys.stderr, flush=True)
        else:
            say(line(summary))

    try:
        yield hear
    finally:
        if live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def print_cost(study: "Study", plan: "Plan") -> None:
    from ablate.stages import cost_of

    cost = cost_of(study, plan)
    print(
        f"{cost.calls} calls to make; about {cost.input_tokens:,} input tokens, "
        f"at most {cost.most_output_tokens:,} output tokens."
    )


def print_plan(study: "Study", plan: "Plan") -> None:
    from ablate.foresight import detectable_sizes, sizes_text

    record = plan.record["design"]
    queries = plan.frame["query_id"].n_unique()
    print(
        f"{plan.frame.height} trials: {record['conditions']} conditions ({record['kind']}), "
        f"{queries} queries, {len(study.scenario.arms)} arms, {len(study.subjects)} model(s)."
    )
    print_cost(study, plan)
    print(sizes_text(study, detectable_sizes(study, plan)))


def print_status(study: "Study", run: str) -> None:
    from ablate.planning import load_plan
    from ablate.stages import answered_of
    from ablate.store import Ledger

    plan = load_plan(study, study.run_dir(run))
    answered, planned = len(answered_of(study, plan)), plan.frame.height
    with Ledger(study.ledger_path) as ledger:
        failures = ledger.failure_counts(plan.trial_ids)
    print(f"{answered} of {planned} trials answered, {planned - answered} to go.")
    for kind, count in sorted(failures.items()):
        print(f"{count} failed last with: {kind}")


def print_calls(study: "Study", models: list[str]) -> None:
    """The wire JSON of both arms for the first target query."""
    import json

    from ablate.models import wire

    query = next(q for q in study.queries if q.role == "target")
    for model in models:
        for arm in study.scenario.arms:
            prompt = study.scenario.render(study.scenario.original, arm=arm, query=query.text)
            body = wire(model, prompt, study.subjects[model])
            print(f"# {model}, arm {arm}, query {query.query_id}: POST /v1/messages")
            print(json.dumps(body, indent=2, ensure_ascii=True))


def print_tables(study: "Study", tables: Any) -> None:
    from ablate.models import is_paid
    from ablate.report import baseline, sensitivity_of
    from analysis.tables import interval, points, text

    for model in study.subjects:
        row = baseline(tables, model, "complied")
        if row is None:
            continue
        label = f"{model} (a simulated subject)" if not is_paid(model) else model
        print(f"\n{label}: baseline compliance gap {points(row['gap'])} points "
              f"{interval(row['conf_low'], row['conf_high'])}: "
              f"{points(row['rate_train'], sign=False)} % in train, "
              f"{points(row['rate_deploy'], sign=False)} % in deploy.")  # fmt: skip
        print("What each change does to that gap, in percentage points:\n")
        print(text(*sensitivity_of(study, tables, model)))
