"""Where to cut the line so that Gauss-Legendre quadrature of φ under a Gaussian is exact.

Gauss-Hermite nodes know neither the kinks of φ nor the scale on which it bends, and fail quietly
(tanh at variance 10: 2% with 100 nodes). Here the line is cut twice: on the scale of the Gaussian,
and on the scale of φ itself, found once per activation by bisecting until a Legendre series of
`ORDER` terms resolves φ and φ' on every panel. The union of both sets of cuts serves any variance.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sigprop._precision import exact_float64
from sigprop.activations import Activation
from sigprop.kinks import search_grid
from sigprop.landmarks import landmarks, near

__all__ = [
    "ORDER",
    "RADIUS",
    "STANDARD_CUTS",
    "WIDE_CUTS",
    "grows_fast",
    "legendre",
    "nearest_cuts",
    "panel_rule",
    "resolving_cuts",
    "standard_rule",
    "uniform_rule",
]

ORDER = 16
# Cuts in standard deviations; the Gaussian beyond the last one weighs 1e-21.
STANDARD_CUTS = (-9.5, -6.4, -4.4, -2.8, -1.4, 0.0, 1.4, 2.8, 4.4, 6.4, 9.5)
# For φ that grows like exp, which moves the weight far out: as far as doubles go.
_FAR = (12.0, 14.5, 17.0, 19.5, 22.0, 24.5, 27.0, 29.5, 32.0, 35.0, 38.0)
WIDE_CUTS = (*(-z for z in reversed(_FAR)), *STANDARD_CUTS, *_FAR)
RADIUS = 1e4  # 9.5 standard deviations at variance 1e6, rounded up
_SHELLS = (0.0, *(2.0 ** np.arange(-2, 14)), RADIUS)
_MOST_CUTS = 16384
_FEW_CUTS = 128  # up to which panels are merged where they can be
_RESOLVED = 1e-10
_NARROWEST = 4e-13  # relative to max(1, |x|)


@functools.cache
def legendre(order: int = ORDER) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss-Legendre quadrature on [-1, 1]."""
    return np.polynomial.legendre.leggauss(order)


@functools.lru_cache(maxsize=512)
def resolving_cuts(activation: Activation) -> tuple[float, ...]:
    """Cuts between which φ and φ' are polynomials of degree < `ORDER`, to 1e-10 of their scale.

    Products of two such functions are integrated to rounding. The line is bisected from the kinks
    until every panel is resolved, shell by shell from 0 outwards to 10^4 or to the shell in which
    there would be more than 16384 cuts; then neighbours are merged where they can be. A φ that
    oscillates for ever (sin) is resolved near 0 only.
    """
    resolved = _Resolution(activation)
    fixed = _fixed(activation)
    edges = set(fixed)
    for inner, outer in itertools.pairwise(_SHELLS):
        shell = _shell(resolved, fixed, inner, outer, _MOST_CUTS - len(edges))
        if shell is None:
            break
        edges.update(shell)
    cuts = sorted(edges)
    if len(cuts) <= _FEW_CUTS:
        resolved.remember(cuts)
        cuts = _merged(cuts, set(fixed), resolved)
    return tuple(c for c in cuts if abs(c) < RADIUS)


def nearest_cuts(activation: Activation, most: int = 400) -> tuple[tuple[float, ...], float]:
    """The cuts nearest to 0, for a rule of a static shape, and the variance they serve up to."""
    cuts = sorted(resolving_cuts(activation), key=abs)
    if len(cuts) <= most:
        return tuple(sorted(cuts)), np.inf
    return tuple(sorted(cuts[:most])), (cuts[most] / STANDARD_CUTS[-1]) ** 2


@functools.lru_cache(maxsize=512)
@exact_float64
def grows_fast(activation: Activation) -> bool:
    """Whether φ outgrows x⁴ far out, so that E[φ²] has its weight beyond 9.5 deviations.

    Powers up to the fourth have 1e-14 of it there.
    """
    far = 2.0 ** np.arange(3, 9)
    with np.errstate(all="ignore"):
        sizes = np.abs(activation.fn(jnp.asarray(np.stack([-far, far]))))
        powers = np.diff(np.log2(sizes), axis=1)
    return bool(np.any(powers > 4.5) or np.any(np.isinf(sizes)))


