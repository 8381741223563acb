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
        plan, run_dir = _planned(study, "main")
        console.print_plan(study, plan)
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
        from ablate.study import load_study
        from variants.marks import ScenarioError

        found = load_study(study)
        texts = {q.query_id: q.text for q in found.queries}
        if query and query not in texts:
            _refuse(f"--query: no query `{query}` in {found.queries_path}")
        text = texts[query or next(iter(texts))]
        changes = _changes(condition)
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
        from ablate.study import load_study
        from variants.marks import ScenarioError

        if not documents:
            _refuse("export: say what: --documents")
        found = load_study(study)
        try:
            count = write_documents(found, _changes(condition), out)
        except ScenarioError as error:
            _refuse(f"--condition: {error.problems[0].message}")
        print(f"{out}: {count} documents. A model fine-tuned on them is studied by its model id.")


@app.command()
def plan(study: StudyDir, run: RunName = "main") -> None:
    """Freeze the trials of a run; print conditions, calls, tokens and detectable sizes."""
    with _refusing():
        from ablate.study import load_study

        found = load_study(study)
        made, run_dir = _planned(found, run)
        console.print_plan(found, made)
        option = "" if run == "main" else f" --run {run}"
        print(f"Plan: {run_dir}\nNext: ablate run {study}{option}")


@app.command("run")
def run_command(
    study: StudyDir,
    run: RunName = "main",
    model: Models = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Calls at the same time.")
    ] = None,
    calls: Annotated[int | None, typer.Option(min=1, help="Stop after so many calls.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print one query's calls and send nothing.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Print what is done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before paid calls.")] = False,
) -> None:
    """Call what the ledger does not hold; plan first if there is no plan."""
    with _refusing():
        from ablate.models import check_ready, is_paid
        from ablate.stages import check_limits
        from ablate.study import load_study

        found = load_study(study)
        chosen = _chosen_models(found, model)
        if status:
            console.print_status(found, run)
            return
        if dry_run:
            console.print_calls(found, chosen)
            return
        for name in chosen:
            check_ready(name)
        check_limits(found, chosen)
        paid = [name for name in chosen if is_paid(name)]
        if paid and not yes and not sys.stdin.isatty():
            _refuse(f"{', '.join(paid)} may cost money: pass --yes to call without being asked")
        made, run_dir = _planned(found, run)
        console.print_cost(found, made.of_models(chosen))
        if paid and not yes and not typer.confirm("Make these calls?"):
            raise typer.Exit(1)
        summary = _execute(found, made.of_models(chosen), concurrency, calls)
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
    reference: Annotated[
        str, typer.Option(help="With --counts: the condition that the others are compared with.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="With --counts: where the tables go.")] = None,
) -> None:
    """Estimate gaps and gap effects; write the tables and print the sensitivity table."""
    with _refusing():
        from ablate.stages import fit_counts, fit_run

        if counts is not None:
            if run is not None or not reference:
                _refuse("fit: with --counts give --reference CONDITION, and no run folder")
            print(fit_counts(counts, reference, out))
            return
        if run is None:
            _refuse("fit: give a run folder, or --counts FILE --reference CONDITION")
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


def _changes(condition: str) -> dict[str, str]:
    """The changes of a condition written as "f=removed,g=named"."""
    pairs = [part.partition("=") for part in condition.split(",") if part.strip()]
    return {name.strip(): level.strip() for name, _, level in pairs}


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


def _planned(study: "Study", run: str) -> tuple["Plan", Path]:
    """The run's plan, made now if there is none."""
    import re

    from ablate.planning import load_plan, make_plan, write_plan
    from ablate.study import NAME

    if not re.fullmatch(NAME, run):
        _refuse(f"--run: `{run}` is no name for a run: use letters, digits, dots and dashes")
    run_dir = study.run_dir(run)
    if (run_dir / "plan.toml").is_file():
        return load_plan(study, run_dir), run_dir
    made = make_plan(study)
    write_plan(made, run_dir)
    return made, run_dir


def _run_of(run: Path) -> tuple["Study", "Plan"]:
    """The study and plan of a run folder, two folders up."""
    from ablate.planning import PlanError, load_plan
    from ablate.study import load_study

    if not (run / "plan.toml").is_file():
        raise PlanError(f"{run}: not a run folder: it has no plan.toml; give STUDY/runs/NAME")
    study = load_study(run.resolve().parent.parent)
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


def _execute(study: "Study", plan: "Plan", concurrency: int | None, calls: int | None) -> "Summary":
    from ablate.stages import answered_of, run_plan

    done = len(answered_of(study, plan))
    with console.progress(plan.frame.height, done) as progress:
        return run_plan(
            study,
            plan,
            concurrency=concurrency,
            calls=calls,
            announce=console.say,
            progress=progress,
        )


def _close_run(study: "Study", plan: "Plan", run_dir: Path, summary: "Summary") -> None:
    from ablate.stages import answered_of

    missing = plan.frame.height - len(answered_of(study, plan))
    print(f"{summary.answered} answered now, {summary.failed} failed, {summary.retries} retries.")
    for kind, count in sorted(summary.failures.items()):
        print(f"{count} failed with: {kind}")
    if missing:
        why = f"{summary.stopped}; " if summary.stopped else ""
        print(f"{why}{missing} trials are missing: run the same command again to go on")
        raise typer.Exit(1)
    print(f"All trials are answered.\nNext: ablate grade {run_dir}")
