"""The function whose gradient is checked: of a list of arrays, with one number as its value."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax import lax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.flatten_util import ravel_pytree
from jax.interpreters.partial_eval import dce_jaxpr

from sigprop._precision import exact_float64
from sigprop.gradients import differences
from sigprop.gradients.objective import first_line
from sigprop.gradients.parameters import Parameters, take_apart
from sigprop.gradients.points import Point
from sigprop.gradients.promotion import Promoted, promote

__all__ = ["Target", "target"]

_MOST_STEPS = 24
# Most of the time of a check goes into compiling. What runs a few times only is not optimised at
# all (and at that level jaxlib 0.10.2 is right only without its fusion emitters).
_QUICKLY = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


@exact_float64
def _in_double(compute: Callable[..., Any], *arguments: Any) -> Any:
    """Programs are traced before, in the user's own mode."""
    return jax.tree.map(np.asarray, compute(*arguments))


@dataclass(frozen=True)
class Target:
    """The function at hand, its values and the gradient that is claimed for it.

    Attributes
    ----------
    parameters
        Where the function is looked at.
    value
        The number whose gradient is checked, from the parameters' arrays; of several outputs, a
        random combination.
    gradient
        The gradient that is claimed, from the parameters' arrays.
    """

    parameters: Parameters
    value: Callable[[Sequence[Any]], Any]
    gradient: Callable[[Sequence[Any]], Sequence[Any]]

    @functools.cached_property
    def used(self) -> tuple[bool, ...]:
        """Which arrays the function's value is computed from at all."""
        _, used = dce_jaxpr(self._value.program.jaxpr, [True])
        return tuple(used)

    @property
    def epsilon(self) -> float:
        """Precision of the function's values."""
        return self._value.epsilon

    @functools.cached_property
    def gradient_epsilon(self) -> float:
        """Precision of the claimed gradient."""
        if self._gradient is not None:
            return self._gradient.epsilon
        return max(float(jnp.finfo(value.dtype).eps) for value in self.parameters.values)

    @property
    def adaptive(self) -> bool:
        """Whether a loop ends where computed numbers say."""
        return self._value.adaptive

    def point(self, name: str, values: Sequence[Any]) -> Point:
        """What is known at values of the parameters, rounded to what their own types can hold."""
        pairs = zip(values, self.parameters.values)
        at = tuple(_double(np.asarray(new).astype(old.dtype)) for new, old in pairs)
        still = tuple(np.zeros_like(value) for value in at)
        center = float(self.values_along(at, still, np.zeros(1))[0])
        generator = np.random.default_rng(0)
        wiggle = tuple(np.asarray(v * generator.standard_normal(v.shape)) for v in map(_finite, at))
        around = self.values_along(at, wiggle, differences.tiny(self.epsilon))
        spread = differences.noise(around, self.epsilon)
        return Point(name, at, tuple(self.gradient_at(at)), center, spread)

    def values_along(
        self, at: Sequence[np.ndarray], direction: Sequence[np.ndarray], steps: np.ndarray
    ) -> np.ndarray:
        """Values at steps along a direction."""
        padded = np.zeros(_MOST_STEPS)
        padded[: steps.size] = steps
        consts = self._value.program.consts
        found = _in_double(self._along, consts, list(at), list(direction), padded, steps.size)
        return found[: steps.size]

    def gradient_at(self, at: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The claimed gradient, array by array; in double precision if it can be traced."""
        if self._gradient is None:
            pairs = zip(at, self.parameters.values)
            return [_double(g) for g in self.gradient([jnp.asarray(a, v.dtype) for a, v in pairs])]
        return _in_double(self._pull, self._gradient.program.consts, list(at))

    @functools.cached_property
    def native_gradient(self) -> list[np.ndarray]:
        """The claimed gradient where it was asked for, in the precision of the user's program."""
        return [_double(array) for array in self._native]

    def pushed_forward(self, at: Sequence[np.ndarray], direction: Sequence[np.ndarray]) -> float:
        """J v by forward mode."""
        values = list(self.parameters.values)
        push = lambda a, v: jax.jvp(self.value, (a,), (v,))[1]  # noqa: E731
        program = promote(jax.make_jaxpr(push)(values, values))
        compute = jax.jit(program, compiler_options=_QUICKLY)
        return float(_in_double(compute, program.program.consts, [*at, *direction])[0])

    @functools.cached_property
    def _value(self) -> Promoted:
        return promote(jax.make_jaxpr(self.value)(list(self.parameters.values)))

    @functools.cached_property
    def _gradient(self) -> Promoted | None:
        try:
            return promote(jax.make_jaxpr(self.gradient)(list(self.parameters.values)))
        except jax.errors.JAXTypeError:  # computed outside JAX
            return None

    @functools.cached_property
    def _native(self) -> Sequence[Any]:
        found = self._gradient
        if found is None:
            return self.gradient(list(self.parameters.values))
        options = _QUICKLY if jax.default_backend() == "cpu" else None
        run = lambda c, v: jaxpr_as_fun(ClosedJaxpr(found.program.jaxpr, c))(*v)  # noqa: E731
        compute = jax.jit(run, compiler_options=options)
        return compute(found.program.consts, list(self.parameters.values))

    @functools.cached_property
    def _along(self) -> Callable[..., Any]:
        # One after the other and compiled once, whatever the direction and the number of steps.
        def one(consts, at, direction, step):
            moved = [a + step.astype(a.dtype) * d for a, d in zip(at, direction)]
            return self._value(consts, moved)[0].astype(jnp.float64)

        def compute(consts, at, direction, steps, count):
            put = lambda i, out: out.at[i].set(one(consts, at, direction, steps[i]))  # noqa: E731
            return lax.fori_loop(0, count, put, jnp.zeros(_MOST_STEPS))

        return jax.jit(compute, compiler_options=_QUICKLY)

    @functools.cached_property
    def _pull(self) -> Callable[..., Any]:
        return jax.jit(self._gradient, compiler_options=_QUICKLY)  # type: ignore[arg-type]


def target(
    fn: Callable, params: Any, grad: Callable | None, key: Any, *, has_aux: bool = False
) -> Target:
    """``fn`` at ``params``, checked.

    Raises
    ------
    ValueError
        If there is nothing to differentiate by, a parameter is nan, or ``fn`` fails or returns
        anything but real numbers.
    """
    for name, given in {"fn": fn, "grad": grad}.items():
        if not callable(given) and not (name == "grad" and given is None):
            kind = type(given).__name__
            raise ValueError(f"{name} must be a function of the parameters, got {kind}")
    parameters = take_apart(_with_arrays(params))
    _check_no_nan(parameters)
    returned = _Returned(fn, parameters, has_aux)
    size, dtype = returned.size_and_dtype()
    if grad is not None and size != 1:
        raise ValueError(f"grad can be given for an fn that returns one number, got {size} numbers")
    weights = jax.random.normal(key, (size,), dtype) if size > 1 else None

    def value(arrays: Sequence[Any]) -> Any:
        with jax.default_matmul_precision("highest"):
            found = returned(arrays)
        with jax.numpy_dtype_promotion("standard"):  # leaves of several precisions are welcome
            outputs = ravel_pytree(found)[0]
        return outputs[0] if weights is None else jnp.vdot(weights, outputs)

    own = jax.grad(value) if grad is None else _Given(grad, parameters, has_aux)
    return Target(parameters, value, own)


@dataclass(frozen=True)
class _Returned:
    """What ``fn`` returns, without what it returns beside."""

    fn: Callable
    parameters: Parameters
    has_aux: bool

    def __call__(self, arrays: Sequence[Any]) -> Any:
        found = self.fn(self.parameters.rebuild(arrays))
        if not self.has_aux:
            return found
        if not (isinstance(found, tuple) and len(found) == 2):
            given = type(found).__name__
            raise TypeError(f"with has_aux=True it must return a pair (value, aux), got {given}")
        return found[0]

    def size_and_dtype(self) -> tuple[int, Any]:
        """Number and widest type of the outputs."""
        try:
            found = jax.eval_shape(self, self.parameters.values)
        except Exception as error:
            raise ValueError(f"fn(params) could not be computed: {first_line(error)}") from error
        leaves = jax.tree.leaves(found)
        wrong = sorted({str(x.dtype) for x in leaves if not jnp.issubdtype(x.dtype, jnp.floating)})
        size = sum(leaf.size for leaf in leaves)
        if wrong or not size:
            hint = "; has_aux=True leaves out what is returned beside a loss" if leaves[1:] else ""
            given = ", ".join(wrong) or "none"
            raise ValueError(f"fn must return real numbers, got {given}{hint}")
        with jax.numpy_dtype_promotion("standard"):
            return size, jnp.result_type(*leaves)


@dataclass(frozen=True)
class _Given:
    """The user's own gradient, by the names of the parameters."""

    grad: Callable
    parameters: Parameters
    has_aux: bool

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        found = self.grad(self.parameters.rebuild(arrays))
        if self.has_aux and isinstance(found, tuple) and len(found) == 2:
            found = found[0]  # as jax.grad(fn, has_aux=True) returns it
        taken = take_apart(_with_arrays(found))
        own = dict(zip(taken.names, taken.values))
        for name, value in zip(self.parameters.names, self.parameters.values):
            shape = own[name].shape if name in own else "nothing"
            if shape != value.shape:
                at = f" at {name!r}" if name else ""
                raise ValueError(
                    f"grad must return an array of shape {value.shape}{at}, got {shape}"
                )
        return [own[name] for name in self.parameters.names]


def _with_arrays(params: Any) -> Any:
    """Python floats as arrays where there is nothing else: beside arrays they are settings."""
    leaves, structure = jax.tree.flatten(params, is_leaf=_is_module)
    if all(type(leaf) is float for leaf in leaves) and _is_plain(params):
        return jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in leaves])
    return params


def _is_module(node: Any) -> bool:
    return isinstance(node, nnx.Module | linen.Module)


def _is_plain(tree: Any) -> bool:
    """Nothing but Python's own containers."""
    if isinstance(tree, dict):
        return all(map(_is_plain, tree.values()))
    if isinstance(tree, list | tuple):
        return all(map(_is_plain, tree))
    return type(tree) is float


def _check_no_nan(parameters: Parameters) -> None:
    for name, value in zip(parameters.names, parameters.values):
        lost = np.argwhere(np.isnan(_double(value)))
        if lost.size:
            where = f"params at {name!r}" if name else "params"
            index = tuple(int(i) for i in lost[0])
            place = f" at index {index}" if index else ""
            raise ValueError(f"{where} must be finite, got nan{place}")


def _double(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(
        np.complex128 if jnp.issubdtype(array.dtype, jnp.complexfloating) else float
    )


def _finite(array: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(array), array, 0)
