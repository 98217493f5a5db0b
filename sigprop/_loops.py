"""Loops in which functions keep their derivative rules, however often they are differentiated."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

__all__ = ["map_one_by_one", "scan"]


def scan(step: Callable, start, xs=None, length: int | None = None):
    """`jax.lax.scan`, whose second derivatives are right as well.

    JAX moves what does not change out of a loop that it differentiates in reverse, and forgets the
    `custom_jvp` rules in it on the way (seen in 0.10.2): a Hessian, forward over reverse, then
    differentiates the code instead. What stands under a condition of the loop's own it leaves be.
    """
    length = jax.tree.leaves(xs)[0].shape[0] if length is None else length

    def guarded(state, at):
        place, x = at
        form = []

        def leaves(state, x):
            found, tree = jax.tree.flatten(step(state, x)[1])
            form.append(tree)
            return found

        shapes = jax.eval_shape(leaves, state, x)

        def never(state, _):
            return state, jax.tree.unflatten(form[0], [jnp.zeros(s.shape, s.dtype) for s in shapes])

        return jax.lax.cond(place >= 0, step, never, state, x)

    return jax.lax.scan(guarded, start, (jnp.arange(length), xs), length)


def map_one_by_one(function: Callable, xs):
    """`jax.lax.map`, likewise."""
    return scan(lambda _, x: ((), function(x)), (), xs)[1]
