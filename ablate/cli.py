"""The command line: one short command a stage that parses, calls and prints.

Exit 0 done, 1 something needs attention, 2 bad input with one message.
Stages are imported inside the commands, so that `--help` loads none of them.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ablate import __version__, check_rooms, console

if TYPE_CHECKING:
    from ablate.choosing import Choice
    from ablate.planning import Plan
    from ablate.runner import Summary
    from ablate.study import Study

__all__ = ["app", "main"]

app = typer.Typer(
    help="Which sentences of a prompt cause an alignment-faking result?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

StudyDir = Annotated[Path, typer.Argument(help="The study folder.", show_default=False)]
RunDir = Annotated[Path, typer.Argument(help="A run folder, STUDY/runs/NAME.", show_default=False)]
RunName = Annotated[str, typer.Option("--run", help="Name of the run.")]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="Only this planned model; repeatable.")
]


def main() -> None:
    """The console script: a user's mistake ends in one message and exit code 2."""
    os.umask(0o077)
    try:
        check_rooms()
        app()
    except ImportError as error:
        if type(error) is not ImportError:
            raise
        print(error, file=sys.stderr)
        sys.exit(2)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"ablate {__version__}")
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the demo's study goes.")] = Path("ablate-demo"),
) -> None:
    """The whole way, offline, on the embedded simulated subject: plan, run, grade, fit, report."""
    with _refusing():
        from ablate import stages
        from ablate.report import write_report
        from ablate.starting import start_demo
        from ablate.study import load_study

        new = start_demo(out)
        print(f"{'Made' if new else 'Found'} the study {out}. The subject is simulated.")
        study = load_study(out)
        plan, run_dir, choice = _planned(study, "main")
        console.print_plan(study, plan, choice)
        _execute(study, plan, None, None)
        grader = study.settings.grading.graders[0]
        console.say(f"grading with {grader}")
        stages.grade_run(study, plan, grader)
        console.say("fitting")
        tables = stages.fit_run(study, plan, run_dir)
        page = write_report(study, plan, tables, run_dir)
        console.print_tables(study, tables)
        print(f"\nReport: {page}")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    scenario: Annotated[str, typer.Option(help="A shipped scenario.")] = "helpful_only",
    minimal: Annotated[
        bool, typer.Option("--minimal", help="The scenario in its form of a few sentences.")
    ] = False,
    queries: Annotated[
        Path | None, typer.Option(help="Another query set: csv, jsonl or parquet.")
    ] = None,
) -> None:
    """Make a study folder that is ready to run."""
    with _refusing():
        from ablate.queries import adopt_queries
        from ablate.starting import start_study

        adopted = None if queries is None else adopt_queries(queries)
        start_study(folder, scenario, minimal=minimal, queries=adopted)
        print(f"Made {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}.")
        print(f"Next: ablate plan {folder}")


@app.command()
def check(study: StudyDir) -> None:
    """Say everything that is wrong with a study, each with its place and mend."""
    with _refusing():
        from ablate.checking import findings
        from ablate.study import load_study

        found = load_study(study)
        said = findings(found)
        faults = sum(finding.attention for finding in said)
        print(console.study_line(study, found, sound=not faults))
        for finding in said:
            line = f"{'' if finding.attention else 'note: '}{finding.message}"
            print(console.visible(line).replace("\n", "\\n"))
        if faults:
            print(f"{faults} of these need attention; then ablate check {study}")
            raise typer.Exit(1)
        print(f"Next: ablate plan {study}")


