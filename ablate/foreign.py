"""Foreign tables: a stranger's trials, from a csv or parquet file to the tables of a fit.

Takes a file and which of its columns are what; gives the tables and a text for a person.
Every number is from `analysis.fit`. Does not know studies, plans or how the trials were made.
"""

import csv
import fnmatch
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

import analysis
from analysis.effects import SIMPLE
from analysis.gaps import CONTRAST
from analysis.observations import ObservationsError, check_graded, listed, yes_or_no
from analysis.tables import interval, points, sensitivity, text

__all__ = ["Columns", "ForeignError", "Trials", "fit_trials", "read_trials"]

TABLES = ("gaps", "effects", "coefficients")
# An empty cell is missing, and so is R's NA.
MISSING = ["", "NA"]
# The columns by which a table of this package's own is known; its trials may be placebo edits.
OURS = ("trial_id", "condition_id", "prompt_id", "placebo")
GLOB = "*?["
# A torn file may make the reader of parquet panic, which is no Exception.
UNREADABLE = (
    OSError, UnicodeError, csv.Error, pl.exceptions.PolarsError, pl.exceptions.PanicException,
)  # fmt: skip


class ForeignError(ObservationsError):
    """A file, or the names given for its columns, that make no table of trials."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns are what, as a person names them.

    `factors` and `outcomes` are names or shell globs, several in one text with commas between;
    `labels` say `outcome=column`, `references` `factor=level`. `train` and `deploy` are values of
    the column `arm`.
    """

    factors: Sequence[str]
    outcomes: Sequence[str]
    arm: str = "arm"
    train: str = "train"
    deploy: str = "deploy"
    query: str = "query_id"
    wording: str | None = None
    weight: str | None = None
    labels: Sequence[str] = ()
    references: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Trials:
    """The mapped columns of a table, one row a trial; outcomes, labels and weights are numbers.

    `labels` maps an outcome to the column of its human labels, `reference` a factor to the level
    that was asked for. `wording`, `prompt` and `placebo` name columns, None where there is none.
    """

    frame: pl.DataFrame
    columns: Columns
    factors: tuple[str, ...]
    outcomes: tuple[str, ...]
    labels: Mapping[str, str]
    reference: Mapping[str, str]
    wording: str | None
    prompt: str | None
    placebo: str | None


def fit_trials(
    path: Path, columns: Columns, *, primary: str = SIMPLE, out: Path | None = None
) -> str:
    """Gaps and gap effects of a stranger's table, as text; written to `out` as csv if it is given.

    Raises ObservationsError, and OSError where `out` cannot be written.
    """
    trials = read_trials(path, columns)
    results = analysis.fit(
        trials.frame,
        factors=trials.factors,
        outcomes=trials.outcomes,
        arm=columns.arm,
        query=columns.query,
        weight=columns.weight,
        prompt=trials.prompt,
        wording=trials.wording,
        placebo=trials.placebo,
        contrasts=[(columns.train, columns.deploy)],
        reference=trials.reference,
        primary=primary,
    )
    # Whatever the two arms are called here, they are train and deploy in every table.
    tables = {
        "gaps": results.gaps.with_columns(contrast=pl.lit(CONTRAST)),
        "effects": results.effects.with_columns(contrast=pl.lit(CONTRAST)),
        "coefficients": results.coefficients,
    }
    lines = [*_read_text(path, trials), _reference_text(trials, tables["gaps"])]
    lines += _tables_text(trials, tables, primary)
    files = ", ".join(f"{name}.csv" for name in TABLES)
    if out is None:
        return "\n".join([*lines, f"\nNothing is written: --out DIR writes {files}."])
    out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.write_csv(out / f"{name}.csv")
    return "\n".join([*lines, f"\nTables: {out}/{files}"])


