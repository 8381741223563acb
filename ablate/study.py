"""A study: the settings of study.toml, checked, with the files that they name.

Takes a study folder; gives a frozen Study, or every fault with its key and the mend.
Does not know designs, plans or how a model is reached.
"""

import csv
import inspect
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ablate.grading import GRADERS, Grader
from ablate.models import PROVIDERS, Parameters, split_name
from ablate.outcomes import NAME as OWN_OUTCOMES
from ablate.outcomes import OutcomesError, load_grader
from ablate.pricing import Prices, PricingError, load_prices, shipped_prices
from ablate.queries import Query, QueryError, load_queries
from variants import Scenario, ScenarioError
from variants.choices import (
    Variant,
    VariantError,
    draw_wordings,
    load_variants,
    placebo_wordings,
)
from variants.declarations import EACH_SENTENCE, nearest
from variants.designs import DESIGNS
from variants.marks import ORIGINAL
from variants.scenario import Wording

if TYPE_CHECKING:
    from analysis.claims import Claim

__all__ = ["Study", "StudyError", "load_study"]

VARIANTS = "wordings.jsonl"
OUTCOMES_FILE = "outcomes.toml"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
SIMPLE, AVERAGED = ("gap_effect_simple", "gap_effect_averaged")


class StudyError(ValueError):
    """A study that cannot be used; `problems` holds every fault found."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_Share = Annotated[float, Field(gt=0, lt=1)]
_Count = Annotated[int, Field(ge=1)]


class StudySettings(_Table):
    """[study]: what is asked, of which scenario and queries."""

    name: Annotated[str, StringConstraints(pattern=rf"^{NAME}$")]
    seed: Annotated[int, Field(ge=0)] = 1
    scenario: str = "scenario.md"
    queries: str = "queries.csv"
    claims: str | None = None
    estimand: Literal["gap_effect_simple", "gap_effect_averaged"] = "gap_effect_simple"


class DesignSettings(_Table):
    """[design]: which conditions are tried and how many trials each model gets."""

    kind: str = "mixed"
    factors: tuple[str, ...] | None = None
    levels: dict[str, tuple[str, ...]] = {}
    trials: _Count = 7000
    train_share: _Share | None = None
    rate: _Share | None = None
    fixed_share: _Share | None = None
    random_conditions: _Count | Literal["fresh"] | None = None
    resolution: _Count | None = None
    conditions: _Count | None = None
    interactions: tuple[tuple[str, str], ...] | None = None
    orders: _Count | None = None
    first_share: _Share | None = None
    exclude: tuple[str, ...] = ()
    file: str | None = None
    replicates: _Count = 1
    wordings: _Count = 1
    placebos: Annotated[int, Field(ge=0)] = 0

    @property
    def options(self) -> dict[str, Any]:
        """What is set of the options that only some designs take."""
        names = (
            "train_share", "rate", "fixed_share", "random_conditions", "resolution", "conditions",
            "interactions", "orders", "first_share",
        )  # fmt: skip
        return {name: v for name in names if (v := getattr(self, name)) is not None}


class SubjectSettings(_Table):
    """[[subject]]: models and the request parameters they share."""

    models: Annotated[tuple[str, ...], Field(min_length=1)]
    reasoning: tuple[Literal["none", "scratchpad"], ...] = ("scratchpad",)
    max_tokens: _Count = 2048
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None


class GradingSettings(_Table):
    """[grading]: the graders; the first is the primary one."""

    graders: Annotated[tuple[str, ...], Field(min_length=1)] = ("rules/v1",)


class LimitSettings(_Table):
    """[limits]: where a run stops by itself."""

    usd: Annotated[float, Field(gt=0)] | None = None
    calls: _Count | None = None
    tokens: _Count | None = None
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 50


class MarginSettings(_Table):
    """[margins]: the smallest gap effect that matters, and the share a minimal prompt keeps."""

    gap: _Share = 0.05
    share: _Share = 0.7


class AnalysisSettings(_Table):
    """[analysis]: which answers are left out, and when a run is complete; frozen in the plan.

    `truncated` leaves out answers that ended at the limit of tokens.
    """

    exclusions: tuple[Literal["truncated"], ...] = ()
    stopping: Literal["all planned trials"] = "all planned trials"


class Settings(_Table):
    """The whole of study.toml."""

    study: StudySettings
    design: DesignSettings = DesignSettings()
    subject: Annotated[tuple[SubjectSettings, ...], Field(min_length=1)]
    grading: GradingSettings = GradingSettings()
    limits: LimitSettings = LimitSettings()
    margins: MarginSettings = MarginSettings()
    analysis: AnalysisSettings = AnalysisSettings()


@dataclass(frozen=True)
class Study:
    """A study folder whose settings, scenario, queries and variants are sound.

    `factors` are the factors that the design varies with the levels that it tries, in the
    scenario's order; `variants` is what wordings.jsonl holds; `listed` are the conditions of a
    listed design, as changes.
    """

    root: Path
    settings: Settings
    scenario: Scenario
    queries: tuple[Query, ...]
    variants: tuple[Variant, ...] = ()
    graders: Mapping[str, Grader] = field(default_factory=lambda: GRADERS)
    prices: Prices = field(default_factory=shipped_prices)
    listed: tuple[Mapping[str, str], ...] | None = None
    claims: tuple["Claim", ...] = ()

    @property
    def name(self) -> str:
        return self.settings.study.name

    @property
    def scenario_path(self) -> Path:
        return self.root / self.settings.study.scenario

    @property
    def queries_path(self) -> Path:
        return self.root / self.settings.study.queries

    @property
    def variants_path(self) -> Path:
        return self.root / VARIANTS

    @property
    def ledger_path(self) -> Path:
        return self.root / "ledger.sqlite"

    def run_dir(self, run: str) -> Path:
        return self.root / "runs" / run

    @cached_property
    def factors(self) -> dict[str, tuple[str, ...]]:
        return _factors(self.settings.design, self.scenario)

    @cached_property
    def wordings(self) -> dict[str, Wording]:
        """The wordings that the trials are spread over, by id; the source's own first."""
        drawn = draw_wordings(
            self.scenario,
            self.variants,
            self.settings.design.wordings,
            self._generator(1),
            [f for f, at in self.factors.items() if any(a.startswith("without-") for a in at)],
        )
        return {wording.wording_id: wording for wording in drawn}

    @cached_property
    def placebos(self) -> dict[str, Wording]:
        """The placebo edits that are tried, by the id of each edit alone."""
        chosen = placebo_wordings(
            self.scenario, self.variants, self.settings.design.placebos, self._generator(2)
        )
        return {edit.wording_id: edit for edit in chosen}

    def worded(self, wording_id: str, placebo: str | None = None) -> Wording:
        """A wording of the study, with a placebo edit made in it."""
        wording = self.wordings[wording_id]
        if placebo is None:
            return wording
        return Wording.of(
            dict(wording.choices) | dict(self.placebos[placebo].choices), wording.filler
        )

    def named_wording(self, name: str) -> Wording:
        """A wording by its number from 1, its id, a variant's id, or the start of one.

        Raises StudyError when there is none, or more than one.
        """
        if name.isdigit() and 1 <= int(name) <= len(self.wordings):
            return list(self.wordings.values())[int(name) - 1]
        known = dict(self.wordings) | {
            v.wording_id: Wording.of({v.span: v.text}) for v in self.variants
        }
        found = [wording for wording_id, wording in known.items() if wording_id.startswith(name)]
        if len(found) == 1:
            return found[0]
        raise StudyError(
            [
                f"--wording: {'more than one' if found else 'no'} wording `{name}`: give a number "
                f"from 1 to {len(self.wordings)}, or a wording_id of {self.variants_path}"
            ]
        )

    def _generator(self, stream: int) -> np.random.Generator:
        """Randomness of its own for each draw, so that one does not change with another."""
        return np.random.default_rng([self.settings.study.seed, stream])

    @cached_property
    def subjects(self) -> dict[str, Parameters]:
        """Each model with its request parameters."""
        return {
            model: Parameters(subject.max_tokens, subject.temperature, subject.reasoning[0])
            for subject in self.settings.subject
            for model in subject.models
        }


