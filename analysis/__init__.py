"""Tables: observations in, effects and figures out. No text, no network; usable on any table."""

from analysis.fitting import Results, fit
from analysis.observations import ObservationsError

__all__ = ["ObservationsError", "Results", "fit"]
