"""Ways to evaluate a function that listens to its own computation.

As one program it is compiled once; step by step every operation is, and a loop's slices one by one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core

__all__ = ["step_by_step", "unrolled_program", "unrolled_shapes"]


def unrolled_shapes(function: Callable, *arguments: Any) -> Any:
    """What ``function`` returns, as shapes; its loops and compiled functions run step by step."""
    with jax.disable_jit():
        return jax.eval_shape(function, *arguments)


def unrolled_program(function: Callable, *arguments: Any) -> Any:
    """Traced with loops and compiled functions run step by step, then compiled as a whole."""
    with jax.disable_jit():
        program, after = jax.make_jaxpr(function, return_shape=True)(*arguments)

    # Constants (the batch, often) enter as arguments: compiling would compute with them.
    @jax.jit
    def compute(constants, entering):
        closed = jax.extend.core.ClosedJaxpr(program.jaxpr, constants)
        return jax.extend.core.jaxpr_as_fun(closed)(*entering)

    results = compute(program.consts, jax.tree.leaves(arguments))
    return jax.tree.unflatten(jax.tree.structure(after), results)


def step_by_step(function: Callable, *arguments: Any) -> Any:
    """Evaluated operation by operation, loops and compiled functions too."""
    with jax.disable_jit():
        return function(*arguments)
