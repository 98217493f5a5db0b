"""Where a function of one number turns, read from its program.

A bump as narrow as exp(-((x - 3)/1e-6)²) falls between the points of any grid, but x - 3, a step on
the way to it, crosses 0 at its centre in plain sight. So do the arguments of steps, powers and
comparisons.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from sigprop._precision import exact_float64

__all__ = ["landmarks", "near"]

_RADIUS = 1e3
_POINTS = 4096
_MOST = 64  # crossings of one step; more are a wave, which a grid sees


@exact_float64
def landmarks(fn: Callable) -> np.ndarray:
    """Points, ascending, where a value on the way to φ(x) crosses 0 or a comparison turns."""
    steps = _steps(fn)
    if steps is None:
        return np.zeros(0)
    half = np.sinh(np.linspace(0.0, np.arcsinh(_RADIUS * 50), _POINTS // 2)) / 50
    x = np.concatenate([-half[:0:-1], half]) + np.sqrt(3) * 1e-5
    signs = np.sign(steps(x))
    rows, columns = np.nonzero((signs[:, :-1] != signs[:, 1:]) & ~np.isnan(signs[:, 1:]))
    few = np.bincount(rows, minlength=len(signs))[rows] <= _MOST
    rows, columns = rows[few], columns[few]
    low, high = x[columns], x[columns + 1]
    starts = signs[rows, columns]
    for _ in range(60 if rows.size else 0):
        middle = (low + high) / 2
        same = np.sign(steps(middle)[rows, np.arange(rows.size)]) == starts
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return np.unique(np.round((low + high) / 2, 12))


def near(places: np.ndarray) -> np.ndarray:
    """Points that close in on each of ``places`` from both sides, ascending."""
    distance = np.concatenate([10.0 ** np.arange(-12, 0), 3 * 10.0 ** np.arange(-12, -1)])
    # Not the same on both sides: no point is to be the middle of two others.
    around = places[:, None] + np.concatenate([-0.7 * distance, distance]) * np.maximum(
        np.abs(places[:, None]), 1.0
    )
    return np.unique(around)


def _steps(fn: Callable) -> Callable[[np.ndarray], np.ndarray] | None:
    """Every value on the way to φ(x), (steps, points); None where the program has none to see."""
    program = jax.make_jaxpr(fn)(0.0)

    def values(x):
        found: list = []
        _evaluate(program.jaxpr, program.consts, [x], found)
        return jnp.stack([jnp.asarray(v, x.dtype) for v in found])

    compiled = jax.jit(jax.vmap(values, out_axes=1))
    length = 1024

    def padded(x: np.ndarray) -> np.ndarray:
        pieces = np.pad(x, (0, -x.size % length), mode="edge").reshape(-1, length)
        done = [np.asarray(compiled(jnp.asarray(piece))) for piece in pieces]
        return np.concatenate(done, axis=1)[:, : x.size]

    return padded if _has_steps(values) else None


def _has_steps(values: Callable) -> bool:
    try:
        jax.eval_shape(values, jax.ShapeDtypeStruct((), jnp.float64))
    except Exception:  # a program with loops or branches of its own: the grid has to do
        return False
    return True


def _evaluate(jaxpr, constants, arguments, found: list) -> list:
    """Results of a program; appends every scalar real value or comparison on the way."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments]))

    def read(atom):
        return atom.val if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        given = [read(atom) for atom in equation.invars]
        inner = _called(equation)
        if inner is not None and len(inner.jaxpr.invars) == len(given):
            results = _evaluate(inner.jaxpr, inner.consts, given, found)
        else:
            params = equation.primitive.get_bind_params(equation.params)
            results = equation.primitive.bind(*given, **params)
            results = results if equation.primitive.multiple_results else [results]
            found += [r for r in results if _is_step(r)]
        known.update(zip(equation.outvars, results))
    return [read(atom) for atom in jaxpr.outvars]


def _called(equation):
    """The program that an equation calls as it stands (jit, custom derivatives), or None."""
    inner = next(
        (equation.params[k] for k in ("jaxpr", "call_jaxpr") if k in equation.params), None
    )
    plain = equation.primitive.name in ("jit", "pjit", "custom_jvp_call", "custom_vjp_call")
    return inner if plain and hasattr(inner, "consts") else None


def _is_step(value) -> bool:
    kind = jnp.result_type(value)
    return jnp.shape(value) == () and (kind == jnp.bool_ or jnp.issubdtype(kind, jnp.floating))
