"""Patches that the tests of the evaluation share, and the audit of an honest model."""

import pytest

from lungadv.evaluation import audit
from tests.evaluation.toy_models import SIZE, TERMS, Template, random


@pytest.fixture
def patches():
    return 0.5 + 0.02 * (random(12, 1, SIZE, SIZE, SIZE) - 0.5)


@pytest.fixture(scope="module")
def nodules():
    """Positives and negatives that a template tells apart by some 5 in log-odds; its sign decides, so that 0.02 is enough to flip them."""
    sign = Template().template.detach().sign()
    noise = 0.04 * (random(24, 1, SIZE, SIZE, SIZE) - 0.5)
    return 0.5 + noise[:12] + 0.012 * sign, 0.5 + noise[12:] - 0.012 * sign


@pytest.fixture(scope="module")
def honest(nodules):
    return audit.report(Template("evidence", gain=0.2).eval(), *nodules, output="evidence", **TERMS)
