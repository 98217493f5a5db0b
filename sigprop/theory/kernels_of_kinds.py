r"""NNGP and NTK of any composition of kinds.

Let weights of two copies of a network have covariances 1 + t times their variances. The copies'
outputs on two inputs then have a covariance K(t), and K'(0) is the expected product of the outputs'
gradients by all weights (Price 1958, once more): the NTK. Every mix adds t times the covariance it
gives, a bias σ_b² t; layers pass on what came before by the derivative of their covariance map.
Gains and shifts of norms are held where they start.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sigprop._derivatives import refused, with_value
from sigprop._loops import map_one_by_one, scan
from sigprop._precision import ambient_arrays, exact_float64, is_traced
from sigprop.architecture import Architecture
from sigprop.gaussian.terms import slope_jumps
from sigprop.kinds import Composition, Gauss, Kind, NoTheory, State, compose
from sigprop.theory.first_layer import first_layer, turned_by_bias
from sigprop.theory.node_counts import activations_in, nodes_for_all
from sigprop.theory.statuses import TheoryStatus

__all__ = ["kernels_of_kinds", "symmetric"]


@dataclass(frozen=True)
class _Trained(Gauss):
    """Adds what the draws contribute, times t."""

    t: Any = None

    def mixed(self, state: State, weight_var) -> State:
        after = super().mixed(state, weight_var)
        return replace(after, copies=after.copies - self.t * _covariance(after))

    def biased(self, state: State, bias_var) -> State:
        after = super().biased(state, bias_var)
        return replace(after, copies=after.copies - self.t * bias_var)


def _covariance(state: State) -> Array:
    """Of an input and a copy of itself, or of two inputs."""
    if state.alike:
        return state.variance[None]
    return state.sizes("cross") * (1 - state.cross)


def kernels_of_kinds(architecture: Architecture, x1, x2=None) -> tuple[Any, Any, TheoryStatus]:
    """Both kernels of z^depth, (n, m), and a `TheoryStatus`; dropout is off, x2 is x1 if None."""
    if architecture.grid_shape:
        raise ValueError(
            f"architecture must be one network, got a grid of shape {architecture.grid_shape}"
        )
    numbers = {n: v for n, v in architecture.all_numbers.items() if n != "dropout"}
    made = compose(architecture.with_numbers(dropout=0.0))
    numbers["dropout"] = 0.0  # for a layer of one's own that has it
    inputs = (x1,) if x2 is None else (x1, x2)
    given = (*inputs, *numbers.values())
    try:
        if made.layer.couples_inputs:
            raise NoTheory("kernels of two inputs need a layer that takes them one by one")
        if is_traced(given):
            arrays = ambient_arrays(*given)
            x1, x2 = arrays[0], None if x2 is None else arrays[1]
            values = dict(zip(numbers, arrays[len(inputs) :]))
            found = _compiled(made, Gauss(), architecture.depth, x1, x2, values)
        else:
            found = _eager(made, architecture.depth, inputs, numbers)
    except NoTheory:
        nothing = np.full((len(x1), len(inputs[-1])), np.nan)
        return nothing, nothing, TheoryStatus.NO_THEORY
    nngp, ntk = found
    return nngp, ntk, TheoryStatus.OK


@exact_float64
def _eager(made: Composition, depth: int, inputs, numbers):
    inputs = [jnp.asarray(np.asarray(x, float)) for x in inputs]
    numbers = {name: jnp.asarray(float(value)) for name, value in numbers.items()}
    sizes = np.concatenate([np.mean(np.square(x), axis=1) for x in inputs])
    start = sizes * float(numbers["weight_var"]) + float(numbers["bias_var"])
    cells = {n: np.full(start.shape, float(v)) for n, v in numbers.items()}
    gauss = Gauss(nodes_for_all(made.layer, depth, {**cells, "variance0": start}))
    x1, x2 = (*inputs, None)[:2]
    return [np.asarray(k) for k in _compiled(made, gauss, depth, x1, x2, numbers)]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(made: Composition, gauss: Gauss, depth: int, x1, x2, numbers):
    """Of x1 with x2, or with itself if x2 is None."""

    def variances(x):
        return numbers["weight_var"] * jnp.mean(jnp.square(x), axis=1) + numbers["bias_var"]

    others = x1 if x2 is None else x2
    sizes = variances(x1), variances(others)

    def pair(place):
        row, column = place
        inputs = x1[row], others[column], sizes[0][row], sizes[1][column]
        return _pair(made, gauss, depth, numbers, *inputs)

    if x2 is not None:
        rows, columns = np.indices((len(x1), len(x2))).reshape(2, -1)
        found = map_one_by_one(pair, (jnp.asarray(rows), jnp.asarray(columns)))
        return tuple(kernel.reshape(len(x1), len(x2)) for kernel in found)
    above = map_one_by_one(pair, tuple(map(jnp.asarray, np.triu_indices(len(x1), 1))))
    own = map_one_by_one(functools.partial(_own, made, gauss, depth, numbers), sizes[0])
    return tuple(symmetric(*entries) for entries in zip(own, above))


def symmetric(own: Float[Array, " n"], above: Float[Array, " pairs"]) -> Float[Array, "n n"]:
    """The matrix of a diagonal and of the entries above it, row by row."""
    n, upper = len(own), np.triu_indices(len(own), 1)
    matrix = jnp.zeros((n, n), own.dtype).at[np.diag_indices(n)].set(own)
    return matrix.at[upper].set(above).at[upper[::-1]].set(above)


def _own(made: Composition, gauss: Gauss, depth: int, numbers, variance):
    """K and Θ of an input and itself: of a variance, which no angle knows of."""
    variance = refused(variance, variance == 0, 1)
    return _passed(made, gauss, depth, numbers, State.of(variance), variance)


def _pair(made: Composition, gauss: Gauss, depth: int, numbers, x_a, x_b, q_a, q_b):
    """K and Θ of one pair of inputs, whose first layer has these variances."""
    alike = jnp.all(x_a == x_b) | jnp.all(x_a == -x_b)
    q_b = with_value(q_b, jnp.where(alike, q_a, q_b))
    affine = numbers["weight_var"], numbers["bias_var"]
    # Of kinds at large: none is known to be smooth where an input vanishes.
    first = first_layer(1, x_a, x_b, q_a, q_b, *affine)
    turned = turned_by_bias(first, x_a, x_b, affine[1]) if _cornered(made.layer) else 0.0
    root = jnp.sqrt(q_a) * jnp.sqrt(q_b)
    some = root > 0
    apart = with_value(1 - first.covariance / jnp.where(some, root, 1.0), first.apart)

    z = State.of(jnp.stack([q_a, q_b]), jnp.where(some, apart, 1.0))
    return _passed(made, gauss, depth, numbers, z, first.covariance + turned)


def _passed(made: Composition, gauss: Gauss, depth: int, numbers, first: State, ntk):
    """K and Θ of z^depth by those of z¹."""

    def lacking(t) -> tuple[Array, Array]:
        trained = _Trained(gauss.nodes, t=t)
        own = first.lacking().cross if len(first.cross) else jnp.zeros_like(first.variance[None])
        z = replace(first, copies=own - t * ntk)

        def layer(z, _):
            return trained.settled(made.layer.covariance(trained, z, numbers)), None

        z, _ = scan(layer, z, length=depth - 1)
        return z.copies[0, 0, 0], _covariance(z)[0, 0, 0]

    zero = jnp.zeros_like(ntk)
    _, slope, nngp = jax.jvp(lacking, (zero,), (jnp.ones_like(zero),), has_aux=True)
    return nngp, -slope


def _cornered(layer: Kind) -> bool:
    """Whether an activation in it has a slope that jumps."""
    return any(slope_jumps(activation) for activation in activations_in(layer))