def _fixed(activation: Activation) -> list[float]:
    """Cuts that stay: kinks, and on the way to an infinite slope ever nearer ones."""
    graded = [
        place + side * distance
        for place, _ in activation.rough.steep
        for distance in 4.0 ** -np.arange(1, 67 if place == 0.0 else 18)
        for side in (-1, 1)
    ]
    return sorted({-RADIUS, RADIUS, *activation.kinks, *graded})


def _shell(resolved, fixed, inner: float, outer: float, room: int) -> list[float] | None:
    """Edges of resolved panels covering inner <= |x| <= outer, None if more than there is room."""
    done: list[float] = []
    pending = np.zeros((0, 2))
    for low, high in ((-outer, -inner), (inner, outer)):
        ends = [low, *(x for x in fixed if low < x < high), high]
        pending = np.concatenate([pending, list(itertools.pairwise(ends))])
    while len(pending):
        if len(done) + len(pending) > room:
            return None
        narrow = np.diff(pending, axis=1)[:, 0] < _NARROWEST * np.maximum(1, np.abs(pending).max(1))
        keep = narrow | resolved(pending)
        done += pending[keep].ravel().tolist()
        low, high = pending[~keep].T
        middle = (low + high) / 2
        pending = np.concatenate([np.stack([low, middle], 1), np.stack([middle, high], 1)])
    return done


def _merged(edges: list[float], fixed: set[float], resolved: "_Resolution") -> list[float]:
    """``edges`` without those between neighbours that are resolved together."""
    kept = [edges[0]]
    for here, following in itertools.pairwise(edges[1:]):
        if here in fixed or not resolved(np.asarray([[kept[-1], following]]))[0]:
            kept.append(here)
    return [*kept, edges[-1]]


