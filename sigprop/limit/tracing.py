"""A model's function as one straight program, forwards and backwards.

Calls are put in their place and loops written out before anything is differentiated, so that every
use of a weight is an operation of its own. At every product of a weight and a signal a perturbation
of 0 is added; the gradients by these are the gradients at the products.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr

from sigprop.limit.refusals import Refused
from sigprop.program.nodes import CALLS, MULTIPLIES, RULES

__all__ = [
    "Joint",
    "Multiply",
    "bound",
    "inner_program",
    "joint",
    "multiplies",
    "straight",
    "traced",
]

_MOST_EQUATIONS = 60_000
_WEIGHT_KEPT = (
    "transpose", "reshape", "squeeze", "slice", "dynamic_slice", "convert_element_type", "neg",
    "mul", "div", "copy", "broadcast_in_dim", "rev",
)  # fmt: skip


def inner_program(equation: Any) -> Any:
    """The closed program inside a call."""
    inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
    inner = inner if inner is not None else equation.params["fun_jaxpr"]
    if hasattr(inner, "jaxpr"):
        return inner
    return jax.extend.core.ClosedJaxpr(inner, ())


def straight(fn: Callable, *args: Any) -> Any:
    """The closed program of ``fn``, without calls and loops."""
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
    flat = jax.tree.leaves(args)

    def run(*given):
        return _Unrolled().run(closed.jaxpr, closed.consts, given)

    return jax.make_jaxpr(run)(*flat), shape


def traced(fn: Callable, *args: Any) -> Any:
    """Without what wider numbers than the model's own make JAX warn of."""
    with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"):
        warnings.simplefilter("ignore")
        return fn(*args)


_NO_NAMES = jax.extend.core.DebugInfo("jit", "one operation", None, None)


def bound(equation: Any, given: Sequence[Any]) -> Sequence[Any]:
    """What one operation makes of values; JAX knows how each of them is called."""
    if equation.primitive.name not in RULES:
        found = equation.primitive.bind(*given, **equation.params)
        return found if equation.primitive.multiple_results else [found]
    pairs = zip(equation.invars, given)
    entering = {v: x for v, x in pairs if not isinstance(v, jax.extend.core.Literal)}
    alone = jax.extend.core.Jaxpr(
        (), [*entering], equation.outvars, [equation], equation.effects, _NO_NAMES
    )
    closed = jax.extend.core.ClosedJaxpr(alone, ())
    return jax.extend.core.jaxpr_as_fun(closed)(*entering.values())


class _Unrolled:
    """Evaluates a program; counts, so that no loop is written out without end."""

    def __init__(self):
        self.count = 0

    def run(self, jaxpr: Any, consts: Sequence[Any], given: Sequence[Any]) -> list[Any]:
        env = dict(zip(jaxpr.constvars, consts)) | dict(zip(jaxpr.invars, given))
        look = lambda v: v.val if isinstance(v, jax.extend.core.Literal) else env[v]  # noqa: E731
        for equation in jaxpr.eqns:
            found = self._one(equation, [look(v) for v in equation.invars])
            env.update(zip(equation.outvars, found))
        return [look(v) for v in jaxpr.outvars]

    def _one(self, equation: Any, given: Sequence[Any]) -> Sequence[Any]:
        self.count += 1
        if self.count > _MOST_EQUATIONS:
            raise Refused(f"scan: more than {_MOST_EQUATIONS} operations, written out")
        name = equation.primitive.name
        if name in CALLS:
            inner = inner_program(equation)
            return self.run(inner.jaxpr, inner.consts, given)
        if name == "scan":
            return self._scan(equation, given)
        if name in RULES and holds_multiply(equation):
            raise Refused(f"{name} with a multiply inside: its own derivative cannot be seen")
        return bound(equation, given)

    def _scan(self, equation: Any, given: Sequence[Any]) -> list[Any]:
        params, inner = equation.params, equation.params["jaxpr"]
        first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
        fixed, carry, stacked = given[:first], list(given[first:last]), given[last:]
        steps = range(params["length"])
        rows = []
        for step in reversed(steps) if params["reverse"] else steps:
            slices = [jax.lax.index_in_dim(x, step, keepdims=False) for x in stacked]
            out = self.run(inner.jaxpr, inner.consts, [*fixed, *carry, *slices])
            carry = out[: len(carry)]
            rows.append(out[len(carry) :])
        rows = rows[::-1] if params["reverse"] else rows
        return [*carry, *(_stack(column) for column in zip(*rows))]


def _stack(column: Sequence[Any]) -> Any:
    return jnp.stack([jnp.asarray(x) for x in column])


def holds_multiply(equation: Any) -> bool:
    """Whether a program inside multiplies."""
    return any(
        e.primitive.name in MULTIPLIES or holds_multiply(e)
        for value in equation.params.values()
        for inner in (getattr(value, "jaxpr", value),)
        if hasattr(inner, "eqns")
        for e in inner.eqns
    )


# ---------------------------------------------------------------------------- multiplies


@dataclass(frozen=True)
class Multiply:
    """A product of a weight and a signal.

    Attributes
    ----------
    leaf
        The number of the model's array.
    position
        Of the operation in the straight program.
    output
        The variable read: behind the bias, where one is added to the product alone.
    """

    leaf: int
    position: int
    output: Any