@app.command()
def show(
    study: StudyDir,
    condition: Annotated[str, typer.Option(help='Changes, as in "f=removed,g=named".')] = "",
    arm: Annotated[str, typer.Option(help="The arm.")] = "train",
    query: Annotated[str, typer.Option(help="A query's id; default: the first one.")] = "",
    wording: Annotated[
        str, typer.Option(help="A wording: its number in the study, its id, or that of a variant.")
    ] = "",
    diff: Annotated[bool, typer.Option("--diff", help="The difference from the original.")] = False,
) -> None:
    """Print the exact text of a condition."""
    with _refusing():
        from ablate.study import changes_of, load_study
        from variants.marks import ScenarioError

        found = load_study(study)
        texts = {q.query_id: q.text for q in found.queries}
        if query and query not in texts:
            _refuse(f"--query: no query `{query}` in {found.queries_path}")
        text = texts[query or next(iter(texts))]
        changes = changes_of(condition)
        worded = found.named_wording(wording) if wording else None
        try:
            chosen = found.scenario.condition(changes)
            prompt = found.scenario.render(chosen, arm=arm, query=text, wording=worded)
        except ScenarioError as error:
            _refuse(f"--condition or --arm: {error.problems[0].message}")
        if diff:
            before = found.scenario.render(found.scenario.original, arm=arm, query=text)
            print(console.word_difference(before, prompt))
            print(console.mends_text(found.scenario.mends(chosen, arm=arm, wording=worded)))
        else:
            print(console.visible(console.prompt_text(prompt)))


@app.command()
def mark(
    file: Annotated[Path, typer.Argument(help="A plain prompt.")],
    model: Annotated[str, typer.Option(help="A model that proposes; default: rules.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a paid call.")] = False,
) -> None:
    """Propose factors for a plain prompt; prints a scenario file."""
    with _refusing():
        from ablate.models import check_name
        from ablate.proposing import proposed_scenario

        if model:
            check_name(model)
            _agree(model, f"Ask {model} for factors?", yes)
        text, factors = proposed_scenario(file, model or None)
        # The text as it is for a file, without what could act for a terminal.
        print(console.visible(text) if sys.stdout.isatty() else text, end="")
        console.say(f"{factors} factors proposed: take out the marks that you do not want.")


@app.command()
def paraphrase(
    study: StudyDir,
    model: Annotated[
        str, typer.Option(help="The model that writes; default: by rule, without a model.")
    ] = "",
    judge: Annotated[str, typer.Option(help="Another model that judges the meaning.")] = "",
    variants: Annotated[
        int, typer.Option(min=1, max=100, help="Accepted wordings of each text.")
    ] = 8,
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="Texts at a time.")] = 8,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before paid calls.")] = False,
) -> None:
    """Make and check wordings of every text of the scenario; again: go on."""
    with _refusing():
        from ablate.calls import CallLimit
        from ablate.models import check_name
        from ablate.paraphrasing import paraphrase as make
        from ablate.study import load_study

        found = load_study(study, drawing=False)
        if judge and not model:
            _refuse("paraphrase: --judge goes with --model: wordings by rule have no judge")
        for name in filter(None, (model, judge)):
            check_name(name)
        if model:
            _agree(model, f"Ask {model} for up to {variants} wordings of each text?", yes)
        try:
            said = make(
                found,
                model=model or None,
                judge=judge or None,
                wanted=variants,
                concurrency=concurrency,
                hear=console.say_progress,
            )
        except CallLimit as limit:
            # As with a run: what is there is kept, and the same command goes on.
            print(console.visible(str(limit)), file=sys.stderr)
            raise typer.Exit(1) from None
        short = [p for p in said if p.accepted < p.wanted]
        print(f"{found.variants_path}: {len(said) - len(short)} of {len(said)} texts have "
              f"{variants} wordings.")  # fmt: skip
        if short:
            names = ", ".join(f"{p.unit} ({p.accepted})" for p in short[:5])
            print(f"too few for {len(short)}: {names}{' ...' if len(short) > 5 else ''}")
            raise typer.Exit(1)
        print(f"Next: set design.wordings in study.toml, then ablate plan {study}")


@app.command()
def export(
    study: StudyDir,
    documents: Annotated[
        bool, typer.Option("--documents", help="The scenario's documents as training JSONL.")
    ] = False,
    condition: Annotated[str, typer.Option(help='Changes, as in "f=removed".')] = "",
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("documents.jsonl"),
) -> None:
    """Write a study's data for other tools."""
    with _refusing():
        from ablate.documents import write_documents
        from ablate.study import changes_of, load_study
        from variants.marks import ScenarioError

        if not documents:
            _refuse("export: say what: --documents")
        found = load_study(study)
        try:
            count = write_documents(found, changes_of(condition), out)
        except ScenarioError as error:
            _refuse(f"--condition: {error.problems[0].message}")
        print(f"{out}: {count} documents. A model fine-tuned on them is studied by its model id.")


