"""Over which variances an expectation is right: two rules must agree.

The rule that is used is compared with one of twice as many panels that reaches farther out. Where
the two differ φ has more detail than its panels resolve, or grows so fast that the tail counts, and
the expectation is not given (it is nan) rather than given wrong.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sigprop import activations
from sigprop._precision import exact_float64
from sigprop.activations import Activation
from sigprop.gaussian.panels import (
    RADIUS,
    STANDARD_CUTS,
    WIDE_CUTS,
    grows_fast,
    legendre,
    resolving_cuts,
)

__all__ = ["trusted"]

_AGREE = 1e-9
_BEYOND = 1e-20
_FIRST = (1.0, 1e-2, 1e2, 1e-4, 1e4, 1e-8)
_SMALLEST, _LARGEST = 1e-30, 1e18
_STEP = 10.0
_HALVINGS = 6


@functools.lru_cache(maxsize=2048)
@exact_float64
def trusted(f: Callable, activation: Activation) -> tuple[float, float]:
    """Least and largest variance at which E[f] is right to 1e-9 of E|f|; (inf, 0) for none.

    ``f`` is made of φ and φ'. Of functions in the table it is known; of others it is found by
    integrating, from a variance of 1 upwards and downwards.
    """
    if activations.is_named(activation):
        return 0.0, _straight_to(activation)
    agree = functools.partial(_agree, _compiled(f), activation)
    start = next((q for q in _FIRST if agree(q)), None)
    if start is None:
        return np.inf, 0.0
    low = _last(agree, start, 1 / _STEP, _SMALLEST)
    high = _last(agree, start, _STEP, _LARGEST)
    return low if low > _SMALLEST else 0.0, high if high < _LARGEST else np.inf


def _straight_to(activation: Activation) -> float:
    """The variance up to which φ bends within the radius that panels were looked for in."""
    far = RADIUS * 10.0 ** np.arange(4)
    slopes = np.asarray(activation.derivative(jnp.asarray(np.stack([-far, far]))))
    straight = np.ptp(slopes, axis=1).max() <= 1e-15
    return np.inf if straight else (RADIUS / STANDARD_CUTS[-1]) ** 2


def _last(agree: Callable[[float], bool], start: float, factor: float, end: float) -> float:
    """The last variance on the way from ``start`` to ``end`` at which the two rules agree."""
    here = start
    while (here < end) == (factor > 1) and here != end:
        following = here * factor
        if not agree(following):
            return _boundary(agree, here, following)
        here = following
    return end


def _boundary(agree: Callable[[float], bool], inside: float, outside: float) -> float:
    for _ in range(_HALVINGS):
        middle = (inside * outside) ** 0.5
        inside, outside = (middle, outside) if agree(middle) else (inside, middle)
    return inside


def _agree(f: Callable, activation: Activation, variance: float) -> bool:
    deviation = np.sqrt(variance)
    fixed = np.asarray(WIDE_CUTS if grows_fast(activation) else STANDARD_CUTS)
    cuts = np.asarray(resolving_cuts(activation)) / deviation
    edges = np.unique(np.concatenate([fixed, np.clip(cuts, fixed[0], fixed[-1])]))
    halves = (edges[1:] + edges[:-1]) / 2
    far = np.clip(cuts, WIDE_CUTS[0], WIDE_CUTS[-1])
    finer = np.unique(np.concatenate([edges, halves, WIDE_CUTS, far]))
    with np.errstate(all="ignore"):
        one, *_ = _integrated(f, edges, deviation)
        two, size, largest = _integrated(f, finer, deviation)
        # What lies beyond reach of a threshold far out is below any double that it is added to.
        nothing = 0.0 if grows_fast(activation) else _BEYOND * largest
        return bool(np.abs(one - two) <= _AGREE * size + nothing)


def _integrated(f: Callable, edges: np.ndarray, deviation: float) -> tuple[float, float, float]:
    """E[f] and E|f| by Gauss-Legendre on the panels, and the largest |f|."""
    nodes, weights = legendre()
    half = np.diff(edges)[:, None] / 2
    z = (edges[:-1, None] + half * (1 + nodes)).ravel()
    weight = (half * weights).ravel() * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    values = f(deviation * z)
    terms = weight * values
    largest = np.abs(values).max()
    return float(terms.sum()), float(np.abs(terms).sum()), float(largest)


def _compiled(f: Callable) -> Callable[[np.ndarray], np.ndarray]:
    compiled = jax.jit(f)

    def pieces(x: np.ndarray) -> np.ndarray:
        """In pieces of one length, so that it compiles once."""
        length = 4096 if x.size < 2**15 else 2**16
        padded = np.pad(x, (0, -x.size % length), mode="edge").reshape(-1, length)
        return np.concatenate([np.asarray(compiled(jnp.asarray(p))) for p in padded])[: x.size]

    return pieces