def multiplies(closed: Any, random: Sequence[bool]) -> list[Multiply]:
    """Every product of a drawn array of two axes or more and of anything else, in order."""
    jaxpr = closed.jaxpr
    leaves = dict(zip(jaxpr.invars, range(len(random))))
    weight_of = {var: n for var, n in leaves.items() if random[n]}
    trained = set(leaves)  # what is made of the model's arrays alone
    made_of = dict(weight_of)  # and which of those that are drawn
    known = set(jaxpr.constvars)
    users: dict[Any, list[int]] = {}
    found = []
    for position, equation in enumerate(jaxpr.eqns):
        given = [v for v in equation.invars if not isinstance(v, jax.extend.core.Literal)]
        for var in given:
            users.setdefault(var, []).append(position)
        if all(v in known for v in given):
            known.update(equation.outvars)
        if all(v in trained or v in known for v in given):
            trained.update(equation.outvars)
            source = next((made_of[v] for v in given if v in made_of), None)
            if source is not None:
                made_of.update(dict.fromkeys(equation.outvars, source))
        drawn = [v for v in given if v in weight_of]
        name = equation.primitive.name
        others = [v for v in given if v not in drawn and v not in trained]
        made = [v for v in given if v in made_of]
        if name in MULTIPLIES and (len(drawn) == 1 or (made and others)):
            found.append((made_of[(drawn or made)[0]], position))
        elif (
            name in _WEIGHT_KEPT
            and len(drawn) == 1
            and all(
                v in weight_of or v in known or (v in trained and not v.aval.shape) for v in given
            )
        ):
            weight_of[equation.outvars[0]] = weight_of[drawn[0]]
    return [Multiply(leaf, at, _behind_bias(jaxpr, at, users, trained)) for leaf, at in found]


def _behind_bias(jaxpr: Any, position: int, users: dict, trained: set) -> Any:
    output = jaxpr.eqns[position].outvars[0]
    used = users.get(output, [])
    if len(used) == 1 and output not in jaxpr.outvars:
        following = jaxpr.eqns[used[0]]
        if following.primitive.name in ("convert_element_type", "reshape"):
            output = following.outvars[0]
            used = users.get(output, [])
            if len(used) != 1 or output in jaxpr.outvars:
                return jaxpr.eqns[position].outvars[0]
            following = jaxpr.eqns[used[0]]
        others = [v for v in following.invars if v is not output]
        if following.primitive.name == "add" and all(v in trained for v in others):
            return following.outvars[0]
    return jaxpr.eqns[position].outvars[0]


@dataclass(frozen=True)
class Joint:
    """Both ways through a program.

    Attributes
    ----------
    program
        Closed; takes the straight program's arguments, perturbations, and cotangents.
    shifts, cotangents
        Shapes of the latter two.
    multiplies
        Whose outputs come out first, and the gradients at them after that (if ``backward``).
    backward
        Why there are no gradients, or "".
    ends
        The program's outputs, as variables of `program`.
    """

    program: Any
    shifts: Sequence[Any]
    cotangents: Sequence[Any]
    multiplies: Sequence[Multiply]
    backward: str
    ends: Sequence[Any]


def joint(closed: Any, found: Sequence[Multiply], with_loss: bool) -> Joint:
    """The program together with its gradients at every product."""
    jaxpr = closed.jaxpr
    order = {m.output: n for n, m in enumerate(found)}
    shifts = [jax.ShapeDtypeStruct(m.output.aval.shape, m.output.aval.dtype) for m in found]
    arguments = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in jaxpr.invars]
    floating = [
        n for n, v in enumerate(jaxpr.outvars) if jnp.issubdtype(v.aval.dtype, jnp.floating)
    ]
    outs = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in jaxpr.outvars]
    cotangents = [outs[n] for n in floating]

    def shifted(given, shift):
        env = dict(zip(jaxpr.constvars, closed.consts)) | dict(zip(jaxpr.invars, given))
        look = lambda v: v.val if isinstance(v, jax.extend.core.Literal) else env[v]  # noqa: E731
        places: list[Any] = [None] * len(found)
        for equation in jaxpr.eqns:
            out = bound(equation, [*map(look, equation.invars)])
            for var, value in zip(equation.outvars, out):
                if var in order:
                    value = places[order[var]] = value + shift[order[var]]
                env[var] = value
        ends = [look(v) for v in jaxpr.outvars]
        return [jnp.asarray(ends[n]) for n in floating], places

    def both(given, shift, cotangent):
        ends, pull, places = jax.vjp(lambda s: shifted(given, s), shift, has_aux=True)
        return places, pull(cotangent)[0], ends

    def forwards(given, shift, cotangent):
        ends, places = shifted(given, shift)
        return places, [], ends

    reason = ""
    try:
        program = jax.make_jaxpr(both)(arguments, shifts, cotangents)
    except (ValueError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        program = jax.make_jaxpr(forwards)(arguments, shifts, cotangents)
    used = [True] * len(program.jaxpr.outvars)
    if with_loss:  # what its value takes, and no gradient does, is not looked at
        used[-len(cotangents) :] = [False] * len(cotangents)
    small, _ = dce_jaxpr(program.jaxpr, used, instantiate=True)
    program = jax.extend.core.ClosedJaxpr(small, program.consts)
    ends = () if with_loss else small.outvars[-len(cotangents) :]
    return Joint(program, shifts, cotangents, found, reason, ends)
