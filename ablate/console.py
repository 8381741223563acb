"""The console: what a person sees of a study while and after it runs.

Takes studies, plans and tables; prints. Everything that is not a result goes to standard error.
Does not know commands or exit codes; stages are imported inside, so that `--help` stays light.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablate.choosing import Choice
    from ablate.costs import Cost, ModelCost
    from ablate.paraphrasing import Progress
    from ablate.piloting import Pilot
    from ablate.planning import Plan
    from ablate.runner import Summary
    from ablate.study import Study
    from variants import Prompt

__all__ = [
    "mends_text",
    "print_calls",
    "print_cost",
    "print_pilot",
    "print_plan",
    "print_status",
    "print_tables",
    "progress",
    "prompt_text",
    "say",
    "say_progress",
    "study_line",
    "usd",
    "visible",
    "word_difference",
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


def study_line(path: Any, study: "Study", *, sound: bool) -> str:
    """What a study consists of, in one line."""
    targets = sum(q.role == "target" for q in study.queries)
    accepted = sum(v.status == "accepted" for v in study.variants)
    edits = sum(v.status == "placebo" for v in study.variants)
    return (
        f"{path}: {'sound' if sound else 'readable'}. {len(study.factors)} factors of "
        f"{len(study.scenario.factors)}, {targets} target queries, {len(study.wordings)} wordings "
        f"drawn from {accepted} variants, {len(study.placebos)} of {edits} placebo edits."
    )


def word_difference(before: "Prompt", after: "Prompt") -> str:
    """Two prompts in one text: what went [-so-], what came {+so+}; in colour on a terminal."""
    import difflib
    import re

    old, new = (re.findall(r"\s+|\w+|[^\w\s]", prompt_text(p)) for p in (before, after))
    cut, put = ("\033[31m", "\033[32m") if sys.stdout.isatty() else ("", "")
    end = "\033[0m" if cut else ""
    parts = []
    found = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    for kind, a, b, c, d in _on_whole_lines(found, old, new):
        if kind == "equal":
            parts.append(visible("".join(old[a:b])))
            continue
        if b > a:
            parts.append(f"{cut}[-{visible(''.join(old[a:b]))}-]{end}")
        if d > c:
            parts.append(f"{put}{{+{visible(''.join(new[c:d]))}+}}{end}")
    return "".join(parts)


def _on_whole_lines(
    found: Iterable[tuple[str, int, int, int, int]], old: list[str], new: list[str]
) -> list[tuple[str, int, int, int, int]]:
    """The same difference, each lone cut or addition moved to whole lines or sentences.

    Where it begins like what follows it, it can be said in several ways: a text that lost a
    sentence has not lost the full stop of the one before.
    """
    ops = list(found)
    for i in range(1, len(ops) - 1):
        (before, a0, _, c0, _), (kind, a, b, c, d), (after, _, b1, _, d1) = ops[i - 1 : i + 2]
        if kind not in ("delete", "insert") or (before, after) != ("equal", "equal"):
            continue
        tokens, start, end = (old, a, b) if kind == "delete" else (new, c, d)
        least, most = (a0, b1) if kind == "delete" else (c0, d1)
        k = 0
        while start + k > least and tokens[start + k - 1] == tokens[end + k - 1]:
            k -= 1
        ways = [k]
        while end + k < most and tokens[start + k] == tokens[end + k]:
            k += 1
            ways.append(k)
        k = max(ways, key=lambda k: (_wholeness(tokens, start + k, end + k), k))
        ops[i - 1] = (before, a0, a + k, c0, c + k)
        ops[i] = (kind, a + k, b + k, c + k, d + k)
        ops[i + 1] = (after, b + k, b1, d + k, d1)
    return ops


def _wholeness(tokens: list[str], start: int, end: int) -> int:
    """2 for whole lines, 1 for what ends like the text before it, 0 for the rest."""
    if start == 0 or "\n" in tokens[start - 1]:
        return 2 if "\n" in tokens[end - 1] else 0
    return int(tokens[start - 1] == tokens[end - 1] and tokens[end - 1] in ".!?:")


def mends_text(mends: Any) -> str:
    """What was mended at the seams of a removal, a line each."""
    lines = [
        f"  {mend.kind}: {mend.before!r} became {mend.after!r}" for part in mends for mend in part
    ]
    return "\n".join(["Mended where text was cut:", *lines] if lines else ["Nothing to mend."])


def say_progress(progress: "Progress") -> None:
    say(f"{progress.unit}: {progress.accepted} of {progress.wanted} accepted, "
        f"{progress.made} made now")  # fmt: skip


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


def usd(amount: float) -> str:
    """An amount of money in print."""
    return f"{amount:,.2f} USD" if amount >= 0.01 or amount == 0 else "less than 0.01 USD"


def print_cost(study: "Study", plan: "Plan") -> None:
    """What is left of a plan: calls and tokens in a line, then what each model's cost in one."""
    from ablate.costs import cost_of

    cost = cost_of(study, plan)
    measured = sum(model.measured for model in cost.models)
    basis = f"measured on {measured:,} answers" if measured else "a third of max_tokens"
    print(
        f"{cost.calls} calls to make; about {cost.input_tokens:,} input tokens and "
        f"{cost.output_tokens:,} output tokens ({basis}), at most {cost.most_output_tokens:,}."
    )
    paid = [model for model in cost.models if model.paid]
    if not paid:
        print("The subject is simulated: nothing is paid.")
    for model in paid if cost.calls else ():
        if model.price is None:
            print(f"The price of {model.model} is not known; prices.toml in the study folder "
                  "takes it.")  # fmt: skip
        else:
            print(f"{model.model}: {_ways(model)} (prices of {model.price.as_of}).")
    if cost.calls and len(paid) > 1 and cost.one_by_one is not None:
        print(f"In total: {_ways(cost)}.")


