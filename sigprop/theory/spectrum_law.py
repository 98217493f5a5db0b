"""Singular values of the input-output Jacobian at infinite width, by free probability.

J = D_L W_L ⋯ D_1 W_1 with asymptotically free factors. Writing M(z) = Σ_k m_k/z^k for the moments
m_k of λ = s², the S-transforms multiply to one explicit equation between z and y = M(z),

    z = (1 + y)/y · Π_l σ_w² (1 + y)^g · y ζ_l(y)/(1 + y),

with g = 1 for Gaussian and 0 for orthogonal weights and ζ_l the inverse of E[d/(ζ - d)] for
d = φ'(z^l)² (Pennington, Schoenholz and Ganguli 2017, eqs. 12-18, and 2018).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import mpmath
import numpy as np
from numpy.typing import ArrayLike

from sigprop import activations
from sigprop._checks import check_non_negative, check_one_of, check_whole_number, of_variances
from sigprop._precision import exact_float64
from sigprop.activations import Activation
from sigprop.architecture import Architecture
from sigprop.gaussian import single
from sigprop.gaussian.limits import limits
from sigprop.theory.equilibrium import fixed_point
from sigprop.theory.maps import ActivationLike
from sigprop.theory.plain_only import check_given, told_by
from sigprop.theory.slope_law import SlopeLaw, limit_law, slope_law
from sigprop.theory.spectrum_roots import SpectralEquation
from sigprop.theory.spectrum_series import relative_moment
from sigprop.theory.spectrum_support import log_atoms, log_bulk_edges, log_top
from sigprop.theory.statuses import TheoryStatus, VarianceStatus

__all__ = ["JacobianSpectrum", "jacobian_spectrum"]


@dataclass(frozen=True)
class JacobianSpectrum:
    """The law of squared singular values λ = s² of the Jacobian.

    Without a theory (``status``) every number is nan. Properties named ``log_`` are natural
    logarithms: at great depth λ itself leaves the range of floats.

    Attributes
    ----------
    equation
        The equation between z and y, None without a theory.
    depth
        Number of layers.
    status
        A `TheoryStatus`: NO_THEORY where the layers' variances have no limit, or φ' has none there,
        where φ jumps (E[φ'²] is infinite), and where φ' has more detail than is resolved.
    """

    equation: SpectralEquation | None
    depth: int
    status: TheoryStatus = TheoryStatus.OK

    # ------------------------------------------------------------------------ moments

    @functools.cached_property
    def mean(self) -> float:
        """E[λ] = Π_l σ_w² E[φ'²], the product of the layers' χ."""
        return _exp(self.log_mean)

    @functools.cached_property
    def log_mean(self) -> float:
        """Logarithm of the mean."""
        return np.nan if self.equation is None else self.equation.log_mean

    @functools.cached_property
    def variance_of_squares(self) -> float:
        """Var[λ] = E[λ]² Σ_l (E[φ'⁴]/E[φ'²]² - 1 + g)."""
        return _exp(2 * self.log_mean) * self.relative_variance

    @functools.cached_property
    def relative_variance(self) -> float:
        """Var[λ]/E[λ]²."""
        if self.equation is None or self._vanishes:
            return np.nan if self.equation is None else 0.0
        equation = self.equation
        return float(
            sum(
                count * (law.relative_moments(2)[2] + equation.exponent)
                for law, count in zip(equation.laws, equation.counts)
            )
        )

    def moment(self, order: int) -> float:
        """E[λ^order].

        Raises
        ------
        ValueError
            For an order below 1.
        """
        return _exp(self.log_moment(order))

    def log_moment(self, order: int) -> float:
        """Logarithm of E[λ^order], by Lagrange inversion of the equation between z and y.

        Raises
        ------
        ValueError
            For an order below 1.
        """
        order = check_whole_number("order", order)
        if self.equation is None or self._vanishes:
            return self.log_mean
        layers = zip(self.equation.laws, self.equation.counts)
        relative = relative_moment(layers, self.equation.exponent, order)
        return float(mpmath.log(relative)) + order * self.log_mean

    @property
    def _vanishes(self) -> bool:
        return self.log_mean == -np.inf

    # ------------------------------------------------------------------------ support

    @functools.cached_property
    def max_squared(self) -> float:
        """The largest λ in the support, atoms included.

        Of slopes φ'(z) within 9.5 standard deviations of z, like every edge here: what lies beyond
        has a mass of 2e-21.
        """
        return _exp(self.log_max_squared)

    @functools.cached_property
    def log_max_squared(self) -> float:
        """Logarithm of the largest λ in the support."""
        if self.equation is None or self._vanishes:
            return self.log_mean
        return log_top(self.equation)

    @functools.cached_property
    def min_squared(self) -> float:
        """The least λ in the support, atoms included."""
        return _exp(self.log_min_squared)

    @functools.cached_property
    def log_min_squared(self) -> float:
        """Logarithm of the least λ in the support."""
        if self.equation is None or self._vanishes:
            return self.log_mean
        return float(np.nanmin([*self.log_atoms, self.log_bulk_edges[0]]))

    @functools.cached_property
    def bulk_edges(self) -> tuple[float, float]:
        """The least and the largest λ of the continuous part; nan where there is none."""
        low, high = self.log_bulk_edges
        return _exp(low), _exp(high)

    @functools.cached_property
    def log_bulk_edges(self) -> tuple[float, float]:
        """Logarithms of the least and the largest λ of the continuous part."""
        if self.equation is None or self._vanishes:
            return np.nan, np.nan
        return log_bulk_edges(self.equation)

    @property
    def atoms(self) -> dict[float, float]:
        """Values of λ with positive probability, and their masses.

        Zero, as often as the layer that blocks most (relu: half); with orthogonal weights also
        products of gains that enough units share (linear; hard_tanh of small variance).
        """
        return {_exp(value): mass for value, mass in self.log_atoms.items()}

    @functools.cached_property
    def log_atoms(self) -> dict[float, float]:
        """The atoms, by the logarithm of λ: -inf for zero."""
        if self.equation is None:
            return {}
        return {-np.inf: 1.0} if self._vanishes else log_atoms(self.equation)

    # ------------------------------------------------------------------------ density

    def density(self, squares: ArrayLike) -> np.ndarray:
        """Density of the continuous part of the law of λ: 0 outside the support, atoms left out.

        ρ(λ) = -Im y/(π λ) at z = λ + i0; nan where the root was lost, hundreds of nats down a tail.

        Parameters
        ----------
        squares
            λ > 0, of any shape.

        Raises
        ------
        ValueError
            For λ <= 0 or not finite.
        """
        squares = _positive("squares", squares)
        return np.asarray(self.density_of_log(np.log(squares)) / squares)

    def density_of_log(self, log_squares: ArrayLike) -> np.ndarray:
        """Density λ ρ(λ) of log λ, for spectra that span many orders of magnitude.

        Parameters
        ----------
        log_squares
            log λ, of any shape.

        Raises
        ------
        ValueError
            For a value that is not finite.
        """
        log_squares = np.asarray(log_squares, float)
        if not np.isfinite(log_squares).all():
            raise ValueError("log_squares must be finite")
        if self.equation is None:
            return np.full(log_squares.shape, np.nan)
        low, high = self.log_bulk_edges
        inside = (log_squares > low) & (log_squares < high)
        density = np.zeros(log_squares.shape)
        density[inside] = self._density_inside(self.equation, log_squares[inside])
        return density

    def _density_inside(self, equation: SpectralEquation, log_squares: np.ndarray) -> np.ndarray:
        if self.depth == 1 and equation.exponent == 0:
            return equation.laws[0].density_of_log(np.exp(log_squares - equation.log_gain))
        # Below this angle z is nearer to the axis than any feature of the spectrum is wide.
        finest = float(np.clip(1e-3 * np.sqrt(self.relative_variance), 1e-12, 1e-3))
        return np.maximum(-np.imag(equation.on_axis(log_squares, finest)), 0.0) / np.pi


# ---------------------------------------------------------------------------- from an activation


@of_variances
def jacobian_spectrum(
    activation: ActivationLike | Architecture,
    *,
    depth: int | None = None,
    weight_var: float | None = None,
    bias_var: float | None = None,
    variance: ArrayLike | None = None,
    ensemble: str | None = None,
) -> JacobianSpectrum:
    """Predicted law of the squared singular values of ∂x^depth/∂x⁰, square layers.

    Parameters
    ----------
    activation
        A name, a callable or an `Activation`; or an `Architecture`, which says all but
        ``variance``. One that is not plain is refused with a status.
    depth
        Layers L, 1 to 1000 and beyond.
    weight_var
        σ_w² >= 0.
    bias_var
        σ_b² >= 0: layers at the fixed point that a network with q¹ = 1 flows to. Or else:
    variance
        q >= 0 of every layer, or an array of one for each, as in ``propagate(...).variance``.
    ensemble
        "gaussian" (so if None) or "orthogonal" weights.

    Returns
    -------
    A `JacobianSpectrum`.

    Raises
    ------
    ValueError
        Unless exactly one of ``bias_var`` and ``variance`` is given, and for values out of range.

    Examples
    --------
    >>> law = jacobian_spectrum("linear", depth=2, weight_var=1.0, variance=1.0)
    >>> [round(law.moment(k), 9) for k in (1, 2, 3)], round(law.max_squared, 9)
    ([1.0, 3.0, 12.0], 6.75)
    >>> law.density([0.675, 3.375])
    array([0.24949031, 0.05163946])
    >>> atoms = jacobian_spectrum("relu", depth=3, weight_var=2.0, bias_var=0.0).atoms
    >>> round(atoms[0.0], 12)
    0.5
    """
    if isinstance(activation, Architecture):
        given = {"depth": depth, "weight_var": weight_var, "bias_var": bias_var}
        own = told_by(activation, **given, ensemble=ensemble)
        if own is None:
            return JacobianSpectrum(None, activation.depth, TheoryStatus.NO_THEORY)
        own["bias_var"] = own["bias_var"] if variance is None else None
        return jacobian_spectrum(activation.activation, **own, variance=variance)
    check_given(depth=depth, weight_var=weight_var)
    ensemble = ensemble or "gaussian"
    depth = check_whole_number("depth", depth)
    check_one_of("ensemble", ensemble, ("gaussian", "orthogonal"))
    _check_scalar("weight_var", weight_var)
    if (bias_var is None) == (variance is None):
        raise ValueError("give exactly one of bias_var and variance")
    kind = activations.get(activation)
    if variance is not None:
        distinct, counts = _distinct_variances(variance, depth)
        laws = [_law_at(kind, q) for q in distinct]
    else:
        _check_scalar("bias_var", bias_var)
        at = _law_at_fixed_point(kind, weight_var, bias_var)  # type: ignore[arg-type]
        laws, counts = [at], [depth]
    known = [law for law in laws if law is not None]
    if len(known) < len(laws):
        return JacobianSpectrum(None, depth, TheoryStatus.NO_THEORY)
    with np.errstate(divide="ignore"):
        log_gain = float(np.log(weight_var))  # type: ignore[arg-type]
    equation = SpectralEquation(
        log_gain, *_merged(known, counts), exponent=int(ensemble == "gaussian")
    )
    return JacobianSpectrum(equation, depth)


def _law_at_fixed_point(
    activation: Activation, weight_var: float, bias_var: float | None
) -> SlopeLaw | None:
    """The layers' law at the fixed point, None where networks flow to none."""
    point = fixed_point(activation, weight_var=weight_var, bias_var=bias_var)  # type: ignore[arg-type]
    limit = {VarianceStatus.ZERO: 0.0, VarianceStatus.UNBOUNDED: np.inf}
    status = VarianceStatus(int(point.variance_status))
    return _law_at(activation, limit.get(status, float(point.variance)))


def _law_at(activation: Activation, variance: float) -> SlopeLaw | None:
    """The law of φ'² at a variance, by its limit at 0 and infinity, None where there is none."""
    if np.isnan(variance) or activation.infinite_slope:
        return None
    if 0 < variance < np.inf:
        law = slope_law(activation, float(variance))
        return law if _agrees(law, activation, float(variance)) else None
    far = limits(activation)
    slopes = far.slopes_infinity if variance else far.slopes_zero
    return limit_law(slopes) if np.isfinite(slopes).all() else None


@exact_float64
def _agrees(law: SlopeLaw, activation: Activation, variance: float) -> bool:
    """Whether the law's panels, cut for it alone, have the E[φ'²] of another rule."""
    mean = float(single.slope_square(activation, jnp.asarray(variance)))
    return bool(np.isclose(law.mean, mean, rtol=1e-8, atol=0.0))


def _merged(
    laws: list[SlopeLaw], counts: Sequence[int] | np.ndarray
) -> tuple[tuple[SlopeLaw, ...], tuple[int, ...]]:
    """Laws with the same atoms and nothing else as one (relu: at every variance), and counts."""
    kept: dict[object, tuple[SlopeLaw, int]] = {}
    for number, (law, count) in enumerate(zip(laws, counts)):
        key = number if law.slopes.size or law.lost else law.atoms
        kept[key] = (law, kept.get(key, (law, 0))[1] + int(count))
    return tuple(law for law, _ in kept.values()), tuple(n for _, n in kept.values())


def _distinct_variances(variance: ArrayLike, depth: int) -> tuple[np.ndarray, np.ndarray]:
    array = np.asarray(variance, float)
    if array.ndim > 1 or (array.ndim == 1 and array.size != depth):
        raise ValueError(
            f"variance must be a scalar or one for each of {depth} layers, got shape {array.shape}"
        )
    wrong = np.argwhere(np.atleast_1d(np.isnan(array) | (array < 0)))
    if wrong.size:
        where = f" at index {tuple(int(i) for i in wrong[0])}" if array.ndim else ""
        raise ValueError(f"variance must be >= 0, got {array.flat[wrong[0][0]]}{where}")
    return np.unique(np.broadcast_to(array, (depth,)), return_counts=True)


def _check_scalar(name: str, value: object) -> None:
    if np.ndim(value):  # type: ignore[arg-type]
        raise ValueError(f"{name} must be a scalar, got shape {np.shape(value)}")  # type: ignore[arg-type]
    check_non_negative(name, value)


def _positive(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, float)
    wrong = np.flatnonzero(~(np.isfinite(array) & (array > 0)))
    if wrong.size:
        raise ValueError(f"{name} must be finite and > 0, got {array.flat[wrong[0]]}")
    return array


def _exp(value: float) -> float:
    with np.errstate(over="ignore", under="ignore"):
        return float(np.exp(value))
