"""Every fixed point of one variance map, the ones that networks flee included."""

import jax
import numpy as np

from sigprop import activations
from sigprop._checks import check_non_negative, of_variances
from sigprop.gaussian.limits import limits
from sigprop.theory.equilibrium import (
    CRITICAL_TOLERANCE,
    FixedPoint,
    fixed_point,
    records_at,
)
from sigprop.theory.maps import ActivationLike
from sigprop.theory.statuses import VarianceStatus
from sigprop.theory.variance_roots import all_roots

__all__ = ["fixed_points"]


@of_variances
def fixed_points(
    activation: ActivationLike, *, weight_var: float, bias_var: float
) -> tuple[FixedPoint, ...]:
    """Every finite fixed point of the variance map, stable or not, by ascending variance.

    Parameters
    ----------
    activation
        A name, a callable or an `Activation`.
    weight_var, bias_var
        σ_w², σ_b² >= 0, scalars.

    Returns
    -------
    `FixedPoint` records; ``.stable`` says whether networks nearby flow to it. Empty if every
    network diverges. Where every variance is fixed (relu at (2, 0)) the one at 0 stands for all,
    with status CONTINUUM.

    Raises
    ------
    ValueError
        For a negative, non-finite or non-scalar variance, or an unknown activation.

    Examples
    --------
    >>> points = fixed_points("gelu", weight_var=1.414**2, bias_var=0.333**2)
    >>> [(float(round(p.variance, 3)), bool(p.stable)) for p in points]
    [(0.414, True), (9.214, False), (295.225, True)]
    """
    for name, value in (("weight_var", weight_var), ("bias_var", bias_var)):
        check_non_negative(name, value)
        if np.ndim(value):
            raise ValueError(f"{name} must be a scalar, got an array of shape {np.shape(value)}")
    kind = activations.get(activation)
    roots = all_roots(kind, float(weight_var), float(bias_var))
    found = [_at(kind, weight_var, bias_var, root, VarianceStatus.FINITE) for root in roots]
    if bias_var == 0 and limits(kind).at_zero == 0.0:
        probe = fixed_point(kind, weight_var=weight_var, bias_var=bias_var).variance_status
        everywhere = probe == VarianceStatus.CONTINUUM
        status = VarianceStatus.CONTINUUM if everywhere else VarianceStatus.ZERO
        found.insert(0, _at(kind, weight_var, bias_var, 0.0, status))
    return tuple(found)


def _at(kind, weight_var, bias_var, root: float, status: VarianceStatus) -> FixedPoint:
    weights, biases, roots, tolerance = (
        np.asarray([x], float) for x in (weight_var, bias_var, root, CRITICAL_TOLERANCE)
    )
    codes = np.asarray([int(status)], np.int32)
    record = records_at(kind, weights, biases, roots, tolerance, roots, codes)
    return jax.tree.map(lambda leaf: leaf[0], record)