def _ways(cost: "Cost | ModelCost") -> str:
    """USD of each way of calling, from the expected to the most output."""
    ways = {
        "as `ablate run` calls, one by one": cost.one_by_one,
        "with prompt caching": cost.cached,
        "in batches": cost.batches,
    }
    return "; ".join(
        f"{each.expected:,.2f} to {each.most:,.2f} USD {way}"
        for way, each in ways.items()
        if each is not None
    )


def print_plan(study: "Study", plan: "Plan", choice: "Choice | None") -> None:
    """What a plan does, what it cannot tell apart, what it costs, and what it can detect."""
    from ablate.comparing import diagnosis_of
    from ablate.foresight import detectable_sizes, margin_text, sizes_text
    from ablate.piloting import pilot_prior
    from variants.diagnosis import diagnosis_text

    record = plan.record["design"]
    queries = plan.frame["query_id"].n_unique()
    print(
        f"{plan.frame.height} trials: {record['conditions']} conditions ({record['kind']}), "
        f"{queries} queries, {len(study.scenario.arms)} arms, {len(study.subjects)} model(s)."
    )
    if record["spent"] < 1:
        print(f"  one stage of two: {100 * record['spent']:.0f} % of the trials")
    if record["law"]:
        print(f"  averaged effects average over {record['law']}")
    for line in (*record["notes"], *diagnosis_text(diagnosis_of(study, plan))):
        print(f"  {line}")
    if choice is not None:
        print(f"  chosen: {choice.reason}")
    print_cost(study, plan)
    prior = pilot_prior(study)
    print("Expected rates: " + ("the pilot's" if prior else "no pilot, so those of the literature"))
    print(sizes_text(study, detectable_sizes(study, plan, prior)))
    print(margin_text(study, prior))


def print_pilot(study: "Study", pilot: "Pilot") -> None:
    """What a pilot says, and what the full study would cost."""
    from ablate.piloting import pilot_text

    print(f"\n{visible(pilot_text(pilot))}")
    if pilot.unplanned:
        print(visible(f"\nThe full study cannot be planned as it stands: {pilot.unplanned}"))
    elif pilot.full is not None:
        print(f"\nThe full study, {pilot.full.frame.height:,} trials:")
        print_cost(study, pilot.full)
    if pilot.results:
        print(f"Written: {study.run_dir('pilot')}/pilot.toml, queries.csv and the tables of a fit.")


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
    from ablate.report import baseline, by_contrast, sensitivity_of
    from analysis.tables import interval, points, text

    for model in study.subjects:
        for contrast, own in by_contrast(tables).items():
            row = baseline(own, model, "complied")
            if row is None:
                continue
            train, deploy = contrast.split("-")
            label = f"{model} (a simulated subject)" if not is_paid(model) else model
            print(f"\n{label}: baseline compliance gap {points(row['gap'])} points "
                  f"{interval(row['conf_low'], row['conf_high'])}: "
                  f"{points(row['rate_train'], sign=False)} % in {train}, "
                  f"{points(row['rate_deploy'], sign=False)} % in {deploy}.")  # fmt: skip
            print("What each change does to that gap, in percentage points:\n")
            print(text(*sensitivity_of(study, own, model)))
