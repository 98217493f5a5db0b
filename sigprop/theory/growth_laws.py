r"""How variance and gradient of a block grow with depth, and where its gradients neither grow nor
shrink: what a trajectory tends to, without running it.

With S, D the E[φ²], E[φ'²] of a layer and g = α² σ_w²/ρ:

    residual, φ straight far out:   q, g² exponential, rate ln(1 + g s²), s² the mean squared slope
    residual, φ bounded:            q ~ v l,  ln g² ~ g ∫φ'² √(2/(π v)) √l
    norm before, skip:              q ~ v l,  g² ~ l^p,  p = g D/v,  v = g S + σ_b²  (S, D at q = 1)
    norm, no skip:                  g² exponential, rate ln(g D/(g S + σ_b²))
    norm after, skip:               g² exponential, rate ln((1 + g D)/(1 + g S + σ_b²))
    batch norm, no skip:            g² exponential, rate ln(E[φ'²]/Var φ)
    batch norm, skip:               q ~ v l,  g² ~ l^p,  p = E[φ'²]/Var φ

Yang and Schoenholz 2017 (residual), Xiong et al. 2020 (norms), Yang et al. 2019 (batch norm).
"""

import enum
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import root_scalar

from sigprop._precision import exact_float64
from sigprop.activations import Activation
from sigprop.architecture import Architecture
from sigprop.gaussian import single
from sigprop.gaussian.limits import limits
from sigprop.gaussian.panels import legendre
from sigprop.kinds import Dense, Kind, Skip, WeightNorm, compose, rewritten
from sigprop.theory.critical import critical_weight_var
from sigprop.theory.equilibrium import fixed_point
from sigprop.theory.statuses import CriticalStatus, VarianceStatus
from sigprop.theory.trajectories import predict

__all__ = ["GrowthKind", "GrowthLaw", "growth_law"]


class GrowthKind(enum.IntEnum):
    """What a quantity does over many layers l, with a rate r."""

    CONSTANT = 0  # tends to a limit
    LINEAR = 1  # ~ r l
    EXPONENTIAL = 2  # ln ~ r l
    SQUARE_ROOT = 3  # ln ~ r √l
    POWER = 4  # ln ~ r ln l
    UNKNOWN = 5


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GrowthLaw:
    """Leading behaviour with depth.

    Attributes
    ----------
    variance_kind, variance_rate
        `GrowthKind` of q^l, and its rate.
    gradient_kind, gradient_rate
        `GrowthKind` of the squared gradient from the last layer to the first, and its rate;
        negative if it shrinks.
    critical_weight_var
        The σ_w² at which the squared gradient has rate 0, everything else kept; nan if there is
        none or many.
    critical_status
        `CriticalStatus` of it.
    """

    variance_kind: int
    variance_rate: float
    gradient_kind: int
    gradient_rate: float
    critical_weight_var: float
    critical_status: int


def growth_law(
    architecture: Architecture, *, variance0: float = 1.0, batch: int | None = None
) -> GrowthLaw:
    """Leading growth of variance and gradient with depth, and the critical weight variance.

    Scalar: one network at a time. The branch scale is taken as it stands: with
    ``"1/sqrt(depth)"`` the growth over that depth is bounded whatever the law (`predict` gives it).

    Parameters
    ----------
    architecture
        With scalar numbers.
    variance0
        q¹ > 0, which decides between several fixed points of a plain block.
    batch
        Inputs B >= 4 a batch, for batch norm only; None for the limit of many.

    Returns
    -------
    A `GrowthLaw`.

    Raises
    ------
    ValueError
        For an architecture that is a grid.

    Examples
    --------
    >>> law = growth_law(Architecture(100, 64, "relu", 2.0, block="residual"))
    >>> GrowthKind(law.gradient_kind).name, round(law.gradient_rate, 9)  # ln 2
    ('EXPONENTIAL', 0.693147181)
    >>> law = growth_law(Architecture(100, 64, "tanh", 1.0, block="residual"))
    >>> [GrowthKind(kind).name for kind in (law.variance_kind, law.gradient_kind)]
    ['LINEAR', 'SQUARE_ROOT']
    >>> round(law.gradient_rate, 6)  # 4/3 √(2/π)
    1.063846
    >>> growth_law(Architecture(100, 64, "relu", 2.0, dropout=0.2)).critical_weight_var
    1.6
    """
    if architecture.grid_shape:
        raise ValueError(
            f"architecture must be one network, got a grid of shape {architecture.grid_shape}"
        )
    layer = _of_dense(compose(architecture).layer)
    if layer == _unnormalised(architecture, "plain"):
        return _plain_law(architecture, variance0)
    if layer == _unnormalised(architecture, "residual"):
        return _residual_law(architecture)
    return _forgetful_law(architecture, batch)


