"""Factors that are exactly 0, opened on the way back only.

A head, a residual branch or a low-rank factor that starts at 0 stops the gradient on purpose: the
first step of training opens it. To see what it hides, its product y = x w, w = 0, becomes
y + (x r - stop_gradient(x r)) with a fixed random r: the value stays 0, and the cotangent of y goes
on to x by r. Where a product with 0 is a factor itself (a norm's gain times the scale), so is x r.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sigprop.program.nodes import Node

__all__ = ["opened"]

_PRODUCTS = ("mul", "dot_general", "conv_general_dilated", "div")
_SUMS = ("add", "add_any", "sub")
_KEEPING = (
    "broadcast_in_dim", "convert_element_type", "copy", "expand_dims", "neg", "reduce_sum",
    "reshape", "rev", "slice", "squeeze", "transpose", "gather", "dynamic_slice",
)  # fmt: skip


def opened(
    node: Node,
    given: Sequence[Any],
    results: Sequence[Any],
    shadows: dict[int, Any],
    bound: Callable[[Node, Sequence[Any]], Sequence[Any]],
) -> Sequence[Any]:
    """The results of an operation, with the way back through a factor of 0 opened.

    ``shadows`` holds, by value, what stands for a value of 0; that of a result is added to it.
    """
    if not shadows or node.name not in (*_PRODUCTS, *_KEEPING, *_SUMS):
        return results
    own = [shadows.get(atom.value) if atom.value is not None else None for atom in node.inputs]
    if node.name in _SUMS:
        present = [shadow for shadow in own if shadow is not None]
        if present:  # a sum stays a 0 that hides something where all that is added is 0
            shadows[node.outputs[0]] = jnp.where(
                results[0] == 0, sum(present[1:], present[0]), jnp.zeros_like(results[0])
            )
        return results
    factors = own if node.name != "div" else own[:1]
    if all(shadow is None for shadow in factors):
        return results
    at = max(place for place, shadow in enumerate(factors) if shadow is not None)
    instead = list(given)
    instead[at] = jax.lax.stop_gradient(own[at])
    (other,) = bound(node, instead)
    shadows[node.outputs[0]] = jax.lax.stop_gradient(other)
    if node.name in _KEEPING:
        return results
    return [results[0] + (other - jax.lax.stop_gradient(other))]
