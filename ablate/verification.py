"""Verification: whether the analysis of a run kept to its registration.

Takes a run folder and a registration; compares the file with plan, ledger, fit and the study as
they stand, one finding a line. Does not know estimators, nor who holds the deposit: a digest finds
edits, a deposit dates them.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from ablate.planning import digest_of, frozen, inputs
from ablate.registration import (
    FIT,
    MISSING,
    FitRecord,
    Head,
    Registration,
    RegistrationError,
    answer_times,
    counts_by,
    flattened,
    grades_digest,
    is_intact,
    parsed,
    read_text,
    seal_of,
    sha256_of,
)
from ablate.store import Ledger
from ablate.study import Study

__all__ = ["Finding", "verify"]

Mark = Literal["kept", "deviation", "open", "exploratory", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `verify`; `open` is what has not been done yet."""

    mark: Mark
    text: str

    @property
    def attention(self) -> bool:
        return self.mark in ("deviation", "open")


def verify(study: Study, run_dir: Path, file: Path) -> list[Finding]:
    """What a run and its analysis did, compared with a registration, in the order of the file.

    Raises RegistrationError when a file cannot be read, or belongs to another study.
    """
    text = read_text(file)
    registered = parsed(Registration, file, text)
    head = registered.registration
    if head.study != study.name:
        raise RegistrationError(
            f"{file}: registers the study `{head.study}`, and {run_dir} belongs to "
            f"`{study.name}`: give the registration of this run"
        )
    record, frame = _plan_of(run_dir)
    fit_path = run_dir / FIT
    fit = parsed(FitRecord, fit_path, read_text(fit_path)) if fit_path.is_file() else None
    places: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "plan.toml says": (record["inputs"], record["frozen"]),
        "the study now says": (inputs(study), frozen(study)),
    }
    if fit is not None:
        places["the fit used"] = (fit.inputs, fit.frozen.model_dump(exclude_none=True))
    return [
        *_file(text, head),
        *_order(study, head, frame),
        *_plan(registered, run_dir, record, frame, fit),
        *_settings(registered, places),
        *_claims(study, registered, places),
        *_graders(registered.frozen.graders, places, fit),
        *_stopping(study, registered, frame, fit),
        *_tables(study, registered.frozen.estimand, run_dir, frame, fit),
    ]


def _file(text: str, head: Head) -> Iterator[Finding]:
    if is_intact(text):
        yield Finding("kept", f"file: intact, {_short(seal_of(text))}")
    else:
        yield Finding("deviation", "file: it was edited after it was made: its digest is another")


def _order(study: Study, head: Head, frame: pl.DataFrame) -> Iterator[Finding]:
    times, _ = answer_times(study, frame["trial_id"].to_list())
    early = sum(time < head.registered_at for time in times.values())
    if early or head.answers_before:
        count = max(early, head.answers_before)
        first = min(times.values(), default="unknown")
        yield Finding(
            "deviation",
            f"order: registered {head.registered_at}; {count} of {frame.height} trials were "
            f"answered before that, the first {first}",
        )
    elif not times:
        yield Finding("open", "order: no trial is answered yet: `ablate run` comes first")
    else:
        first = min(times.values())
        yield Finding("kept", f"order: registered {head.registered_at}, first answer {first}")


def _plan(
    registered: Registration,
    run_dir: Path,
    record: Mapping[str, Any],
    frame: pl.DataFrame,
    fit: FitRecord | None,
) -> Iterator[Finding]:
    """The trials of the run and of the fit, the run's name, and the version of ablate."""
    head, planned = registered.registration, registered.plan
    trials = {
        "plan.parquet has": digest_of(frame),
        "plan.toml says": record["made"].get("trial_ids"),
    }
    versions = {"plan.toml says": record["made"].get("version")}
    if fit is not None:
        trials["the fit used"] = fit.fit.trial_ids
        versions["the fit used"] = fit.fit.version
    yield from _compared("run", head.run, {"this one is": run_dir.resolve().name})
    yield from _compared("trials", planned.trial_ids, trials)
    parquet = sha256_of((run_dir / "plan.parquet").read_bytes())
    yield from _compared("plan.parquet", planned.parquet, {"the file is": parquet})
    yield from _compared("design", registered.design, {"plan.toml says": record["design"]})
    yield from _compared("version", head.version, versions)


def _settings(
    registered: Registration, places: Mapping[str, tuple[dict[str, Any], dict[str, Any]]]
) -> Iterator[Finding]:
    """Inputs and frozen settings, key by key."""
    for number, wanted in enumerate((registered.inputs, registered.frozen.settings())):
        found = {place: tables[number] for place, tables in places.items()}
        keys = {**wanted, **{key: None for table in found.values() for key in table}}
        for key in keys:
            if key not in ("graders", "claims"):
                # The study's settings of its design are not the design that was chosen.
                topic = "design settings" if key == "design" else key
                values = {place: table.get(key) for place, table in found.items()}
                yield from _compared(topic, wanted.get(key), values)