class _Resolution:
    """Whether a Legendre series through a panel's nodes reproduces φ and φ' across the panel.

    Checked between the nodes, at the nodes of either half, and where φ and φ' are largest and
    least on stretches of a grid fine near 0 and around every landmark of φ's program, so that a
    narrow feature inside a wide panel is seen. Errors count relative to the largest value met
    nearer to 0 than the panel's far end: the Gaussian weighs what lies nearer at least as much.
    (Of φ with an infinite slope, or that grows fast, relative to the largest on the panel.)
    """

    def __init__(self, activation: Activation):
        self.evaluate = _compiled_value_and_derivative(activation)
        points = np.union1d(search_grid(2**16, RADIUS), near(landmarks(activation.fn)))
        values = self.evaluate(points)
        order = np.argsort(np.abs(points))
        self.radius = np.abs(points)[order]
        sizes = np.where(np.isfinite(values), np.abs(values), 0.0)[:, order]
        self.largest = np.maximum.accumulate(sizes, axis=1)
        self.by_itself = bool(activation.rough.steep) or grows_fast(activation)
        told = _telling(points, values)
        self.points, self.values = points[told], values[:, told]

    def remember(self, edges: list[float]) -> None:
        """Check wider panels at the nodes of these, which have seen everything."""
        panels = np.asarray(list(itertools.pairwise(edges)))
        x = (panels.mean(1, keepdims=True) + np.diff(panels, axis=1) / 2 * legendre()[0]).ravel()
        self.points, place = np.unique(np.concatenate([self.points, x]), return_index=True)
        self.values = np.concatenate([self.values, self.evaluate(x)], axis=1)[:, place]

    def __call__(self, panels: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return self._resolved(panels)

    def _resolved(self, panels: np.ndarray) -> np.ndarray:
        at_nodes = self._at(panels, legendre()[0])
        series = at_nodes @ _legendre_analysis()
        tail = np.abs(series[..., -2:]).max(-1)
        halves = np.concatenate([(legendre()[0] - 1) / 2, (legendre()[0] + 1) / 2])
        between = np.abs(at_nodes @ _interpolation(halves) - self._at(panels, halves)).max(-1)
        error = np.fmax(np.fmax(tail, between), self._missed(panels, series))
        far = np.abs(panels).max(1)
        scale = np.abs(at_nodes).max(-1) if self.by_itself else self._scale(far)
        # No more than φ trembles from one double to the next: a narrow bump far from 0 does.
        tremor = np.abs(self._at(panels * (1 + 1e-15), legendre()[0]) - at_nodes).max(-1)
        return np.all(error <= _RESOLVED * scale + 8 * tremor + 1e-250, axis=0)

    def _scale(self, far: np.ndarray) -> np.ndarray:
        """The largest value met nearer than ``far``, or a little beyond it and much larger.

        Doubles end at e^-745, so that a density of x² falls by e^15 at most over 2% of x.
        """
        last = self.radius.size - 1
        beyond = [
            share * self.largest[:, np.minimum(np.searchsorted(self.radius, stretch * far), last)]
            for share, stretch in ((1.0, 1.0), (1e-7, 1.02), (1e-14, 1.04))
        ]
        return np.max(beyond, axis=0)

    def _at(self, panels: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """φ and φ' at nodes of every panel, (2, panels, nodes)."""
        x = panels.mean(1, keepdims=True) + np.diff(panels, axis=1) / 2 * nodes
        return self.evaluate(x.ravel()).reshape(2, *x.shape)

    def _missed(self, panels: np.ndarray, series: np.ndarray) -> np.ndarray:
        """Largest error of the series at the telling points inside each panel, (2, panels)."""
        error = np.zeros((2, len(panels)))
        order = np.argsort(panels[:, 0])
        place = order[np.clip(np.searchsorted(panels[order, 0], self.points) - 1, 0, None)]
        inside = (panels[place, 0] < self.points) & (self.points < panels[place, 1])
        at, place = self.points[inside], place[inside]
        t = (at - panels[place].mean(1)) / (np.diff(panels[place], axis=1)[:, 0] / 2)
        basis = np.polynomial.legendre.legvander(t, ORDER - 1)
        off = np.abs(np.einsum("pk,vpk->vp", basis, series[:, place]) - self.values[:, inside])
        for row in range(2):
            np.maximum.at(error[row], place, np.nan_to_num(off[row], nan=0.0))
        return error


def _telling(points: np.ndarray, values: np.ndarray, stretch: int = 16) -> np.ndarray:
    """Places of the extremes of each row of ``values`` on stretches of the grid."""
    size = points.size // stretch * stretch
    start = np.arange(0, size, stretch)
    rows = np.nan_to_num(values[:, :size]).reshape(len(values), -1, stretch)
    found = [start + pick(rows, axis=2) for pick in (np.argmin, np.argmax)]
    return np.unique(np.concatenate([*found, start[None]]))


@exact_float64
def _compiled_value_and_derivative(activation: Activation):
    compiled = jax.jit(lambda x: jnp.stack(activation.value_and_derivative(x)))

    @exact_float64
    def padded(x: np.ndarray) -> np.ndarray:
        """At one of few array lengths, so that it compiles seldom."""
        size = 4 ** int(np.ceil(np.log(max(x.size, 1024)) / np.log(4)))
        filled = np.pad(x, (0, size - x.size), mode="edge")
        return np.asarray(compiled(jnp.asarray(filled)))[:, : x.size]

    return padded


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
    fixed = jnp.asarray(STANDARD_CUTS, cuts.dtype)
    return panel_rule(jnp.sort(jnp.concatenate([fixed, jnp.clip(cuts, fixed[0], fixed[-1])])))


def panel_rule(
    edges: Float[Array, "edges"],
) -> tuple[Float[Array, "nodes"], Float[Array, "nodes"]]:
    """Nodes and weights under the density of N(0, 1), on the panels between ``edges``."""
    dtype = edges.dtype
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
