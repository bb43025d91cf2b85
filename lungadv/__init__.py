"""Robust lung-nodule detection in low-dose CT by training on adversarial attacks: a reproducible paper that runs.

The names below are what the package promises; modules inside may move. Each is imported when it is first used.

>>> from lungadv import read_scan, extract_patches, to_unit, to_hu          # a scan and its patches
>>> from lungadv import beta_loss, confidence, uncertainty                  # the Beta output
>>> from lungadv import pgd, fgsm, square, minimal_eps                      # attacks on any tensor
>>> from lungadv import froc, compare_froc                                  # scoring as LUNA16 does
>>> from lungadv import stress_test, detect, simulate                       # networks, scans, phantoms
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "read_scan": "lungadv.data.io.read",
    "extract_patches": "lungadv.data.patches",
    "to_unit": "lungadv.data.scan",
    "to_hu": "lungadv.data.scan",
    "beta_loss": "lungadv.evidence",
    "confidence": "lungadv.evidence",
    "uncertainty": "lungadv.evidence",
    "pgd": "lungadv.attacks.pgd",
    "fgsm": "lungadv.attacks.pgd",
    "square": "lungadv.attacks.square",
    "minimal_eps": "lungadv.attacks.minimal_eps",
    "froc": "lungadv.evaluation.froc",
    "compare_froc": "lungadv.evaluation.froc",
    "stress_test": "lungadv.evaluation.stress",
    "detect": "lungadv.detection.detect",
    "simulate": "lungadv.phantom.simulate",
}
__all__ = list(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'lungadv' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__():
    return sorted([*globals(), *_HOMES])
