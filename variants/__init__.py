"""Text: scenarios, factors, conditions and designs. No network, no tables."""

from variants.declarations import Factor, Need
from variants.marks import ScenarioError
from variants.scenario import Condition, Prompt, Scenario, Turn, Wording
from variants.wordings import WordingCheck, check_wording

__all__ = [
    "Condition",
    "Factor",
    "Need",
    "Prompt",
    "Scenario",
    "ScenarioError",
    "Turn",
    "Wording",
    "WordingCheck",
    "check_wording",
]