def _unnormalised(net: Architecture, block: str) -> Kind:
    """The usual layer without a norm, with its activation and dropout."""
    usual = {"block": block, "norm": None, "layer": None, "numbers": {}, "branch_scale": 1.0}
    return compose(replace(net, **usual)).layer


def _of_dense(layer: Kind) -> Kind:
    """With weight norm taken for what it is at infinite width."""
    dense = lambda k: Dense(k.weight_var, k.bias_var, k.units) if isinstance(k, WeightNorm) else k  # noqa: E731
    return rewritten(layer, dense)


_UNKNOWN = GrowthKind.UNKNOWN, np.nan


def _gain(net: Architecture) -> float:
    """α² σ_w²/ρ."""
    return float(net.weight_var) * _gain_of_weight(net)  # type: ignore[arg-type]


def _gain_of_weight(net: Architecture) -> float:
    return float(net.branch_scale) ** 2 / _keep(net)  # type: ignore[arg-type]


def _keep(net: Architecture) -> float:
    return 1.0 - float(net.dropout)  # type: ignore[arg-type]


def _law(variance, gradient, critical=(np.nan, CriticalStatus.NONE)) -> GrowthLaw:
    (variance_kind, variance_rate), (kind, rate) = variance, gradient
    numbers = float(variance_rate), int(kind), float(rate)
    return GrowthLaw(int(variance_kind), *numbers, float(critical[0]), int(critical[1]))


# ---------------------------------------------------------------------------- plain


def _plain_law(net: Architecture, variance0: float) -> GrowthLaw:
    """Dropout makes one input see σ_w²/ρ."""
    keep, bias_var = _keep(net), float(net.bias_var)  # type: ignore[arg-type]
    point = fixed_point(
        net.activation, weight_var=_gain(net), bias_var=bias_var, variance0=variance0
    )
    with np.errstate(divide="ignore"):
        slope_q, slope = np.log(point.chi_q), np.log(point.chi_1)
    variance = GrowthKind.CONSTANT, 0.0
    if point.variance_status == VarianceStatus.ZERO and slope_q < 0:
        variance = GrowthKind.EXPONENTIAL, slope_q
    if point.variance_status == VarianceStatus.UNBOUNDED:
        variance = (
            (GrowthKind.EXPONENTIAL, slope_q) if slope_q > 0 else (GrowthKind.LINEAR, bias_var)
        )
    if point.variance_status == VarianceStatus.NOT_CONVERGED or np.isnan(slope):
        variance = GrowthKind.UNKNOWN, np.nan
    kind = GrowthKind.UNKNOWN if np.isnan(slope) else GrowthKind.EXPONENTIAL
    found = critical_weight_var(net.activation, bias_var=bias_var)
    return _law(variance, (kind, slope), (keep * found.weight_var, found.status))


# ---------------------------------------------------------------------------- skip, no norm


def _residual_law(net: Architecture) -> GrowthLaw:
    """A skip never lets the gradient shrink: there is no critical point but σ_w² = 0."""
    gain, bias_var = _gain(net), float(net.bias_var)  # type: ignore[arg-type]
    straight = limits(net.activation).square_infinity
    if gain == 0:
        variance = (GrowthKind.LINEAR, bias_var) if bias_var > 0 else (GrowthKind.CONSTANT, 0.0)
        return _law(variance, (GrowthKind.CONSTANT, 0.0))
    if np.isfinite(straight) and straight > 0:
        grows = GrowthKind.EXPONENTIAL, np.log1p(gain * straight)
        return _law(grows, grows)
    if np.isinf(straight):
        return _law(_UNKNOWN, _UNKNOWN)
    return _bounded_residual_law(net.activation, gain, bias_var, straight)


def _bounded_residual_law(kind: Activation, gain, bias_var, straight) -> GrowthLaw:
    far = _far_moments(kind)
    if far is None:
        return _law(_UNKNOWN, _UNKNOWN)
    square, slope = far
    added = gain * square + bias_var
    if np.isnan(straight):  # φ oscillates for ever, and so E[φ'²] has a limit of its own
        return _law((GrowthKind.LINEAR, added), (GrowthKind.EXPONENTIAL, np.log1p(gain * slope)))
    rate = gain * _slope_integral(kind) * np.sqrt(2 / (np.pi * added))
    return _law((GrowthKind.LINEAR, added), (GrowthKind.SQUARE_ROOT, rate))


