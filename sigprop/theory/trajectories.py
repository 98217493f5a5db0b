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
from sigprop._checks import check_non_negative, check_one_of, check_whole_number
from sigprop._precision import ambient_arrays, exact_float64, is_traced
from sigprop.activations import Activation
from sigprop.architecture import Architecture
from sigprop.theory.batch_norm import batch_norm_layers
from sigprop.theory.chunks import by_nodes, over_cells
from sigprop.theory.equilibrium import attractors
from sigprop.theory.maps import ActivationLike, Theory, check_correlation
from sigprop.theory.recursion import PLAIN, Numbers, Rule, layers
from sigprop.theory.statuses import TheoryStatus
from sigprop.theory.variance_roots import table

__all__ = ["Trajectory", "predict", "propagate"]


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
    numbers = _checked(Numbers(weight_var, bias_var, variance0, 0.0, 1.0, correlation0))
    return _cells(activations.get(activation), PLAIN, depth, numbers)


def predict(
    architecture: Architecture,
    *,
    variance0: ArrayLike = 1.0,
    correlation0: ArrayLike | None = None,
    batch: int | None = None,
    dropout_masks: str = "independent",
) -> Trajectory:
    r"""`propagate` for an `Architecture` with any block; the equations stand in ``recursion``.

    Parameters
    ----------
    architecture
        What the network is; its four numbers may be arrays. Weights of every distribution, and
        with rows normalised (``norm="weight_norm"``), have one infinite-width law.
    variance0, correlation0
        As for `propagate`. With batch norm they belong to every input and every pair of the batch;
        without ``correlation0`` the batch starts as alike as its layers leave it (with a skip
        connection, uncorrelated).
    batch
        Inputs B a batch, for batch norm only; None for the limit of many. B <= 3 has no finite
        squared gradient: nan, with status ``DEGENERATE``.
    dropout_masks
        "independent" or "shared": whether two inputs lose the same units.

    Returns
    -------
    A `Trajectory` of arrays (..., depth); its ``status`` is a `TheoryStatus`.

    Raises
    ------
    ValueError
        As for `propagate`, for a batch without batch norm, and for unknown masks.

    Examples
    --------
    >>> net = Architecture(depth=2, width=64, activation="relu", weight_var=2.0, bias_var=0.0)
    >>> predict(net).variance.tolist()
    [1.0, 1.0]
    >>> skip = Architecture(50, 64, "relu", 1.0, block="residual", branch_scale="1/sqrt(depth)")
    >>> round(float(np.exp(predict(skip).log_gradient[0])), 6)  # bounded: (1 + 0.5/50)^49
    1.628348
    >>> batch_norm = Architecture(9, 64, "relu", 1.0, norm="batch_norm")
    >>> round(float(np.exp(predict(batch_norm).gradient_rate)), 12)  # π/(π - 1)
    1.466942206924
    """
    check_one_of("dropout_masks", dropout_masks, ("independent", "shared"))
    shared = dropout_masks == "shared"
    if architecture.norm == "batch_norm":
        return _shaped(*batch_norm_layers(architecture, variance0, correlation0, batch, shared))
    if batch is not None:
        raise ValueError(f"batch is for norm='batch_norm', got {batch} with {architecture.norm!r}")
    rule = Rule(
        skip=architecture.block == "residual",
        before=architecture.norm in ("layer_norm", "rms_norm"),
        after=architecture.norm in ("post_layer_norm", "post_rms_norm"),
        shared_masks=shared,
    )
    numbers = Numbers(
        architecture.weight_var,
        architecture.bias_var,
        variance0,
        architecture.dropout,
        architecture.branch_scale,
        correlation0,
    )
    return _cells(architecture.activation, rule, architecture.depth, _checked(numbers))


def _checked(numbers: Numbers) -> Numbers:
    for name in ("weight_var", "bias_var", "variance0"):
        check_non_negative(name, getattr(numbers, name))
    if numbers.correlation0 is not None:
        check_correlation("correlation0", numbers.correlation0)
    arrays = (n if n is None or is_traced(n) else np.asarray(n, float) for n in numbers)
    return Numbers(*arrays)


