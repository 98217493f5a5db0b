"""Rules for matrix multiplies and convolutions."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop._precision import exact_float64
from sigprop.limit.atoms import Form
from sigprop.limit.axes import Part, labelled, numbers, projected, units, wide_axes
from sigprop.limit.constants import fixed
from sigprop.limit.expressions import IDENTITY
from sigprop.limit.multiply import Multiplier, Operand
from sigprop.limit.refusals import NotClosed
from sigprop.limit.signals import Const, Signal, Term
from sigprop.limit.weights import Weight

__all__ = ["Contractor", "positions"]


class Contractor:
    """Multiplies, remembering of every axis of a weight which places it runs along."""

    def __init__(self, multiplier: Multiplier):
        self.multiplier = multiplier
        self._along: dict[tuple[int, int], tuple[Part, ...]] = {}

    def __call__(self, equation: Any, given: Sequence[Any]) -> Any:
        """The rule of ``dot_general`` and of ``conv_general_dilated``."""
        drawn = [isinstance(x, Weight) for x in given]
        if all(drawn):
            raise NotClosed("product of two drawn weights")
        if equation.primitive.name == "conv_general_dilated":
            if drawn != [False, True]:
                raise NotClosed("convolution with a kernel that is not drawn")
            return self._convolution(equation, *given)
        if not any(drawn):
            return _known_product(equation, given)
        return self._dot(equation, given, drawn.index(True))

    def _dot(self, equation, given, side: int):
        weight, value = given[side], given[1 - side]
        (contract, batch) = equation.params["dimension_numbers"]
        if batch[0]:
            raise NotClosed("dot_general with an axis along which weight and signal run together")
        mine, its = contract[side], contract[1 - side]
        signal = _as_operand(value, its)
        if signal is None:
            return Const(np.zeros(equation.outvars[0].aval.shape))
        rest = [n for n in range(len(signal.axes)) if n not in its]
        _check_units(signal, its, rest)
        parts = [p for n in its for p in signal.axes[n]]
        order = numbers(signal.axes).transpose(*rest, *its)
        index = order.reshape(int(np.prod(order.shape[: len(rest)])), -1)
        contracted = frozenset(a for n in mine for a in weight.axes[n])
        self._remember(weight, mine, parts)
        free = [n for n in range(len(weight.axes)) if n not in mine]
        out_weight = [self._parts(weight, n) for n in free]
        spread = int(np.prod([p.size for axis in out_weight for p in axis if not p.wide]))
        operand = Operand(signal, index, units((tuple(parts),)), spread)
        out_signal = [signal.axes[n] for n in rest]
        axes = (*out_signal, *out_weight)
        found = self.multiplier(weight, contracted, operand, axes, False)
        return _weight_first(found, len(out_signal)) if side == 0 else found

    def _remember(self, weight: Weight, mine: Sequence[int], parts: Sequence[Part]) -> None:
        if len(mine) == 1 and len(weight.axes[mine[0]]) == 1:
            self._along.setdefault((weight.leaf, weight.axes[mine[0]][0]), tuple(parts))

    def _parts(self, weight: Weight, axis: int) -> tuple[Part, ...]:
        size = weight.shape[axis]
        if len(weight.axes[axis]) == 1:
            known = self._along.get((weight.leaf, weight.axes[axis][0]), ())
            if int(np.prod([p.size for p in known])) == size and any(p.wide for p in known):
                return known
        return (Part(size, True),)

    def _convolution(self, equation, value, weight: Weight):
        params = equation.params
        if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
            raise NotClosed("convolution in groups of channels")
        spec = params["dimension_numbers"]
        batch, feature, *space = spec.lhs_spec
        signal = _as_operand(value, (feature,))
        if signal is None:
            return Const(np.zeros(equation.outvars[0].aval.shape))
        if set(wide_axes(signal.axes)) != {feature} or len(signal.axes[feature]) != 1:
            raise NotClosed("convolution over channels that are not the only units")
        index, out_space = _taps(equation, signal, batch, space)
        operand = Operand(signal, index, units(signal.axes))
        out_feature, in_feature = spec.rhs_spec[:2]
        contracted = frozenset(weight.axes[in_feature])
        channels = Part(weight.shape[out_feature], True)
        plain = (signal.axes[batch], *(_place(n) for n in out_space), (channels,))
        found = self.multiplier(weight, contracted, operand, plain, True)
        b, f, *s = spec.out_spec
        position = np.argsort([b, *s, f])
        ids = numbers(plain).transpose(position).ravel()
        return found.at(ids, tuple(plain[n] for n in position))


def _weight_first(found: Signal, count: int) -> Signal:
    """With the weight's axes before those ``count`` of the signal."""
    order = [*range(count, len(found.axes)), *range(count)]
    ids = numbers(found.axes).transpose(order).ravel()
    return found.at(ids, tuple(found.axes[n] for n in order))


def _place(size: int) -> tuple[Part, ...]:
    return () if size == 1 else (Part(size, False),)