def _factors(design: DesignSettings, scenario: Scenario) -> dict[str, tuple[str, ...]]:
    """The varied factors with the levels that are tried, the original first."""
    names = design.factors or scenario.recommended or tuple(scenario.factors)
    found = {}
    for name, factor in scenario.factors.items():
        if name not in names:
            continue
        levels = scenario.first_study.get(name, factor.levels) if not design.factors else None
        asked = design.levels.get(name)
        if asked is not None:
            each = tuple(level for level in factor.generated if level.startswith("without-"))
            levels = tuple(
                level
                for named in asked
                if named != ORIGINAL
                for level in (each if named == EACH_SENTENCE else (named,))
            )
            levels = (ORIGINAL, *levels)
        found[name] = levels or factor.levels
    return found


def load_study(root: Path | str, *, drawing: bool = True) -> Study:
    """Read a study folder. Raises StudyError with everything that is wrong with it.

    Without `drawing`, too few variants for the wordings that are asked for are no fault yet.
    """
    root = Path(root)
    path = root / "study.toml"
    if not root.is_dir():
        raise StudyError([f"{root}: there is no such folder; `ablate init {root}` makes one"])
    if not path.is_file():
        raise StudyError([f"{root}: no study.toml in it; `ablate init DIR` makes a study folder"])
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyError([f"{path}: {error}"]) from None
    problems: list[str] = []
    settings = None
    try:
        settings = Settings.model_validate(table)
    except ValidationError as error:
        problems += [f"{path}: {_explain(fault, table)}" for fault in error.errors()]
    named = table.get("study")
    names = named if isinstance(named, dict) else {}
    scenario = _read(root, path, names, "scenario", "scenario.md", Scenario.load, problems)
    queries = _read(root, path, names, "queries", "queries.csv", load_queries, problems)
    claims = _claims(root, path, settings, scenario, problems) if settings else ()
    variants: tuple[Variant, ...] = ()
    try:
        variants = load_variants(root / VARIANTS)
    except VariantError as error:
        problems += error.problems
    graders = dict(GRADERS)
    if (root / OUTCOMES_FILE).is_file():
        try:
            graders[OWN_OUTCOMES] = load_grader(root / OUTCOMES_FILE)
        except OutcomesError as error:
            problems += error.problems
    prices = shipped_prices()
    try:
        prices = load_prices(root)
    except PricingError as error:
        problems += error.problems
    listed = _listed(root, path, settings, scenario, problems) if settings and scenario else None
    if settings:
        problems += [f"{path}: {problem}" for problem in _cross(settings, scenario, graders)]
    if problems or settings is None or scenario is None or queries is None:
        raise StudyError(problems)
    study = Study(root, settings, scenario, queries, variants, graders, prices, listed, claims)
    for key in ("wordings", "placebos") if drawing else ():
        try:
            getattr(study, key)
        except VariantError as error:
            raise StudyError(
                [f"{path}: design.{key}: {fault}" for fault in error.problems]
            ) from None
    return study


