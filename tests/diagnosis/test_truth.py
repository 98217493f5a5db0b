"""The labels of the table are what was measured; nothing here knows the doctor."""

import math

import pytest

from tests.diagnosis import cases
from tests.diagnosis.cases import truth

STORED = truth.stored()
CLEAR = 1.5
"""How far from the line, as a factor, every ratio is by which a label was given."""


def test_the_table_holds_twenty_healthy_and_sixty_broken_models():
    healthy = [name for name, case in cases.CASES.items() if case.verdicts == ("healthy",)]
    broken = [name for name, case in cases.CASES.items() if "healthy" not in case.verdicts]
    assert len(healthy) >= 20
    assert len(broken) >= 60
    assert sum(bool(cases.CASES[name].place or cases.CASES[name].reason) for name in broken) >= 45


def test_what_is_stored_was_measured_on_these_sources():
    stale = [
        name for name in cases.CASES if STORED.get(name, {}).get("digest") != truth.digest(name)
    ]
    assert not stale, f"python -m tests.diagnosis.cases.truth measures {stale} anew"
    assert list(STORED) == list(cases.CASES)


@pytest.mark.parametrize("name", cases.CASES)
def test_a_label_is_what_was_measured(name):
    verdicts, found = set(cases.CASES[name].verdicts), STORED[name]
    words = truth.kinds(found)
    if "unread" not in verdicts:
        assert words <= verdicts, found
    for ratio in map(float, truth.judged_ratios(found).values()):
        if 0 < ratio < math.inf:
            away = abs(math.log(ratio) - math.copysign(math.log(truth.FACTOR), math.log(ratio)))
            assert away > math.log(CLEAR), found


@pytest.mark.parametrize("name", [n for n, c in cases.CASES.items() if c.verdict == "healthy"])
def test_a_healthy_model_trains(name):
    found = STORED[name]
    assert float(found["after"]) < float(found["loss"]) - 0.1 * abs(float(found["loss"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.CASES)
def test_measured_anew(name):
    found = truth.measured(cases.CASES[name])
    assert truth.kinds(found) == truth.kinds(STORED[name])
    for path, ratio in found["ratios"].items():
        assert float(ratio) == pytest.approx(
            float(STORED[name]["ratios"][path]), rel=0.05, nan_ok=True
        )
