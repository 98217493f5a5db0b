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
from sigprop._precision import ambient_arrays, exact_float64, is_traced
from sigprop.activations import Activation
from sigprop.architecture import Architecture
from sigprop.gaussian import pair, resolution, single
from sigprop.theory.kernels_of_kinds import kernels_of_kinds
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
    `Kernels`, float64 when called eagerly; differentiable in every number and input.

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
        inputs = _inputs(x1, x1 if x2 is None else x2)
        nngp, ntk, status = kernels_of_kinds(activation, *inputs)
        return Kernels(nngp, ntk, status)
    if depth is None or weight_var is None or bias_var is None:
        raise ValueError("depth, weight_var and bias_var must be given beside an activation")
    depth = check_whole_number("depth", depth)
    kind = activations.get(activation)
    check_known("block", block, ("plain", "residual"))
    numbers = {"weight_var": weight_var, "bias_var": bias_var, "branch_scale": branch_scale}
    for name, value in numbers.items():
        check_non_negative(name, value)
        if np.ndim(value):  # type: ignore[arg-type]
            raise ValueError(f"{name} must be a scalar, got shape {np.shape(value)}")  # type: ignore[arg-type]
    inputs = _inputs(x1, x1 if x2 is None else x2)
    arguments = (*inputs, *numbers.values())
    if is_traced(arguments):
        return _kernels(kind, depth, block == "residual", None, *ambient_arrays(*arguments))
    return _eager(kind, depth, block == "residual", *(np.asarray(a, float) for a in arguments))


def _inputs(x1, x2):
    rows = []
    for name, x in (("x1", x1), ("x2", x2)):
        check_finite(name, x)
        x = x if is_traced(x) else np.asarray(x)
        if x.ndim not in (1, 2) or 0 in x.shape:
            raise ValueError(f"{name} must have shape (inputs, features), got {x.shape}")
        rows.append(x[None] if x.ndim == 1 else x)
    if rows[0].shape[1] != rows[1].shape[1]:
        shapes = rows[0].shape[1], rows[1].shape[1]
        raise ValueError(f"x1 and x2 must have equally many features, got {shapes[0]}, {shapes[1]}")
    return rows


@exact_float64
def _eager(kind: Activation, depth: int, skip: bool, *arrays) -> Kernels:
    nodes = _nodes(kind, depth, skip, *arrays)
    return jax.tree.map(np.asarray, _kernels(kind, depth, skip, nodes, *map(jnp.asarray, arrays)))


def _nodes(kind: Activation, depth: int, skip: bool, x1, x2, weight_var, bias_var, scale):
    """How many the largest variance on the way needs; None for panels."""
    both = jnp.asarray(np.concatenate([x1, x2]))
    start = weight_var * jnp.mean(both**2, axis=1) + bias_var
    largest = float(jnp.max(_variances(kind, depth, skip, start, weight_var, bias_var, scale)))
    return resolution.uniform_nodes(kind, largest) if np.isfinite(largest) else None


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _variances(kind, depth, skip, start, weight_var, bias_var, scale):
    def layer(q, _):
        square = jax.vmap(lambda v: single.mean_square(kind, v))(_positive(q))
        after = scale**2 * weight_var * square + bias_var
        return (q + after if skip else after), q

    return jax.lax.scan(layer, start, length=depth)[1]


# ---------------------------------------------------------------------------- the recursion


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _kernels(kind, depth, skip, nodes, x1, x2, weight_var, bias_var, scale) -> Kernels:
    q1, q2, apart = _first_layer(x1, x2, weight_var, bias_var)
    cell = functools.partial(_pair, kind, depth, skip, nodes, weight_var, bias_var, scale)
    shape = apart.shape
    cells = [a.ravel() for a in (q1, q2, apart)]
    nngp, ntk = jax.lax.map(lambda numbers: cell(*numbers), tuple(cells))
    return Kernels(nngp.reshape(shape), ntk.reshape(shape))


