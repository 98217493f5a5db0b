"""The sampled back end: the same program, every value a population."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from sigprop.limit.axes import labelled, reshaped, wide_axes
from sigprop.limit.constants import evaluated
from sigprop.limit.contractions import positions
from sigprop.limit.elementwise import NAMES, of_weight
from sigprop.limit.population import Drawing, Population
from sigprop.limit.refusals import NotClosed, Refused
from sigprop.limit.shapes import FEWEST_UNITS, SHAPES
from sigprop.limit.signals import Const, Unknown
from sigprop.limit.tracing import bound, inner_program
from sigprop.limit.weights import Weight
from sigprop.program.nodes import CALLS, RULES

__all__ = ["Sampler"]

_ORDERING = ("sort", "top_k", "argmax", "argmin", "cumsum", "cummax", "cumprod", "cumlogsumexp")
_EXTREMES = ("argmax", "argmin")
_SAME_AXES = (
    "shift_right_logical", "shift_left", "shift_right_arithmetic", "bitcast_convert_type",
    "population_count", "pad", "rev", "slice", "dynamic_slice", "reduce_window_sum",
    "reduce_window", "reduce_window_max", "select_and_scatter_add", "concatenate", "split",
    "dynamic_update_slice",
)  # fmt: skip
_ON_WEIGHTS = (
    "reshape",
    "transpose",
    "squeeze",
    "slice",
    "dynamic_slice",
    "rev",
    "split",
    "unstack",
)


class Sampler:
    """Reads equations with populations for values.

    Parameters
    ----------
    drawing
        Where what is drawn comes from.
    shapes, means
        Of the model's arrays.
    """

    def __init__(
        self, drawing: Drawing, shapes: Mapping[int, tuple[int, ...]], means: Mapping[int, float]
    ):
        self.drawing, self._shapes, self._means = drawing, shapes, means
        self._drawn: dict[int, Population] = {}
        self._multiplied: set[int] = set()
        self.notes: dict[int, str] = {}

    def run(self, jaxpr: Any, consts: Sequence[Any], given: Sequence[Any]) -> list[Any]:
        """What comes out of a program."""
        env = dict(zip(jaxpr.constvars, (Const(c) for c in consts)))
        env |= dict(zip(jaxpr.invars, given))

        def look(var):
            if isinstance(var, jax.extend.core.Literal):
                return Const(np.asarray(var.val), written=True)
            found = env[var]
            if callable(found):  # a cotangent, of the shape that the output turns out to have
                found = env[var] = found(env)
            return found

        for equation in jaxpr.eqns:
            values = [look(v) for v in equation.invars]
            env.update(zip(equation.outvars, self._results(equation, values)))
        return [look(v) for v in jaxpr.outvars]

    def _results(self, equation: Any, given: Sequence[Any]) -> Sequence[Any]:
        lost = next((x for x in given if isinstance(x, Unknown)), None)
        if lost is not None:
            return [lost] * len(equation.outvars)
        name = equation.primitive.name
        try:
            return self._one(equation, name, given)
        except (NotClosed, Refused) as reason:
            return [Unknown(name, str(reason))] * len(equation.outvars)

    def _one(self, equation: Any, name: str, given: Sequence[Any]) -> Sequence[Any]:
        if name in CALLS or name in RULES:
            inner = inner_program(equation)
            return self.run(inner.jaxpr, inner.consts, given)
        if name == "random_bits":
            return [self._random_bits(equation, *given)]
        if all(isinstance(x, Const) for x in given):
            return evaluated(equation, given)
        if name in ("cond", "while"):
            return self._branch(equation, name, given)
        drawn = [isinstance(x, Weight) for x in given]
        if name in ("dot_general", "conv_general_dilated") and sum(drawn) == 1:
            return [self._product(equation, name, given, drawn.index(True))]
        if any(drawn):
            kept = self._still_weight(equation, name, given)
            if kept is not None:
                return kept
            given = [self.table(x) if isinstance(x, Weight) else x for x in given]
        if "axes" in equation.params and (name.startswith("reduce_") or name in _EXTREMES):
            return self._reduced(equation, name, given)
        return self._mapped(equation, name, given)

    def _branch(self, equation: Any, name: str, given: Sequence[Any]) -> Sequence[Any]:
        index, *operands = given
        if name == "while" or not isinstance(index, Const):
            raise Refused(f"{name} whose course hangs on the signal")
        branches = equation.params["branches"]
        chosen = branches[int(np.clip(int(index.array), 0, len(branches) - 1))]
        return self.run(chosen.jaxpr, chosen.consts, operands)

    def _random_bits(self, equation: Any, key: Any) -> Population:
        """Random bits of every replica's own."""
        if not isinstance(key, Const):
            raise Refused("random_bits from a key that is itself drawn")
        self.drawing.key, fold = jax.random.split(self.drawing.key)
        number = jax.random.randint(fold, (), 0, 2**31 - 1)
        keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.fold_in(key.array, number), n))(
            jnp.arange(self.drawing.replicas)
        )
        bits = jax.vmap(lambda k: bound(equation, [k])[0])(keys)
        return Population(bits, frozenset())

    # ------------------------------------------------------------------ weights

    def _still_weight(self, equation: Any, name: str, given: Sequence[Any]) -> Any:
        if name in NAMES:
            found = of_weight(name, equation, given)
            return None if found is None else [found]
        if name in _ON_WEIGHTS:
            try:
                found = SHAPES[name](equation, given)
            except NotClosed:  # what it becomes is no weight, but an array of drawn numbers
                return None
            return found if isinstance(found, list) else [found]
        if name == "broadcast_in_dim":
            if math.prod(given[0].shape) == math.prod(equation.params["shape"]):
                return [SHAPES[name](equation, given)]
            return None
        if name.startswith("reduce_"):
            raise Refused(f"{name} of a weight: what is normalised is not drawn independently")
        if name in ("dot_general", "conv_general_dilated"):
            raise Refused("product of two drawn weights")
        return None

    def table(self, weight: Weight) -> Population:
        """Drawn for every replica."""
        if weight.leaf in self._multiplied:
            raise Refused("a table of weights that is looked up and multiplied by as well")
        shape = self._shapes[weight.leaf]
        if weight.leaf not in self._drawn:
            z = self.drawing.normal((self.drawing.replicas, *shape))
            z = (z - z.mean()) / jnp.sqrt(jnp.mean((z - z.mean()) ** 2))
            z = jnp.sqrt(weight.variance) * z + self._means.get(weight.leaf, 0.0)
            self._drawn[weight.leaf] = Population(z, frozenset({len(shape) - 1}))
        order = [a for axis in weight.axes for a in axis]
        order += [a for a in range(len(shape)) if a not in order]
        array = self._drawn[weight.leaf].array
        array = array[(slice(None), *(slice(*r) for r in weight.ranges))]
        array = jnp.flip(array, [a + 1 for a in weight.flipped])
        array = array.transpose(0, *(a + 1 for a in order))
        array = weight.scale * array.reshape(self.drawing.replicas, *weight.shape)
        wide = frozenset(n for n, axis in enumerate(weight.axes) if len(shape) - 1 in axis)
        return Population(array, wide)

    def _product(self, equation: Any, name: str, given: Sequence[Any], side: int) -> Population:
        weight, value = given[side], given[1 - side]
        why = self._why_in_full(equation, name, weight, value, side)
        if why:
            return self._in_full(equation, name, given, why)
        self._multiplied.add(weight.leaf)
        array = value.array if isinstance(value, Population) else jnp.asarray(value.array)[None]
        array = array.astype(float)
        wide = value.wide if isinstance(value, Population) else frozenset()
        if name == "conv_general_dilated":
            return self._convolution(equation, array, wide, weight)
        contract, _ = equation.params["dimension_numbers"]
        mine, its = contract[side], contract[1 - side]
        rest = [n for n in range(array.ndim - 1) if n not in its]
        moved = array.transpose(0, *(n + 1 for n in (*rest, *its)))
        kept = moved.shape[1 : 1 + len(rest)]
        operand = moved.reshape(len(array), math.prod(kept), 1, -1)
        free = [n for n in range(len(weight.axes)) if n not in mine]
        out = [weight.shape[n] for n in free]
        contracted = frozenset(a for n in mine for a in weight.axes[n])
        found = self.drawing.product(weight, contracted, operand, math.prod(out), False)
        found = found.reshape(-1, *kept, *out)
        first = list(range(1, 1 + len(kept)))
        last = list(range(1 + len(kept), found.ndim))
        if side == 0:
            found = found.transpose(0, *last, *first)
            return Population(found, frozenset(range(len(out))))
        return Population(found, frozenset(n - 1 for n in last))

    def _why_in_full(self, equation: Any, name: str, weight: Weight, value: Any, side: int) -> str:
        """Why a product is taken with a matrix for every replica, not drawn; "" for most."""
        if weight.leaf in self._drawn:
            return "is looked up, or drawn in full elsewhere"
        params = equation.params
        if name == "conv_general_dilated":
            if side != 1:
                raise Refused("convolution with a kernel that is not drawn")
            grouped = (params["feature_group_count"], params["batch_group_count"]) != (1, 1)
            return "convolves in groups of channels" if grouped else ""
        contract, batch = params["dimension_numbers"]
        if batch[0]:
            return "runs along with the signal on an axis"
        wide = value.wide if isinstance(value, Population) else frozenset()
        return "acts on every unit alike" if wide - set(contract[1 - side]) else ""

    def _in_full(self, equation: Any, name: str, given: Sequence[Any], why: str) -> Population:
        """With the weight drawn entry by entry in every replica: means over networks (annealed)."""
        (weight,) = (x for x in given if isinstance(x, Weight))
        tables = [self.table(x) if isinstance(x, Weight) else x for x in given]
        self.notes[weight.leaf] = f"{why}: drawn in full for every replica (annealed)"
        (found,) = self._mapped(equation, name, tables)
        return found

    def _convolution(self, equation: Any, array, wide, weight: Weight) -> Population:
        params, spec = equation.params, equation.params["dimension_numbers"]
        batch, feature, *space = spec.lhs_spec
        x = array.transpose(0, batch + 1, *(n + 1 for n in space), feature + 1)
        kernel = [equation.invars[1].aval.shape[n] for n in spec.rhs_spec[2:]]
        out = [equation.outvars[0].aval.shape[n] for n in spec.out_spec[2:]]
        along = [
            positions(*args)
            for args in zip(
                x.shape[2:-1], out, kernel, params["window_strides"], params["padding"],
                params["lhs_dilation"], params["rhs_dilation"],
            )
        ]  # fmt: skip
        taps = []
        for tap in itertools.product(*map(range, kernel)):
            patch = x
            for axis, (where, t) in enumerate(zip(along, tap)):
                at = where[:, t]
                patch = jnp.take(patch, jnp.maximum(at, 0), axis=axis + 2)
                there = (at >= 0).reshape([-1 if n == axis + 2 else 1 for n in range(x.ndim)])
                patch = patch * there
            taps.append(patch.reshape(len(x), -1, x.shape[-1]))
        operand = jnp.stack(taps, axis=2)
        units = weight.shape[spec.rhs_spec[0]]
        contracted = frozenset(weight.axes[spec.rhs_spec[1]])
        found = self.drawing.product(weight, contracted, operand, units, True)
        found = found.reshape(-1, x.shape[1], *out, units)
        b, f, *s = spec.out_spec
        order = np.argsort([b, *s, f])
        found = found.transpose(0, *(int(n) + 1 for n in order))
        return Population(found, frozenset({f}))

    # ------------------------------------------------------------------ everything else

    def _reduced(self, equation: Any, name: str, given: Sequence[Any]) -> Sequence[Any]:
        (value,) = given
        axes = equation.params["axes"]
        whole = bool(value.wide) and value.wide <= set(axes)
        if name in _EXTREMES and value.wide & set(axes):
            raise Refused(f"{name} over units has no limit")
        units = math.prod(value.shape[n] for n in value.wide)
        found = self._mapped(equation, name, given)
        if not whole or name != "reduce_sum" or units < FEWEST_UNITS:
            return found
        return [Const(np.asarray(found[0].array.mean(0)))]

    def _mapped(self, equation: Any, name: str, given: Sequence[Any]) -> Sequence[Any]:
        """As it is, in every replica."""
        wide = _labels(equation, name, given)
        arrays = [_typed(x.array, v) for x, v in zip(given, equation.invars)]
        axes = [0 if isinstance(x, Population) else None for x in given]
        out = jax.vmap(lambda *xs: list(bound(equation, xs)), in_axes=axes)(*arrays)
        return [Population(x, w) for x, w in zip(out, wide)]