def changes_of(condition: str) -> dict[str, str]:
    """The changes of a condition written as "f=removed,g=named"."""
    pairs = [part.partition("=") for part in condition.split(",") if part.strip()]
    return {name.strip(): level.strip() for name, _, level in pairs}


def _claims(
    root: Path, path: Path, settings: Settings, scenario: Scenario | None, problems: list[str]
) -> tuple["Claim", ...]:
    """The claims of the file that the study names, none where it names none."""
    if settings.study.claims is None:
        return ()
    from ablate.claims import ClaimsError, Varied, load_claims

    named = _inside(root, path, "claims", settings.study.claims, problems)
    if named is None or scenario is None:
        return ()
    design = settings.design
    # A design without a target law has nothing to average over.
    averaged = design.kind not in ("one_at_a_time", "two_stage")
    varied = Varied(scenario, _factors(design, scenario), settings.study.estimand, averaged)
    try:
        return load_claims(named, varied)
    except ClaimsError as error:
        problems += error.problems
    return ()


def _listed(
    root: Path, path: Path, settings: Settings, scenario: Scenario, problems: list[str]
) -> tuple[Mapping[str, str], ...] | None:
    """The rows of the csv of conditions; an empty cell leaves its factor at the original."""
    design = settings.design
    if design.kind != "listed" or design.file is None:
        return None
    named = _inside(root, path, "file", design.file, problems, table="design")
    if named is None:
        return None
    varied = _factors(design, scenario)
    try:
        with named.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="(one too many)")
            rows = list(reader)
            columns = dict.fromkeys([*(reader.fieldnames or ()), *(n for row in rows for n in row)])
    except (csv.Error, UnicodeDecodeError) as error:
        problems.append(f"{named}: {error}")
        return None
    unknown = [name for name in columns if name not in varied]
    if unknown or not rows:
        problems.append(
            f"{named}: column `{unknown[0]}` is no varied factor{nearest(unknown[0], varied)}; "
            f"there is {', '.join(varied)}"
            if unknown
            else f"{named}: no conditions in it: give a header of factors and a row each"
        )
        return None
    return tuple(
        {name: at.strip() for name, at in row.items() if at and at.strip()} for row in rows
    )


def _inside(
    root: Path, path: Path, key: str, value: str, problems: list[str], table: str = "study"
) -> Path | None:
    """The file that a key names, if it is there and lies inside the study folder."""
    named = root / value
    if not named.resolve().is_relative_to(root.resolve()):
        problems.append(
            f"{path}: {table}.{key}: `{value}` lies outside the study folder: copy it in"
        )
    elif not named.is_file():
        problems.append(f"{path}: {table}.{key}: there is no file {named}")
    else:
        return named
    return None


def _read(
    root: Path,
    path: Path,
    names: Mapping[str, Any],
    key: str,
    default: str,
    load: Any,
    problems: list[str],
) -> Any:
    value = names.get(key, default)
    if not isinstance(value, str):
        return None
    named = _inside(root, path, key, value, problems)
    if named is None:
        return None
    try:
        return load(named)
    except ScenarioError as error:
        problems += str(error).splitlines()
    except QueryError as error:
        problems += error.problems
    except OSError as error:
        problems.append(f"{named}: cannot be read: {error.strerror}")
    return None