def _first_layer(x1, x2, weight_var, bias_var):
    """Variances, and 1 - c from a difference of unit vectors, so that it keeps its digits."""
    rows = []
    for x in (x1, x2):
        scaled = jnp.sqrt(weight_var / x.shape[1]) * x
        biases = jnp.broadcast_to(jnp.sqrt(bias_var), (len(x), 1)).astype(x.dtype)
        rows.append(jnp.concatenate([scaled, biases], axis=1))
    q1, q2 = (jnp.sum(v * v, axis=1) for v in rows)
    units = [
        v / jnp.sqrt(jnp.where(q > 0, q, jnp.ones_like(q)))[:, None] for v, q in zip(rows, (q1, q2))
    ]
    apart = jnp.sum(jnp.square(units[0][:, None] - units[1][None]), axis=-1) / 2
    apart = jnp.minimum(apart, 2)  # rounding must not take a correlation below -1
    both = (q1[:, None] > 0) & (q2[None] > 0)
    # Equal inputs to the last digit: chaos would amplify what rounding puts between them.
    same = jnp.all(x1[:, None] == x2[None], axis=-1)
    apart = jnp.where(both & ~same, apart, jnp.zeros_like(apart))
    q1, q2 = jnp.broadcast_arrays(q1[:, None], q2[None])
    return q1, q2 + jax.lax.stop_gradient(jnp.where(same, q1 - q2, 0.0)), apart


def _pair(kind, depth, skip, nodes, weight_var, bias_var, scale, q_a, q_b, e):
    """K^D and Θ^D of one pair of inputs."""
    gain = scale**2 * weight_var

    def layer(state, _):
        q_a, q_b, e, ntk = state
        a, b = _positive(q_a), _positive(q_b)
        slope = gain * pair.slope_product(kind, a, b, e, nodes)
        added_a, added_b = (gain * single.mean_square(kind, q) + bias_var for q in (a, b))
        lost = gain * _lost(kind, nodes, a, b, e)  # of the mean of both, to their covariance
        ntk = slope * ntk + (added_a + added_b) / 2 - lost
        if skip:
            ntk = ntk + state[3]
            lost = lost + (q_a + q_b) / 2 - jnp.sqrt(q_a) * jnp.sqrt(q_b) * (1 - e)
            added_a, added_b = added_a + q_a, added_b + q_b
        return (added_a, added_b, _apart(added_a, added_b, lost), ntk), None

    first = jnp.sqrt(q_a) * jnp.sqrt(q_b) * (1 - e)
    (q_a, q_b, e, ntk), _ = jax.lax.scan(layer, (q_a, q_b, e, first), length=depth - 1)
    return jnp.sqrt(q_a) * jnp.sqrt(q_b) * (1 - e), ntk


def _positive(q):
    """``q``, or where it is 0 the least number that integrals can be taken at."""
    return jnp.maximum(q, jnp.finfo(q.dtype).tiny)


def _lost(kind, nodes, q_a, q_b, e):
    """E[(φ(u) - φ(v))²]/2, without cancelling where both variances are one."""

    def equal():
        return pair.deficit(kind, q_a, e, nodes)

    def unequal():
        mean = (single.mean_square(kind, q_a) + single.mean_square(kind, q_b)) / 2
        return mean - pair.product(kind, q_a, q_b, e, nodes)

    return jax.lax.cond(q_a == q_b, equal, unequal)


def _apart(q_a, q_b, lost):
    """1 - c from (q_a + q_b)/2 - cov: √(q_a q_b) - cov = lost - (√q_a - √q_b)²/2."""
    size = jnp.sqrt(q_a) * jnp.sqrt(q_b)
    short = lost - jnp.square(jnp.sqrt(q_a) - jnp.sqrt(q_b)) / 2
    moves = size > 0
    return jnp.where(moves, jnp.clip(short / jnp.where(moves, size, 1.0), 0, 2), 0.0)
