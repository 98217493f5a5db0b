"""What infinite-width theory says at many (weight_var, bias_var), as named arrays."""

import functools

import numpy as np

from sigprop import theory

__all__ = ["BRANCHES", "critical_points", "fluctuations", "predicted"]

BRANCHES = 4
"""Critical points kept at one bias_var; no activation of the table has more."""


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


@functools.lru_cache(maxsize=4096)
def _critical_points(activation: str, bias_var: float) -> tuple[np.ndarray, np.ndarray]:
    weight_var, stable = np.full(BRANCHES, np.nan), np.full(BRANCHES, -1, dtype=np.int8)
    for i, point in enumerate(theory.critical_points(activation, bias_var=bias_var)[:BRANCHES]):
        weight_var[i], stable[i] = float(point.weight_var), int(point.stable)
    return weight_var, stable


def critical_points(activation: str, bias_var: np.ndarray) -> dict[str, np.ndarray]:
    """Every critical point at each entry of ``bias_var``, and the one networks flow to.

    Returns
    -------
    dict
        ``critical_point_weight_var_theory`` (cells, branch), nan where there are fewer;
        ``critical_point_stable_theory`` (cells, branch): 1 stable, 0 unstable, -1 none;
        ``critical_weight_var_theory`` and ``critical_status_theory`` (cells,).
    """
    distinct, where = np.unique(bias_var, return_inverse=True)
    found = [_critical_points(activation, float(b)) for b in distinct]
    lowest = theory.critical_weight_var(activation, bias_var=distinct)
    return {
        "critical_point_weight_var_theory": np.stack([w for w, _ in found])[where],
        "critical_point_stable_theory": np.stack([s for _, s in found])[where],
        "critical_weight_var_theory": np.asarray(lowest.weight_var)[where],
        "critical_status_theory": np.asarray(lowest.status)[where],
    }
