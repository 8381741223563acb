"""Models and disk: studies planned, run, graded, fitted and reported."""

from importlib.util import find_spec
from pathlib import Path

__version__ = "0.1.0"

__all__ = ["__version__"]


def check_rooms() -> None:
    """Raise ImportError when another `variants` or `analysis` hides the ones of this package.

    Research folders often hold an `analysis/` of their own, and `python -m ablate` puts the
    working folder first on the path.
    """
    home = Path(__file__).resolve().parent.parent
    for room in ("variants", "analysis"):
        spec = find_spec(room)
        places = list(spec.submodule_search_locations or []) if spec else []
        found = Path(places[0]).resolve() if places else None
        if found is None or found != home / room:
            where = found or (spec.origin if spec else "nowhere")
            raise ImportError(
                f"`{room}` is found at {where}, which is not the one that ablate needs: "
                "rename that folder, run from another one, or use the `ablate` command"
            )


def user_errors() -> tuple[type[Exception], ...]:
    """The errors that a user can mend; the command line prints them without a traceback."""
    from ablate.calls import CallLimit
    from ablate.documents import DocumentsError
    from ablate.grading import GradingError
    from ablate.models import ModelError
    from ablate.paraphrasing import ParaphraseError
    from ablate.piloting import PilotError
    from ablate.planning import PlanError
    from ablate.pricing import PricingError
    from ablate.queries import QueryError
    from ablate.registration import RegistrationError
    from ablate.stages import StageError
    from ablate.starting import StartError
    from ablate.store import LedgerError
    from ablate.study import StudyError
    from analysis.counts import CountsError
    from analysis.observations import ObservationsError
    from variants import ScenarioError
    from variants.choices import VariantError

    return (
        CallLimit,
        CountsError,
        DocumentsError,
        GradingError,
        LedgerError,
        ModelError,
        ObservationsError,
        ParaphraseError,
        PilotError,
        PlanError,
        PricingError,
        QueryError,
        RegistrationError,
        ScenarioError,
        StageError,
        StartError,
        StudyError,
        VariantError,
        OSError,
    )