def _cells(kind: Activation, rule: Rule, depth: int, numbers: Numbers) -> Trajectory:
    """All cells of one rule, eagerly in float64 or as the caller traces them."""
    if is_traced(numbers):
        arrays = jnp.broadcast_arrays(*ambient_arrays(*jax.tree.leaves(numbers)))
        return _shaped(_traced(kind, rule, depth, *map(jnp.ravel, arrays)), arrays[0].shape)
    arrays = np.broadcast_arrays(*jax.tree.leaves(numbers))
    return _shaped(_eager(kind, rule, depth, arrays), arrays[0].shape)


# ---------------------------------------------------------------------------- eager


def _eager(kind: Activation, rule: Rule, depth: int, arrays):
    """Cells in groups that need equally many nodes for the largest variance they meet."""
    flat = [np.ravel(a) for a in arrays]
    groups = by_nodes(kind, _largest_variance(kind, rule, Numbers(*flat)))
    parts = [_group(kind, rule, depth, nodes, [a[cells] for a in flat]) for nodes, cells in groups]
    order = np.argsort(np.concatenate([cells for _, cells in groups]))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *parts)


def _largest_variance(kind: Activation, rule: Rule, cells: Numbers) -> np.ndarray:
    """The largest that the activation sees at any layer, inf where that is not known."""
    start = np.asarray(cells.variance0)
    if rule.before:
        return np.ones_like(start)
    if rule.after:
        return np.maximum(start, 1.0)
    if rule.skip or not table(kind).increasing:
        return np.full_like(start, np.inf)
    # An increasing map takes q from q¹ to q* directly.
    limit, _ = attractors(kind, cells.weight_var / (1 - cells.dropout), cells.bias_var, start)
    return np.nan_to_num(np.maximum(limit, start), nan=np.inf)


def _group(kind, rule, depth, nodes, arrays):
    return over_cells(functools.partial(_chunk, kind, rule, depth, nodes), arrays)


@exact_float64
def _chunk(kind, rule, depth, nodes, *arrays):
    return jax.tree.map(np.asarray, _compiled(kind, rule, depth, nodes, *map(jnp.asarray, arrays)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _compiled(kind, rule, depth, nodes, *arrays):
    one = functools.partial(_one_cell, kind, rule, depth, nodes)
    if len(arrays) == len(
        Numbers._fields
    ):  # with pairs: 2-D integrals fill the cache by themselves
        return jax.lax.map(lambda cell: one(*cell), arrays)
    return jax.vmap(one)(*arrays)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _traced(kind, rule, depth, *arrays):
    return jax.vmap(functools.partial(_one_cell, kind, rule, depth, None))(*arrays)


def _one_cell(kind, rule, depth, nodes, *numbers):
    """Variance, 1 - c and χ of every layer of one cell."""
    return layers(kind, rule, depth, nodes, Numbers(*numbers))


# ---------------------------------------------------------------------------- the record


def _shaped(fields, shape, status=TheoryStatus.OK) -> Trajectory:
    """A `Trajectory` of the layers' variance, 1 - c and χ, with the cells' own shape."""
    variance, apart, chi = (leaf.reshape(shape + leaf.shape[1:]) for leaf in fields)
    xp = np if isinstance(chi, np.ndarray) else jnp
    with np.errstate(divide="ignore"):  # a slope of 0 is data
        log_chi = xp.log(chi[..., :-1])
    gains = xp.concatenate([log_chi, xp.zeros_like(chi[..., :1])], axis=-1)
    log_gradient = xp.flip(xp.cumsum(xp.flip(gains, -1), axis=-1), -1)
    steps = chi.shape[-1] - 1
    rate = log_gradient[..., 0] / steps if steps else xp.full_like(chi[..., 0], xp.nan)
    return Trajectory(
        variance=variance,
        correlation=1 - apart,
        one_minus_correlation=apart,
        chi=chi,
        log_gradient=log_gradient,
        gradient_rate=rate,
        status=status,
    )