def _claims(
    study: Study,
    registered: Registration,
    places: Mapping[str, tuple[dict[str, Any], dict[str, Any]]],
) -> Iterator[Finding]:
    """Claims that were taken back or changed are deviations, further ones exploratory."""
    wanted = registered.frozen.claims
    now = places["the study now says"][1].get("claims")
    others = {place: tables[1].get("claims") for place, tables in places.items()}
    if wanted is None:
        if any(others.values()):
            yield Finding("exploratory", "claims: none was registered: all of them came later")
        return
    text = registered.claims.text if registered.claims else ""
    if sha256_of(text.encode()) != wanted:
        yield Finding("deviation", "claims: the text in the file is not that of its own hash")
    elif now is None:
        yield Finding("deviation", "claims: claims were registered; the study now has none")
    elif now != wanted:
        path = study.root / str(study.settings.study.claims)
        yield from _claims_compared(text, path.read_bytes().decode("utf-8", "replace"))
    gone = {place: value for place, value in others.items() if value not in (wanted, now)}
    if gone:
        yield from _compared("claims", wanted, gone)
    elif now == wanted:
        yield Finding("kept", f"claims: {_shown(wanted)}")


def _claims_compared(registered: str, now: str) -> Iterator[Finding]:
    try:
        before, after = tomllib.loads(registered), tomllib.loads(now)
    except tomllib.TOMLDecodeError:
        yield Finding("deviation", "claims: the file was changed, and is no TOML to compare")
        return
    changed = False
    for key in {**before, **after}:
        old, new = before.get(key, []), after.get(key, [])
        if not (isinstance(old, list) and isinstance(new, list)):
            old, new = [old], [new]
        for claim in old:
            if claim not in new:
                changed = True
                yield Finding(
                    "deviation", f"claims: registered {_title(claim)}; it was changed or taken out"
                )
        for claim in new:
            if claim not in old:
                yield Finding("exploratory", f"claims: {_title(claim)} was not registered")
    if not changed:
        yield Finding("kept", "claims: those registered are there, word by word")


def _title(claim: Any) -> str:
    if isinstance(claim, dict):
        for key in ("id", "claim_id", "name", "sentence"):
            if key in claim:
                return f"{key} = {_shown(claim[key])}"
    return _shown(claim)


def _graders(
    wanted: Mapping[str, str],
    places: Mapping[str, tuple[dict[str, Any], dict[str, Any]]],
    fit: FitRecord | None,
) -> Iterator[Finding]:
    """Names and instruments; further graders are exploratory as long as the first is the same."""
    primary = next(iter(wanted), None)
    found = {place: list(tables[1].get("graders", {})) for place, tables in places.items()}
    firsts = {place: names[0] if names else None for place, names in found.items()}
    yield from _compared("primary grader", primary, firsts)
    for name, instrument in wanted.items():
        if without := [place for place, names in found.items() if name not in names]:
            for place in without:
                yield Finding(
                    "deviation", f"grader {name}: registered; {place} {', '.join(found[place])}"
                )
            continue
        if fit is None:
            now = {place: tables[1]["graders"][name] for place, tables in places.items()}
            yield from _compared(f"grader {name}", instrument, now)
            continue
        planned = places["plan.toml says"][1]["graders"][name]
        used: dict[str, Any] = {
            f"the fit used for {count} trials": other
            for other, count in fit.instruments.get(name, {}).items()
        }
        yield from _compared(f"grader {name}", instrument, {"plan.toml says": planned, **used})
        if places["the study now says"][1]["graders"][name] != instrument:
            yield Finding("note", f"grader {name}: the instrument changed; the fit's is above")
    for name in sorted({name for names in found.values() for name in names} - set(wanted)):
        yield Finding("exploratory", f"grader {name}: not registered")


def _stopping(
    study: Study, registered: Registration, frame: pl.DataFrame, fit: FitRecord | None
) -> Iterator[Finding]:
    """Whether every planned trial is answered and graded, by arm."""
    ids = frame["trial_id"].to_list()
    times, _ = answer_times(study, ids)
    missing = frame.filter(~pl.col("trial_id").is_in(list(times)))
    if missing.height:
        yield Finding(
            "open" if fit is None else "deviation",
            f"stopping: registered all {frame.height} trials; {missing.height} are not answered: "
            f"{_by_arm(missing)}",
        )
    else:
        yield Finding("kept", f"stopping: all {frame.height} trials are answered")
    if fit is not None and fit.fit.answered < fit.fit.trials:
        yield Finding(
            "deviation",
            f"stopping: registered all {fit.fit.trials} trials; the fit was made when "
            f"{fit.fit.answered} were answered",
        )
    if not times:
        return
    primary = next(iter(registered.frozen.graders), "")
    with Ledger(study.ledger_path) as ledger:
        ungraded = times.keys() - ledger.instruments(primary, ids).keys()
        grades = ledger.grades(primary)
    if ungraded:
        rows = frame.filter(pl.col("trial_id").is_in(list(ungraded)))
        yield Finding(
            "deviation",
            f"missing: registered {MISSING}; {rows.height} answered trials were never graded by "
            f"{primary}: {_by_arm(rows)}",
        )
    elif "complied" in grades.columns:
        unknown = grades.filter(pl.col("complied").is_null())["trial_id"].to_list()
        rows = frame.filter(pl.col("trial_id").is_in(unknown))
        what = f": {_by_arm(rows)}" if rows.height else ""
        yield Finding("note", f"missing: {rows.height} answers that {primary} cannot tell{what}")
    if fit is not None and fit.fit.excluded:
        yield Finding("note", f"exclusions: {fit.fit.excluded} answers were left out by the rules")