@app.command()
def plan(
    study: StudyDir,
    run: RunName = "main",
    compare: Annotated[
        bool, typer.Option("--compare", help="Show every kind of design; freeze nothing.")
    ] = False,
    after: Annotated[
        str, typer.Option(help="The second stage of a two-stage design, after this fitted run.")
    ] = "",
) -> None:
    """Freeze the trials of a run; print conditions, aliases, cost and detectable sizes."""
    with _refusing():
        from ablate.study import load_study

        found = load_study(study)
        if compare:
            from ablate.comparing import write_comparison
            from ablate.piloting import pilot_prior

            print(write_comparison(found, pilot_prior(found)))
            return
        made, run_dir, choice = _planned(found, run, after)
        console.print_plan(found, made, choice)
        option = "" if run == "main" else f" --run {run}"
        print(f"Plan: {run_dir}\nNext: ablate run {study}{option}")


@app.command()
def pilot(
    study: StudyDir,
    model: Models = None,
    calls: Annotated[
        int | None,
        typer.Option(min=1, help="Calls for each model; default 200.", metavar="N"),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Calls at the same time.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(min=0, metavar="USD", help="Never spend more on the pilot.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before paid calls.")] = False,
) -> None:
    """A few calls first: is there a gap to explain, and what would the study cost and detect?"""
    with _refusing():
        from ablate.piloting import pilot_of, plan_pilot
        from ablate.study import load_study

        found = load_study(study)
        chosen = _chosen_models(found, model)
        ask = _ready_to_pay(found, chosen, budget, yes)
        piloted, made, why = plan_pilot(found, calls)
        if why:
            print(console.visible(f"A new pilot: {why}."))
        console.print_cost(piloted, made.of_models(chosen))
        if ask and not typer.confirm("Make these calls?"):
            raise typer.Exit(1)
        summary = _execute(piloted, made, concurrency, None, models=chosen, budget=budget)
        _say_summary(summary)
        said = pilot_of(found, piloted, made)
        console.print_pilot(found, said)
        missing = _missing(piloted, made.of_models(chosen), summary)
        if said.attention:
            print(console.visible(f"Needs attention: {'; '.join(said.attention)}."))
        if missing or said.attention:
            raise typer.Exit(1)
        print(f"Next: ablate plan {study}")


@app.command("run")
def run_command(
    study: StudyDir,
    run: RunName = "main",
    model: Models = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Calls at the same time.")
    ] = None,
    calls: Annotated[int | None, typer.Option(min=1, help="Stop after so many calls.")] = None,
    budget: Annotated[
        float | None, typer.Option(min=0, metavar="USD", help="Never spend more on this run.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print one query's calls and send nothing.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Print what is done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before paid calls.")] = False,
) -> None:
    """Call what the ledger does not hold; plan first if there is no plan."""
    with _refusing():
        from ablate.study import load_study

        found = load_study(study)
        chosen = _chosen_models(found, model)
        if status:
            console.print_status(found, run)
            return
        if dry_run:
            console.print_calls(found, chosen)
            return
        ask = _ready_to_pay(found, chosen, budget, yes)
        made, run_dir, _ = _planned(found, run)
        console.print_cost(found, made.of_models(chosen))
        if ask and not typer.confirm("Make these calls?"):
            raise typer.Exit(1)
        summary = _execute(found, made, concurrency, calls, models=chosen, budget=budget)
        _close_run(found, made.of_models(chosen), run_dir, summary)


@app.command()
def grade(
    run: RunDir,
    grader: Annotated[str, typer.Option(help="A grader; default: those of the study.")] = "",
) -> None:
    """Grade the answers that are not graded yet."""
    with _refusing():
        from ablate.stages import grade_run

        study, made = _run_of(run)
        for name in [grader] if grader else study.settings.grading.graders:
            now, answered = grade_run(study, made, name)
            print(f"{name}: {now} graded now, {answered} of {made.frame.height} trials answered.")
        print(f"Next: ablate fit {run}")