def _cross(
    settings: Settings, scenario: Scenario | None, graders: Mapping[str, Grader]
) -> list[str]:
    """Faults between the settings and the scenario, the designs, the graders and the providers."""
    problems = []
    design = settings.design
    if design.kind not in DESIGNS:
        problems.append(
            f"design.kind: no design `{design.kind}`{nearest(design.kind, DESIGNS)}; "
            f"there is {', '.join(DESIGNS)}"
        )
    else:
        taken = inspect.signature(DESIGNS[design.kind]).parameters
        problems += [
            f"design.{name}: a {design.kind} design takes no {name}: leave it out"
            for name in design.options
            if name not in taken
        ]
    if (design.kind == "listed") != (design.file is not None):
        problems.append(
            "design.file: a listed design, and no other, names a csv of conditions, one column a "
            "factor: " + ("leave it out" if design.file else 'such as file = "conditions.csv"')
        )
    if isinstance(design.random_conditions, str) and design.kind not in ("mixed", "random"):
        problems.append("design.random_conditions: only mixed and random designs take `fresh`")
    for grader in settings.grading.graders:
        if grader not in graders:
            problems.append(f"grading.graders: no grader `{grader}`; there is {', '.join(graders)}")
    seen: set[str] = set()
    for number, subject in enumerate(settings.subject):
        where = f"subject.{number}"
        if len(subject.reasoning) != 1:
            problems.append(f"{where}.reasoning: name one way of reasoning")
        for model in subject.models:
            problems += [f"{where}.models: {fault}" for fault in _model_faults(model, seen)]
    if scenario is not None:
        problems += _factor_faults(design, scenario)
    return problems


def _model_faults(model: str, seen: set[str]) -> list[str]:
    provider, name = split_name(model)
    faults = []
    if model in seen:
        faults.append(f"`{model}` stands twice")
    seen.add(model)
    if not name or not re.fullmatch(NAME, provider):
        faults.append(f"`{model}` must be provider/name, such as simulated/planted")
    elif provider not in PROVIDERS:
        faults.append(
            f"no provider `{provider}`{nearest(provider, PROVIDERS)}; "
            f"there is {', '.join(PROVIDERS)}"
        )
    return faults


def _factor_faults(design: DesignSettings, scenario: Scenario) -> list[str]:
    names = design.factors
    if not scenario.arms:
        return ["study.scenario: the scenario declares no [arms]: train and deploy make the gap"]
    if not scenario.factors:
        return ["study.scenario: the scenario declares no factors: there is nothing to ablate"]
    known = scenario.factors
    if "note" in (names or scenario.recommended or known):
        return ["design.factors: `note` is a column of gaps.csv: give the factor another name"]
    faults = [
        f"design.factors: unknown factor `{name}`{nearest(name, known)}; "
        f"the scenario has {', '.join(known)}"
        for name in names or ()
        if name not in known
    ]
    varied = _factors(design, scenario)
    for name, levels in design.levels.items():
        if name not in varied:
            faults.append(
                f"design.levels: `{name}` is not among the factors that are varied"
                f"{nearest(name, varied)}"
            )
            continue
        offered = (*known[name].levels, *known[name].generated, EACH_SENTENCE)
        faults += [
            f"design.levels.{name}: no level `{level}`{nearest(level, offered)}; "
            f"there is {', '.join(offered)}"
            for level in levels
            if level not in offered
        ]
        if len(set(levels) - {ORIGINAL}) < 1:
            faults.append(f"design.levels.{name}: name a level besides {ORIGINAL}")
    return faults


def _explain(fault: Any, table: Mapping[str, Any]) -> str:
    """One line for a pydantic fault: the key, what is wrong, and the nearest known key."""
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _keys_at(fault["loc"][:-1])
        name = str(fault["loc"][-1])
        return f"{where}: unknown key{nearest(name, known)}; known: {', '.join(known)}"
    if fault["type"] == "missing":
        return f"{where}: missing; add it"
    return f"{where}: {fault['msg']}, got {fault['input']!r}"


def _keys_at(loc: tuple[int | str, ...]) -> list[str]:
    tables: dict[str, type[_Table]] = {
        "study": StudySettings,
        "design": DesignSettings,
        "subject": SubjectSettings,
        "grading": GradingSettings,
        "limits": LimitSettings,
        "margins": MarginSettings,
        "analysis": AnalysisSettings,
    }
    table = tables.get(str(loc[0]), Settings) if loc else Settings
    return list(table.model_fields)
