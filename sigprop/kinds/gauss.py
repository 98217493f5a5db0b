"""Gaussian integrals of a signal: what an activation does to its moments, at digits that hold.

No kind integrates by itself. Near c = 1 and at kinks what two points lack is an integral of its
own (`gaussian.pair.deficit`), where E[φ²] - E[φ φ̂] would have lost its digits.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array

from sigprop import activations
from sigprop._derivatives import with_value
from sigprop._loops import map_one_by_one
from sigprop.activations import Activation
from sigprop.gaussian import covariances, normalised_batch, price, single
from sigprop.gaussian.limits import limits
from sigprop.kinds.state import Lacking, State

__all__ = ["Gauss", "cellwise"]

# Beyond these a variance is replaced by its bound where integrals are taken: φ is straight there.
_LEAST, _MOST = 1e-30, 1e30


def cellwise(fn: Callable, *arrays: Array) -> Array:
    """``fn`` of scalars over broadcast arrays, one cell after another.

    A cell's two-dimensional integral fills the cache by itself; cells run in sequence so that it
    stays there and that branches are taken per cell.
    """
    arrays = tuple(jnp.broadcast_arrays(*arrays))
    flat = [a.ravel() for a in arrays]
    shape = arrays[0].shape
    if flat[0].size == 0:
        return jnp.zeros(shape, arrays[0].dtype)
    if flat[0].size == 1:
        out = jax.tree.map(lambda a: a[None], fn(*(a[0] for a in flat)))
    else:
        out = map_one_by_one(lambda cell: fn(*cell), tuple(flat))
    return jax.tree.map(lambda a: a.reshape(shape + a.shape[1:]), out)


@dataclass(frozen=True)
class Gauss:
    """How integrals are taken, and what of the signal is given from outside.

    Attributes
    ----------
    nodes
        For activations that a uniform rule serves, how many it needs; panels for all others.
    batch
        Inputs a batch, where kinds couple them; very many if None.
    """

    nodes: tuple[tuple[Activation, int | None], ...] = ()
    batch: int | None = None

    def activated(self, activation: Activation, state: State) -> State:
        """φ(z), unit by unit, of a Gaussian signal or of one normalised over its batch."""
        if state.law == "batch":
            return normalised(activation, state)
        state.demand("gaussian", "what an activation does")
        inside = jnp.clip(state.variance, _LEAST, _MOST)
        stretch = _stretch(activation, state.variance, inside)
        square = cellwise(lambda q: self._squares(activation, q)[0], inside) * stretch
        if not state.uniform:
            return self._of_unequal(activation, state, square)
        bounded = replace(state, variance=inside)
        cross = self._deficit(activation, inside[None], state.cross) * stretch[None]
        copies = self._copies(activation, bounded, cross)
        lacking = Lacking(jnp.zeros_like(state.own), cross, copies)
        return state.becoming(square, lacking, law="any", fresh=False)

    def _of_unequal(self, activation: Activation, state: State, square: Array) -> State:
        """Of points of different variance: by variances and covariance, as kernels go."""
        after = replace(state, variance=square, law="any", fresh=False)
        after = replace(after, own=self._apart(activation, state, after, "own"))
        after = replace(after, cross=self._apart(activation, state, after, "cross"))
        return replace(after, copies=self._copies(activation, state, after.lacking().cross))

    def mixed(self, state: State, weight_var) -> State:
        """Behind drawn weights: Gaussian, and uncorrelated with all that came before."""
        if state.law == "batch":
            state = normalised(activations.get("linear"), state)
        return replace(state.scaled(weight_var), law="gaussian", fresh=True)

    def settled(self, state: State) -> State:
        """A signal that a layer passes on: Gaussian, or there is no theory for what comes next."""
        if state.law == "batch" and state.batch is None:  # of very many, Gaussian all the same
            state = replace(normalised(activations.get("linear"), state), law="gaussian")
        state.demand("gaussian", "what a layer does")
        return replace(state, fresh=False)

    def biased(self, state: State, bias_var) -> State:
        """With drawn biases added, which all inputs and places have in common."""
        return state.shifted(bias_var)

    def _apart(self, activation: Activation, state: State, after: State, which: str) -> Array:
        """1 - c of φ(z) and φ(ẑ), whose variances are those of ``after``."""
        apart = getattr(state, which)
        if which == "own" and state.places == 1:  # a point does not differ from itself
            return jnp.zeros_like(apart)
        nodes = dict(self.nodes).get(activation)

        def one(a, b, e, *squares):
            found = covariances.through(activation, _cell(a, b, e), squares, nodes)
            root = jnp.sqrt(squares[0]) * jnp.sqrt(squares[1])
            moves = (root > 0) & jnp.isfinite(root)
            kept = 1 - found.covariance / jnp.where(moves, root, 1.0)
            return jnp.where(moves, with_value(kept, found.apart), e)

        return cellwise(one, *state.ends(which), apart, *after.ends(which))

    def _squares(self, activation, q):
        return single.squares(activation, q, dict(self.nodes).get(activation))

    def _deficit(self, activation, q, e) -> Array:
        nodes = dict(self.nodes).get(activation)
        return cellwise(lambda q, e: price.deficit(activation, q, e, nodes), q, e)

    def _copies(self, activation, bounded: State, cross: Array) -> Array:
        """E[φ'(z) φ'(ẑ)] times a change of what they lack (Price)."""
        copies = bounded.copies
        if len(copies) == 0:
            return copies
        change = copies[:1] - jax.lax.stop_gradient(copies[:1])
        one = self._slopes(activation, bounded) * change
        if not bounded.alike:  # of two inputs, which lack as much as they do
            return cross + one
        others = jnp.zeros_like(copies[1:])
        if len(copies) == 2:
            variance = bounded.variance[None]
            others = self._deficit(activation, variance, copies[1:] / variance)
        return jnp.concatenate([one, others])

    def _slopes(self, activation, bounded: State) -> Array:
        """E[φ'(z) φ'(ẑ)] between all places of an input and its copy, or of two inputs."""
        nodes = dict(self.nodes).get(activation)
        a, b = bounded.ends("copies")
        if bounded.uniform:
            return cellwise(lambda q: self._squares(activation, q)[1], a)
        apart = bounded.own if bounded.alike else bounded.cross
        return cellwise(
            lambda a, b, e: covariances.slope(activation, _cell(a, b, e), nodes), a, b, apart
        )


def _cell(a, b, e) -> covariances.Cell:
    """Two points by variances and 1 - c."""
    covariance = jnp.sqrt(a) * jnp.sqrt(b) * (1 - e)
    return covariances.Cell(a, b, covariance, *jax.lax.stop_gradient((e, 2 - e)))


def _stretch(activation: Activation, q, inside):
    """E[φ²] at q over E[φ²] at the bound that stands in for q: φ is straight beyond the bounds."""
    ends = limits(activation)
    small = q / inside if ends.at_zero == 0.0 else jnp.ones_like(q)
    large = q / inside if ends.square_infinity != 0.0 else jnp.ones_like(q)
    return jnp.where(q < inside, small, large)


def normalised(activation: Activation, state: State) -> State:
    """φ of a Gaussian signal normalised over its batch of exchangeable inputs.

    A change X of the copies' covariance leaves a batch of B as c (1 - 11ᵀ/B - yyᵀ/B) X (...), with
    c = B/((B - 3) κ) and κ = Var z - Cov z over the batch: only X's part orthogonal to (1, ..., 1)
    is felt, its entries for one input less those for two.
    """
    found = normalised_batch.moments(activation, state.batch)
    share = 0.0 if state.batch is None else 1 / state.batch
    felt = state.variance[None] * state.cross  # κ
    per_kappa = (1.0 if state.batch is None else state.batch / (state.batch - 3)) / felt
    alike = per_kappa * (found.slope * (1 - share) - found.pulled * share)
    other = -per_kappa * (found.slope_product + found.pulled_product) * share
    square = jnp.full_like(state.variance, found.square)
    apart = found.square - found.product
    copies = state.copies
    if len(copies):
        change = copies[1:] - copies[:1]
        change = change - jax.lax.stop_gradient(change)  # 0; only its derivative is meant
        copies = jnp.concatenate([-alike * change, apart - other * change])
    return replace(
        state,
        variance=square,
        cross=jnp.full_like(state.cross, apart / found.square),
        copies=copies,
        law="any",
        fresh=False,
        batch=None,
    )
