"""Where to cut the line so that Gauss-Legendre quadrature of φ under a Gaussian is exact.

Gauss-Hermite nodes know neither the kinks of φ nor the scale on which it bends, and fail quietly
(tanh at variance 10: 2% with 100 nodes). Here the line is cut twice: on the scale of the Gaussian,
and on the scale of φ itself, found once per activation by bisecting until a Legendre series of
`ORDER` terms resolves φ and φ' on every panel. The union of both sets of cuts serves any variance
at one static shape.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sigprop._precision import exact_float64
from sigprop.activations import Activation

__all__ = ["ORDER", "STANDARD_CUTS", "legendre", "resolving_cuts", "standard_rule", "uniform_rule"]

ORDER = 16
# Cuts in standard deviations; the Gaussian beyond the last one weighs 1e-21.
STANDARD_CUTS = (-9.5, -6.4, -4.4, -2.8, -1.4, 0.0, 1.4, 2.8, 4.4, 6.4, 9.5)
_RADIUS = 320.0  # 9.5 standard deviations at variance 1e3, rounded up
_MAX_CUTS = 400
_RESOLVED = 1e-10


@functools.cache
def legendre(order: int = ORDER) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss-Legendre quadrature on [-1, 1]."""
    return np.polynomial.legendre.leggauss(order)


@functools.lru_cache(maxsize=512)
def resolving_cuts(activation: Activation) -> tuple[float, ...]:
    """Cuts between which φ and φ' are polynomials of degree < `ORDER`, to 1e-10 of their scale.

    Products of two such functions are integrated to rounding. [-320, 320] is bisected from the
    kinks until every panel is resolved, then neighbours are merged where they can be. A φ that
    oscillates for ever (sin) is resolved near 0 only, as far as a fixed number of cuts goes.
    """
    resolved = _Resolution(activation)
    outer = (-_RADIUS, *(k for k in activation.kinks if abs(k) < _RADIUS), _RADIUS)
    fixed = sorted({*outer, 0.0})
    cuts = [fixed[0]]
    for low, high in itertools.pairwise(fixed):
        cuts += _merged(_bisected(low, high, resolved), resolved)[1:]
    removable = 0.0 not in activation.kinks
    inner = [c for c in cuts[1:-1] if not (removable and c == 0.0 and _joins(cuts, c, resolved))]
    return tuple(sorted(sorted(inner, key=abs)[:_MAX_CUTS]))


def _bisected(low: float, high: float, resolved: "_Resolution") -> list[float]:
    """Edges of resolved panels covering [low, high], worked off from the end nearer to 0."""
    pending, done = [(low, high)], []
    while pending:
        a, b = min(pending, key=lambda panel: min(map(abs, panel)))
        pending.remove((a, b))
        if len(done) > _MAX_CUTS or b - a < 1e-7 * max(1.0, abs(a)) or resolved(a, b):
            done.append((a, b))
        else:
            pending += [(a, (a + b) / 2), ((a + b) / 2, b)]
    return sorted({edge for panel in done for edge in panel})


def _merged(edges: list[float], resolved: "_Resolution") -> list[float]:
    """``edges`` without those between neighbours that are resolved together."""
    kept = [edges[0]]
    for here, following in itertools.pairwise(edges):
        if not resolved(kept[-1], following):
            kept.append(here)
    return [*kept, edges[-1]]


def _joins(cuts: list[float], cut: float, resolved: "_Resolution") -> bool:
    place = cuts.index(cut)
    return resolved(cuts[place - 1], cuts[place + 1])


