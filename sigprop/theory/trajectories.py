"""Layer by layer: variance, correlation and gradient of an infinitely wide network.

Poole et al. 2016, eqs. 3-5; Schoenholz et al. 2017, eqs. 4-9.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from sigprop import activations
from sigprop._checks import check_non_negative, check_whole_number
from sigprop._precision import ambient_arrays, exact_float64, is_traced
from sigprop.activations import Activation
from sigprop.architecture import Architecture
from sigprop.gaussian import pair, single
from sigprop.theory.chunks import by_nodes, over_cells
from sigprop.theory.equilibrium import attractors
from sigprop.theory.limits import limits
from sigprop.theory.maps import ActivationLike, Theory, check_correlation
from sigprop.theory.statuses import TheoryStatus
from sigprop.theory.variance_roots import table

__all__ = ["Trajectory", "predict", "propagate"]

# Beyond these a variance is replaced by its bound where integrals are taken: φ is straight there.
_LEAST, _MOST = 1e-30, 1e30


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trajectory:
    r"""What theory predicts for every layer; last axis ``layer``, index 0 is layer 1.

    Attributes
    ----------
    variance
        q^l.
    correlation, one_minus_correlation
        c^l and 1 - c^l of two inputs; nan if no ``correlation0`` was given.
    chi
        σ_w² E[φ'(z)²], z ~ N(0, q^l): what squared gradients gain from layer l + 1 to layer l.
    log_gradient
        ln E\|g^l\|² - ln E\|g^L\|², gradients with respect to pre-activations.
    gradient_rate
        (log_gradient of layer 1)/(L - 1), the mean of ln χ along the trajectory; nan for L = 1.
    status
        `TheoryStatus`.
    """

    variance: Theory
    correlation: Theory
    one_minus_correlation: Theory
    chi: Theory
    log_gradient: Theory
    gradient_rate: Theory
    status: int


def propagate(
    activation: ActivationLike,
    *,
    depth: int,
    weight_var: ArrayLike,
    bias_var: ArrayLike,
    variance0: ArrayLike = 1.0,
    correlation0: ArrayLike | None = None,
) -> Trajectory:
    """Variance, correlation and gradient of every layer of a plain network.

    Parameters
    ----------
    activation
        A name, a callable or an `Activation`.
    depth
        Layers L >= 1.
    weight_var, bias_var, variance0
        σ_w², σ_b² and q¹ (of both inputs), >= 0; arrays broadcast.
    correlation0
        c¹ of the two inputs in [-1, 1]; without it correlations are not computed.

    Returns
    -------
    A `Trajectory` of arrays (..., depth).

    Raises
    ------
    ValueError
        For a depth below 1, a negative or non-finite variance, a correlation outside [-1, 1].

    Examples
    --------
    >>> path = propagate("relu", depth=3, weight_var=1.0, bias_var=0.0, correlation0=0.0)
    >>> path.variance.tolist(), path.chi.tolist()
    ([1.0, 0.5, 0.25], [0.5, 0.5, 0.5])
    >>> round(float(path.gradient_rate), 12), round(float(np.log(0.5)), 12)
    (-0.69314718056, -0.69314718056)
    """
    depth = check_whole_number("depth", depth)
    for name, value in (("weight_var", weight_var), ("bias_var", bias_var)):
        check_non_negative(name, value)
    check_non_negative("variance0", variance0)
    kind = activations.get(activation)
    numbers = [weight_var, bias_var, variance0]
    if correlation0 is not None:
        check_correlation("correlation0", correlation0)
        numbers.append(correlation0)
    if is_traced(numbers):
        arrays = jnp.broadcast_arrays(*ambient_arrays(*numbers))
        return _shaped(_traced(kind, depth, *map(jnp.ravel, arrays)), arrays[0].shape)
    return _eager(kind, depth, np.broadcast_arrays(*(np.asarray(a, float) for a in numbers)))


def predict(
    architecture: Architecture,
    *,
    variance0: ArrayLike = 1.0,
    correlation0: ArrayLike | None = None,
) -> Trajectory:
    """`propagate` for an `Architecture`; `TheoryStatus` says whether its block has a theory.

    Examples
    --------
    >>> net = Architecture(depth=2, width=64, activation="relu", weight_var=2.0, bias_var=0.0)
    >>> predict(net).variance.tolist()
    [1.0, 1.0]
    """
    return propagate(
        architecture.activation,
        depth=architecture.depth,
        weight_var=architecture.weight_var,  # type: ignore[arg-type]
        bias_var=architecture.bias_var,  # type: ignore[arg-type]
        variance0=variance0,
        correlation0=correlation0,
    )


# ---------------------------------------------------------------------------- eager


def _eager(kind: Activation, depth: int, arrays) -> Trajectory:
    """Cells in groups that need equally many nodes for the largest variance they meet."""
    flat = [np.ravel(a) for a in arrays]
    limit, _ = attractors(kind, *flat[:3])
    largest = np.maximum(limit, flat[2])  # an increasing map takes q from q¹ to q* directly
    if not table(kind).increasing:
        largest = np.full_like(largest, np.inf)
    groups = by_nodes(kind, np.nan_to_num(largest, nan=np.inf))
    parts = [_group(kind, depth, nodes, [a[cells] for a in flat]) for nodes, cells in groups]
    order = np.argsort(np.concatenate([cells for _, cells in groups]))
    return _shaped(
        jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *parts), arrays[0].shape
    )


def _group(kind, depth, nodes, arrays):
    return over_cells(functools.partial(_chunk, kind, depth, nodes), arrays)


@exact_float64
def _chunk(kind, depth, nodes, *arrays):
    return jax.tree.map(np.asarray, _compiled(kind, depth, nodes, *map(jnp.asarray, arrays)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(kind, depth, nodes, *arrays):
    one = functools.partial(_one_cell, kind, depth, nodes)
    if len(arrays) == 4:  # a cell's two-dimensional integrals fill the cache by themselves
        return jax.lax.map(lambda cell: one(*cell), arrays)
    return jax.vmap(one)(*arrays)


def _shaped(fields, shape) -> Trajectory:
    """A `Trajectory` with the cells' own shape in place of one flat axis."""
    shaped = (leaf.reshape(shape + leaf.shape[1:]) for leaf in fields)
    return Trajectory(*(leaf if leaf.ndim else leaf[()] for leaf in shaped), status=TheoryStatus.OK)


# ---------------------------------------------------------------------------- the recursion


@functools.partial(jax.jit, static_argnums=(0, 1))
def _traced(kind, depth, *arrays):
    return jax.vmap(functools.partial(_one_cell, kind, depth, None))(*arrays)


def _one_cell(kind, depth, nodes, weight_var, bias_var, variance0, correlation0=None):
    """The fields of a `Trajectory` for one cell."""

    def layer(state, _):
        q, e = state
        inside = jnp.clip(q, _LEAST, _MOST)
        square, slope = single.squares(kind, inside, nodes)
        after = weight_var * square * _stretch(kind, q, inside) + bias_var
        following = e
        if correlation0 is not None:
            lost = pair.deficit(kind, inside, e, nodes) * _stretch(kind, q, inside)
            moves = (after > 0) & jnp.isfinite(after)
            following = jnp.where(moves, weight_var * lost / jnp.where(moves, after, 1.0), e)
        return (after, following), (q, e, weight_var * slope)

    apart = jnp.full_like(variance0, jnp.nan) if correlation0 is None else 1 - correlation0
    _, (variance, e, chi) = jax.lax.scan(layer, (variance0, apart), length=depth)
    gains = jnp.concatenate([jnp.log(chi[:-1]), jnp.zeros_like(chi[:1])])
    log_gradient = jnp.cumsum(gains[::-1])[::-1]
    rate = log_gradient[0] / (depth - 1) if depth > 1 else jnp.full_like(variance0, jnp.nan)
    return variance, 1 - e, e, chi, log_gradient, rate


def _stretch(kind: Activation, q, inside):
    """E[φ²] at q over E[φ²] at the bound that stands in for q: φ is straight beyond the bounds."""
    ends = limits(kind)
    small = q / inside if ends.at_zero == 0.0 else jnp.ones_like(q)
    large = q / inside if ends.square_infinity != 0.0 else jnp.ones_like(q)
    return jnp.where(q < inside, small, large)