def _tables(
    study: Study, estimand: str, run_dir: Path, frame: pl.DataFrame, fit: FitRecord | None
) -> Iterator[Finding]:
    """Whether the tables are those of the fit, of the grades as they are; what goes beyond them."""
    there = sorted(path.name for path in run_dir.glob("*.csv"))
    if fit is None:
        if there:
            yield Finding("deviation", f"tables: {', '.join(there)} came without {FIT}: fit again")
        else:
            yield Finding("open", f"tables: there are none yet: `ablate fit {run_dir}`")
        return
    # Of other trials there are other grades: that the trials changed is said elsewhere.
    kept = same_trials = digest_of(frame) == fit.fit.trial_ids
    for name, digest in fit.files.items():
        path = run_dir / name
        if not path.is_file():
            kept = False
            yield Finding("deviation", f"tables: {name} was written by fit, and is not there")
        elif sha256_of(path.read_bytes()) != digest:
            kept = False
            yield Finding("deviation", f"tables: {name} is not the file that fit wrote")
    with Ledger(study.ledger_path) as ledger:
        for grader, digest in fit.grades.items():
            if same_trials and grades_digest(ledger, grader, frame["trial_id"].to_list()) != digest:
                kept = False
                yield Finding(
                    "deviation",
                    f"tables: grades by {grader} are not those that fit read: fit again",
                )
    if kept:
        yield Finding("kept", f"tables: {', '.join(fit.files)} are as fit wrote them, from all "
                      "grades there are")  # fmt: skip
    for name in there:
        if name not in fit.files:
            yield Finding("exploratory", f"tables: {name} is not a table of the fit")
    yield from _further_estimands(run_dir / "effects.csv", estimand)


def _further_estimands(path: Path, primary: str) -> Iterator[Finding]:
    try:
        rows = pl.read_csv(path, columns=["estimand"])["estimand"].to_list()
    except (OSError, pl.exceptions.PolarsError):
        return
    for estimand, count in sorted(counts_by(map(str, rows)).items()):
        if estimand != primary:
            yield Finding("exploratory", f"effects.csv: {count} rows of {estimand}; registered as "
                          f"primary is {primary}")  # fmt: skip


def _by_arm(rows: pl.DataFrame) -> str:
    return ", ".join(f"{arm} {n}" for arm, n in sorted(counts_by(rows["arm"].to_list()).items()))


def _compared(topic: str, registered: Any, places: Mapping[str, Any]) -> Iterator[Finding]:
    """A deviation for each value that is another in some place, or one line that it was kept."""
    wanted = flattened(topic, registered)
    found = {place: flattened(topic, value) for place, value in places.items()}
    kept = True
    for key in {**wanted, **{key: None for values in found.values() for key in values}}:
        old = wanted.get(key)
        others = [(place, v.get(key)) for place, v in found.items() if v.get(key) != old]
        if others:
            kept = False
            done = "; ".join(f"{place} {_shown(value)}" for place, value in others)
            yield Finding("deviation", f"{key}: registered {_shown(old)}; {done}")
    if kept:
        single = _shown(wanted[topic]) if topic in wanted else f"{len(wanted)} settings"
        yield Finding("kept", f"{topic}: {single}")


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return _short(value)
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    return json.dumps(value, ensure_ascii=False, default=str)


def _short(text: str) -> str:
    """A hash by its first digits, any other text by its first 80 characters."""
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return f"{text[:12]}..."
    return text if len(text) <= 80 else f"{text[:80]}..."


def _plan_of(run_dir: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """The run's plan as it stands, whether or not it is still the study's."""
    try:
        record = tomllib.loads(read_text(run_dir / "plan.toml"))
        frame = pl.read_parquet(run_dir / "plan.parquet")
        frame = frame.select(pl.col("trial_id", "arm").cast(pl.String))
    except (tomllib.TOMLDecodeError, pl.exceptions.PolarsError, OSError) as error:
        raise RegistrationError(
            f"{run_dir}: not a run folder whose plan can be read: {error}"
        ) from None
    tables = {name: record.get(name) for name in ("made", "inputs", "design", "frozen")}
    if missing := [name for name, table in tables.items() if not isinstance(table, dict)]:
        raise RegistrationError(f"{run_dir}/plan.toml: has no table [{missing[0]}]: plan again")
    return record, frame
