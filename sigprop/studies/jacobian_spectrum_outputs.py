"""Every output of the Jacobian-spectrum study: its axes, its name in words, its unit."""

from sigprop.studies.variables import Variable, quantity

__all__ = ["MEANINGS", "variables"]

_NETWORK = ("activation", "bias_var")
_EVERYWHERE = ("activation", "initialiser", "bias_var")

MEANINGS = {
    "depth": ("square layers spanned, from z^1", "1"),
    "histogram_depth": ("square layers spanned, where histograms are kept", None),
    "layer": ("square layers spanned in the deep network", "1"),
    "seed": ("network and input", None),
    "singular_index": ("singular values by size, the largest first", None),
    "deep_index": ("singular values of the deep network by size", None),
    "input_index": ("singular values of the input layer by size", None),
    "bin": ("bin of ln s", None),
    "edge": ("edge of a bin of ln s", None),
    "point": ("point of the predicted curve", None),
}
"""What the dimensions mean."""


def variables() -> dict[str, Variable]:
    """All of them, by name."""

    def cell(long_name: str, *dims: str, units: str = "1") -> Variable:
        return quantity(_EVERYWHERE, long_name, *dims, units=units)

    found = {
        "weight_var": quantity(_NETWORK, "weight variance times fan-in"),
        "variance0_theory": quantity(_NETWORK, "variance of z^1, infinite width"),
        "variance_last_theory": quantity(
            _NETWORK, "variance before the last square layer, infinite width"
        ),
        "log_singular_value_measured": cell(
            "ln s of every network", "depth", "seed", "singular_index"
        ),
        "input_layer_log_singular_value_measured": cell(
            "ln s of the input layer ∂z^1/∂x^0", "seed", "input_index"
        ),
        "log_singular_value_deep_measured": cell("ln s of one deep network", "layer", "deep_index"),
        "lyapunov_exponent_theory": cell(
            "growth of ln s a layer at infinite width and depth",
            "deep_index",
            units="nats per layer",
        ),
        "edge_log_singular_value": cell("ln s at the edges of the bins", "histogram_depth", "edge"),
        "point_log_singular_value": cell(
            "ln s where the curve is given", "histogram_depth", "point"
        ),
        "density_theory": cell(
            "density of ln s without atoms, infinite width", "histogram_depth", "point"
        ),
        "density_measured": cell("density of ln s, mean over seeds", "histogram_depth", "bin"),
        "density_stderr": cell(
            "standard error over seeds of density_measured", "histogram_depth", "bin"
        ),
    }
    growth = {
        "log_mean_square": "ln of the mean squared singular value",
        "relative_variance": "variance of the squared singular values over their squared mean",
        "log_largest": "ln of the largest singular value",
        "zero_fraction": "fraction of singular values that are zero",
    }
    for name, text in growth.items():
        found[f"{name}_theory"] = cell(f"{text}, infinite width", "depth")
        found[f"{name}_measured"] = cell(f"{text}, mean over seeds", "depth")
        found[f"{name}_stderr"] = cell(f"standard error over seeds of {name}_measured", "depth")
    return found
