r"""Kernels of infinitely wide networks: of their outputs at initialisation, and of their training.

In NTK parameterisation, D affine layers, every weight and bias trained:

    K¹ = σ_w² x·x'/d + σ_b²,   Θ¹ = K¹,
    A = α² σ_w² E[φ(u) φ(v)] + σ_b²,   χ = α² σ_w² E[φ'(u) φ'(v)],   (u, v) ~ N(0, K^l),
    K^{l+1} = k K^l + A,   Θ^{l+1} = (k + χ) Θ^l + A,

with k = 0 for plain layers (Lee et al. 2018; Jacot, Gabriel and Hongler 2018, theorem 1) and k = 1
for residual ones, z^{l+1} = z^l + α W φ(z^l) + b (Huang et al. 2020).
"""

import functools
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from sigprop import activations
from sigprop._checks import (
    check_finite,
    check_known,
    check_non_negative,
    check_whole_number,
    of_variances,
)
from sigprop._derivatives import refused, with_value
from sigprop._loops import map_one_by_one, scan
from sigprop._precision import ambient_arrays, exact_float64, is_traced
from sigprop.activations import Activation
from sigprop.architecture import Architecture
from sigprop.gaussian import covariances, resolution, single
from sigprop.gaussian.limits import limits
from sigprop.gaussian.terms import breaks, most_variance, order_at_zero, slope_jumps
from sigprop.gaussian.unresolved import warn_unresolved
from sigprop.theory.first_layer import first_layer, turned_by_bias
from sigprop.theory.kernels_of_kinds import kernels_of_kinds, symmetric
from sigprop.theory.maps import ActivationLike, Theory
from sigprop.theory.statuses import TheoryStatus