class _Resolution:
    """Whether a Legendre series through one panel's nodes reproduces φ and φ' across the panel.

    Checked at points between the nodes, on a grid fine near 0, so that a narrow feature inside a
    wide panel is seen. Errors count relative to the largest value met nearer to 0 than the panel's
    far end: the Gaussian weighs what lies nearer at least as much.
    """

    def __init__(self, activation: Activation):
        half = np.sinh(np.linspace(0.0, np.arcsinh(_RADIUS * 100), 3000)) / 100
        self.points = np.concatenate([-half[:0:-1], half])
        self.evaluate = _compiled_value_and_derivative(activation)
        self.values = self.evaluate(self.points)
        order = np.argsort(np.abs(self.points))
        self.radius = np.abs(self.points)[order]
        sizes = np.where(np.isfinite(self.values), np.abs(self.values), 0.0)[:, order]
        self.largest = np.maximum.accumulate(sizes, axis=1)

    def __call__(self, low: float, high: float) -> bool:
        nodes, _ = legendre()
        at_nodes = self.evaluate((low + high) / 2 + (high - low) / 2 * nodes)
        start, stop = np.searchsorted(self.points, [low, high], side="right")
        inside = self.points[start : stop - 1]
        series = at_nodes @ _interpolation(2 * (inside - low) / (high - low) - 1)
        error = np.abs(series - self.values[:, start : stop - 1]).max(1, initial=0.0)
        tail = np.abs(at_nodes @ _legendre_analysis()[:, -2:]).max(1)
        reach = np.searchsorted(self.radius, max(abs(low), abs(high)))
        scale = self.largest[:, min(reach, self.radius.size - 1)]
        return bool(np.all(np.maximum(error, tail) <= _RESOLVED * scale))


@exact_float64
def _compiled_value_and_derivative(activation: Activation):
    compiled = jax.jit(lambda x: jnp.stack(activation.value_and_derivative(x)))
    return exact_float64(lambda x: np.asarray(compiled(jnp.asarray(x))))


@functools.cache
def _legendre_analysis() -> np.ndarray:
    nodes, weights = legendre()
    basis = np.polynomial.legendre.legvander(nodes, ORDER - 1)
    return weights[:, None] * basis * (np.arange(ORDER) + 0.5)


def _interpolation(points: np.ndarray) -> np.ndarray:
    """Matrix taking values at the nodes to values of their Legendre series at ``points``."""
    return _legendre_analysis() @ np.polynomial.legendre.legvander(points, ORDER - 1).T


def standard_rule(
    cuts: Float[Array, "cuts"],
) -> tuple[Float[Array, "nodes"], Float[Array, "nodes"]]:
    """Nodes and weights for E[f(z)], z ~ N(0, 1), with extra ``cuts`` in standard deviations.

    Both are constants to differentiation: derivatives with respect to variance and correlation
    are taken of the expectation, not of the rule.
    """
    dtype = cuts.dtype
    fixed = jnp.asarray(STANDARD_CUTS, dtype)
    edges = jnp.sort(jnp.concatenate([fixed, jnp.clip(cuts, fixed[0], fixed[-1])]))
    nodes, weights = (jnp.asarray(a, dtype) for a in legendre())
    half = (edges[1:] - edges[:-1])[:, None] / 2
    z = edges[:-1, None] + half * (1 + nodes)
    density = jnp.exp(-z * z / 2) * np.asarray(1 / np.sqrt(2 * np.pi), dtype)
    return jax.lax.stop_gradient((z.ravel(), (half * weights * density).ravel()))


def uniform_rule(
    nodes: int, dtype: np.dtype
) -> tuple[Float[Array, "nodes"], Float[Array, "nodes"]]:
    """The trapezoidal rule under N(0, 1): spectrally accurate for an analytic f, and cheap.

    The nodes are the same for every variance, so a whole grid shares them. `uniform_nodes` in
    ``resolution.py`` says how many an activation needs.
    """
    z = np.linspace(STANDARD_CUTS[0], STANDARD_CUTS[-1], nodes)
    weights = np.exp(-z * z / 2) * (z[1] - z[0]) / np.sqrt(2 * np.pi)
    return jnp.asarray(z, dtype), jnp.asarray(weights, dtype)
