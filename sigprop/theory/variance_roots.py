"""Fixed points of the variance map: the one a network flows to, and all of them.

The map is written as a relative growth per layer,

    h(q) = F(q)/q - 1 = σ_w² E[φ²]/q + σ_b²/q - 1,

so that q from 1e-30 to 1e18 is treated alike. E[φ²]/q is tabulated once per activation on a
logarithmic grid; over a whole phase diagram a table look-up brackets the root and a few Newton
steps in ln q, safeguarded by bisection, finish it. For an increasing F the network flows
monotonically from q¹ to the first root in the direction of h(q¹) (Poole et al. 2016).
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sigprop._precision import exact_float64
from sigprop.activations import Activation
from sigprop.gaussian import single
from sigprop.gaussian.limits import limits
from sigprop.theory.statuses import VarianceStatus

__all__ = ["Table", "all_roots", "attractor", "growth", "refined_root", "table"]

Scalar = Float[Array, ""]
_SLACK = 32  # machine epsilons within which h counts as zero
_MOST_STEPS = 80
_MOST_LAYERS = 5000


class Table(NamedTuple):
    """E[φ²]/q and d E[φ²]/dq on a logarithmic grid of q."""

    variance: np.ndarray
    ratio: np.ndarray
    slope: np.ndarray
    unknown_below: bool = False
    unknown_above: bool = False

    @property
    def increasing(self) -> bool:
        """Whether F is increasing, so that no network oscillates."""
        return bool(np.all(self.slope >= -1e-14 * np.abs(self.ratio)))


@functools.lru_cache(maxsize=512)
@exact_float64
def table(activation: Activation) -> Table:
    """The `Table` of an activation."""
    coarse_low, fine = np.linspace(-30, -6, 120, endpoint=False), np.linspace(-6, 6, 480)
    variance = 10.0 ** np.concatenate([coarse_low, fine, np.linspace(6, 18, 61)[1:]])

    @jax.jit
    def tabulate(q):
        square = jax.vmap(functools.partial(single.mean_square, activation))(q)
        return square / q, jax.vmap(functools.partial(single.mean_square_slope, activation))(q)

    ratio, slope = (np.asarray(a) for a in tabulate(jnp.asarray(variance)))
    known = np.flatnonzero(np.isfinite(ratio) & np.isfinite(slope))
    if not known.size:
        raise ValueError(
            f"activation must have a finite E[φ²] that can be integrated at some variance, "
            f"{activation.name} has none"
        )
    first, last = known[0], known[-1] + 1
    # What overflows (x³) is known to be large; nan is what panels do not resolve.
    above = last < variance.size and bool(np.isnan(ratio[last]))
    columns = (column[first:last] for column in (variance, ratio, slope))
    return Table(*columns, unknown_below=bool(first > 0), unknown_above=above)


def growth(
    activation: Activation, weight_var: Scalar, bias_var: Scalar, variance: Scalar
) -> tuple[Scalar, Scalar]:
    """h(q) = F(q)/q - 1 and dh/d ln q."""
    ratio = single.mean_square(activation, variance) / variance
    slope = single.mean_square_slope(activation, variance)
    bias = bias_var / variance
    return weight_var * ratio + bias - 1, weight_var * (slope - ratio) - bias


def attractor(
    activation: Activation, weight_var: Scalar, bias_var: Scalar, variance0: Scalar
) -> tuple[Scalar, Array]:
    """The variance a network with q¹ = variance0 flows to, and its `VarianceStatus`."""
    if table(activation).increasing:
        return _monotone_attractor(activation, weight_var, bias_var, variance0)
    return _iterated_attractor(activation, weight_var, bias_var, variance0)


def _monotone_attractor(activation, weight_var, bias_var, variance0):
    dtype = variance0.dtype
    slack = np.asarray(_SLACK * np.finfo(dtype).eps, dtype)
    tabulated = table(activation)
    grid, ratio = (jnp.asarray(column, dtype) for column in tabulated[:2])
    h = weight_var * ratio + bias_var / grid - 1
    start = jnp.clip(variance0, grid[0], grid[-1])
    h_start, _ = growth(activation, weight_var, bias_var, start)
    up, here = h_start > slack, jnp.abs(h_start) <= slack
    low, high, found = _bracket(grid, h, start, up, slack)
    low, high, touches = _before_tangency(
        activation, weight_var, bias_var, (low, high, found), (grid, h), (start, up), slack
    )
    root = refined_root(activation, weight_var, bias_var, low, high)
    root = jnp.where(touches, low, root)
    # F(0) = 0 and no root on the way down: the signal dies out.
    status = jnp.where(up, VarianceStatus.UNBOUNDED, VarianceStatus.ZERO)
    status = jnp.where(found | touches | here, VarianceStatus.FINITE, status)
    status = jnp.where(jnp.all(jnp.abs(h) <= slack), VarianceStatus.CONTINUUM, status)
    limit = jnp.where(up, jnp.inf, 0.0).astype(dtype)
    value = jnp.where(here, start, jnp.where(found | touches, root, limit))
    value = jnp.where(status == VarianceStatus.CONTINUUM, variance0, value)
    # A start outside the table, or a network that leaves it, where nothing is known.
    strange = (variance0 < grid[0]) & tabulated.unknown_below
    strange |= (variance0 > grid[-1]) & tabulated.unknown_above
    strange |= (status == VarianceStatus.ZERO) & tabulated.unknown_below
    strange |= (status == VarianceStatus.UNBOUNDED) & tabulated.unknown_above
    return jnp.where(strange, jnp.nan, value), jnp.where(strange, VarianceStatus.UNRESOLVED, status)


def _bracket(grid, h, start, up, slack):
    """Ends [low, high] of the first sign change of h in the direction the network flows."""
    ahead_up, ahead_down = (grid > start) & (h < -slack), (grid < start) & (h > slack)
    first, last = jnp.argmax(ahead_up), grid.size - 1 - jnp.argmax(ahead_down[::-1])
    found = jnp.where(up, ahead_up.any(), ahead_down.any())
    low = jnp.where(up, jnp.maximum(start, grid[jnp.maximum(first - 1, 0)]), grid[last])
    high = jnp.where(
        up, grid[first], jnp.minimum(start, grid[jnp.minimum(last + 1, grid.size - 1)])
    )
    return low, high, found


def _before_tangency(activation, weight_var, bias_var, bracket, tabulated, flow, slack):
    """The bracket, or an earlier one where h touches or crosses zero between two grid points.

    Two roots between neighbouring grid points leave no sign change; h has an extremum there, which
    is looked for where the table's |h| is small and turns.
    """
    (low, high, found), (grid, h), (start, up) = bracket, tabulated, flow
    sign = jnp.where(up, 1.0, -1.0).astype(h.dtype)
    middle = sign * h[1:-1]
    sides = jnp.minimum(sign * h[:-2], sign * h[2:])
    dips = (middle <= sides) & (sides > slack) & (middle < 0.03)
    stop = jnp.where(up, jnp.where(found, low, jnp.inf), jnp.where(found, high, 0.0))
    ahead = jnp.where(up, (grid[1:-1] >= start) & (grid[1:-1] <= stop), False)
    ahead = jnp.where(up, ahead, (grid[1:-1] <= start) & (grid[1:-1] >= stop))
    candidates = dips & ahead
    first = jnp.where(up, jnp.argmax(candidates), middle.size - 1 - jnp.argmax(candidates[::-1]))
    bottom = _extremum(
        activation, weight_var, bias_var, grid[first], grid[first + 2], sign, candidates.any()
    )
    h_bottom = sign * growth(activation, weight_var, bias_var, bottom)[0]
    crosses = candidates.any() & (h_bottom < -slack)
    touches = candidates.any() & (jnp.abs(h_bottom) <= slack)
    low = jnp.where(crosses, jnp.where(up, jnp.maximum(start, grid[first]), bottom), low)
    high = jnp.where(crosses, jnp.where(up, bottom, jnp.minimum(start, grid[first + 2])), high)
    return jnp.where(touches, bottom, low), high, touches


def _extremum(activation, weight_var, bias_var, low, high, sign, wanted):
    """Where sign·h is least between two variances, by bisection on its slope in ln q."""

    def halve(state):
        steps, a, b = state
        middle = jnp.sqrt(a * b)
        falling = sign * growth(activation, weight_var, bias_var, middle)[1] < 0
        return steps + 1, jnp.where(falling, middle, a), jnp.where(falling, b, middle)

    most = jnp.where(wanted, 60, 0)
    _, a, b = jax.lax.while_loop(lambda s: s[0] < most, halve, (jnp.zeros_like(most), low, high))
    return jnp.sqrt(a * b)


def refined_root(
    activation: Activation, weight_var: Scalar, bias_var: Scalar, low: Scalar, high: Scalar
) -> Scalar:
    """Root of h between ``low`` and ``high``, ends of unlike sign: safeguarded Newton in ln q."""
    rising = growth(activation, weight_var, bias_var, low)[0] < 0
    # Newton's next step would be the square of this one: below rounding.
    tolerance = np.asarray(np.finfo(low.dtype).eps ** 0.5 / 4, low.dtype)

    def unfinished(state):
        steps, _, _, _, change = state
        return (steps < _MOST_STEPS) & (change > tolerance)

    def improve(state):
        steps, a, b, x, _ = state
        h, slope = growth(activation, weight_var, bias_var, jnp.exp(x))
        beyond = (h > 0) == rising
        a, b = jnp.where(beyond, a, x), jnp.where(beyond, x, b)
        newton = x - h / slope
        inside = (newton > a) & (newton < b)
        following = jnp.where(inside, newton, (a + b) / 2)
        following = jnp.where(h == 0, x, following)
        # Only a Newton step bounds the error that is left; others end by standing still.
        settled = inside | (following == x)
        return steps + 1, a, b, following, jnp.where(settled, jnp.abs(following - x), 1.0)

    a, b = jnp.log(low), jnp.log(high)
    state = (jnp.zeros((), jnp.int32), a, b, (a + b) / 2, jnp.ones_like(a))
    return jnp.exp(jax.lax.while_loop(unfinished, improve, state)[3])


@exact_float64
def all_roots(activation: Activation, weight_var: float, bias_var: float) -> list[float]:
    """Every q > 0 with F(q) = q, ascending, tangential ones included; [] if all q are fixed."""
    grid, ratio, *_ = table(activation)
    h = weight_var * ratio + bias_var / grid - 1
    slack = _SLACK * np.finfo(float).eps
    sign = np.where(np.abs(h) <= slack, 0, np.sign(h))
    arguments = (activation, jnp.asarray(float(weight_var)), jnp.asarray(float(bias_var)))

    def height(q):
        return float(_growth(*arguments, jnp.asarray(q))[0])

    def root(low, high):
        return float(_refined_root(*arguments, jnp.asarray(low), jnp.asarray(high)))

    roots = []
    known = np.flatnonzero(sign)  # where h is within rounding of 0, its sign is noise
    for i, j in itertools.pairwise(known):
        if sign[i] != sign[j]:
            roots.append(root(grid[i], grid[j]))
    for i in range(1, grid.size - 1):
        side = sign[i - 1]
        turns = side == sign[i + 1] and side * h[i] <= side * h[[i - 1, i + 1]].min()
        if side == 0 or side * sign[i] < 0 or not turns or abs(h[i]) > 0.03:
            continue
        wanted = jnp.asarray(True)
        ends = (jnp.asarray(grid[i - 1]), jnp.asarray(grid[i + 1]))
        bottom = float(_found_extremum(*arguments, *ends, jnp.asarray(float(side)), wanted))
        if abs(height(bottom)) <= slack:
            roots.append(bottom)
        elif side * height(bottom) < 0:
            roots += [root(grid[i - 1], bottom), root(bottom, grid[i + 1])]
    return sorted(roots)


_growth = jax.jit(growth, static_argnums=0)
_refined_root = jax.jit(refined_root, static_argnums=0)
_found_extremum = jax.jit(_extremum, static_argnums=0)


def _iterated_attractor(activation, weight_var, bias_var, variance0):
    """For a map that is not increasing: follow the network itself, then polish by Newton."""
    eps = np.asarray(np.finfo(variance0.dtype).eps, variance0.dtype)
    least = np.asarray(np.finfo(variance0.dtype).tiny ** 0.5, variance0.dtype)

    def layer(q):
        return weight_var * single.mean_square(activation, q) + bias_var

    def unfinished(state):
        layers, q, change = state
        return (layers < _MOST_LAYERS) & (change > 4 * eps) & (q > least) & (q < 1 / least)

    def step(state):
        layers, q, _ = state
        after = layer(q)
        return layers + 1, after, jnp.abs(after - q) / jnp.maximum(after, least)

    state = (jnp.zeros((), jnp.int32), layer(variance0), jnp.ones_like(variance0))
    layers, q, _ = jax.lax.while_loop(unfinished, step, state)
    dies, explodes = q <= least, q >= 1 / least
    inner = jnp.clip(q, least, 1 / least)
    slope = weight_var * single.mean_square_slope(activation, inner)
    polished = inner - (inner - layer(inner)) / (1 - slope)
    status = jnp.where(layers < _MOST_LAYERS, VarianceStatus.FINITE, VarianceStatus.NOT_CONVERGED)
    if limits(activation).at_zero == 0.0:
        status = jnp.where(dies & (bias_var == 0), VarianceStatus.ZERO, status)
    status = jnp.where(explodes, VarianceStatus.UNBOUNDED, status)
    value = jnp.where(status == VarianceStatus.FINITE, polished, q)
    value = jnp.where(status == VarianceStatus.ZERO, 0.0, value)
    value = jnp.where(status == VarianceStatus.UNBOUNDED, jnp.inf, value)
    status = jnp.where(jnp.isnan(q), VarianceStatus.UNRESOLVED, status)
    return jnp.where(status == VarianceStatus.NOT_CONVERGED, jnp.nan, value), status
