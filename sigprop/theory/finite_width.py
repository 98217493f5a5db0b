"""How much gradients differ between networks of finite width: Var ln g² to order 1/width.

Hanin and Nica 2020 for linear and relu networks. For the rest, along the trajectory q^l, let

    S = E[φ²],  m = E[φ'²],  s = d ln S/d ln q,  r = d ln m/d ln q,  w = σ_w² S/q^{l+1}.

Given the layer before, the z_i of a layer are independent Gaussians of a variance q(1 + δ), and so
are the N components of Wᵀg, whatever the direction of g. To first order in the fluctuations

    δ'                     = w (s δ + Σ_i (φ_i²/S - 1)/N)              δ¹ = 0, for a given input
    ln g²_l - ln g²_{l+1}  = mean + r δ + Σ_i (φ'_i² h_i²/m - 1)/N     h_i ~ N(0, 1),

so the signal's fluctuations, kept by the slope of the variance map, reach every gradient factor.
Covariances of (δ, ln g²) follow layer by layer. For one input E[h⁴] = 3 gives (3κ - 1)/N a layer
with κ = E[φ'⁴]/m²: 2/N for linear, 5/N for relu (where r = 0, and nothing else adds). Two inputs
with independent cotangents have independent h.

Orthogonal W keeps |Wᵀg| and |Wx| exactly: the h of a layer have a fixed norm (3κ - 3 for one input)
and so have the z less their biases.
"""

import functools
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from sigprop import activations
from sigprop._checks import check_non_negative, check_one_of, check_whole_number, of_variances
from sigprop._precision import ambient_arrays, exact_float64, is_traced
from sigprop.activations import Activation
from sigprop.architecture import Architecture
from sigprop.gaussian import single
from sigprop.gaussian.panels import nearest_cuts, standard_rule
from sigprop.theory.chunks import over_cells
from sigprop.theory.maps import ActivationLike, Theory, check_correlation
from sigprop.theory.plain_only import check_given, told_by
from sigprop.theory.statuses import TheoryStatus
from sigprop.theory.trajectories import propagate

__all__ = ["LogGradientVariance", "log_gradient_variance"]

_ENSEMBLES = ("gaussian", "orthogonal")
# Beyond these a variance is replaced by its bound where integrals are taken: φ is straight there.
_LEAST, _MOST = 1e-30, 1e30
_TERMS = 16  # Hermite terms of a covariance; what is left is put at twice that order


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LogGradientVariance:
    """Fluctuations over initialisations, to order 1/width.

    Attributes
    ----------
    variance
        Var[ln g²_1 - ln g²_L] of one input.
    covariance
        Of that of two inputs, with cotangents of their own, to about 1%: it takes part in error
        bars. nan if no ``correlation0`` was given.
    log_signal_variance
        Var[ln q^L], q^L the variance of the last layer's pre-activations given the layer before.
    status
        `TheoryStatus`: NO_THEORY of layers that are not plain.

    All nan where an expectation is not finite or φ' vanishes along the trajectory.
    """

    variance: Theory
    covariance: Theory
    log_signal_variance: Theory
    status: int = field(default=TheoryStatus.OK, metadata={"static": True})

    def rate_stderr(self, *, depth: int, seeds: int) -> Theory:
        """Standard error of a gradient rate measured over two inputs (or one) and ``seeds``.

        √((V + C)/2 / S)/(L - 1) with two inputs, √(V/S)/(L - 1) with one.
        """
        if depth < 2:
            raise ValueError(f"depth must be >= 2 for a rate, got {depth}")
        shared = np.where(np.isnan(self.covariance), self.variance, self.covariance)
        return np.sqrt((self.variance + shared) / 2 / seeds) / (depth - 1)


