"""What theory says of the plane of (weight_var, bias_var), wherever its cells lie."""

import functools
import json

import numpy as np

from sigprop import activations, architecture, theory
from sigprop.studies.variables import Variable, flags, quantity

__all__ = [
    "LINE_COORDINATES",
    "LINE_MEANINGS",
    "critical",
    "line_variables",
    "lines",
    "same_as",
]

LINE_COORDINATES = {
    "line_point": np.arange(theory.LINE_POINTS),
    "edge_bias_var": np.append(0.0, np.geomspace(1e-4, 1e4, 161)),
}
"""Along the lines of a phase diagram."""

LINE_MEANINGS = {
    "line_point": ("critical points, by variance", None),
    "edge_bias_var": ("bias variance along the edge", "1"),
}


def same_as() -> str:
    """Names that stand for other names in a sweep over weight_var, as JSON.

    Recipes lend their distribution alone there, so that "he" is "gaussian" bit for bit.
    """
    recipes = {name: architecture.distribution_of(name) for name in architecture.recipe_names()}
    return json.dumps({**activations.ALIASES, **recipes})


def line_variables() -> dict[str, Variable]:
    """What `lines` gives."""

    def line(long_name: str, dim: str = "line_point") -> Variable:
        return quantity(("activation",), long_name, dim)

    status = flags(("activation",), "kind of critical point", theory.CriticalStatus, "line_point")
    return {
        "critical_line_weight_var_theory": line("critical weight_var along the line chi_1 = 1"),
        "critical_line_bias_var_theory": line("bias_var along the line chi_1 = 1"),
        "critical_line_status_theory": status,
        "bounded_weight_var_theory": line(
            "weight_var beyond which the variance grows without bound", "edge_bias_var"
        ),
    }


def critical(activation: str, bias_var: np.ndarray) -> dict[str, np.ndarray]:
    """The critical weight_var at each entry of ``bias_var``, and its kind."""
    distinct, where = np.unique(bias_var, return_inverse=True)
    found = theory.critical_weight_var(activation, bias_var=distinct)
    return {
        "critical_weight_var_theory": np.asarray(found.weight_var)[where],
        "critical_status_theory": np.asarray(found.status)[where],
    }


@functools.lru_cache(maxsize=64)
def lines(activation: str, second_moment: float) -> dict[str, np.ndarray]:
    """The critical line, and the edge of boundedness for inputs of that mean square."""
    line = theory.critical_line(activation, second_moment=second_moment)
    edge = theory.bounded_weight_var(
        activation, bias_var=LINE_COORDINATES["edge_bias_var"], second_moment=second_moment
    )
    return {
        "critical_line_weight_var_theory": line.weight_var,
        "critical_line_bias_var_theory": line.bias_var,
        "critical_line_status_theory": line.status,
        "bounded_weight_var_theory": edge,
    }