@app.command()
def fit(
    run: Annotated[
        Path | None, typer.Argument(help="A run folder, STUDY/runs/NAME.", show_default=False)
    ] = None,
    counts: Annotated[
        Path | None, typer.Option(help="A csv of counts by condition, instead of a run.")
    ] = None,
    trials: Annotated[
        Path | None, typer.Option(help="Any csv or parquet with a row per trial, instead of a run.")
    ] = None,
    factors: Annotated[
        list[str] | None, typer.Option(help='With --trials: columns, as in "rule,f_*"; repeatable.')
    ] = None,
    outcomes: Annotated[
        list[str] | None, typer.Option(help="With --trials: columns in [0, 1]; repeatable.")
    ] = None,
    arm: Annotated[str, typer.Option(help="With --trials: the column of arms.")] = "arm",
    train: Annotated[str, typer.Option(help="With --trials: its value in train.")] = "train",
    deploy: Annotated[str, typer.Option(help="With --trials: its value in deploy.")] = "deploy",
    query: Annotated[str, typer.Option(help="With --trials: the column of queries.")] = "query_id",
    wording: Annotated[
        str,
        typer.Option(help="With --trials: the column of wordings; default: wording_id, if any."),
    ] = "",
    weight: Annotated[
        str, typer.Option(help="With --trials: the column of design weights.", metavar="COLUMN")
    ] = "",
    label: Annotated[
        list[str] | None,
        typer.Option(help="With --trials: human labels, as outcome=column; repeatable."),
    ] = None,
    estimand: Annotated[
        str, typer.Option(help="With --trials: the primary estimand, whose p-values are Holm's.")
    ] = "gap_effect_simple",
    reference: Annotated[
        list[str] | None,
        typer.Option(help="With --trials: factor=level; repeatable. With --counts: the condition."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --trials or --counts: where the tables go.")
    ] = None,
) -> None:
    """Estimate gaps and gap effects; write the tables and print the sensitivity table."""
    with _refusing():
        from ablate.stages import fit_counts, fit_run

        if sum(source is not None for source in (run, counts, trials)) != 1:
            _refuse("fit: give one of a run folder, --trials FILE and --counts FILE")
        if trials is not None:
            from ablate.foreign import Columns, fit_trials

            if not factors or not outcomes:
                _refuse("fit: with --trials name the columns: --factors and --outcomes")
            columns = Columns(
                factors, outcomes, arm, train, deploy, query, wording or None, weight or None,
                label or (), reference or (),
            )  # fmt: skip
            print(console.visible(fit_trials(trials, columns, primary=estimand, out=out)))
            return
        if factors or outcomes or label or wording or weight or (reference and not counts):
            _refuse("fit: --factors, --outcomes, --reference and other columns go with --trials")
        if counts is not None:
            if reference is None or len(reference) != 1:
                _refuse("fit: with --counts give --reference CONDITION, once")
            print(fit_counts(counts, reference[0], out))
            return
        assert run is not None
        study, made = _run_of(run)
        tables = fit_run(study, made, run)
        console.print_tables(study, tables)
        print(f"\nTables: {run}/gaps.csv, effects.csv, coefficients.csv\nNext: ablate report {run}")


@app.command()
def report(run: RunDir) -> None:
    """Write report.html from the tables of a fitted run."""
    with _refusing():
        from ablate.report import write_report
        from ablate.stages import load_tables

        study, made = _run_of(run)
        print(f"Report: {write_report(study, made, load_tables(run), run)}")


@app.command("next")
def next_command(run: RunDir) -> None:
    """Say which claim is nearest to a decision, and the cheapest trials that would decide it."""
    with _refusing():
        from ablate.continuing import continuation, continuation_text

        study, made = _run_of(run)
        found = continuation(study, made, run)
        print(console.visible(continuation_text(study, made, found)))


@app.command("register")
def register_command(
    run: RunDir,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; default: RUN/registration.toml.")
    ] = None,
) -> None:
    """Write what a run will do into one file to deposit before its first call."""
    with _refusing():
        from ablate.registration import register

        study, made = _run_of(run)
        done = register(study, made, run, out)
        print(f"{'Registered' if done.new else 'Registered before, and the same'}: {done.path}")
        print(f"SHA-256 of its content: {done.digest}")
        if done.answers:
            print(f"{done.answers} of {done.trials} trials were answered before: "
                  "this is no registration in advance")  # fmt: skip
            raise typer.Exit(1)
        print("Deposit it (OSF, a signed git tag): nobody else can say when it was made.")
        name = run.resolve().name
        option = "" if name == "main" else f" --run {name}"
        print(f"Next: ablate run {study.root}{option}; after fit: ablate verify {run} {done.path}")