__all__ = ["Kernels", "kernels"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Kernels:
    """Kernel matrices between two sets of inputs, (n, m).

    Attributes
    ----------
    nngp
        K^D: covariance of one output unit over initialisations.
    ntk
        Θ^D: product of the gradients of one output unit by all parameters.
    status
        `TheoryStatus`; of an architecture without theory both are nan.
    """

    nngp: Theory
    ntk: Theory
    status: int = field(default=TheoryStatus.OK, metadata={"static": True})


@of_variances
def kernels(
    activation: ActivationLike | Architecture,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    depth: int | None = None,
    weight_var: ArrayLike | None = None,
    bias_var: ArrayLike | None = None,
    block: str = "plain",
    branch_scale: ArrayLike = 1.0,
) -> Kernels:
    """NNGP and NTK of a network of ``depth`` affine layers, in NTK parameterisation.

    Parameters
    ----------
    activation
        A name, a callable or an `Activation`; or an `Architecture`, of any kinds, which says all
        that is left out then: its kernels are those of z^depth, with gains and shifts of norms
        held where they start and dropout off (weight norm: for inputs of many features).
    x1, x2
        Inputs, (n, d) and (m, d), or (d,) for one; ``x2`` is ``x1`` if None.
    depth
        Affine layers D >= 1; 1 is a linear model.
    weight_var, bias_var
        σ_w² and σ_b² >= 0, scalars.
    block
        "plain" or "residual".
    branch_scale
        α >= 0 of residual layers, a scalar.

    Returns
    -------
    `Kernels`, float64 when called eagerly; inf beyond the numbers. Without ``x2`` the diagonal is a
    variance, and half the entries are computed.

    First and second derivatives by every number and input are exact, also where inputs coincide,
    oppose each other or vanish. Where φ' jumps, E[φ'(u) φ'(v)] is a cone where u = ±v: there the
    first derivatives of Θ leave the cone out, as that of |x| does at 0, and the second are nan.
    Where φ has a kink at 0 and an input vanishes (and σ_b² = 0), derivatives by it are not finite.

    Raises
    ------
    ValueError
        For shapes that do not fit, values out of range, an unknown block.

    Examples
    --------
    >>> found = kernels("relu", [1.0, 2.0], [[1.0, 0.0], [2.0, 4.0]], depth=1,
    ...                 weight_var=2.0, bias_var=0.0)
    >>> found.nngp.round(12).tolist(), found.ntk.round(12).tolist()
    ([[1.0, 10.0]], [[1.0, 10.0]])
    >>> deep = kernels("relu", [1.0, 1.0], depth=4, weight_var=2.0, bias_var=0.0)
    >>> deep.nngp.round(12).tolist(), deep.ntk.round(12).tolist()  # L times the NNGP
    ([[2.0]], [[8.0]])
    """
    if isinstance(activation, Architecture):
        if not (depth is None and weight_var is None and bias_var is None and block == "plain"):
            raise ValueError("depth, weight_var, bias_var and block are the architecture's own")
        usual = activation.layer is None and activation.norm in (None, "weight_norm")
        if usual and not activation.grid_shape:
            return _of_usual_layers(activation, x1, x2)
        rows, columns = _inputs(x1, x2)
        nngp, ntk, status = kernels_of_kinds(activation, rows, columns)
        return Kernels(nngp, ntk, status)
    if depth is None or weight_var is None or bias_var is None:
        raise ValueError("depth, weight_var and bias_var must be given beside an activation")
    depth = check_whole_number("depth", depth)
    kind = activations.get(activation)
    check_known("block", block, ("plain", "residual"))
    numbers = {"weight_var": weight_var, "bias_var": bias_var, "branch_scale": branch_scale}
    x2 = None if x2 is x1 else x2
    for name, value in numbers.items():
        check_non_negative(name, value)
        if np.ndim(value):  # type: ignore[arg-type]
            raise ValueError(f"{name} must be a scalar, got shape {np.shape(value)}")  # type: ignore[arg-type]
    inputs = _inputs(x1, x2)
    arguments = (*inputs, *numbers.values())
    if is_traced(arguments):
        return _kernels(kind, depth, block == "residual", None, *_ambient(*arguments))
    return _eager(kind, depth, block == "residual", *arguments)


def _of_usual_layers(net: Architecture, x1, x2) -> Kernels:
    """By the recursion below, whose derivatives hold where inputs coincide."""
    numbers = {"depth": net.depth, "weight_var": net.weight_var, "bias_var": net.bias_var}
    if net.block == "residual":
        numbers |= {"block": "residual", "branch_scale": net.branch_scale}
    return kernels(net.activation, x1, x2, **numbers)


def _inputs(x1, x2):
    rows = []
    for name, x in (("x1", x1), ("x2", x2)):
        if x is None:
            return rows[0], None
        check_finite(name, x)
        x = x if is_traced(x) else np.asarray(x)
        if x.ndim not in (1, 2) or 0 in x.shape:
            raise ValueError(f"{name} must have shape (inputs, features), got {x.shape}")
        rows.append(x[None] if x.ndim == 1 else x)
    if rows[0].shape[1] != rows[1].shape[1]:
        shapes = rows[0].shape[1], rows[1].shape[1]
        raise ValueError(f"x1 and x2 must have equally many features, got {shapes[0]}, {shapes[1]}")
    return rows


def _ambient(x1, x2, *numbers):
    given = (x1, *numbers) if x2 is None else (x1, *numbers, x2)
    x1, *found = ambient_arrays(*given)
    return x1, None if x2 is None else found[-1], *found[: len(numbers)]


@exact_float64
def _eager(kind: Activation, depth: int, skip: bool, *given) -> Kernels:
    x1, x2, *numbers = (None if a is None else jnp.asarray(np.asarray(a, float)) for a in given)
    rows = jnp.concatenate([x for x in (x1, x2) if x is not None])
    nodes = _nodes(kind, depth, skip, rows, *numbers)
    return jax.tree.map(np.asarray, _kernels(kind, depth, skip, nodes, x1, x2, *numbers))


def _nodes(kind: Activation, depth: int, skip: bool, x, weight_var, bias_var, scale):
    """How many the largest variance on the way needs; None for panels. Warns of unresolved ones."""
    numbers = weight_var, bias_var, scale
    variances = _variances(kind, depth, skip, x, *numbers)[0]
    warn_unresolved(kind, variances, stacklevel=7)
    largest = float(jnp.max(variances))
    return resolution.uniform_nodes(kind, largest) if np.isfinite(largest) else None


# ---------------------------------------------------------------------------- the recursion


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _kernels(kind, depth, skip, nodes, x1, x2, weight_var, bias_var, scale) -> Kernels:
    """Of x1 with x2, or, with its exact diagonal and half the work, with itself if x2 is None."""
    numbers = weight_var, bias_var, scale
    if x2 is not None:
        rows, columns = (a.ravel() for a in np.indices((len(x1), len(x2))))
        found = _cells(kind, depth, skip, nodes, x1, x2, rows, columns, *numbers)
        return jax.tree.map(lambda values: values.reshape(len(x1), len(x2)), found)
    pairs = _cells(kind, depth, skip, nodes, x1, x1, *np.triu_indices(len(x1), 1), *numbers)
    return jax.tree.map(symmetric, _diagonal(kind, depth, skip, x1, *numbers), pairs)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _variances(kind, depth, skip, x, weight_var, bias_var, scale):
    """K of every input with itself, layer by layer, and E[φ²] of it; (depth, inputs)."""

    def layer(q, _):
        square = jax.vmap(functools.partial(_square, kind))(q)
        after = scale**2 * weight_var * square + bias_var
        return (q + after if skip else after), (q, square)

    start = weight_var * jnp.mean(x * x, axis=1) + bias_var
    return scan(layer, start, length=depth)[1]


def _diagonal(kind, depth, skip, x, weight_var, bias_var, scale) -> Kernels:
    variances, squares = _variances(kind, depth, skip, x, weight_var, bias_var, scale)
    gain = scale**2 * weight_var

    def layer(ntk, at):
        q, square = at
        slope = single.gained(gain, jax.vmap(functools.partial(_slope, kind))(q))
        return _passed(slope, ntk, skip) + gain * square + bias_var, None

    ntk, _ = scan(layer, variances[0], (variances[:-1], squares[:-1]))
    nngp = variances[-1]
    if 0.0 in breaks(kind):  # K(x, x) itself jumps, or is endlessly steep, where x vanishes
        gone = (variances[0] == 0)[:, None]
        broken = jnp.sum(refused(x, gone, 1) - x, axis=1)
        nngp, ntk = nngp + broken, ntk + broken
    return Kernels(nngp, ntk)


def _square(kind, q):
    """E[φ²], beyond the numbers as well."""
    most = most_variance(q.dtype)
    square = single.mean_square(kind, with_value(q, jnp.minimum(q, most)))
    if limits(kind).square_infinity == 0.0:
        return square
    return square * jnp.where(q > most, q / most, 1.0)  # φ is straight


def _slope(kind, q):
    return single.slope_square(kind, with_value(q, jnp.minimum(q, most_variance(q.dtype))))


def _passed(slope, ntk, skip):
    """What a layer leaves of Θ, beyond the range of the dtype too."""
    passed = jnp.where((slope == 0) & ~jnp.isfinite(ntk), 0.0, slope * ntk)
    return ntk + passed if skip else passed


def _cells(kind, depth, skip, nodes, x1, x2, rows, columns, *numbers) -> Kernels:
    """Of the pairs (x1[row], x2[column])."""
    paths = [_variances(kind, depth, skip, x, *numbers) for x in (x1, x2)]

    def cell(place):
        row, column = place
        along = [[a[:, i] for a in path] for path, i in zip(paths, place)]
        return _pair(kind, skip, nodes, x1[row], x2[column], *along, *numbers)

    return map_one_by_one(cell, (jnp.asarray(rows), jnp.asarray(columns)))


def _pair(kind, skip, nodes, x_a, x_b, along_a, along_b, weight_var, bias_var, scale) -> Kernels:
    """K^D and Θ^D of one pair of inputs, whose variances and E[φ²] along the layers are known."""
    gain = scale**2 * weight_var
    # Equal to the last digit, whatever the compiler made of both.
    alike = jnp.all(x_a == x_b) | jnp.all(x_a == -x_b)
    along_b = [with_value(b, jnp.where(alike, a, b)) for a, b in zip(along_a, along_b)]
    start = along_a[0][0], along_b[0][0], weight_var, bias_var
    order = 1 if 0.0 in breaks(kind) else order_at_zero(kind)
    first = first_layer(order, x_a, x_b, *start)
    bias = covariances.constant(bias_var)

    def layer(cell, at):
        branch = covariances.through(kind, cell, at[:2], nodes)
        added = covariances.total(covariances.scaled(gain, branch), bias)
        following = covariances.total(added, cell) if skip else added
        following = following._replace(a=at[2], b=at[3])
        value = covariances.covariance_value(following)
        following = following._replace(covariance=with_value(following.covariance, value))
        return following, (cell, added.covariance)

    def tangents(ntk, at):
        cell, added = at
        slope = single.gained(gain, covariances.slope(kind, cell, nodes))
        return _passed(slope, ntk, skip) + added, None

    (q_a, square_a), (q_b, square_b) = along_a, along_b
    last, cells = scan(layer, first, (square_a[:-1], square_b[:-1], q_a[1:], q_b[1:]))
    # In a loop of its own: Θ has fewer derivatives than K where φ has a kink.
    start = first.covariance
    if slope_jumps(kind):
        start = start + turned_by_bias(first, x_a, x_b, bias_var)
    ntk, _ = scan(tangents, start, cells)
    return Kernels(last.covariance, ntk)