def _as_operand(value: Any, summed: Sequence[int]) -> Signal | None:
    """A known array as a signal whose units are on the axes summed over; None if it is 0."""
    if isinstance(value, Signal):
        return value if value.terms else None
    array = np.asarray(value.array, float)
    if not np.any(array):
        return None
    axes = labelled(array.shape, summed)
    columns = projected(array, axes)
    if np.all(columns == columns[:, :1]):
        return Signal(axes, (Term({}, 1.0, columns[:, 0]),))
    form = Form({(fixed(columns), ()): np.eye(len(columns))}, len(columns))
    return Signal(axes, (Term({form: IDENTITY}),))


def _check_units(signal: Signal, summed: Sequence[int], rest: Sequence[int]) -> None:
    wide = set(wide_axes(signal.axes))
    if wide & set(rest):
        raise NotClosed("one weight acts on every unit alike (mixing of places)")
    if not wide:
        raise NotClosed("dot_general of a weight with a signal that has no units")


# ---------------------------------------------------------------------------- convolution


def _taps(equation, signal: Signal, batch: int, space: Sequence[int]):
    """(places out, taps): which place every tap falls on, -1 for padding; and the shape out."""
    params = equation.params
    ids = numbers(signal.axes).transpose(batch, *space, *_others(signal, batch, space))
    ids = ids.reshape(ids.shape[: 1 + len(space)])
    kernel = [equation.invars[1].aval.shape[n] for n in params["dimension_numbers"].rhs_spec[2:]]
    out = [equation.outvars[0].aval.shape[n] for n in params["dimension_numbers"].out_spec[2:]]
    along = [
        positions(*args)
        for args in zip(
            ids.shape[1:], out, kernel, params["window_strides"], params["padding"],
            params["lhs_dilation"], params["rhs_dilation"],
        )
    ]  # fmt: skip
    columns = []
    for tap in itertools.product(*map(range, kernel)):
        picks = [where[:, t] for where, t in zip(along, tap)]
        inside = np.ix_(np.arange(len(ids)), *(np.maximum(p, 0) for p in picks))
        present = np.ones(ids[inside].shape, bool)
        for axis, p in enumerate(picks):
            present &= (p >= 0).reshape([-1 if n == axis + 1 else 1 for n in range(ids.ndim)])
        columns.append(np.where(present, ids[inside], -1).ravel())
    return np.stack(columns, axis=1), out


def _others(signal: Signal, batch: int, space: Sequence[int]) -> list[int]:
    return [n for n in range(len(signal.axes)) if n != batch and n not in space]


def positions(size, out, taps, stride, padding, dilation_in, dilation) -> np.ndarray:
    """(out, taps) along one axis of pixels."""
    at = np.arange(out)[:, None] * stride - padding[0] + np.arange(taps) * dilation
    inside = (at % dilation_in == 0) & (at >= 0) & (at <= (size - 1) * dilation_in)
    return np.where(inside, at // dilation_in, -1)


# ---------------------------------------------------------------------------- with known arrays


def _known_product(equation, given):
    """Of a signal with a known array, over places."""
    if equation.primitive.name != "dot_general" or all(isinstance(x, Signal) for x in given):
        raise NotClosed(f"{equation.primitive.name} of two signals")
    side = 0 if isinstance(given[0], Signal) else 1
    signal, known = given[side], np.asarray(given[1 - side].array, float)
    (contract, batch) = equation.params["dimension_numbers"]
    if not np.any(known) or not signal.terms:
        return Const(np.zeros(equation.outvars[0].aval.shape))
    wide = set(wide_axes(signal.axes))
    if wide & set(contract[side]):
        raise NotClosed("dot_general of units with known numbers")
    for mine, its in zip(batch[side], batch[1 - side]):
        if mine in wide:
            first = np.take(known, [0], axis=its)
            if not np.all(known == first) or len(signal.axes[mine]) != 1:
                raise NotClosed("dot_general of units with known numbers of their own")
            known = first
    matrix, shape = _known_matrix(signal, known, side, contract, batch)
    free = [n for n in range(len(signal.axes)) if n not in (*contract[side], *batch[side])]
    out = [_place(n) for n in shape]
    first = len(batch[0])
    first += 0 if side == 0 else known.ndim - len(batch[0]) - len(contract[0])
    for position, n in enumerate(free):
        out[first + position] = signal.axes[n]
    for position, n in enumerate(batch[side]):
        out[position] = signal.axes[n]
    return signal.mapped(matrix, tuple(out))


@exact_float64
def _known_matrix(signal: Signal, known: np.ndarray, side: int, contract, batch):
    ids = numbers(signal.axes)
    basis = jnp.eye(signal.places).reshape(signal.places, *ids.shape)
    array = jnp.asarray(known)

    def apply(x):
        pair = (x, array) if side == 0 else (array, x)
        return jax.lax.dot_general(*pair, (contract, batch))

    found = np.asarray(jax.vmap(apply)(basis))
    return found.reshape(signal.places, -1).T, found.shape[1:]
