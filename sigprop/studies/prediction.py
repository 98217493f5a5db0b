"""What infinite-width theory says at many (weight_var, bias_var), as named arrays."""

import functools

import numpy as np

from sigprop import theory

__all__ = ["BRANCHES", "critical_points", "predicted"]

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