@of_variances
def log_gradient_variance(
    activation: ActivationLike | Architecture,
    *,
    depth: int | None = None,
    width: int | None = None,
    weight_var: ArrayLike | None = None,
    bias_var: ArrayLike | None = None,
    variance0: ArrayLike = 1.0,
    correlation0: ArrayLike | None = None,
    ensemble: str | None = None,
) -> LogGradientVariance:
    """Variance over initialisations of the log squared gradient norm of a plain network.

    Parameters
    ----------
    activation
        A name, a callable or an `Activation`; or an `Architecture`, which says all but
        ``variance0`` and ``correlation0``. One that is not plain is refused with a status.
    depth, width
        L >= 1 and N >= 1: L - 1 layers lie between the gradients by z^L and z^1.
    weight_var, bias_var, variance0
        σ_w², σ_b² and q¹, >= 0; arrays broadcast.
    correlation0
        c¹ of two inputs, in [-1, 1].
    ensemble
        "gaussian" (any independent entries; so if None) or "orthogonal" weights.

    Returns
    -------
    LogGradientVariance
        Arrays of the broadcast shape.

    Raises
    ------
    ValueError
        For a value out of range or an unknown ensemble.

    Notes
    -----
    Holds in every phase while the result is small: the next order is relatively of the order of
    the variance itself where layers' fluctuations add up (ordered, critical), and larger where
    χ_q > 1 makes δ grow. Linear networks: exact is (L - 1) ψ₁(N/2) = (L - 1)(2/N + 2/N² ...).
    Hanin and Nica 2020, theorem 1 (relu); the recursion for other φ is derived above.

    Examples
    --------
    >>> at = dict(depth=33, width=64, bias_var=0.0)
    >>> linear = log_gradient_variance("linear", weight_var=1.0, **at)  # 2 (L - 1)/N
    >>> round(float(linear.variance), 12)
    1.0
    >>> round(float(log_gradient_variance("relu", weight_var=2.0, **at).variance), 12)  # 5/2 of it
    2.5
    """
    if isinstance(activation, Architecture):
        own = told_by(activation, depth=depth, width=width, weight_var=weight_var,
                      bias_var=bias_var, ensemble=ensemble)  # fmt: skip
        at = {"variance0": variance0, "correlation0": correlation0}
        if own is not None:
            return log_gradient_variance(activation.activation, **own, **at)
        nothing = np.full(np.broadcast_shapes(activation.grid_shape, np.shape(variance0)), np.nan)
        return LogGradientVariance(nothing, nothing, nothing, TheoryStatus.NO_THEORY)
    check_given(depth=depth, width=width, weight_var=weight_var, bias_var=bias_var)
    ensemble = ensemble or "gaussian"
    depth = check_whole_number("depth", depth)
    width = check_whole_number("width", width)
    check_one_of("ensemble", ensemble, _ENSEMBLES)
    numbers = {"weight_var": weight_var, "bias_var": bias_var, "variance0": variance0}
    for name, value in numbers.items():
        check_non_negative(name, value)
    if correlation0 is not None:
        check_correlation("correlation0", correlation0)
    given = [*numbers.values(), *([] if correlation0 is None else [correlation0])]
    kind = activations.get(activation)
    parts = _fluctuations(kind, depth, ensemble == "orthogonal", given)
    return LogGradientVariance(*(part / width for part in parts))


def _fluctuations(kind: Activation, depth: int, orthogonal: bool, numbers: list):
    """N times the three fields, for all cells."""
    if is_traced(numbers):
        arrays = jnp.broadcast_arrays(*ambient_arrays(*numbers))
        parts = _compiled(kind, depth, orthogonal, *map(jnp.ravel, arrays))
    else:
        arrays = np.broadcast_arrays(*(np.asarray(a, float) for a in numbers))
        chunk = functools.partial(_chunk, kind, depth, orthogonal)
        parts = over_cells(chunk, [np.ravel(a) for a in arrays])
        if np.isnan(parts[0]).any() and not activations.is_named(kind):
            _warn(kind, depth, arrays)
    return tuple(part.reshape(arrays[0].shape)[()] for part in parts)


def _warn(kind: Activation, depth: int, numbers) -> None:
    """Of the variance that no integral is known at, if that is why there is no answer."""
    weight_var, bias_var, variance0 = numbers[:3]
    propagate(kind, depth=depth, weight_var=weight_var, bias_var=bias_var, variance0=variance0)


@exact_float64
def _chunk(kind, depth, orthogonal, *arrays):
    found = _compiled(kind, depth, orthogonal, *map(jnp.asarray, arrays))
    return jax.tree.map(np.asarray, found)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(kind, depth, orthogonal, *arrays):
    return jax.vmap(functools.partial(_one_cell, kind, depth, orthogonal))(*arrays)


class _Covariances(NamedTuple):
    """N times the covariances of δ and X = ln g²_1 - ln g²_l, of one input or of two."""

    of_signal: jax.Array
    mixed: jax.Array
    of_gradient: jax.Array


class _Layer(NamedTuple):
    """What is common to both inputs at one layer."""

    signal_slope: jax.Array  # s = d ln E[φ²]/d ln q
    gradient_slope: jax.Array  # r = d ln E[φ'²]/d ln q
    kept: jax.Array  # w, the part of the next variance that weights bring; 1 - w is the bias's


def _one_cell(kind: Activation, depth, orthogonal, weight_var, bias_var, q, correlation0=None):
    """N times the three fields of `LogGradientVariance`."""
    zeros = _Covariances(*(jnp.zeros_like(q) for _ in range(3)))
    start = jnp.ones_like(q) if correlation0 is None else correlation0

    def layer(state, _):
        (q, c), own, shared = state
        inside = jnp.clip(q, _LEAST, _MOST)
        after, at = _means(kind, inside, q, weight_var, bias_var)
        value, signal, gradient = _sums(kind, inside)
        # With orthogonal weights |z - b|² does not fluctuate: taken out of both inputs' sums.
        by_weights = 1 - jnp.clip(_share(bias_var, q, 0.0), 0.0, 1.0)
        constrained = 2 * by_weights**2 if orthogonal else jnp.zeros_like(q)
        of_one = _noise(signal, gradient, jnp.ones_like(c), 3.0, 0.0 if orthogonal else 2.0)
        own = _advance(own, at, _less(of_one, constrained, at))
        of_two = _noise(signal, gradient, c, 1.0, 0.0)
        shared = _advance(shared, at, _less(of_two, constrained * c**2, at))
        alike = value.mean**2 + _covariance(value, value, c)
        return ((after, at.kept * alike + 1 - at.kept), own, shared), None

    (_, own, shared), _ = jax.lax.scan(layer, ((q, start), zeros, zeros), length=depth - 1)
    covariance = jnp.full_like(q, jnp.nan) if correlation0 is None else shared.of_gradient
    return own.of_gradient, covariance, own.of_signal