@exact_float64
def _far_moments(kind: Activation) -> tuple[float, float] | None:
    """E[φ²] and E[φ'²] far out, None where E[φ²] has no limit."""
    ends = np.asarray(kind.fn(jnp.asarray([-1e15, -1e14, 1e14, 1e15])))
    if np.all(np.isfinite(ends)) and np.allclose(ends[::3], ends[1:3], rtol=1e-12, atol=1e-13):
        return float(np.mean(ends[::3] ** 2)), 0.0
    near, far = (single.squares(kind, jnp.asarray(q)) for q in (500.0, 1000.0))
    if not np.allclose(near, far, rtol=1e-12):
        return None
    return float(far[0]), float(far[1])


@exact_float64
def _slope_integral(kind: Activation) -> float:
    """∫φ'(x)² dx over the line, in u with x = sinh u, cut at the kinks."""
    edges = np.unique([*np.linspace(-40, 40, 321), *np.arcsinh(kind.kinks)])
    nodes, weights = legendre()
    half = np.diff(edges)[:, None] / 2
    u = edges[:-1, None] + half * (1 + nodes)
    slope = np.asarray(kind.derivative(jnp.asarray(np.sinh(u))))
    return float(np.sum(half * weights * slope**2 * np.cosh(u)))


# ---------------------------------------------------------------------------- any other layer


def _forgetful_law(net: Architecture, batch: int | None) -> GrowthLaw:
    """Of a layer that gives, or adds, a variance that does not hang on what came in.

    So do all with a norm: what they make of two signals of different size tells which.
    """
    net = replace(net, depth=4)
    path = predict(net, variance0=np.asarray([1.0, 5.0]), batch=batch)
    (small, large), chi = np.asarray(path.variance), np.asarray(path.chi)[0]
    added = small[-1] - small[-2]
    if not np.all(chi[1:] > 0):
        return _law(_UNKNOWN, _UNKNOWN)
    if np.allclose(small[2:], large[2:], rtol=1e-12) and abs(added) < 1e-12 * small[-1]:
        kept = GrowthKind.CONSTANT, 0.0
        rate = float(np.log(chi[1]))
        return _law(kept, (GrowthKind.EXPONENTIAL, rate), _balanced(net, batch))
    if added > 0 and np.allclose(np.diff(path.variance), added, rtol=1e-9):
        return _law((GrowthKind.LINEAR, added), _power(net, chi, batch))
    return _law(_UNKNOWN, _UNKNOWN)


def _power(net: Architecture, chi: np.ndarray, batch: int | None) -> tuple[GrowthKind, float]:
    """What is divided by grows by the same in every layer: χ - 1 is p/(l + l₀)."""
    powers = 1 / np.diff(1 / (chi - 1))
    if np.allclose(powers, powers[0], rtol=1e-9):
        return GrowthKind.POWER, powers[0]
    # In a batch cotangents come to hang on one another; far from the end p is what the branch
    # alone does to a gradient.
    layer = compose(net).layer
    if not layer.couples_inputs:
        return _UNKNOWN
    branch = rewritten(layer, lambda k: _Branch(k.branch, k.scale) if isinstance(k, Skip) else k)
    alone = predict(replace(net, layer=branch, block="plain", norm=None), batch=batch)
    return GrowthKind.POWER, float(np.asarray(alone.chi)[1])


@dataclass(frozen=True)
class _Branch(Skip):
    """A skip connection without the skip."""

    def covariance(self, gauss, state, numbers):
        branch = self.branch.covariance(gauss, state, numbers)
        return branch if self.scale is None else branch.scaled(numbers[self.scale] ** 2)


_WEIGHT_VARS = np.geomspace(1e-6, 1e6, 97)
_NOTHING = 1e-12  # a rate that is rounding


def _balanced(net: Architecture, batch: int | None) -> tuple[float, CriticalStatus]:
    """The σ_w² at which the gradient keeps its size, looked for between 1e-6 and 1e6."""

    def rate(weight_var):
        found = predict(net.with_numbers(weight_var=weight_var), batch=batch)
        return np.log(np.asarray(found.chi)[..., 1])

    rates = rate(_WEIGHT_VARS)
    if np.all(np.abs(rates) < _NOTHING):
        return np.nan, CriticalStatus.EVERY
    turns = np.flatnonzero((rates[:-1] * rates[1:] < 0) & (np.abs(rates[1:]) > _NOTHING))
    if len(turns) != 1:
        return np.nan, CriticalStatus.NONE
    low, high = np.log(_WEIGHT_VARS[turns[0] :][:2])
    root = root_scalar(
        lambda log: float(rate(np.exp(log))), bracket=(low, high), xtol=1e-14, rtol=1e-14
    ).root
    return float(np.exp(root)), CriticalStatus.STABLE
