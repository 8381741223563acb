"""Prices: which one is a model's, what a call costs, and what a table may say."""

import json
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import pytest

from ablate.pricing import PricingError, load_prices, shipped_prices
from ablate.study import StudyError, load_study

ENTRY = """
["anthropic/{name}"]
input = 2.0
output = 8.0
as_of = 2026-05-04
"""


def own(folder: Path, text: str) -> Path:
    """A folder with this table of prices."""
    (folder / "prices.toml").write_text(text, "utf-8")
    return folder


def faults(folder: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(PricingError) as caught:
        load_prices(own(folder, text))
    return caught.value.problems


def test_a_price_is_per_million_tokens(tmp_path: Path) -> None:
    """3,000 tokens at 2 USD a million and 500 at 8: a cent in all, 0.6 and 0.4."""
    price = load_prices(own(tmp_path, ENTRY.format(name="m"))).of("anthropic/m")
    assert price is not None
    assert price.usd(3000, 500) == pytest.approx(0.006 + 0.004)
    assert price.as_of == date(2026, 5, 4)
    assert (price.cache_read, price.batch, price.cache_minimum) == (None, None, None)


def test_a_long_prompt_costs_its_factor_from_the_next_token_on(tmp_path: Path) -> None:
    """The answer too; a prompt of exactly the length is not long."""
    text = ENTRY.format(name="m") + "long_prompt = 1000\nlong_factor = 5\n"
    price = load_prices(own(tmp_path, text)).of("anthropic/m")
    assert price is not None
    assert price.usd(1000, 100) == pytest.approx(0.0028)
    assert price.usd(1001, 100) == pytest.approx(5 * (0.002002 + 0.0008))


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("anthropic/big-4", True),
        ("anthropic/big-4-20260101", True),
        ("anthropic/big-4-5", False),
        ("anthropic/big-4-5-20260101", False),
        ("anthropic/big-4-202601011", False),
        ("anthropic/big", False),
        ("anthropic/small-1", True),
        ("simulated/planted", False),
    ],
)
def test_a_name_is_a_model_and_its_snapshots(tmp_path: Path, model: str, found: bool) -> None:
    """A later model is another one, whose price nobody knows; a star covers all that follow."""
    text = ENTRY.format(name="big-4") + ENTRY.format(name="small-*")
    assert (load_prices(own(tmp_path, text)).of(model) is not None) is found


def test_the_studys_table_goes_first_and_the_longest_name_counts(tmp_path: Path) -> None:
    """Entry by entry: what it does not name keeps the shipped price."""
    text = ENTRY.format(name="claude-opus-5") + ENTRY.format(name="claude-h*").replace("2.0", "3.0")
    text += ENTRY.format(name="claude-haiku-*").replace("2.0", "4.0")
    prices = load_prices(own(tmp_path, text))

    def input_price(model: str) -> float:
        return prices.known(f"anthropic/{model}").input

    assert input_price("claude-opus-5") == 2.0
    assert input_price("claude-haiku-4-5") == 4.0
    assert input_price("claude-hm") == 3.0
    shipped = shipped_prices().known("anthropic/claude-sonnet-5")
    assert prices.known("anthropic/claude-sonnet-5") == shipped
    assert load_prices(tmp_path / "nowhere") == shipped_prices()


def test_an_unknown_price_is_said(tmp_path: Path) -> None:
    """Never taken for 0."""
    with pytest.raises(PricingError, match=r"price of anthropic/new is not known; prices\.toml"):
        shipped_prices().known("anthropic/new")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("inputs = 1.0", "unknown key (did you mean `input`"),
        ("cache_reads = 1.0", "did you mean `cache_read`"),
        ("batch = 1.5", "less than or equal to 1"),
        ("cache_read = -0.1", "greater than or equal to 0"),
        ("cache_write = inf", "finite"),
        ("cache_write = nan", "finite number"),
        ("cache_minimum = 0", "greater than or equal to 1"),
        ('cache_read = "0.1"', "valid number"),
        ("cache_read = true", "valid number"),
        ("long_factor = 0.5", "greater than or equal to 1"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, line: str, expected: str) -> None:
    """One message with the file, the entry, the key and what is wrong."""
    (fault,) = faults(tmp_path, ENTRY.format(name="m") + line)
    assert fault.startswith(f"{tmp_path / 'prices.toml'}: `anthropic/m`.{line.split()[0]}: ")
    assert expected in fault


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('["opus"]\ninput = 1.0', 'name a model as in study.toml: ["provider/name"]'),
        ('["antropic/opus"]\ninput = 1.0', "did you mean `anthropic`"),
        ('["simulated/planted"]\ninput = 0.0', "nothing is paid for the embedded subject"),
        ('"anthropic/opus" = 5.0', "must be a table"),
        ("input = ", "Invalid value"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in "\n".join(faults(tmp_path, text))


def test_every_fault_is_said_at_once(tmp_path: Path) -> None:
    """Two keys that are missing in one entry, and a name in another."""
    text = '["anthropic/m"]\ninput = 1.0\n["x/y"]\ninput = 1.0\n'
    assert len(faults(tmp_path, text)) == 3


def test_a_study_says_what_is_wrong_with_its_prices(tiny: Path) -> None:
    """Beside its other faults, as `ablate check` prints them."""
    own(tiny, ENTRY.format(name="m") + "inputs = 1.0")
    (tiny / "study.toml").write_text((tiny / "study.toml").read_text("utf-8") + "[nothing]\n")
    with pytest.raises(StudyError) as caught:
        load_study(tiny)
    assert [p for p in caught.value.problems if "prices.toml" in p and "`input`" in p]
    assert [p for p in caught.value.problems if "nothing" in p]


def test_the_shipped_prices_are_those_of_another_table() -> None:
    """Against the price map that litellm brings, wherever it knows the model."""
    spec = find_spec("litellm")
    assert spec is not None
    assert spec.origin is not None
    name = "model_prices_and_context_window_backup.json"
    others = json.loads((Path(spec.origin).parent / name).read_text("utf-8"))
    (table,) = shipped_prices().tables
    known = {model: others.get(model.removeprefix("anthropic/")) for model in table}
    assert sum(other is not None for other in known.values()) >= 10
    for model, other in known.items():
        price = table[model]
        assert price.source
        assert price.as_of.year >= 2026
        if other is None:
            continue
        theirs = [
            other[key] * 1e6
            for key in (
                *("input_cost_per_token", "output_cost_per_token"),
                *("cache_creation_input_token_cost", "cache_read_input_token_cost"),
            )
        ]
        ours = [price.input, price.output, price.cache_write, price.cache_read]
        assert ours == pytest.approx(theirs), model
        factor = other["output_cost_per_token_batches"] / other["output_cost_per_token"]
        assert price.batch == pytest.approx(factor), model
        # Where sources disagree on the shortest prefix, ours promises less.
        assert price.cache_minimum is not None
        assert price.cache_minimum >= other["prompt_cache_min_tokens"], model
        if price.long_prompt is not None:
            beyond = other["output_cost_per_token_above_100k_tokens"]
            assert price.long_prompt == 100_000
            assert price.long_factor * price.output == pytest.approx(beyond * 1e6)
