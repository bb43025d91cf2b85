"""What a stage insists on before the run goes on: networks that converged, a synthesizer that did not collapse, banks that attack."""

import os
import warnings

from lungadv.utils.errors import InputError

__all__ = ["ALLOW", "insist"]

ALLOW = "LUNGADV_ALLOW_UNCONVERGED"  # set by `lungadv reproduce --allow-unconverged` for all steps


def insist(holds: bool, problem: str) -> None:
    """Raise InputError with `problem`, one line with its remedy, unless it `holds`; with --allow-unconverged it is a warning."""
    if holds:
        return
    if os.environ.get(ALLOW):
        warnings.warn(problem, stacklevel=2)
    else:
        raise InputError(f"{problem}; or go on as it is with --allow-unconverged")
