"""Registration: what a run will do, in one file to deposit, and what its analysis then did.

Takes a run's plan; gives registration.toml. Takes a fit; gives fit.toml.
Does not know estimators, nor whether the one kept to the other: verification says that.
"""

import hashlib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from ablate import __version__
from ablate.planning import Plan, digest_of, frozen, inputs
from ablate.store import Ledger
from ablate.study import Study
from variants.marks import ORIGINAL
from variants.scenario import content_hash

__all__ = [
    "FIT",
    "MISSING",
    "FitRecord",
    "Head",
    "Registered",
    "Registration",
    "RegistrationError",
    "answer_times",
    "counts_by",
    "flattened",
    "grades_digest",
    "is_intact",
    "parsed",
    "read_text",
    "record_fit",
    "register",
    "seal_of",
    "sha256_of",
]

REGISTRATION = "registration.toml"
FIT = "fit.toml"
# How effects.csv is made, in the words of its column `method`.
ESTIMATORS = {
    "gap_effect_simple": "gap with this change alone minus gap of the original: with five wordings "
    "or more paired by query, two-way query x wording, t(min(Q,W)-1); else paired by query, "
    "t(Q-1); where no query differs from another: newcombe, pooled",
    "gap_effect_averaged": "change of the gap averaged over the law of the design: with five "
    "wordings or more weighted linear probability, two-way query x wording, t(min(Q,W)-1); else "
    "from 20 queries on weighted linear probability, CR1 by query, t(G-1); below weighted linear "
    "probability, CR2 by query, Satterthwaite",
}
CORRECTION = (
    "p_holm: Holm over the rows of {estimand}, for each model, outcome and contrast; "
    "all other rows are a screen: q_bh, Benjamini-Hochberg"
)
CLAIMS_CORRECTION = "Holm over all {count} claims for each model, supporting and refuting apart"
MISSING = "only trials without an answer or a grade are missing"


class RegistrationError(ValueError):
    """A registration that cannot be made or read; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A registration on disk; `answers` of its trials were there before it, `new` if made now."""

    path: Path
    digest: str
    trials: int
    answers: int
    new: bool


