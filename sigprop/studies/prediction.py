"""What infinite-width theory says at many (weight_var, bias_var), as named arrays."""

import functools
import json

import numpy as np

from sigprop import activations, architecture, theory
from sigprop.studies.variables import Variable, flags, quantity

__all__ = [
    "LINE_AXES",
    "LINE_COORDINATES",
    "critical_weight_var",
    "fluctuations",
    "line_variables",
    "lines",
    "predicted",
    "same_as",
]

LINE_COORDINATES = {
    "line_point": np.arange(theory.LINE_POINTS),
    "edge_bias_var": np.append(0.0, np.geomspace(1e-4, 1e4, 161)),
}
"""Along the lines of a phase diagram, which do not depend on the grid of cells."""

LINE_AXES = {
    "line_point": {"long_name": "critical points, by variance"},
    "edge_bias_var": {"long_name": "bias variance along the edge", "units": "1"},
}
"""What they mean."""


@functools.lru_cache(maxsize=64)
def _predicted(
    activation: str, depth: int, second_moment: float, cells: bytes
) -> dict[str, np.ndarray]:
    weight_var, bias_var = np.frombuffer(cells).reshape(2, -1)
    variance0 = theory.input_variance(second_moment, weight_var=weight_var, bias_var=bias_var)
    fixed = theory.fixed_point(
        activation, weight_var=weight_var, bias_var=bias_var, variance0=variance0
    )
    path = theory.propagate(
        activation,
        depth=depth,
        weight_var=weight_var,
        bias_var=bias_var,
        variance0=variance0,
    )
    same = (
        "chi_1", "chi_q", "chi_c", "depth_scale_variance", "depth_scale_correlation",
        "depth_scale_gradient", "condition", "phase", "variance_status", "correlation_status",
    )  # fmt: skip
    return {f"{name}_theory": np.asarray(getattr(fixed, name)) for name in same} | {
        "fixed_point_variance_theory": np.asarray(fixed.variance),
        "fixed_point_correlation_theory": np.asarray(fixed.correlation),
        "variance_theory": np.asarray(path.variance),
        "log_gradient_theory": np.asarray(path.log_gradient),
        "gradient_rate_theory": np.asarray(path.gradient_rate),
    }


def predicted(
    activation: str,
    *,
    depth: int,
    second_moment: float,
    weight_var: np.ndarray,
    bias_var: np.ndarray,
) -> dict[str, np.ndarray]:
    """Fixed point, trajectory and gradient growth at every cell.

    Theory knows no initialiser, so the last answers are kept and shared between them.

    Parameters
    ----------
    activation
        A name.
    depth
        Weight layers, >= 2.
    second_moment
        |x|²/N₀ of the inputs.
    weight_var, bias_var
        One entry a cell.

    Returns
    -------
    dict
        ``<name>_theory`` arrays, cell axis first, then the layer where there is one.
    """
    cells = np.stack([weight_var, bias_var]).astype(np.float64).tobytes()
    return dict(_predicted(activation, depth, second_moment, cells))


def fluctuations(
    activation: str,
    *,
    depth: int,
    width: int,
    seeds: int,
    orthogonal: bool,
    second_moment: float,
    correlation: float,
    weight_var: np.ndarray,
    bias_var: np.ndarray,
) -> dict[str, np.ndarray]:
    """The error bars that theory expects of measurements of two inputs over ``seeds``.

    Parameters
    ----------
    activation
        A name.
    depth, width, seeds
        Weight layers, >= 2; units; networks a cell.
    orthogonal
        Whether the weights are; else their entries are independent.
    second_moment, correlation
        |x|²/N₀ of the inputs, and the cosine between them.
    weight_var, bias_var
        One entry a cell.

    Returns
    -------
    dict
        ``log_gradient_variance_theory`` and ``gradient_rate_stderr_theory``, one entry a cell.
    """
    at = {"weight_var": weight_var, "bias_var": bias_var}
    found = theory.log_gradient_variance(
        activation,
        depth=depth,
        width=width,
        variance0=theory.input_variance(second_moment, **at),
        correlation0=_first_correlation(correlation, second_moment, **at),
        ensemble="orthogonal" if orthogonal else "gaussian",
        **at,
    )
    return {
        "log_gradient_variance_theory": np.asarray(found.variance),
        "gradient_rate_stderr_theory": np.asarray(found.rate_stderr(depth=depth, seeds=seeds)),
    }


def _first_correlation(
    correlation: float, second_moment: float, *, weight_var: np.ndarray, bias_var: np.ndarray
) -> np.ndarray:
    """c¹ of the inputs; where neither weights nor biases act there is no signal: that of x⁰."""
    silent = (weight_var == 0) & (bias_var == 0)
    found = theory.input_correlation(
        correlation,
        second_moment=second_moment,
        weight_var=np.where(silent, 1.0, weight_var),
        bias_var=bias_var,
    )
    return np.asarray(found)


def critical_weight_var(activation: str, bias_var: np.ndarray) -> dict[str, np.ndarray]:
    """The critical weight_var at each entry of ``bias_var``, and its kind."""
    distinct, where = np.unique(bias_var, return_inverse=True)
    found = theory.critical_weight_var(activation, bias_var=distinct)
    return {
        "critical_weight_var_theory": np.asarray(found.weight_var)[where],
        "critical_status_theory": np.asarray(found.status)[where],
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


def lines(activation: str, second_moment: float, cells: int) -> dict[str, np.ndarray]:
    """The critical line and the edge of boundedness of networks with inputs of that mean square.

    The same for each of ``cells``.
    """
    found = _lines(activation, second_moment)
    return {name: np.broadcast_to(line, (cells, *line.shape)) for name, line in found.items()}


@functools.lru_cache(maxsize=64)
def _lines(activation: str, second_moment: float) -> dict[str, np.ndarray]:
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