@app.command("verify")
def verify_command(
    run: RunDir,
    file: Annotated[Path, typer.Argument(help="The registration.", show_default=False)],
) -> None:
    """Say line by line whether a run and its analysis kept to a registration."""
    with _refusing():
        from ablate.study import load_study
        from ablate.verification import verify

        found = verify(load_study(run.resolve().parent.parent), run, file)
        for finding in found:
            line = f"{finding.mark:<11}  {finding.text}"
            print(console.visible(line).replace("\n", "\\n"))
        faults = [finding.mark for finding in found if finding.attention]
        if faults:
            print(f"Not kept: {faults.count('deviation')} deviations, "
                  f"{faults.count('open')} not done yet.")  # fmt: skip
            raise typer.Exit(1)
        print("Kept: the run and its analysis did what was registered.")


@app.command()
def published(
    counts: Annotated[
        Path | None, typer.Option(help="Another table of counts; default: the published one.")
    ] = None,
    components: Annotated[
        Path | None, typer.Option(help="With --counts: its conditions coded into components.")
    ] = None,
    reference: Annotated[str, typer.Option(help="The default condition.")] = "default",
    out: Annotated[Path, typer.Option(help="Where published.md and .svg go.")] = Path("docs"),
) -> None:
    """Say what published ablations, or another table of counts, do and do not establish."""
    with _refusing():
        from ablate.published.page import FIGURE, figure, page
        from ablate.published.review import load_tables, review

        if components is not None and counts is None:
            _refuse("published: --components goes with --counts")
        reviews = review(*load_tables(counts, components), reference)
        text = page(reviews, shipped=counts is None)
        out.mkdir(parents=True, exist_ok=True)
        (out / "published.md").write_text(text, "utf-8")
        (out / FIGURE).write_text(figure(reviews[0]), "utf-8")
        print(console.visible(text))
        console.say(f"Written: {out / 'published.md'}, {out / FIGURE}")


@app.command()
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1.")] = 8765,
    log: Annotated[Path | None, typer.Option(help="One JSON line per answered call.")] = None,
    delay: Annotated[float, typer.Option(min=0, help="Seconds before each answer.")] = 0.0,
) -> None:
    """Serve the embedded simulated subject on loopback (Messages API)."""
    with _refusing():
        import asyncio

        from ablate.models import SIMULATED_URL
        from ablate.serving import serve as serve_subject

        def ready(url: str) -> None:
            print(f"The simulated subject listens on {url} (key: simulated).", flush=True)
            print(f"For `ablate run`: export {SIMULATED_URL}={url}", flush=True)

        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve_subject(port, log=log, delay=delay, ready=ready))


def _ready_to_pay(study: "Study", models: list[str], budget: float | None, yes: bool) -> bool:
    """Whether to ask before these models are called; refuses where that cannot be."""
    from ablate.models import check_ready, is_paid
    from ablate.stages import check_limits

    for name in models:
        check_ready(name)
    check_limits(study, models, budget)
    paid = [name for name in models if is_paid(name)]
    if paid and not yes and not sys.stdin.isatty():
        _refuse(f"{', '.join(paid)} may cost money: pass --yes to call without being asked")
    return bool(paid) and not yes


def _agree(model: str, question: str, yes: bool) -> None:
    """Ask before a paid call; the question is no part of what the command prints."""
    from ablate.models import is_paid

    if yes or not is_paid(model):
        return
    if not sys.stdin.isatty():
        _refuse(f"{model} may cost money: pass --yes to call without being asked")
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)


