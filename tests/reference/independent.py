"""A second way to every number: activations, Gaussian integrals and maps without JAX or sigprop.

Activations are written out twice, in mpmath (any precision) and in NumPy (fast), with derivatives
and kinks by hand. Integrals are scipy's adaptive quadrature, cut at the kinks; pairs go through
the Hermite (Mehler) series, which shares nothing with a quadrature over the plane.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import mpmath
import numpy as np
from scipy import integrate, special

_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946
_SQRT_2_OVER_PI = float(np.sqrt(2 / np.pi))


@dataclass(frozen=True)
class Scalar:
    """A nonlinearity: mpmath function, NumPy function and derivative, kinks, typical scale."""

    exact: Callable
    fn: Callable
    derivative: Callable
    kinks: tuple[float, ...] = ()


def _gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(_SQRT_2_OVER_PI * x * (1 + 0.044715 * x * x)))


def _gelu_tanh_derivative(x):
    t = np.tanh(_SQRT_2_OVER_PI * x * (1 + 0.044715 * x * x))
    inner = _SQRT_2_OVER_PI * (1 + 3 * 0.044715 * x * x)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner


def _mish_derivative(x):
    t = np.tanh(np.logaddexp(0, x))
    return t + x * (1 - t * t) * special.expit(x)


def _gauss(x):
    return np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


def _sech_squared(x):
    e = np.exp(-2 * np.abs(x))
    return 4 * e / (1 + e) ** 2


mp = mpmath.mp

TABLE: dict[str, Scalar] = {
    "linear": Scalar(lambda x: x, lambda x: x, np.ones_like),
    "relu": Scalar(
        lambda x: max(x, mp.mpf(0)), lambda x: np.maximum(x, 0), lambda x: 1.0 * (x > 0), (0.0,)
    ),
    "leaky_relu": Scalar(
        lambda x: x if x > 0 else mp.mpf("0.01") * x,
        lambda x: np.where(x > 0, x, 0.01 * x),
        lambda x: np.where(x > 0, 1.0, 0.01),
        (0.0,),
    ),
    "elu": Scalar(
        lambda x: x if x > 0 else mp.expm1(x),
        lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x > 0, 1.0, np.exp(np.minimum(x, 0))),
        (0.0,),
    ),
    "selu": Scalar(
        lambda x: _SELU_SCALE * (x if x > 0 else _SELU_ALPHA * mp.expm1(x)),
        lambda x: _SELU_SCALE * np.where(x > 0, x, _SELU_ALPHA * np.expm1(np.minimum(x, 0))),
        lambda x: _SELU_SCALE * np.where(x > 0, 1.0, _SELU_ALPHA * np.exp(np.minimum(x, 0))),
        (0.0,),
    ),
    "gelu": Scalar(
        lambda x: x * mp.ncdf(x),
        lambda x: x * special.ndtr(x),
        lambda x: special.ndtr(x) + x * _gauss(x),
    ),
    "gelu_tanh": Scalar(
        lambda x: x * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3))) / 2,
        _gelu_tanh,
        _gelu_tanh_derivative,
    ),
    "silu": Scalar(
        lambda x: x / (1 + mp.exp(-x)),
        lambda x: x * special.expit(x),
        lambda x: special.expit(x) * (1 + x * special.expit(-x)),
    ),
    "mish": Scalar(
        lambda x: x * mp.tanh(mp.log1p(mp.exp(x))),
        lambda x: x * np.tanh(np.logaddexp(0, x)),
        _mish_derivative,
    ),
    "softplus": Scalar(lambda x: mp.log1p(mp.exp(x)), lambda x: np.logaddexp(0, x), special.expit),
    "sigmoid": Scalar(
        lambda x: 1 / (1 + mp.exp(-x)),
        special.expit,
        lambda x: special.expit(x) * special.expit(-x),
    ),
    "tanh": Scalar(mp.tanh, np.tanh, _sech_squared),
    "hard_tanh": Scalar(
        lambda x: min(max(x, mp.mpf(-1)), mp.mpf(1)),
        lambda x: np.clip(x, -1, 1),
        lambda x: 1.0 * (np.abs(x) < 1),
        (-1.0, 1.0),
    ),
    "erf": Scalar(mp.erf, special.erf, lambda x: 2 / np.sqrt(np.pi) * np.exp(-x * x)),
    "sin": Scalar(mp.sin, np.sin, np.cos),
    "softsign": Scalar(
        lambda x: x / (1 + abs(x)),
        lambda x: x / (1 + np.abs(x)),
        lambda x: 1 / (1 + np.abs(x)) ** 2,
        (0.0,),
    ),
}

# Of tests over the whole table that take long, those that go through different code: closed forms,
# kinks, quadrature, a mean that is not zero. The rest is for the slow run.
EVERY_RUN = ("tanh", "relu", "gelu", "hard_tanh", "selu", "sigmoid")

_REACH = 12.0  # standard deviations; the Gaussian beyond weighs 4e-33
# Where activations bend, in units of x: quadrature is cut there as well as at the kinks.
_BENDS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


def expectation(f: Callable, variance: float, kinks: tuple[float, ...] = ()) -> float:
    """E[f(x)], x ~ N(0, variance): adaptive quadrature between kinks and bends."""
    scale = float(np.sqrt(variance))
    bends = [sign * bend / scale for bend in _BENDS for sign in (-1, 1)]
    inner = [c for c in (*[k / scale for k in kinks], *bends, -6, -3, 3, 6) if abs(c) < _REACH]
    cuts = sorted({-_REACH, _REACH, *inner})
    panels = [
        integrate.quad(
            lambda z: float(f(np.float64(scale * z)) * _gauss(z)),
            low,
            high,
            epsabs=1e-16,
            epsrel=2e-14,
            limit=400,
            full_output=1,
        )[0]
        for low, high in itertools.pairwise(cuts)
    ]
    return float(np.sum(panels))


def composite_rule(
    variance: float, kinks: tuple[float, ...] = (), panels: int = 600, order: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes z and weights for E[f(√variance z)], z ~ N(0, 1): many small panels, kinks as edges."""
    scale = float(np.sqrt(variance))
    even = np.linspace(-_REACH, _REACH, panels // 2)
    half = np.sinh(np.linspace(0, np.arcsinh(_REACH * scale * 4), panels // 4)) / (4 * scale)
    edges = np.concatenate([even, half, -half, np.asarray(kinks) / scale])
    edges = np.unique(np.clip(edges, -_REACH, _REACH))
    nodes, weights = np.polynomial.legendre.leggauss(order)
    width = np.diff(edges)[:, None] / 2
    z = edges[:-1, None] + width * (1 + nodes)
    return z.ravel(), (width * weights * _gauss(z)).ravel()


def hermite_coefficients(f: Callable, variance: float, kinks=(), terms: int = 400) -> np.ndarray:
    """a_k = E[f(√variance z) h_k(z)] with h_k the orthonormal Hermite polynomials."""
    z, weights = composite_rule(variance, kinks)
    values = weights * f(np.sqrt(variance) * z)
    coefficients = np.empty(terms)
    previous, current = np.zeros_like(z), np.ones_like(z)
    for k in range(terms):
        coefficients[k] = values @ current
        previous, current = (
            current,
            (z * current - np.sqrt(k) * previous) / np.sqrt(k + 1),
        )
    return coefficients


def pair_expectation(f: Callable, variance: float, correlation: float, kinks=()) -> float:
    """E[f(u) f(v)] by the Mehler series Σ a_k² c^k; for |correlation| <= 0.9."""
    coefficients = hermite_coefficients(f, variance, kinks)
    return float(np.sum(coefficients**2 * float(correlation) ** np.arange(coefficients.size)))


@functools.lru_cache(maxsize=4096)
def pair_moments(name: str, variance: float, gap: float) -> tuple[float, float, float]:
    """E[φ(u)φ(v)], E[φ'(u)φ'(v)], E[(φ(u) - φ(v))²]/2 at correlation 1 - gap, however small.

    u, v = √variance (shared a ± own b): near correlation 1 the two differ by the small term only,
    so their difference keeps its digits. Panels in b end where u or v meets a kink or a bend, for
    every a.
    """
    phi = TABLE[name]
    shared, own, scale = np.sqrt(1 - gap / 2), np.sqrt(gap / 2), np.sqrt(variance)
    sides = [side * bend for bend in _BENDS[1:] for side in (-1.5, -1, -0.7, 0.7, 1, 1.5)]
    places = np.asarray([*phi.kinks, 0.0, *sides]) / scale
    grid = np.linspace(-10, 10, 31)
    spread = own * np.asarray([-8, -4, -2, -1, 0, 1, 2, 4, 8])
    around = (places[:, None] + spread).ravel() / max(shared, 1e-3)
    a, a_weights = _panels(np.unique(np.clip([*grid, *around], -10, 10)))
    total = np.zeros(3)
    for chunk, weights in zip(np.array_split(a, 64), np.array_split(a_weights, 64)):
        meets = (places - shared * chunk[:, None]) / max(own, 1e-300)
        edges = np.concatenate([np.tile(grid, (chunk.size, 1)), meets, -meets], axis=1)
        b, b_weights = _panels(np.sort(np.clip(edges, -10, 10), axis=1))
        u = scale * (shared * chunk[:, None] + own * b)
        v = scale * (shared * chunk[:, None] - own * b)
        f, g = phi.fn(u), phi.fn(v)
        integrands = f * g, phi.derivative(u) * phi.derivative(v), (f - g) ** 2 / 2
        total += [weights @ np.sum(b_weights * h, axis=1) for h in integrands]
    return float(total[0]), float(total[1]), float(total[2])


def _panels(edges: np.ndarray, order: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and Gaussian weights on the panels between ``edges`` (last axis)."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    half = np.diff(edges, axis=-1)[..., None] / 2
    z = edges[..., :-1, None] + half * (1 + nodes)
    shape = (*edges.shape[:-1], -1)
    return z.reshape(shape), (half * weights * _gauss(z)).reshape(shape)


def variance_map(name: str, variance: float, weight_var: float, bias_var: float) -> float:
    """σ_w² E[φ(√q z)²] + σ_b²."""
    phi = TABLE[name]
    return weight_var * expectation(lambda x: phi.fn(x) ** 2, variance, phi.kinks) + bias_var


def chi_1(name: str, variance: float, weight_var: float) -> float:
    """σ_w² E[φ'(√q z)²]."""
    phi = TABLE[name]
    return weight_var * expectation(lambda x: phi.derivative(x) ** 2, variance, phi.kinks)


def chi_q(name: str, variance: float, weight_var: float) -> float:
    """σ_w² E[x φ(x) φ'(x)] / q."""
    phi = TABLE[name]

    def integrand(x):
        return x * phi.fn(x) * phi.derivative(x) / variance

    return weight_var * expectation(integrand, variance, phi.kinks)
