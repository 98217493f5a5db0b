"""The doctor against what was measured: no miss, no false alarm, place, reason, cure."""

import re

import pytest

import sigprop
from tests.diagnosis import cases

NAMES = list(cases.CASES)
EVERY_RUN = NAMES[::3]


def diagnosed(name):
    case = cases.CASES[name]
    model = case.build()
    return model, sigprop.diagnose(model, case.loss, case.batch(), **dict(case.options))


@pytest.mark.every_run(*EVERY_RUN)
@pytest.mark.parametrize("name", NAMES)
def test_the_doctor_says_what_was_measured(name):
    case, (_, report) = cases.CASES[name], diagnosed(name)
    assert report.verdict in case.verdicts, str(report)
    said = " ".join([*report.evidence, report.suggestion])
    assert re.search(case.place, said), f"{case.place} is not named: {report}"
    assert re.search(case.reason, said, re.IGNORECASE), f"{case.reason} is not given: {report}"
    assert max(map(len, report.evidence)) < 400
    if report.verdict == "healthy":
        report.assert_healthy()
    else:
        with pytest.raises(AssertionError, match=report.verdict):
            report.assert_healthy()
