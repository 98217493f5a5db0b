"""Every output of the phase-diagram study: its axes, its name in words, its unit or codes."""

import functools

from sigprop import theory
from sigprop.studies import plane_theory
from sigprop.studies.gradient_classes import Growth
from sigprop.studies.variables import Variable, flags, quantity

__all__ = ["OF_FIXED_POINT", "PER_LAYER", "measured_variables", "theory_variables"]

_ANY_NETWORK = ("activation", "weight_var", "bias_var")  # theory knows no initialiser
_EVERYWHERE = ("activation", "initialiser", "weight_var", "bias_var")

_GRADIENT = "log squared norm of the gradient by the {}, mean over seeds"

PER_LAYER = {
    "variance": "variance of the pre-activations, mean over seeds",
    "correlation": "correlation of two inputs' pre-activations, mean over seeds",
    "one_minus_correlation": "1 - correlation, mean over seeds",
    "log_gradient_z": _GRADIENT.format("pre-activations"),
    "log_gradient_w": _GRADIENT.format("weights"),
    "log_gradient_b": _GRADIENT.format("biases"),
}
"""What is measured at every layer."""

OF_FIXED_POINT = (
    "chi_1", "chi_q", "chi_c", "depth_scale_variance", "depth_scale_correlation",
    "depth_scale_gradient", "condition", "phase", "variance_status", "correlation_status",
)  # fmt: skip
"""What theory says of the fixed point under the same name."""


def theory_variables() -> dict[str, Variable]:
    """What theory says, by name."""

    def cell(long_name: str, *dims: str, units: str = "1") -> Variable:
        return quantity(_ANY_NETWORK, f"{long_name}, infinite width", *dims, units=units)

    line = ("activation", "bias_var")
    return {
        "fixed_point_variance_theory": cell("variance q* that layers flow to"),
        "fixed_point_correlation_theory": cell("correlation c* that layers flow to"),
        "chi_1_theory": cell("mean squared singular value of one layer's Jacobian at q*"),
        "chi_q_theory": cell("slope of the variance map at q*"),
        "chi_c_theory": cell("slope of the correlation map at c*"),
        "depth_scale_variance_theory": cell("depth scale of the variance", units="layers"),
        "depth_scale_correlation_theory": cell("depth scale of the correlation", units="layers"),
        "depth_scale_gradient_theory": cell(
            "depth scale of the squared gradient (negative: it grows)", units="layers"
        ),
        "condition_theory": cell("condition number of q*"),
        "phase_theory": flags(_ANY_NETWORK, "phase, by chi_1", theory.Phase),
        "variance_status_theory": flags(
            _ANY_NETWORK, "where the variance goes", theory.VarianceStatus
        ),
        "correlation_status_theory": flags(
            _ANY_NETWORK, "whether the correlation has a limit", theory.CorrelationStatus
        ),
        "variance_theory": cell("variance of the pre-activations", "layer"),
        "log_gradient_z_theory": cell(
            "log mean squared norm of the gradient by the pre-activations", "layer"
        ),
        "gradient_rate_theory": cell(
            "growth a layer of the log squared gradient towards the input, along the trajectory"
        ),
        "growth_theory": flags(_ANY_NETWORK, "gradient over the whole depth", Growth),
        "critical_weight_var_theory": quantity(line, "smallest critical weight_var"),
        "critical_status_theory": flags(line, "kind of critical point", theory.CriticalStatus),
        **plane_theory.line_variables(),
    }


def measured_variables() -> dict[str, Variable]:
    """What networks show, how far it is from theory, and the error bars to expect, by name."""
    cell = functools.partial(quantity, _EVERYWHERE)
    found = {f"{name}_measured": cell(text, "layer") for name, text in PER_LAYER.items()}
    found |= {
        f"{name}_stderr": cell(f"standard error over seeds of {name}_measured", "layer")
        for name in PER_LAYER
    }
    rate = "growth a layer of the log squared gradient towards the input, "
    spread = "variance over seeds of log g² at the first layer less that at the last"
    expected = ", expected to order 1/width"
    return found | {
        "log_gradient_variance_theory": cell(spread + expected),
        "gradient_rate_stderr_theory": cell(
            "standard error over seeds of gradient_rate_measured" + expected
        ),
        "gradient_rate_measured": cell(rate + "mean over seeds"),
        "gradient_rate_stderr": cell("standard error over seeds of gradient_rate_measured"),
        "log_gradient_variance_measured": cell(spread),
        "gradient_rate_half_width_measured": cell(rate + "at half the width"),
        "gradient_rate_half_width_stderr": cell("its standard error over seeds"),
        "log_gradient_variance_half_width_measured": cell(spread + ", at half the width"),
        "gradient_rate_infinite_width_measured": cell(rate + "extrapolated from two widths"),
        "gradient_rate_infinite_width_stderr": cell("its standard error"),
        "disagreement_raw": cell("measured less predicted growth", units="standard errors"),
        "disagreement_corrected": cell(
            "measured growth extrapolated to infinite width less predicted growth",
            units="standard errors",
        ),
        "phase_measured": flags(
            _EVERYWHERE, "phase, by the sign of the growth (critical: within 2 standard errors)",
            theory.Phase,
        ),
        "growth_measured": flags(_EVERYWHERE, "gradient over the whole depth", Growth),
        "diverged_at_layer_measured": quantity(
            _EVERYWHERE, "first layer not finite in some seed, 0 if none", dtype="int32"
        ),
    }  # fmt: skip
