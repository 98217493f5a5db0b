"""Every output of the conditioning map: its axes, its name in words, its unit or codes."""

import functools

from sigprop import theory
from sigprop.studies import plane_theory
from sigprop.studies.variables import Variable, flags, quantity

__all__ = ["STATISTICS", "variables"]

_ANY_NETWORK = ("activation", "weight_var", "bias_var")
_EVERYWHERE = ("activation", "initialiser", "weight_var", "bias_var")

STATISTICS = {
    "log_mean_square": "ln of the mean squared singular value",
    "relative_variance": "variance of the squared singular values over their squared mean",
    "log_largest": "ln of the largest singular value",
}
"""What is measured of every spectrum."""


def variables() -> dict[str, Variable]:
    """All of them, by name."""
    return _plane_variables() | _spread_variables()


def _plane_variables() -> dict[str, Variable]:
    """Where the phase diagram's lines are."""
    return {
        "chi_1_theory": quantity(_ANY_NETWORK, "mean squared singular value of one layer at q*"),
        "variance_status_theory": flags(
            _ANY_NETWORK, "where the variance goes", theory.VarianceStatus
        ),
        **plane_theory.line_variables(),
    }


def _spread_variables() -> dict[str, Variable]:
    cell = functools.partial(quantity, _EVERYWHERE)
    spread = STATISTICS["relative_variance"]
    found = {
        f"{name}_theory": cell(f"{STATISTICS[name]}, infinite width")
        for name in ("log_mean_square", "relative_variance")
    }
    for name, text in STATISTICS.items():
        found[f"{name}_measured"] = cell(f"{text}, mean over seeds")
        found[f"{name}_stderr"] = cell(f"standard error over seeds of {name}_measured")
    return found | {
        "relative_variance_half_width_measured": cell(f"{spread}, at half the width"),
        "relative_variance_half_width_stderr": cell("its standard error over seeds"),
        "relative_variance_infinite_width_measured": cell(f"{spread}, from two widths"),
        "relative_variance_infinite_width_stderr": cell("its standard error"),
        "disagreement_raw": cell("measured less predicted spread", units="standard errors"),
        "disagreement_corrected": cell(
            "measured spread extrapolated to infinite width less predicted spread",
            units="standard errors",
        ),
    }