def read_trials(path: Path, columns: Columns) -> Trials:
    """The columns that were named, checked as far as it takes to name them to a fit.

    Of a csv every cell is text as it stands; an empty cell and `NA` are missing. Raises
    ObservationsError.
    """
    header = _header(path)
    places = {
        "--arm": columns.arm,
        "--query": columns.query,
        "--wording": columns.wording,
        "--weight": columns.weight,
    }
    if columns.wording is None and "wording_id" in header:
        places["--wording"] = "wording_id"
    for option, name in places.items():
        if name is not None and name not in header:
            raise ForeignError(
                f"{path}: {option}: no column `{name}`; the table has {listed(header)}"
            )
    pairs = [_pair(label, "--label", "outcome=column", header) for label in columns.labels]
    taken = {name for name in places.values() if name} | {column for _, column in pairs}
    outcomes = _matched(columns.outcomes, "--outcomes", header, taken | {*columns.factors}, path)
    factors = _matched(columns.factors, "--factors", header, taken | {*outcomes}, path)
    references = [_pair(r, "--reference", "factor=level", factors) for r in columns.references]
    _check_parts(path, header, places, pairs, factors, outcomes)
    for option, given in (("--label", pairs), ("--reference", references)):
        names = [name for name, _ in given]
        for name in names:
            if names.count(name) > 1:
                raise ForeignError(f"{option}: `{name}` is given twice: give it once")
    ours = all(column in header for column in OURS)
    wanted = [*taken, *factors, *outcomes, *(c for c in ("model", "role") if c in header)]
    frame = _load(path, header, dict.fromkeys([*wanted, *(OURS if ours else ())]))
    trials = Trials(
        frame.with_columns(
            [_numbers(frame[name], "outcome") for name in outcomes]
            + [_numbers(frame[name], "label") for _, name in pairs]
            + ([_numbers(frame[columns.weight], "weight")] if columns.weight else [])
        ),
        columns,
        factors,
        outcomes,
        dict(pairs),
        dict(references),
        places["--wording"],
        "prompt_id" if ours else None,
        "placebo" if ours else None,
    )
    _check(trials)
    return trials


def _header(path: Path) -> list[str]:
    """The names of the columns as they stand, a name as often as it is there."""
    try:
        match path.suffix.lower():
            case ".csv":
                found = next(_rows(path.read_bytes()), [])
            case ".parquet":
                with path.open("rb") as file:
                    found = list(pl.read_parquet_schema(file))
            case _:
                raise ForeignError(f"{path}: a table of trials ends in .csv or .parquet")
    except UNREADABLE as error:
        raise ForeignError(f"{path}: cannot be read: {_first_line(error)}") from None
    if not found:
        raise ForeignError(f"{path}: the file is empty: it needs a header and a row for each trial")
    if len(found) == 1 and (other := next((c for c in ";\t|" if c in found[0]), None)):
        raise ForeignError(
            f"{path}: one column, named {found[0]!r:.80}: the cells are separated by {other!r}; "
            "save the table with commas"
        )
    return found


def _rows(data: bytes) -> Iterator[list[str]]:
    return csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline=""))


def _load(path: Path, header: list[str], names: Mapping[str, None]) -> pl.DataFrame:
    """The named columns of the file, of which each stands in the header once."""
    try:
        if path.suffix.lower() == ".parquet":
            return pl.read_parquet(path, columns=list(names), glob=False)
        data = path.read_bytes()
        last = len(header) - 1
        numbers = sorted({last, *(header.index(name) for name in names)})
        try:
            # Given a path, polars would take its brackets and stars for a pattern.
            frame = pl.read_csv(data, columns=numbers, infer_schema=False, null_values=MISSING)
        except pl.exceptions.PolarsError:
            _check_cells(path, data, len(header))
            raise
        # A row that ends too early is filled up with nulls, without a word.
        if frame.to_series(len(numbers) - 1).null_count():
            _check_cells(path, data, len(header))
    except UNREADABLE as error:
        raise ForeignError(f"{path}: cannot be read: {_first_line(error)}") from None
    return frame.select(list(names)).filter(~pl.all_horizontal(pl.all().is_null()))


def _check_cells(path: Path, data: bytes, width: int) -> None:
    """Raise ForeignError at the first row with another number of cells than the header."""
    # The module's own limit is 128 kB a cell, which a transcript may exceed.
    before = csv.field_size_limit(max(len(data), 1))
    try:
        for number, row in enumerate(_rows(data)):
            if row and len(row) != width:
                raise ForeignError(
                    f"{path}: row {number} below the header has {len(row)} cells, the header "
                    f"{width}: put text that holds a comma into quotes"
                )
    except (UnicodeError, csv.Error):
        return
    finally:
        csv.field_size_limit(before)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _matched(
    given: Sequence[str], option: str, header: Sequence[str], taken: set[str], path: Path
) -> tuple[str, ...]:
    """The columns that names and globs stand for; a name that is a column is never a glob."""
    found: dict[str, None] = {}
    parts = [p for whole in given for p in ([whole] if whole in header else whole.split(","))]
    free = [c for c in header if c not in taken | {*parts, "model", "role"}]
    for part in filter(None, (p if p in header else p.strip() for p in parts)):
        if part in header:
            matches = [part]
        else:
            known = free if any(sign in part for sign in GLOB) else []
            matches = [column for column in known if fnmatch.fnmatchcase(column, part)]
        if not matches:
            raise ForeignError(
                f"{path}: {option}: no column `{part}`; the table has {listed(header)}"
            )
        found |= dict.fromkeys(matches)
    if not found:
        raise ForeignError(f"{option}: names no column of {path}, which has {listed(header)}")
    return tuple(found)


