"""Who decides the precision: float64 on the CPU for theory, the ambient dtype under a transform."""

import functools
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

__all__ = ["ambient_arrays", "exact_float64", "float64_when_eager", "is_traced"]


def exact_float64(fn: Callable) -> Callable:
    """Run ``fn`` in JAX's 64-bit mode on the CPU, whatever the caller's settings.

    The switch is scoped: nothing outside the call changes. Safe while the caller is being traced:
    JAX keeps its trace by thread, so ``fn``, which sees only concrete values, then runs in another.
    """

    def scoped(*args, **kwargs):
        cpu = jax.local_devices(backend="cpu")[0]
        with jax.enable_x64(True), jax.default_device(cpu):
            return fn(*args, **kwargs)

    @functools.wraps(fn)
    def wrapped(*args, **kwargs):
        if _tracing():
            with ThreadPoolExecutor(1) as elsewhere:
                return elsewhere.submit(scoped, *args, **kwargs).result()
        return scoped(*args, **kwargs)

    return wrapped


def _tracing() -> bool:
    """Whether JAX is tracing in this thread: then even operations on constants are staged.

    Under jit all are; under grad and vmap alone, only functions with a derivative rule of their own
    are, such as relu.
    """
    return is_traced(jax.nn.relu(jnp.zeros(())))


def is_traced(*values) -> bool:
    """Whether any leaf of ``values`` is a JAX tracer (inside jit, vmap or grad)."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))


def ambient_arrays(*values) -> list[jax.Array]:
    """``values`` as JAX arrays of one floating dtype: that of the traced ones among them."""
    traced = [jnp.asarray(v).dtype for v in values if is_traced(v)]
    floating = [d for d in traced if jnp.issubdtype(d, jnp.floating)]
    dtype = jnp.result_type(*floating) if floating else jnp.zeros(()).dtype
    return [jnp.asarray(v, dtype) for v in values]


def float64_when_eager(*static: str) -> Callable[[Callable], Callable]:
    """Give a function of scalars or arrays the precision and the return type of the theory.

    Called with concrete numbers the function is compiled and run in float64 on the CPU and returns
    NumPy float64. Called with a tracer (under the caller's jit, vmap or grad) it is traced as it
    stands, at the ambient precision. The arguments named in ``static`` are hashables.
    """

    def decorate(fn: Callable) -> Callable:
        signature = inspect.signature(fn)
        compiled = jax.jit(fn, static_argnames=static)

        def numeric(arguments: dict) -> list[str]:
            return [k for k, v in arguments.items() if k not in static and v is not None]

        @exact_float64
        def eager(arguments: dict):
            values = {k: _as_float64(arguments[k]) for k in numeric(arguments)}
            return jax.tree.map(_as_numpy, compiled(**(arguments | values)))

        @functools.wraps(fn)
        def wrapped(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            arguments = bound.arguments
            if not is_traced(list(arguments.values())):
                return eager(arguments)
            keys = numeric(arguments)
            return fn(**(arguments | dict(zip(keys, ambient_arrays(*map(arguments.get, keys))))))

        return wrapped

    return decorate


def _as_float64(value) -> np.ndarray:
    """``value`` as float64, unless it is an array of status codes."""
    array = np.asarray(value)
    return array if array.dtype == np.int32 else array.astype(np.float64)


def _as_numpy(leaf):
    """A NumPy array, or a NumPy scalar in place of an array of no dimensions."""
    return np.asarray(leaf)[()]
