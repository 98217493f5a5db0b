"""Where φ' is a polynomial, relative to its own size: the line cut once for each activation.

The law of d = φ'(z)² is wanted as E[1/(ζ - d)], with ζ close to the values that d takes. A rule for
that needs d resolved relative to its own size everywhere, in the tails as well, and must know the
pieces on which d is constant: those are atoms of the law.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial.legendre import legder, legroots

from sigprop._precision import exact_float64
from sigprop.activations import Activation
from sigprop.gaussian.panels import ORDER, legendre

__all__ = ["SlopePanels", "legendre_analysis", "panel_nodes", "slope_panels", "slopes_at"]

_RESOLVED = 1e-13
_NARROWEST = 1e-6
_MOST_PANELS = 1200


@dataclass(frozen=True)
class SlopePanels:
    """The line cut into panels on which φ'² is resolved, and pieces on which it is constant.

    Attributes
    ----------
    edges
        (panels, 2), ascending, without the flat pieces.
    flat
        (low, high, value) of each piece between kinks on which φ'² is constant.
    turns
        Where φ' has its local extremes, the flat pieces left out.
    """

    edges: np.ndarray
    flat: tuple[tuple[float, float, float], ...]
    turns: np.ndarray


@functools.lru_cache(maxsize=256)
def slope_panels(activation: Activation, radius: float) -> SlopePanels:
    """The `SlopePanels` of an activation on [-radius, radius]."""
    kinks = [k for k in activation.kinks if abs(k) < radius]
    bounds = [-np.inf, *kinks, np.inf]
    edges, flat, turns = [np.zeros((0, 2))], [], [np.zeros(0)]
    for low, high in itertools.pairwise(bounds):
        panels, slopes = _resolved_panels(activation, max(low, -radius), min(high, radius))
        squares = slopes**2
        if np.ptp(squares) <= 4e-16 * squares.max():
            flat.append((low, high, float(squares[0, 0])))
        else:
            edges.append(panels)
            turns += _turns(panels, slopes)
    return SlopePanels(np.concatenate(edges), tuple(flat), np.concatenate(turns))


def slopes_at(activation: Activation, x: np.ndarray) -> np.ndarray:
    """φ'(x), elementwise, in pieces of one length so that it compiles once."""
    slope, points, size = _compiled_derivative(activation), x.ravel(), 1024
    padded = np.pad(points, (0, -points.size % size))
    pieces = [slope(piece) for piece in padded.reshape(-1, size)]
    return np.concatenate([*pieces, np.zeros(0)])[: points.size].reshape(x.shape)


@functools.lru_cache(maxsize=256)
def _compiled_derivative(activation: Activation):
    compiled = jax.jit(activation.derivative)
    return exact_float64(lambda x: np.asarray(compiled(jnp.asarray(x))))


@functools.cache
def legendre_analysis() -> np.ndarray:
    """Matrix taking values at a panel's nodes to the coefficients of their Legendre series."""
    nodes, weights = legendre()
    basis = np.polynomial.legendre.legvander(nodes, ORDER - 1)
    return weights[:, None] * basis * (np.arange(ORDER) + 0.5)


def panel_nodes(edges: np.ndarray) -> np.ndarray:
    """Quadrature nodes of every panel, (panels, ORDER)."""
    return edges.mean(1, keepdims=True) + np.diff(edges, axis=1) / 2 * legendre()[0]


def _resolved_panels(
    activation: Activation, low: float, high: float
) -> tuple[np.ndarray, np.ndarray]:
    """Panels of [low, high] on which φ'² is resolved, by bisection, and φ' at their nodes."""
    scale = 2.0 ** np.arange(-2, 40)
    cuts = np.concatenate([-scale, [0.0], scale])
    cuts = np.concatenate([[low], cuts[(low < cuts) & (cuts < high)], [high]])
    cuts.sort()
    pending, done, values = np.stack([cuts[:-1], cuts[1:]], 1), [], []
    scale, finished = None, 0
    while pending.size:
        found = slopes_at(activation, panel_nodes(pending))
        scale = scale or _largest_within(pending, found)
        keep = _is_resolved(found, scale(pending)) | (np.ptp(pending, axis=1) < _NARROWEST)
        keep |= finished + len(pending) > _MOST_PANELS
        done.append(pending[keep])
        values.append(found[keep])
        finished += int(keep.sum())
        left, right = pending[~keep].T
        middle = (left + right) / 2
        pending = np.concatenate([np.stack([left, middle], 1), np.stack([middle, right], 1)])
    edges, slopes = np.concatenate(done), np.concatenate(values)
    order = np.argsort(edges[:, 0])
    return edges[order], slopes[order]


def _largest_within(edges: np.ndarray, slopes: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Of panels: the largest |φ'| met no farther out, whose rounding error φ' may carry."""
    reach = np.abs(edges).max(1)
    order = np.argsort(reach)
    largest = np.maximum.accumulate(np.abs(slopes).max(1)[order])
    return lambda panels: largest[np.searchsorted(reach[order], np.abs(panels).max(1))]


def _is_resolved(slopes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Whether the series of φ' on each panel has ended, up to the rounding error of φ'."""
    tail = np.abs(slopes @ legendre_analysis()[:, -3:]).max(1)
    return tail <= _RESOLVED * np.abs(slopes).max(1) + 1e-14 * scale


def _turns(edges: np.ndarray, slopes: np.ndarray) -> list[np.ndarray]:
    """Turning points of φ' inside panels, from its series."""
    found = []
    for (low, high), own in zip(edges, slopes):
        steps = np.diff(own)
        if np.all(steps >= 0) or np.all(steps <= 0):
            continue
        roots = legroots(legder(own @ legendre_analysis()))
        real = roots[(np.abs(np.imag(roots)) < 1e-9) & (np.abs(np.real(roots)) <= 1)]
        found.append((low + high) / 2 + (high - low) / 2 * np.real(real))
    return found