def _pair(given: str, option: str, form: str, known: Sequence[str]) -> tuple[str, str]:
    """Both sides of `a=b`; a name may hold the sign, so that a known one on its side decides."""
    cuts = [i for i, sign in enumerate(given) if sign == "="]
    pairs = [(given[:i], given[i + 1 :]) for i in cuts]
    side = 1 if option == "--label" else 0
    for pair in pairs:
        if pair[side] in known and all(pair):
            return pair
    if not pairs:
        raise ForeignError(f"{option} {given}: say it as {form}")
    what = "column" if option == "--label" else "factor"
    raise ForeignError(f"{option} {given}: no {what} `{pairs[0][side]}`; there is {listed(known)}")


def _check_parts(
    path: Path,
    header: Sequence[str],
    places: Mapping[str, str | None],
    labels: Sequence[tuple[str, str]],
    factors: Sequence[str],
    outcomes: Sequence[str],
) -> None:
    """Every column that is used stands in the header once and is used for one thing."""
    parts = [(name, option) for option, name in places.items() if name]
    parts += [(column, "--label") for _, column in labels]
    parts += [(name, "--factors") for name in factors] + [(n, "--outcomes") for n in outcomes]
    for name in [*(name for name, _ in parts), "model", "role"]:
        if header.count(name) > 1:
            raise ForeignError(
                f"{path}: {header.count(name)} columns are named `{name}`: rename all but one"
            )
        options = [option for other, option in parts if other == name]
        if len(options) > 1:
            raise ForeignError(
                f"column `{name}` is named by {' and '.join(options)}: it can be one of them"
            )
    for outcome, _ in labels:
        if outcome not in outcomes:
            raise ForeignError(
                f"--label: `{outcome}` is not among the outcomes {listed(outcomes)}: add it to "
                "--outcomes or leave the label out"
            )


def _numbers(column: pl.Series, part: str) -> pl.Series:
    """A column of text as numbers, true and false as 1 and 0; any other as it is."""
    if column.dtype != pl.String:
        return column
    plain = column.str.strip_chars().str.to_lowercase().replace({"true": "1", "false": "0"})
    numbers = plain.cast(pl.Float64, strict=False)
    wrong = column.filter(numbers.is_null() & column.is_not_null())
    if len(wrong):
        raise ForeignError(
            f"{part} `{column.name}` holds the text {wrong[0]!r:.60}: it must be a number, "
            "true or false; a missing one is an empty cell"
        )
    return numbers


def _check(trials: Trials) -> None:
    """What a fit would take and yet cannot mean: one arm twice, one query, no outcome, bad labels.

    The arms themselves are checked by the fit.
    """
    columns, frame = trials.columns, trials.frame
    if columns.train == columns.deploy:
        raise ForeignError(
            f"--train and --deploy are both `{columns.train}`: name the two values of "
            f"`{columns.arm}` that make the gap"
        )
    check_graded(_kept(trials), trials.outcomes)
    for label in trials.labels.values():
        kind = frame.schema[label]
        if not (kind.is_numeric() or kind in (pl.Boolean, pl.Null)):
            raise ForeignError(f"label `{label}` holds {kind}: it must be a number in [0, 1]")
        given = frame[label].cast(pl.Float64).drop_nulls()
        if len(wrong := given.filter(~given.is_between(0, 1))):
            raise ForeignError(
                f"label `{label}` holds {wrong[0]}: it must lie in [0, 1], or be null where "
                "nobody labelled"
            )
        if given.is_empty():
            raise ForeignError(f"label `{label}` is null in every row: leave --label out")
    kind = frame.schema[columns.query]
    if not kind.is_nested() and frame[columns.query].drop_nulls().n_unique() == 1:
        only = frame[columns.query].drop_nulls()[0]
        raise ForeignError(
            f"column `{columns.query}` is {str(only)!r:.60} in every row: errors are those between "
            "queries, so that it takes two and better twenty; --query names the column of queries"
        )


