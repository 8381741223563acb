"""Prices: what a model's tokens cost, from the shipped table and the study's own.

Takes prices.toml files; gives a Price for a model, or says that there is none: an unknown price
is never 0. The embedded subject has no price, because nothing is paid for it.
Does not know plans, prompts or how many tokens they have.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ablate.models import PROVIDERS, is_paid, split_name
from variants.declarations import nearest

__all__ = ["Price", "Prices", "PricingError", "load_prices", "shipped_prices"]

FILE = "prices.toml"
MILLION = 1_000_000
# A snapshot of a model costs what the model costs; any other ending names another model.
_SNAPSHOT = re.compile(r"-\d{8}")


class PricingError(ValueError):
    """A price that is not known, or a table of prices that cannot be used."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens; None where the table does not say.

    `batch` is the factor on input and output in batches; a prefix below `cache_minimum` tokens is
    not cached; a prompt of more than `long_prompt` tokens costs `long_factor` times as much, its
    answer too.
    """

    input: float
    output: float
    as_of: date
    source: str = ""
    cache_write: float | None = None
    cache_read: float | None = None
    cache_minimum: int | None = None
    batch: float | None = None
    long_prompt: int | None = None
    long_factor: float = 1.0

    def usd(self, input_tokens: int, output_tokens: int) -> float:
        """USD of one call without caching."""
        long = self.long_prompt is not None and input_tokens > self.long_prompt
        usd = (input_tokens * self.input + output_tokens * self.output) / MILLION
        return usd * self.long_factor if long else usd


@dataclass(frozen=True, slots=True)
class Prices:
    """Tables of prices by model, the one that goes first in front.

    A name stands for the model and its dated snapshots; one that ends in `*` for all that begins
    so. The longest name counts.
    """

    tables: tuple[Mapping[str, Price], ...]

    def of(self, model: str) -> Price | None:
        """The price of a model, None when it is not known; none is needed for what is not paid."""
        if not is_paid(model):
            return None
        for table in self.tables:
            found = [name for name in table if _covers(name, model)]
            if found:
                return table[max(found, key=len)]
        return None

    def known(self, model: str) -> Price:
        """The price of a paid model. Raises PricingError when it is not known."""
        price = self.of(model)
        if price is None:
            raise PricingError(
                f"the price of {model} is not known; {FILE} in the study folder takes it"
            )
        return price


def _covers(name: str, model: str) -> bool:
    if name.endswith("*"):
        return model.startswith(name[:-1])
    return model == name or (
        model.startswith(name) and _SNAPSHOT.fullmatch(model[len(name) :]) is not None
    )


_Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Tokens = Annotated[int, Field(ge=1)]


class _Entry(BaseModel):
    """One model's table in prices.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    input: _Usd
    output: _Usd
    as_of: date
    source: str = ""
    cache_write: _Usd | None = None
    cache_read: _Usd | None = None
    cache_minimum: _Tokens | None = None
    batch: Annotated[float, Field(gt=0, le=1)] | None = None
    long_prompt: _Tokens | None = None
    long_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0


@cache
def shipped_prices() -> Prices:
    """The prices that the package brings."""
    return Prices((_table(files("ablate").joinpath(FILE).read_text("utf-8"), FILE),))


def load_prices(root: Path) -> Prices:
    """The shipped prices, below those of the folder's prices.toml if it has one.

    Raises PricingError with every fault of the file.
    """
    path = root / FILE
    if not path.is_file():
        return shipped_prices()
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PricingError(f"{path}: cannot be read: {error}") from None
    return Prices((_table(text, str(path)), *shipped_prices().tables))


def _table(text: str, where: str) -> dict[str, Price]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PricingError(f"{where}: {error}") from None
    found: dict[str, Price] = {}
    problems: list[str] = []
    for name, values in table.items():
        fault = _name_fault(name)
        if fault is not None:
            problems.append(f"{where}: {fault}")
            continue
        try:
            found[name] = Price(**_Entry.model_validate(values).model_dump())
        except ValidationError as error:
            problems += [f"{where}: {_explain(name, each)}" for each in error.errors()]
    if problems:
        raise PricingError(*problems)
    return found


def _name_fault(name: str) -> str | None:
    provider, model = split_name(name)
    if not model:
        return f'`{name}`: name a model as in study.toml: ["provider/name"], in quotation marks'
    if provider not in PROVIDERS:
        return (
            f"`{name}`: no provider `{provider}`{nearest(provider, PROVIDERS)}; "
            f"there is {', '.join(PROVIDERS)}"
        )
    if not is_paid(name):
        return f"`{name}`: nothing is paid for the embedded subject: leave it out"
    return None


def _explain(name: str, fault: Any) -> str:
    """One line for a pydantic fault: the entry, the key, what is wrong, and what to do."""
    where = ".".join([f"`{name}`", *map(str, fault["loc"])])
    if fault["type"] == "extra_forbidden":
        known = list(_Entry.model_fields)
        key = str(fault["loc"][-1])
        return f"{where}: unknown key{nearest(key, known)}; known: {', '.join(known)}"
    if fault["type"] == "missing":
        return f"{where}: missing; add it"
    if not fault["loc"]:
        return f'{where}: must be a table: ["{name}"], then input, output and as_of'
    return f"{where}: {fault['msg']}, got {fault['input']!r}"