def _typed(array: Any, var: Any) -> Any:
    if hasattr(array, "dtype") and jnp.issubdtype(array.dtype, jax.dtypes.extended):
        return array
    return jnp.asarray(array, var.aval.dtype)


def _labels(equation: Any, name: str, given: Sequence[Any]) -> list[frozenset[int]]:
    """Which axes of every output are wide."""
    params = equation.params
    shapes = [v.aval.shape for v in equation.outvars]
    wides = [x.wide if isinstance(x, Population) else frozenset() for x in given]
    first, every = wides[0], frozenset().union(*wides)
    if name in _ORDERING:
        axis = params.get("dimension", params.get("axis", -1))
        axis = axis % len(given[0].shape) if isinstance(given[0], Population) else axis
        if axis in first:
            raise Refused(f"{name} over units has no limit")
        return [first] * len(shapes)
    if name in NAMES or name in _SAME_AXES:
        return [frozenset(n for n in every if n < len(s)) for s in shapes]
    if name == "transpose":
        return [frozenset(n for n, source in enumerate(params["permutation"]) if source in first)]
    if name == "broadcast_in_dim":
        dims = params["broadcast_dimensions"]
        return [frozenset(int(dims[n]) for n in first)]
    if name == "reshape":
        return [_reshaped(given[0], first, shapes[0])]
    if name == "squeeze":
        gone = params["dimensions"]
        kept = [n for n in range(len(given[0].shape)) if n not in gone]
        return [frozenset(n for n, source in enumerate(kept) if source in first)]
    if name.startswith("reduce_"):
        kept = [n for n in range(len(given[0].shape)) if n not in params["axes"]]
        return [frozenset(n for n, source in enumerate(kept) if source in first)]
    if name == "stack":
        axis = params["axis"]
        return [frozenset(n + (n >= axis) for n in every)]
    if name == "unstack":
        axis = params["axis"]
        return [frozenset(n - (n > axis) for n in every if n != axis)] * len(shapes)
    if name == "dot_general":
        return [_of_dot(params["dimension_numbers"], equation, wides)]
    if name == "conv_general_dilated":
        spec = params["dimension_numbers"]
        return [frozenset({spec.out_spec[1]}) if spec.lhs_spec[1] in first else frozenset()]
    if name.startswith("scatter"):
        return [first]
    if name == "gather":
        numbers = params["dimension_numbers"]
        gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
        window = [n for n in range(len(equation.invars[0].aval.shape)) if n not in gone]
        return [frozenset(d for d, n in zip(numbers.offset_dims, window) if n in first)]
    raise Refused(f"no rule for {name}")


def _reshaped(value: Population, wide: frozenset[int], shape: Sequence[int]) -> frozenset[int]:
    try:
        return frozenset(wide_axes(reshaped(labelled(value.shape, tuple(wide)), shape)))
    except NotClosed:  # as places; nothing is averaged that should not be
        return frozenset()


def _of_dot(dimension_numbers: Any, equation: Any, wides: Sequence[frozenset[int]]):
    contract, batch = dimension_numbers
    sources = [(0, n) for n in batch[0]]
    for side in (0, 1):
        rank = len(equation.invars[side].aval.shape)
        gone = {*contract[side], *batch[side]}
        sources += [(side, n) for n in range(rank) if n not in gone]
    both = {n for n, (a, b) in enumerate(zip(*batch)) if b in wides[1]}
    return frozenset(
        n for n, (side, source) in enumerate(sources) if source in wides[side] or n in both
    )
