"""A traced program run in double precision, whatever casts it holds.

Differences of a function that computes in bfloat16 tell nothing: its values have two or three
digits. The same program with every low-precision number replaced by a double is a smooth function
whose slope differences give to many digits, and of the gradient's program the same holds. What the
user wrote, custom rules included, is in both programs as it was traced.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

__all__ = ["DOUBLE", "Promoted", "promote"]

DOUBLE = float(np.finfo(np.float64).eps)

# Called with a program of their own, and nothing else that matters to values.
_CALLS = {
    **dict.fromkeys(("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint"), "jaxpr"),
    **dict.fromkeys(("custom_jvp_call", "custom_vjp_call"), "call_jaxpr"),
}
# About where and how exactly numbers are held: here all on one device, as doubles.
_PLACES = {"reduce_precision", "sharding_constraint", "layout_constraint", "device_put", "reshard"}
# What works on the bits of a number, or outside JAX, in the types it was given.
_NATIVE = {"bitcast_convert_type", "nextafter", "pure_callback", "io_callback", "ffi_call"}
_NATIVE |= {"pallas_call", "shard_map"}

_NO_NAMES = core.DebugInfo("jit", "one equation", None, None)


@dataclass(eq=False)  # one of its own, whatever it holds, so that jit knows it again
class Promoted:
    """A program in double precision.

    Attributes
    ----------
    program
        As it was traced.
    epsilon
        Precision of the coarsest numbers that a path from inputs to outputs may pass through:
        that of a double, unless a callback or kernel takes the types it was written for. Known
        once the program has been run.
    adaptive
        Whether a loop ends where computed numbers say, which differentiation does not see.
    """

    program: core.ClosedJaxpr
    epsilon: float = DOUBLE
    adaptive: bool = False

    def __call__(self, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        """The outputs, in JAX's 64-bit mode; ``consts`` stand for the program's own."""
        return self._run(self.program.jaxpr, consts, inputs)

    def _run(self, jaxpr: core.Jaxpr, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], map(_raised, [*consts, *inputs])))

        def read(atom):
            return _raised(atom.val) if isinstance(atom, core.Literal) else known[atom]

        for equation in jaxpr.eqns:
            if equation.outvars:  # what prints has none
                outputs = self._apply(equation, [read(atom) for atom in equation.invars])
                known.update(zip(equation.outvars, outputs))
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, equation: core.JaxprEqn, inputs: list[Any]) -> Sequence[Any]:
        name = equation.primitive.name
        if name in _PLACES:
            return inputs
        if name in _CALLS:
            inner = equation.params[_CALLS[name]]
            return self._run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs)
        if name in _NATIVE or not any(_is_inexact(atom.aval) for atom in equation.invars):
            return self._natively(equation, inputs)
        self.adaptive |= name == "while" and _ends_where_numbers_say(equation)
        try:
            params = {key: self._raised_param(p) for key, p in equation.params.items()}
            found = equation.primitive.bind(*inputs, **params)
        except Exception:  # a primitive of someone else's that knows only the types it was given
            return self._natively(equation, inputs)
        return found if equation.primitive.multiple_results else [found]

    def _natively(self, equation: core.JaxprEqn, inputs: list[Any]) -> list[Any]:
        """The equation in the types it was traced with, as a program of its own."""
        entering, leaving = _precisions(equation.invars), _precisions(equation.outvars)
        if entering and leaving:
            self.epsilon = max(self.epsilon, *entering, *leaving)
        pairs = zip(equation.invars, inputs)
        known = {v: _lowered(x, v.aval) for v, x in pairs if not isinstance(v, core.Literal)}
        alone = core.Jaxpr((), [*known], equation.outvars, [equation], equation.effects, _NO_NAMES)
        compute = core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))
        return [_raised(x) for x in compute(*known.values())]

    def _raised_param(self, param: Any) -> Any:
        if isinstance(param, np.dtype) or (isinstance(param, type) and _is_dtype(param)):
            return _high(np.dtype(param))
        if isinstance(param, core.ClosedJaxpr):
            return self._retraced(param.jaxpr, param.consts)
        if isinstance(param, core.Jaxpr):
            return self._retraced(param, ()).jaxpr
        if isinstance(param, tuple) and any(isinstance(p, core.ClosedJaxpr) for p in param):
            raised = [self._raised_param(p) for p in param]
            return type(param)(*raised) if hasattr(param, "_fields") else tuple(raised)
        return None if isinstance(param, jax.lax.DotAlgorithmPreset) else param

    def _retraced(self, jaxpr: core.Jaxpr, consts: Sequence[Any]) -> core.ClosedJaxpr:
        avals: list[Any] = [var.aval for var in jaxpr.invars]
        inputs = [jax.ShapeDtypeStruct(a.shape, _high(a.dtype)) for a in avals]
        return jax.make_jaxpr(lambda *xs: self._run(jaxpr, consts, xs))(*inputs)


def promote(program: core.ClosedJaxpr) -> Promoted:
    """The program, to be run in double precision.

    Examples
    --------
    >>> coarse = jax.make_jaxpr(lambda x: jnp.sin(x.astype(jnp.bfloat16)))(1.0)
    >>> with jax.enable_x64(True):
    ...     (value,) = promote(coarse)([], [jnp.asarray(1.0)])
    >>> bool(abs(float(value) - np.sin(1.0)) < 1e-15)
    True
    """
    return Promoted(program)


def _precisions(atoms: Sequence[Any]) -> list[float]:
    """Machine epsilon of every real or complex number among them."""
    return [float(jnp.finfo(a.aval.dtype).eps) for a in atoms if _is_inexact(a.aval)]


def _lowered(value: Any, aval: Any) -> Any:
    return value.astype(aval.dtype) if _is_inexact(aval) else value


def _raised(value: Any) -> Any:
    """As a double, if it is a real or complex number of any precision."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        value = np.asarray(value)
        dtype = value.dtype
    return jnp.asarray(value, _high(dtype)) if jnp.issubdtype(dtype, jnp.inexact) else value


def _high(dtype: Any) -> Any:
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return np.dtype(np.complex128)
    return np.dtype(np.float64) if jnp.issubdtype(dtype, jnp.floating) else dtype


def _is_dtype(kind: type) -> bool:
    return issubclass(kind, np.generic)


def _is_inexact(aval: Any) -> bool:
    return hasattr(aval, "dtype") and jnp.issubdtype(aval.dtype, jnp.inexact)


def _ends_where_numbers_say(loop: core.JaxprEqn) -> bool:
    """Whether a while loop carries real numbers, and its end hangs on more than a counter."""
    condition = loop.params["cond_jaxpr"].jaxpr
    carried = loop.params["body_jaxpr"].jaxpr.outvars
    used = {v for e in condition.eqns for v in e.invars if not isinstance(v, core.Literal)}
    used |= {v for v in condition.outvars if not isinstance(v, core.Literal)}
    ends = [v for v in condition.invars if v in used]
    counters = all(jnp.issubdtype(v.aval.dtype, jnp.integer) for v in ends)
    return not counters and any(_is_inexact(v.aval) for v in carried)
