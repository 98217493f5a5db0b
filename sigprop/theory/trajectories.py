"""Layer by layer: variance, correlation and gradient of an infinitely wide network.

Poole et al. 2016, eqs. 3-5; Schoenholz et al. 2017, eqs. 4-9.
"""

import functools
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from sigprop import activations
from sigprop._checks import check_non_negative, check_one_of, check_whole_number, of_variances
from sigprop._precision import ambient_arrays, exact_float64, is_traced
from sigprop.activations import Activation
from sigprop.architecture import Architecture
from sigprop.gaussian.normalised_batch import SMALLEST_BATCH
from sigprop.gaussian.unresolved import warn_unresolved
from sigprop.kinds import Dense, Gauss, Kind, NoTheory, Pointwise, Sequence, compose
from sigprop.theory.chunks import over_cells
from sigprop.theory.maps import ActivationLike, Theory, check_correlation
from sigprop.theory.node_counts import groups_of_cells
from sigprop.theory.recursion import layers
from sigprop.theory.statuses import TheoryStatus

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


@of_variances
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
    numbers = {"weight_var": weight_var, "bias_var": bias_var}
    for name, value in numbers.items():
        check_non_negative(name, value)
    kind = activations.get(activation)
    plain = Sequence(Pointwise(kind), Dense())
    return _told(kind, _trajectory(plain, Gauss(), depth, numbers, variance0, correlation0))


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
        What the network is; its numbers may be arrays. Weights of every distribution, and
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
    layer = compose(architecture, dropout_masks).layer
    if batch is not None:
        check_whole_number("batch", batch)
        if not layer.couples_inputs:
            raise ValueError(
                f"batch is for norm='batch_norm', got {batch} for a layer that has none"
            )
    gauss = Gauss(batch=batch)
    found = _trajectory(
        layer, gauss, architecture.depth, architecture.all_numbers, variance0, correlation0
    )
    return _told(architecture.activation, found)


def _told(kind: Activation, found: Trajectory) -> Trajectory:
    """``found``, with a warning if variances on the way are beyond what is resolved of φ."""
    if not is_traced(found.chi) and np.isnan(found.chi).any():
        warn_unresolved(kind, found.variance, stacklevel=4)
    return found


def _trajectory(
    layer: Kind, gauss: Gauss, depth: int, numbers, variance0, correlation0
) -> Trajectory:
    """Of all cells, eagerly in float64 or as the caller traces them."""
    cells = {**numbers, "variance0": variance0}
    check_non_negative("variance0", variance0)
    if correlation0 is not None:
        check_correlation("correlation0", correlation0)
        cells["correlation0"] = correlation0
    traced = is_traced(cells)
    arrays = ambient_arrays(*cells.values()) if traced else _float64(cells.values())
    arrays = (jnp if traced else np).broadcast_arrays(*arrays)
    shape, flat = arrays[0].shape, {n: a.ravel() for n, a in zip(cells, arrays)}
    degenerate = gauss.batch is not None and gauss.batch < SMALLEST_BATCH
    gauss = Gauss() if degenerate else gauss
    try:
        fields = (_traced if traced else _eager)(layer, gauss, depth, flat)
    except NoTheory:
        nothing = np.full((arrays[0].size, depth), np.nan)
        path = _shaped([nothing] * 3, shape, TheoryStatus.NO_THEORY)
        return replace(path, log_gradient=path.chi)
    if degenerate:
        return _shaped([f * np.nan for f in fields], shape, TheoryStatus.DEGENERATE)
    return _shaped(fields, shape)


def _float64(values) -> list[np.ndarray]:
    return [np.asarray(value, float) for value in values]


def _eager(layer: Kind, gauss: Gauss, depth: int, cells: dict):
    """Cells in groups that need equally many nodes for the largest variance they meet."""
    parts, order = [], []
    for nodes, members in groups_of_cells(layer, depth, cells):
        chunk = functools.partial(_chunk, layer, replace(gauss, nodes=nodes), depth, tuple(cells))
        parts.append(over_cells(chunk, [a[members] for a in cells.values()]))
        order.append(members)
    place = np.argsort(np.concatenate(order))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[place], *parts)


@exact_float64
def _chunk(layer, gauss, depth, names, *arrays):
    found = _compiled(layer, gauss, depth, dict(zip(names, map(jnp.asarray, arrays))))
    return jax.tree.map(np.asarray, found)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(layer, gauss, depth, cells):
    one = functools.partial(_one_cell, layer, gauss, depth)
    # With pairs, the 2-D integrals of a cell fill the cache by themselves.
    pairs = "correlation0" in cells and not layer.couples_inputs
    return jax.lax.map(one, cells) if pairs else jax.vmap(one)(cells)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _traced(layer, gauss, depth, cells):
    return jax.vmap(functools.partial(_one_cell, layer, gauss, depth))(cells)


def _one_cell(layer, gauss, depth, cell):
    """Variance, 1 - c and χ of every layer of one cell."""
    apart = 1 - cell["correlation0"] if "correlation0" in cell else None
    return layers(layer, gauss, depth, cell, cell["variance0"], apart)


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
