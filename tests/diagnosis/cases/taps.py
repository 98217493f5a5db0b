"""Places in a model at which truth asks for the gradient.

A model of the table calls `tap` on what passes; it gets back what it gave, so that nobody else sees
anything of it. While truth is measured, a zero is added of which the gradient is taken.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["gradients_at_taps", "tap"]

_watching: Callable[[str, Any, str | None], Any] | None = None


def tap(name: str, value: Any, over: str | None = None) -> Any:
    """The value. ``name`` is "path:first", "path:last", or "path:steps" (time is axis 1).

    ``over`` names the axis of a `vmap` that this runs in.
    """
    return value if _watching is None else _watching(name, value, over)


def gradients_at_taps(loss: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """∂loss/∂value for every tap the loss passes."""
    shapes: dict[str, jax.ShapeDtypeStruct] = {}

    def collect(name, value, over):
        size = () if over is None else (jax.lax.axis_size(over),)
        shapes[name] = jax.ShapeDtypeStruct((*size, *value.shape), value.dtype)
        return value

    _watched(collect, lambda: jax.eval_shape(lambda a: loss(*a), arguments))

    def shifted(zeros, arguments):
        def shift(name, value, over):
            zero = zeros[name] if over is None else zeros[name][jax.lax.axis_index(over)]
            return value + zero

        return _watched(shift, lambda: loss(*arguments))

    zeros = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
    return jax.jit(jax.grad(shifted))(zeros, arguments)


def _watched(watching, run):
    global _watching
    _watching = watching
    try:
        return run()
    finally:
        _watching = None