class _Table(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class Head(_Table):
    study: str
    run: str
    registered_at: str
    version: str
    answers_before: int


class _PlanTable(_Table):
    trials: int
    trial_ids: str
    parquet: str


class _Frozen(_Table):
    estimand: str
    graders: dict[str, str]
    claims: str | None = None

    def settings(self) -> dict[str, Any]:
        """All but what is compared by rules of its own."""
        return self.model_dump(exclude={"graders", "claims"})


class _Claims(_Table):
    text: str


class Registration(_Table):
    registration: Head
    plan: _PlanTable
    inputs: dict[str, Any]
    design: dict[str, Any]
    frozen: _Frozen
    claims: _Claims | None = None


class _FitHead(_Table):
    version: str
    trials: int
    trial_ids: str
    answered: int
    excluded: int


class FitRecord(_Table):
    fit: _FitHead
    inputs: dict[str, Any]
    frozen: _Frozen
    instruments: dict[str, dict[str, int]]
    grades: dict[str, str]
    files: dict[str, str]


def register(study: Study, plan: Plan, run_dir: Path, out: Path | None = None) -> Registered:
    """Write a run's registration; one that is there and says the same is left as it is.

    Raises RegistrationError when the study has left its plan, or `out` says something else.
    """
    _check_plan(study, plan, run_dir)
    path = out or run_dir / REGISTRATION
    times, others = answer_times(study, plan.trial_ids)
    text = _sealed(_body(study, plan, run_dir, len(times), others))
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
        new = True
    except FileExistsError:
        text, new = _as_before(path, text), False
    return Registered(path, seal_of(text), plan.frame.height, len(times), new)


def _check_plan(study: Study, plan: Plan, run_dir: Path) -> None:
    mend = f"undo it, or plan another run with `ablate plan {study.root} --run NAME`"
    planned, now = plan.record.get("frozen", {}), frozen(study)
    changed = [key for key in {**now, **planned} if planned.get(key) != now.get(key)]
    if changed:
        raise RegistrationError(
            f"{run_dir}: {', '.join(changed)} changed after this run was planned: {mend}"
        )
    if plan.record["made"].get("trial_ids") != digest_of(plan.frame):
        raise RegistrationError(
            f"{run_dir}: plan.parquet does not hold the trials that plan.toml was made with: {mend}"
        )


def answer_times(study: Study, trial_ids: Sequence[str]) -> tuple[dict[str, str], int]:
    """When each of these trials was answered, and how many other answers the ledger holds."""
    if not study.ledger_path.is_file():
        return {}, 0
    with Ledger(study.ledger_path) as ledger:
        times = ledger.answer_times(trial_ids)
        return times, len(ledger.answered()) - len(times)


def _body(study: Study, plan: Plan, run_dir: Path, answers: int, others: int) -> str:
    """The registration without its digest."""
    from ablate.claims import claims_of

    declared = claims_of(study, plan)
    settings = study.settings
    planned = plan.frame.height
    status = (
        f"{answers} of {planned} trials were answered before this file was made: "
        "it is no registration in advance."
        if answers
        else "No trial of this plan was answered before this file was made."
    )
    estimand = settings.study.estimand
    tables: dict[str, dict[str, Any]] = {
        "registration": {
            "study": study.name,
            "run": run_dir.resolve().name,
            "registered_at": _now(),
            "version": __version__,
            "status": status,
            "answers_before": answers,
            "other_answers_of_the_study_before": others,
        },
        "factors": {
            name: {"question": study.scenario.factors[name].question, "levels": list(levels)}
            for name, levels in study.factors.items()
        },
        "plan": {
            "trials": planned,
            "trial_ids": digest_of(plan.frame),
            "parquet": sha256_of((run_dir / "plan.parquet").read_bytes()),
            "trials_by_model": counts_by(plan.frame["model"].to_list()),
            "trials_by_arm": counts_by(plan.frame["arm"].to_list()),
            "trials_by_part": counts_by(_parts(study, plan.frame)),
        },
        "inputs": dict(plan.record["inputs"]),
        "design": dict(plan.record["design"]),
        "frozen": dict(plan.record["frozen"]),
        "analysis": {
            "primary": f"{estimand} on complied, graded by {settings.grading.graders[0]}",
            "estimators": ESTIMATORS,
            "correction": CORRECTION.format(estimand=estimand),
            "claims_correction": CLAIMS_CORRECTION.format(count=len(declared)),
            "missing": MISSING,
        },
        "declared": {claim.claim_id: claim.sentence for claim in declared},
    }
    claims = _claims_section(study, plan.record["frozen"].get("claims"))
    return (
        "# What a run will do, registered before its first call: deposit this file (OSF, a signed\n"
        "# git tag). `ablate verify RUN FILE` says whether the analysis kept to it. The last line\n"
        "# is the SHA-256 of everything above it.\n"
        f"{_toml(tables)}{claims}\n[seal]\n"
    )


def _parts(study: Study, frame: pl.DataFrame) -> list[str]:
    """What each trial is for, by how far its condition is from the original."""
    controls = {query.query_id for query in study.queries if query.role == "control"}
    names = ("original", "single changes", "two changes and more")
    parts = []
    for row in frame.iter_rows(named=True):
        changes = sum(row[factor] not in (ORIGINAL, None) for factor in study.factors)
        if row["query_id"] in controls:
            parts.append("control queries")
        elif row["placebo"] is not None:
            parts.append("placebo edits")
        else:
            parts.append(names[min(changes, 2)])
    return parts


def _claims_section(study: Study, planned: str | None) -> str:
    if planned is None or study.settings.study.claims is None:
        return ""
    path = study.root / study.settings.study.claims
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise RegistrationError(f"{path}: not UTF-8 text: {error}") from None
    return f'\n[claims]\ntext = """\n{_multiline(text)}"""\n'


def _as_before(path: Path, text: str) -> str:
    """The text of the registration that is there. Raises RegistrationError when it differs."""
    before = read_text(path)
    if not is_intact(before):
        raise RegistrationError(
            f"{path}: was edited after it was made: move it away, or --out FILE"
        )
    old, new = (flattened("", tomllib.loads(t)) for t in (before, text))
    unlike = {"registration.registered_at", "seal.digest"}
    differ = [key for key in {**old, **new} if old.get(key) != new.get(key) and key not in unlike]
    if differ:
        raise RegistrationError(
            f"{path}: a registration is there, and {', '.join(differ[:5])} would be another now: "
            "it is not overwritten: keep it, or give another file with --out"
        )
    return before


def record_fit(
    study: Study,
    plan: Plan,
    run_dir: Path,
    observations: pl.DataFrame,
    *,
    contrasts: Sequence[tuple[str, str]],
    excluded: int,
    files: Iterable[str],
) -> None:
    """Write fit.toml: settings, instruments, counts of trials and hashes of what `fit` wrote."""
    graders = study.settings.grading.graders
    with Ledger(study.ledger_path) as ledger:
        answered = ledger.answer_times(plan.trial_ids)
        graded = {name: ledger.instruments(name, plan.trial_ids) for name in graders}
        grades = {name: grades_digest(ledger, name, plan.trial_ids) for name in graders}
    used = observations.filter(
        pl.col("complied").is_not_null(),
        pl.col("placebo").is_null(),
        pl.col("role").ne_missing("control"),
    )
    tables: dict[str, dict[str, Any]] = {
        "fit": {
            "fitted_at": _now(),
            "version": __version__,
            "contrasts": ["-".join(pair) for pair in contrasts],
            "trials": plan.frame.height,
            "trial_ids": digest_of(plan.frame),
            "answered": len(answered),
            "graded": len(graded[graders[0]]),
            "excluded": excluded,
            "used": used.height,
        },
        "inputs": inputs(study),
        "frozen": frozen(study),
        "instruments": {name: counts_by(found.values()) for name, found in graded.items()},
        "grades": grades,
        "files": {name: sha256_of((run_dir / name).read_bytes()) for name in files},
    }
    head = "# What the analysis of this run did. Made by `ablate fit`, read by `ablate verify`.\n"
    (run_dir / FIT).write_text(head + _toml(tables), "utf-8")


def grades_digest(ledger: Ledger, grader: str, trial_ids: Sequence[str]) -> str:
    """The hash of all values that a grader gave these trials."""
    grades = ledger.grades(grader).filter(pl.col("trial_id").is_in(list(trial_ids)))
    ordered = grades.select(sorted(grades.columns)).sort("trial_id")
    return content_hash([ordered.columns, [list(row) for row in ordered.iter_rows()]])


_Parsed = TypeVar("_Parsed", bound=BaseModel)


def parsed(kind: type[_Parsed], path: Path, text: str) -> _Parsed:
    try:
        return kind.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise RegistrationError(f"{path}: not TOML: {error}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        made = "ablate fit" if kind is FitRecord else "ablate register"
        raise RegistrationError(
            f"{path}: {where}: {fault['msg']}: give a file that `{made}` made"
        ) from None


def read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise RegistrationError(f"{path}: not UTF-8 text: {error}") from None


def _sealed(body: str) -> str:
    return f'{body}digest = "{sha256_of(body.encode())}"\n'


def seal_of(text: str) -> str:
    """The digest that a registration's content has."""
    body, _, _ = text.rstrip("\n").rpartition("\n")
    return sha256_of(f"{body}\n".encode())


def is_intact(text: str) -> bool:
    return text.rstrip("\n").endswith(f'\ndigest = "{seal_of(text)}"')


def flattened(name: str, value: Any) -> dict[str, Any]:
    """A value by dotted names, tables and JSON objects in text taken apart."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return {name: value}
    if not isinstance(value, Mapping):
        return {name: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= flattened(f"{name}.{key}" if name else str(key), inner)
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def counts_by(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values))


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Tables of plain data as TOML text; keys without a value are left out."""
    lines: list[str] = []
    for table, values in tables.items():
        lines += ["", f"[{table}]"]
        lines += [f"{_key(k)} = {_value(v)}" for k, v in values.items() if v is not None]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None)
        return f"{{ {inner} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    # JSON strings are TOML but for DEL, and for letters outside the first plane in pairs.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _multiline(text: str) -> str:
    """Text for a TOML string of many lines: line feeds and tabs as they are."""
    escaped = text.replace("\\", "\\\\").replace('"""', '""\\"')
    if escaped.endswith('"'):
        escaped = f'{escaped[:-1]}\\"'
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04x}", escaped)
