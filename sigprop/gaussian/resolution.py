"""How many equidistant nodes integrate an analytic activation to rounding."""

import functools
import math

import jax.numpy as jnp
import numpy as np

from sigprop import activations
from sigprop._precision import exact_float64
from sigprop.activations import Activation
from sigprop.gaussian.panels import STANDARD_CUTS, grows_fast, resolving_cuts
from sigprop.gaussian.single import Monomial
from sigprop.gaussian.trust import trusted

__all__ = ["uniform_nodes"]

_SPAN = STANDARD_CUTS[-1] - STANDARD_CUTS[0]
_FEWEST, _MOST = 32, 1024  # 32 nodes resolve the Gaussian itself; past 1024 panels are cheaper
_MARGIN = 1.4  # φ and a Gaussian as narrow as its features together bend more than either
_PROBE_DEVIATION = 6.0
_FINE = 1 / 64
_STRIDES = (64, 48, 32, 24, 16, 12, 8, 6, 4)


def uniform_nodes(activation: Activation, variance: float) -> int | None:
    """Nodes that `uniform_rule` needs at (or below) a variance; None where panels serve better.

    The trapezoidal rule errs by exp(-2π a/h) for a function analytic within a of the real line.
    Rather than the poles of φ, the largest step h that integrates it is looked for, once.
    """
    step = _largest_step(activation)
    if step is None or not np.isfinite(variance) or not _holds(activation, variance):
        return None
    needed = max(_FEWEST, _MARGIN * _SPAN * math.sqrt(variance) / step)
    rounded = 2 ** math.ceil(math.log2(needed))
    return rounded if rounded <= _MOST else None


def _holds(activation: Activation, variance: float) -> bool:
    """Whether panels, which have looked closely, know of nothing that equidistant nodes miss."""
    if activations.is_named(activation):
        return True
    f = Monomial(activation, value=2)
    low, high = trusted(f, activation)
    cuts = np.asarray([*resolving_cuts(activation)])
    narrowest = np.diff(cuts).min(initial=np.inf)
    step = _largest_step(activation)
    slow = step is not None and narrowest > 2 * step
    return bool(low <= variance <= high and slow) and not grows_fast(activation)


@functools.lru_cache(maxsize=512)
@exact_float64
def _largest_step(activation: Activation) -> float | None:
    """Largest step in x at which φ², φ'² and x φ φ' integrate to 1e-13, or None if none does.

    φ is evaluated once, on a fine lattice that holds the nodes of every step tried.
    """
    if activation.kinks:
        return None
    reach = int(_SPAN / 2 * _PROBE_DEVIATION / _FINE)
    x = np.arange(-reach, reach + 1) * _FINE
    phi, derivative = (np.asarray(f) for f in activation.value_and_derivative(jnp.asarray(x)))
    weight = np.exp(-((x / _PROBE_DEVIATION) ** 2) / 2)
    integrands = weight * np.stack([phi * phi, derivative * derivative, x * phi * derivative])
    if not np.isfinite(integrands).all():
        return None
    for stride in _STRIDES:
        shifted = np.stack([integrands[:, i::stride].sum(1) * stride for i in range(stride)])
        # Every shift of the lattice must give the same integral; for a kinked φ none does.
        if np.ptp(shifted, axis=0).max() <= 2e-13 * np.abs(shifted).max():
            return stride * _FINE
    return None
