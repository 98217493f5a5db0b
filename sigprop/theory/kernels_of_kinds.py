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
from jaxtyping import Array

from sigprop._loops import map_one_by_one, scan
from sigprop._precision import ambient_arrays, exact_float64, is_traced
from sigprop.architecture import Architecture
from sigprop.kinds import Composition, Gauss, NoTheory, State, compose
from sigprop.theory.node_counts import nodes_for_all
from sigprop.theory.statuses import TheoryStatus

__all__ = ["kernels_of_kinds"]


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
    return state.sizes("cross") * (1 - state.cross)


def kernels_of_kinds(architecture: Architecture, x1, x2) -> tuple[Any, Any, TheoryStatus]:
    """Both kernels of z^depth, (n, m), and a `TheoryStatus`; dropout is off."""
    if architecture.grid_shape:
        raise ValueError(
            f"architecture must be one network, got a grid of shape {architecture.grid_shape}"
        )
    numbers = {n: v for n, v in architecture.all_numbers.items() if n != "dropout"}
    made = compose(architecture.with_numbers(dropout=0.0))
    numbers["dropout"] = 0.0  # for a layer of one's own that has it
    given = (x1, x2, *numbers.values())
    try:
        if made.layer.couples_inputs:
            raise NoTheory("kernels of two inputs need a layer that takes them one by one")
        if is_traced(given):
            x1, x2, *values = ambient_arrays(*given)
            found = _compiled(made, Gauss(), architecture.depth, x1, x2, dict(zip(numbers, values)))
        else:
            found = _eager(made, architecture.depth, x1, x2, numbers)
    except NoTheory:
        nothing = np.full((len(x1), len(x2)), np.nan)
        return nothing, nothing, TheoryStatus.NO_THEORY
    nngp, ntk = found
    return nngp, ntk, TheoryStatus.OK


@exact_float64
def _eager(made: Composition, depth: int, x1, x2, numbers):
    x1, x2 = (jnp.asarray(np.asarray(x, float)) for x in (x1, x2))
    numbers = {name: jnp.asarray(float(value)) for name, value in numbers.items()}
    sizes = np.concatenate([np.mean(np.square(x), axis=1) for x in (x1, x2)])
    start = sizes * float(numbers["weight_var"]) + float(numbers["bias_var"])
    cells = {n: np.full(start.shape, float(v)) for n, v in numbers.items()}
    gauss = Gauss(nodes_for_all(made.layer, depth, {**cells, "variance0": start}))
    return [np.asarray(k) for k in _compiled(made, gauss, depth, x1, x2, numbers)]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(made: Composition, gauss: Gauss, depth: int, x1, x2, numbers):
    sizes = [jnp.mean(jnp.square(x), axis=1) for x in (x1, x2)]
    units = [x / jnp.sqrt(jnp.where(m > 0, m, 1.0))[:, None] for x, m in zip((x1, x2), sizes)]
    apart = jnp.mean(jnp.square(units[0][:, None] - units[1][None]), axis=-1) / 2
    some = (sizes[0] > 0)[:, None] & (sizes[1] > 0)
    apart = jnp.where(some, jnp.minimum(apart, 2), 0.0)
    cells = jnp.broadcast_arrays(sizes[0][:, None], sizes[1][None], apart)
    pair = functools.partial(_pair, made, gauss, depth, numbers)
    found = map_one_by_one(lambda cell: pair(*cell), tuple(a.ravel() for a in cells))
    return tuple(kernel.reshape(apart.shape) for kernel in found)


def _pair(made: Composition, gauss: Gauss, depth: int, numbers, size_a, size_b, apart):
    """K and Θ of one pair of inputs of these mean squares and this 1 - cosine."""

    def lacking(t) -> tuple[Array, Array]:
        trained = _Trained(gauss.nodes, t=t)
        x = replace(State.of(jnp.stack([size_a, size_b]), apart), law="any")
        x = replace(x, copies=x.lacking().cross)
        z = trained.settled(made.first.covariance(trained, x, numbers))

        def layer(z, _):
            return trained.settled(made.layer.covariance(trained, z, numbers)), None

        z, _ = scan(layer, z, length=depth - 1)
        return z.copies[0, 0, 0], _covariance(z)[0, 0, 0]

    zero = jnp.zeros_like(size_a)
    _, slope, nngp = jax.jvp(lacking, (zero,), (jnp.ones_like(zero),), has_aux=True)
    return nngp, -slope