def _means(kind, inside, q, weight_var, bias_var):
    """The next layer's variance, and the logarithmic slopes."""
    one = jnp.ones_like(inside)
    square, by_square = jax.jvp(lambda v: single.mean_square(kind, v), (inside,), (one,))
    slope, by_slope = jax.jvp(lambda v: single.slope_square(kind, v), (inside,), (one,))
    signal = weight_var * square * (q / inside)
    after = signal + bias_var
    kept = _share(signal, after, 1.0)
    return after, _Layer(inside * by_square / square, inside * by_slope / slope, kept)


def _share(part, whole, otherwise: float):
    """Part/whole; a signal that has vanished or overflowed has none."""
    usable = (whole > 0) & jnp.isfinite(whole)
    return jnp.where(usable, part / jnp.where(usable, whole, 1.0), otherwise)


def _advance(v: _Covariances, at: _Layer, noise: _Covariances) -> _Covariances:
    """One layer on: X gains r δ + noise, δ' = w (s δ + noise)."""
    s, r, w = at
    return _Covariances(
        w**2 * (s**2 * v.of_signal + noise.of_signal),
        w * (s * (v.mixed + r * v.of_signal) + noise.mixed),
        v.of_gradient + 2 * r * v.mixed + r**2 * v.of_signal + noise.of_gradient,
    )


def _less(noise: _Covariances, constrained, at: _Layer) -> _Covariances:
    """Without the part of the sums that follows |z - b|²: slopes times its fluctuation."""
    s, r = at.signal_slope, at.gradient_slope
    return _Covariances(
        noise.of_signal - constrained * s * s,
        noise.mixed - constrained * s * r,
        noise.of_gradient - constrained * r * r,
    )


class _Sum(NamedTuple):
    """A function f(z), z ~ N(0, q), at the nodes of a rule, and its Hermite coefficients."""

    mean: jax.Array
    coefficients: jax.Array
    values: jax.Array
    weights: jax.Array


def _sums(kind: Activation, q) -> tuple[_Sum, _Sum, _Sum]:
    """φ/√S, φ²/S and φ'²/m in normalised Hermite polynomials."""
    deviation = jnp.sqrt(q)
    cuts, largest = nearest_cuts(kind)
    z, weights = standard_rule(jnp.asarray(cuts, q.dtype) / deviation)
    known = not kind.infinite_slope
    weights = jnp.where((q <= largest) & known, weights, jnp.nan)
    phi, derivative = kind.value_and_derivative(deviation * z)
    basis = _weighted_hermite(z, weights)

    def over(f, mean):
        values = f / mean
        return _Sum(jnp.sum(weights * values), basis @ values, values, weights)

    square, slope = jnp.sum(weights * phi**2), jnp.sum(weights * derivative**2)
    return over(phi, jnp.sqrt(square)), over(phi**2, square), over(derivative**2, slope)


def _weighted_hermite(z, weights):
    """He_1/√1! to He_n/√n! at the nodes, times the weights."""
    basis = [jnp.ones_like(z), z]
    for n in range(1, _TERMS):
        basis.append((z * basis[n] - float(np.sqrt(n)) * basis[n - 1]) / float(np.sqrt(n + 1)))
    return jnp.stack(basis[1:]) * weights


def _noise(signal: _Sum, gradient: _Sum, c, fourth: float, spread: float) -> _Covariances:
    """N times the covariances of the layer's own sums.

    ``fourth`` is E[h_a² h_b²]; ``spread`` is N Var[|h|²/N], 0 where |h| is fixed.
    """
    return _Covariances(
        _covariance(signal, signal, c),
        _covariance(signal, gradient, c),
        fourth * _covariance(gradient, gradient, c) + spread,
    )


def _covariance(f: _Sum, g: _Sum, c):
    """Cov[f(u), g(v)] at correlation c: Σ_n c^n f_n g_n (Mehler 1866), exact at c = 1."""
    products = f.coefficients * g.coefficients
    rest = jnp.sum(f.weights * f.values * g.values) - f.mean * g.mean - jnp.sum(products)
    powers = jnp.cumprod(jnp.full(_TERMS, c))
    return jnp.sum(products * powers) + rest * c ** (2 * _TERMS)