def _in_arm(trials: Trials, value: str) -> pl.DataFrame:
    """The trials of an arm, without controls."""
    frame = trials.frame
    if "role" in frame.columns:
        frame = frame.filter(pl.col("role").cast(pl.String).ne_missing("control"))
    return frame.filter(pl.col(trials.columns.arm).cast(pl.String) == value)


def _kept(trials: Trials) -> pl.DataFrame:
    return pl.concat([_in_arm(trials, a) for a in (trials.columns.train, trials.columns.deploy)])


def _read_text(path: Path, trials: Trials) -> Iterator[str]:
    """What was read, what was left out, and the human labels."""
    frame, columns = trials.frame, trials.columns
    arms = {value: _in_arm(trials, value) for value in (columns.train, columns.deploy)}
    kept = _kept(trials)
    words = [f"{kept.height:,} trials", f"{kept[columns.query].n_unique()} queries"]
    if trials.wording:
        words.append(f"{kept[trials.wording].drop_nulls().n_unique()} wordings")
    if "model" in kept.columns:
        words.append(f"{kept['model'].n_unique()} model(s)")
    yield (
        f"{path}: {', '.join(words)}; `{columns.arm}` is {columns.train} in train, "
        f"{columns.deploy} in deploy."
    )
    controls = 0
    if "role" in frame.columns:
        controls = int((frame["role"].cast(pl.String) == "control").sum())
    if controls:
        yield f"Left out: {controls:,} rows whose `role` is control."
    if others := frame.height - kept.height - controls:
        named = frame[columns.arm].cast(pl.String).fill_null("null").unique().sort().to_list()
        said = listed([value for value in named if value not in arms])
        yield f"Left out: {others:,} rows whose `{columns.arm}` is another: {said}."
    for outcome, label in trials.labels.items():
        counts = [f"{arm[label].count()} in {value}" for value, arm in arms.items()]
        yield f"Human labels of `{outcome}` in `{label}`: {', '.join(counts)}."


def _reference_text(trials: Trials, gaps: pl.DataFrame) -> str:
    said = []
    for factor in trials.factors:
        kind = gaps.schema[factor]
        assert isinstance(kind, pl.Enum)
        first, *others = kind.categories.to_list()
        why = ""
        if factor not in trials.reference and yes_or_no([first, *others]):
            why = f" (of {others[0]} and {first} the one that says yes: the text as it was)"
        said.append(f"{factor} = {first}{why}")
    return f"Reference levels: {'; '.join(said)}."


def _tables_text(trials: Trials, tables: Mapping[str, pl.DataFrame], primary: str) -> Iterator[str]:
    """The baseline gap and the sensitivity table of every model and outcome."""
    gaps, effects = tables["gaps"], tables["effects"]
    columns = trials.columns
    models: list[str | None] = [None]
    if "model" in trials.frame.columns:
        kept = _kept(trials)["model"].cast(pl.String).unique().sort(nulls_last=True)
        models = kept.to_list()
    for model in models:
        for outcome in trials.outcomes:
            own = gaps.filter(pl.col("model").eq_missing(model), pl.col("outcome") == outcome)
            name = f"{model or 'no model named'}, {outcome}" if models != [None] else outcome
            if own.is_empty():
                yield f"\n{name}: no trial has a value."
                continue
            original = own.filter(pl.col("condition") == "original")
            if original.is_empty() or original["gap"][0] is None:
                yield (
                    f"\n{name}: no baseline gap: no query has graded trials in both arms with "
                    "every factor at its reference."
                )
            else:
                row = original.row(0, named=True)
                yield (
                    f"\n{name}: baseline gap {points(row['gap'])} points "
                    f"{interval(row['conf_low'], row['conf_high'])}: "
                    f"{points(row['rate_train'], sign=False)} % in {columns.train}, "
                    f"{points(row['rate_deploy'], sign=False)} % in {columns.deploy}."
                )
            yield "What each change does to that gap, in percentage points:\n"
            yield text(*sensitivity(effects, model=model, outcome=outcome, primary=primary))
