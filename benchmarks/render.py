"""Rendering: conditions a second of the largest shipped scenario, and a 1 MB prompt of 500 spans.

Prints a table, then one line of JSON: `conditions_per_s` (conditions, each in both arms),
`parse_1mb_s` (parsing and rendering it once), and the same render without any cut as a yardstick.
"""

import json
import random
import statistics
import time
from collections.abc import Callable
from importlib.resources import files

from variants import Scenario

CONDITIONS = 10_000
SPANS = 500
SIZE = 1_000_000


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def large() -> str:
    """A scenario file of about 1 MB with 500 spans, every other one removable."""
    rng = random.Random(1)
    vocabulary = "a page shows one list of short words and every reader sees it at once".split()
    heads, parts = [], []
    for number in range(SPANS):
        heads.append(f'[factors.f{number}]\nlevels = ["original", "removed"]')
        words = " ".join(rng.choices(vocabulary, k=SIZE // SPANS // 10)).capitalize()
        rest = " ".join(rng.choices(vocabulary, k=SIZE // SPANS // 10)).capitalize()
        parts.append(f"{{{{#f{number} original}}}}- {words}.\n{{{{/f{number}}}}}- {rest}.\n")
    head = 'name = "large"\n[arms]\ntrain = "a"\ndeploy = "b"\n' + "\n".join(heads)
    return f"+++\n{head}\n+++\n# system\n{''.join(parts)}\n# user\n{{{{query}}}}\n"


def main() -> None:
    shipped = Scenario.load(str(files("variants") / "library/helpful_only/scenario.md"))
    rng = random.Random(1)
    levels = {name: factor.levels for name, factor in shipped.factors.items()}
    conditions = []
    while len(set(conditions)) < CONDITIONS:
        drawn = {n: rng.choice(found) for n, found in levels.items() if rng.random() < 0.2}
        conditions.append(shipped.close(drawn))
    conditions = list(dict.fromkeys(conditions))[:CONDITIONS]

    def render_all() -> None:
        for condition in conditions:
            for arm in ("train", "deploy"):
                shipped.render(condition, arm=arm, query="Q")

    def render_original() -> None:
        for _ in range(CONDITIONS):
            for arm in ("train", "deploy"):
                # A scenario of its own each time would measure parsing; the cache is emptied.
                shipped._rendering.kept.clear()
                shipped.render(shipped.original, arm=arm, query="Q")

    all_s = seconds(render_all)
    plain_s = seconds(render_original)
    text = large()
    found: list[Scenario] = []
    parse_s = statistics.median(
        seconds(lambda: found.append(Scenario.parse(text))) for _ in range(5)
    )
    big = found[-1]
    removed = big.close({f"f{n}": "removed" for n in range(0, SPANS, 2)})
    render_s = seconds(lambda: big.render(removed, arm="train", query="Q"))
    rate = CONDITIONS / all_s
    print(f"{'what':<52}{'seconds':>9}{'a second':>10}")
    print(f"{'10,000 conditions x 2 arms of helpful_only':<52}{all_s:>9.2f}{rate:>10.0f}")
    print(
        f"{'the original as often, without cuts':<52}{plain_s:>9.2f}{CONDITIONS / plain_s:>10.0f}"
    )
    print(f"{f'parse {len(text) / 1e6:.2f} MB with {SPANS} spans':<52}{parse_s:>9.3f}")
    print(f"{'render it with half of them removed':<52}{render_s:>9.3f}")
    print(
        json.dumps(
            {
                "conditions_per_s": round(rate, 1),
                "parse_1mb_s": round(parse_s + render_s, 3),
                "cuts_over_plain": round(all_s / plain_s, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