def _refuse(message: str) -> NoReturn:
    print(console.visible(message), file=sys.stderr)
    raise typer.Exit(2)


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Turn the errors that a user can mend into their message and exit code 2."""
    from ablate import user_errors

    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except user_errors() as error:
        _refuse(str(error))


def _planned(study: "Study", run: str, after: str = "") -> tuple["Plan", Path, "Choice | None"]:
    """The run's plan, made now if there is none, and what was then chosen for it."""
    import re

    from ablate.choosing import best_plan, screened_by
    from ablate.piloting import pilot_prior
    from ablate.planning import PILOT, load_plan, write_plan
    from ablate.study import NAME

    for option, name in (("--run", run), ("--after", after or run)):
        if not re.fullmatch(NAME, name):
            _refuse(f"{option}: `{name}` is no name for a run: use letters, digits, dots, dashes")
    if run == PILOT:
        _refuse(f"--run: `{PILOT}` is the pilot's: `ablate pilot {study.root}`, or another name")
    run_dir = study.run_dir(run)
    if (run_dir / "plan.toml").is_file():
        if after:
            _refuse(f"{run_dir}: this run is planned already: give the second stage another --run")
        return load_plan(study, run_dir), run_dir, None
    screened = screened_by(study, study.run_dir(after)) if after else None
    made, choice = best_plan(study, pilot_prior(study), screened)
    write_plan(made, run_dir)
    return made, run_dir, choice


def _run_of(run: Path) -> tuple["Study", "Plan"]:
    """The study and plan of a run folder, two folders up."""
    from ablate.planning import PILOT, PlanError, kind_of, load_plan, read_plan
    from ablate.study import load_study

    if not (run / "plan.toml").is_file():
        raise PlanError(f"{run}: not a run folder: it has no plan.toml; give STUDY/runs/NAME")
    study = load_study(run.resolve().parent.parent)
    if kind_of(read_plan(study, run)) == PILOT:
        from ablate.piloting import load_pilot

        return load_pilot(study, run)
    return study, load_plan(study, run)


def _chosen_models(study: "Study", names: list[str] | None) -> list[str]:
    planned = list(study.subjects)
    for name in names or ():
        if name not in planned:
            _refuse(
                f"--model: `{name}` is not planned; study.toml plans {', '.join(planned)}: "
                "add it to [[subject]] models"
            )
    return [name for name in planned if not names or name in names]


def _execute(
    study: "Study",
    plan: "Plan",
    concurrency: int | None,
    calls: int | None,
    *,
    models: list[str] | None = None,
    budget: float | None = None,
) -> "Summary":
    from ablate.stages import answered_of, run_plan

    chosen = plan if models is None else plan.of_models(models)
    done = len(answered_of(study, chosen))
    with console.progress(chosen.frame.height, done) as progress:
        return run_plan(
            study,
            plan,
            models=models,
            concurrency=concurrency,
            calls=calls,
            budget=budget,
            announce=console.say,
            progress=progress,
        )


def _close_run(study: "Study", plan: "Plan", run_dir: Path, summary: "Summary") -> None:
    _say_summary(summary)
    if _missing(study, plan, summary):
        raise typer.Exit(1)
    print(f"All trials are answered.\nNext: ablate grade {run_dir}")


def _say_summary(summary: "Summary") -> None:
    spent = "" if summary.usd is None else f", {console.usd(summary.usd)}"
    print(f"{summary.answered} answered now, {summary.failed} failed, "
          f"{summary.retries} retries{spent}.")  # fmt: skip
    for kind, count in sorted(summary.failures.items()):
        print(f"{count} failed with: {kind}")


def _missing(study: "Study", plan: "Plan", summary: "Summary") -> int:
    """How many trials have no answer, which is said."""
    from ablate.stages import answered_of

    missing = plan.frame.height - len(answered_of(study, plan))
    if missing:
        why = f"{summary.stopped}; " if summary.stopped else ""
        print(f"{why}{missing} trials are missing: {summary.resume} to go on")
    return missing
