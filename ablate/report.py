"""The report: a run's tables as one self-contained page.

Takes a run folder that `fit` has filled; gives report.html. Every number is read from the
tables. The page makes no request and runs no script. Does not know how to compute anything.
"""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl

from ablate.models import is_paid
from ablate.planning import Plan
from ablate.planted import as_mapping
from ablate.study import Study
from analysis import tables as shown
from analysis.effects import AVERAGED, SIMPLE
from analysis.gaps import CONTRAST
from analysis.plots import STYLE, Mark, forest

__all__ = ["baseline", "by_contrast", "sensitivity_of", "write_report"]

NAMES = {SIMPLE: "simple effect", AVERAGED: "averaged effect"}


def by_contrast(
    tables: Mapping[str, pl.DataFrame],
) -> dict[str, dict[str, pl.DataFrame]]:
    """The tables of each pair of arms, the study's main one first; the truth goes with that."""
    contrasts = tables["gaps"]["contrast"].unique(maintain_order=True).to_list()
    return {
        contrast: {
            name: table.filter(pl.col("contrast") == contrast)
            if "contrast" in table.columns
            else table
            for name, table in tables.items()
            if name != "planted" or contrast == CONTRAST
        }
        for contrast in sorted(contrasts, key=lambda contrast: contrast != CONTRAST)
    }


def baseline(tables: Mapping[str, pl.DataFrame], model: str, outcome: str) -> dict[str, Any] | None:
    """The row of gaps.csv for the original prompt, if it is there."""
    rows = tables["gaps"].filter(
        pl.col("model") == model, pl.col("outcome") == outcome, pl.col("condition") == "original"
    )
    return rows.row(0, named=True) if rows.height else None


def sensitivity_of(
    study: Study, tables: Mapping[str, pl.DataFrame], model: str, outcome: str = "complied"
) -> tuple[tuple[str, ...], list[shown.SensitivityRow]]:
    """The sensitivity table of a model, with the planted truth for the embedded subject."""
    planted = None
    if not is_paid(model) and outcome == "complied" and "planted" in tables:
        planted = as_mapping(tables["planted"])
    return shown.sensitivity(
        tables["effects"],
        model=model,
        outcome=outcome,
        primary=study.settings.study.estimand,
        planted=planted,
    )


def write_report(
    study: Study, plan: Plan, tables: Mapping[str, pl.DataFrame], run_dir: Path
) -> Path:
    """Write report.html into the run folder and give its path."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"points": shown.points, "interval": _interval}
    template = environment.from_string((files("ablate") / "report.html.j2").read_text("utf-8"))
    models = [
        _section(study, own, model, contrast)
        for model in study.subjects
        for contrast, own in by_contrast(tables).items()
        if baseline(own, model, "complied") is not None
    ]
    page = template.render(
        study=study,
        plan=plan,
        record=plan.record,
        models=models,
        questions={name: study.scenario.factors[name].question for name in study.factors},
        simulated=[model for model in study.subjects if not is_paid(model)],
        figure_style=STYLE,
        estimand=NAMES[study.settings.study.estimand],
    )
    path = run_dir / "report.html"
    path.write_text(page, "utf-8")
    return path


def _section(
    study: Study, tables: Mapping[str, pl.DataFrame], model: str, contrast: str
) -> dict[str, Any]:
    """What the page shows of one model in one pair of arms."""
    primary = study.settings.study.estimand
    header, rows = sensitivity_of(study, tables, model)
    controls = tables["gaps"].filter(
        pl.col("model") == model,
        pl.col("outcome") == "complied",
        pl.col("note").str.contains("structural_zero").fill_null(False),
        ~pl.col("condition").str.contains(","),
    )
    outcomes = [
        (outcome, baseline(tables, model, outcome))
        for outcome in ("complied", "alignment_faking", "af_reasoning", "refused")
    ]
    return {
        "name": model if contrast == CONTRAST else f"{model}, {contrast}",
        "simulated": not is_paid(model),
        "baseline": baseline(tables, model, "complied"),
        "outcomes": [(outcome, row) for outcome, row in outcomes if row is not None],
        "header": header,
        "rows": rows,
        "forests": [
            forest(
                _marks(study, tables, model, estimand),
                title=f"{NAMES[estimand]} of each change on the compliance gap, {model}",
                axis=f"{NAMES[estimand]} on the gap, percentage points (95 % interval)",
            )
            for estimand in sorted(NAMES, key=lambda e: e != primary)
            if _marks(study, tables, model, estimand)
        ],
        "controls": controls.to_dicts(),
    }


def _marks(
    study: Study, tables: Mapping[str, pl.DataFrame], model: str, estimand: str
) -> list[Mark]:
    planted = as_mapping(tables["planted"]) if "planted" in tables and not is_paid(model) else {}
    rows = tables["effects"].filter(
        pl.col("model") == model,
        pl.col("outcome") == "complied",
        pl.col("estimand") == estimand,
        pl.col("role") == "primary",
        pl.col("note").ne_missing("reference"),
    )
    return [
        Mark(
            label=f"{row['factor']} = {row['level']}",
            estimate=row["estimate"],
            low=row["conf_low"],
            high=row["conf_high"],
            truth=planted.get((estimand, row["factor"], row["level"])),
            hollow=row["p_value"] is None,
        )
        for row in rows.sort("estimate", nulls_last=True).iter_rows(named=True)
    ]


def _interval(row: Mapping[str, Any]) -> str:
    return shown.interval(row["conf_low"], row["conf_high"])
