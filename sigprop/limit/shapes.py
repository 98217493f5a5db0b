"""Rules for operations that move, pick and sum places."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sigprop._precision import exact_float64
from sigprop.limit import second_moments
from sigprop.limit.atoms import Form
from sigprop.limit.axes import (
    Axes,
    Part,
    numbers,
    places,
    reshaped,
    sizes,
    spread,
    units,
    wide_axes,
)
from sigprop.limit.elementwise import as_signal
from sigprop.limit.refusals import NotClosed, Refused
from sigprop.limit.signals import Const, Signal, Term
from sigprop.limit.weights import Weight

__all__ = ["FEWEST_UNITS", "SHAPES"]

FEWEST_UNITS = 64  # from which on a mean over units is taken for its limit


def _reshape(equation, given):
    (value, *_) = given
    shape = equation.outvars[0].aval.shape
    if isinstance(value, Weight):
        return value.reshaped(shape)
    return Signal(reshaped(value.axes, shape), value.terms)


def _transpose(equation, given):
    (value,), order = given, equation.params["permutation"]
    if isinstance(value, Weight):
        return value.transposed(order)
    index = numbers(value.axes).transpose(order).ravel()
    return value.at(index, tuple(value.axes[n] for n in order))


def _broadcast(equation, given):
    (value, *_) = given
    shape, dims = equation.params["shape"], equation.params["broadcast_dimensions"]
    if isinstance(value, Weight):
        axes: list[tuple[int, ...]] = [()] * len(shape)
        for n, dim in enumerate(dims):
            axes[dim] = value.axes[n]
        return Weight(**{**vars(value), "axes": tuple(axes)})
    axes_out, index = spread(value.axes, shape, [int(dim) for dim in dims])
    return value.at(index, axes_out)


def _place(size: int) -> list[Part]:
    return [] if size == 1 else [Part(size, False)]


def _squeeze(equation, given):
    value, dims = given[0], equation.params["dimensions"]
    if isinstance(value, Weight):
        return value.reshaped(equation.outvars[0].aval.shape)
    kept = tuple(axis for n, axis in enumerate(value.axes) if n not in dims)
    return Signal(kept, value.terms)


def _slice(equation, given):
    (value,), params = given, equation.params
    starts, stops = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * len(starts)
    return _cut(value, starts, stops, strides)


def _cut(value, starts, stops, strides):
    if isinstance(value, Weight):
        if set(strides) != {1}:
            raise NotClosed("slice of a weight with a stride")
        return value.sliced(starts, stops)
    shape, axes = sizes(value.axes), list(value.axes)
    picks, tag = [], None
    for n, (start, stop, stride) in enumerate(zip(starts, stops, strides)):
        whole = (start, stop, stride) == (0, shape[n], 1)
        wide = any(part.wide for part in axes[n])
        if wide and not whole:
            if len(axes[n]) != 1 or stride != 1 or tag is not None:
                raise NotClosed("slice that cuts units and places together")
            tag, axes[n] = (shape[n], start, stop), (Part(stop - start, True),)
        elif not whole:
            axes[n] = tuple(_place(len(range(start, stop, stride))))
        picks.append(slice(None) if wide else slice(start, stop, stride))
    index = numbers(value.axes)[tuple(picks)].ravel()
    found = value.at(index, tuple(axes))
    return found if tag is None else found.tagged(tag, tuple(axes))


def _split(equation, given):
    (value,), axis, shape = given, equation.params["axis"], equation.invars[0].aval.shape
    pieces, start = [], 0
    for size in map(int, equation.params["sizes"]):
        starts, stops = [0] * len(shape), list(shape)
        starts[axis], stops[axis] = start, start + size
        pieces.append(_cut(value, starts, stops, [1] * len(shape)))
        start += size
    return pieces


def _unstack(equation, given):
    (value,), axis, shape = given, equation.params["axis"], equation.invars[0].aval.shape
    pieces = []
    for n in range(shape[axis]):
        starts, stops = [0] * len(shape), list(shape)
        starts[axis], stops[axis] = n, n + 1
        piece = _cut(value, starts, stops, [1] * len(shape))
        if isinstance(piece, Weight):
            pieces.append(piece.reshaped([k for m, k in enumerate(shape) if m != axis]))
            continue
        if any(part.wide for part in piece.axes[axis]):
            raise NotClosed("unstack of units")
        pieces.append(Signal(tuple(a for m, a in enumerate(piece.axes) if m != axis), piece.terms))
    return pieces


def _dynamic_slice(equation, given):
    value, *starts = given
    if not all(isinstance(start, Const) for start in starts):
        raise NotClosed("dynamic_slice at a place that hangs on the signal")
    size, shape = equation.params["slice_sizes"], equation.invars[0].aval.shape
    first = [int(np.clip(int(s.array), 0, n - k)) for s, n, k in zip(starts, shape, size)]
    return _cut(value, first, [a + k for a, k in zip(first, size)], [1] * len(first))


def _rev(equation, given):
    (value,), dims = given, equation.params["dimensions"]
    if isinstance(value, Weight):
        return value.flipped_along(dims)
    if set(dims) & set(wide_axes(value.axes)):
        raise NotClosed("rev of units")
    index = np.flip(numbers(value.axes), dims).ravel()
    return value.at(index, value.axes)


# ---------------------------------------------------------------------------- linear maps


def _stack(equation, given):
    axis = equation.params["axis"]
    new = lambda axes: (*axes[:axis], (), *axes[axis:])  # noqa: E731
    given = [
        Signal(new(x.axes), x.terms)
        if isinstance(x, Signal)
        else Const(np.expand_dims(np.asarray(x.array), axis))
        for x in given
    ]
    return _joined(given, axis)


def _concatenate(equation, given):
    return _joined(given, equation.params["dimension"])


def _joined(given: Sequence[Signal | Const], dim: int) -> Signal:
    axes_of = next(x.axes for x in given if isinstance(x, Signal))
    if any(part.wide for part in axes_of[dim]):
        raise NotClosed("concatenate of different units")
    parts, lengths = [], []
    for value in given:
        own = list(axes_of)
        is_signal = isinstance(value, Signal)
        shape = sizes(value.axes) if is_signal else np.shape(value.array)
        lengths.append(shape[dim])
        own[dim] = tuple(_place(shape[dim]))
        parts.append(as_signal(value, tuple(own)))
    out = list(axes_of)
    out[dim] = tuple(_place(sum(lengths)))
    ids, start = [], 0
    for part in parts:
        shape = numbers(part.axes).shape
        ids.append((start + np.arange(part.places)).reshape(shape))
        start += part.places
    order = np.concatenate(ids, axis=dim).ravel()
    return _stacked(parts, tuple(out)).at(order, tuple(out))


def _stacked(parts: Sequence[Signal], axes: Axes) -> Signal:
    """One signal after the other; the same functions of other Gaussians stay functions."""
    first = parts[0]
    likes = all(_like(first, other) for other in parts)
    if likes and first.terms:
        terms = [_stacked_term([part.terms[n] for part in parts]) for n in range(len(first.terms))]
        return Signal(axes, tuple(terms))
    total, count, start = Signal(axes, ()), sum(part.places for part in parts), 0
    for part in parts:
        matrix = np.eye(count, part.places, -start)
        total = total.plus(part.mapped(matrix, axes))
        start += part.places
    return total


def _like(x: Signal, y: Signal) -> bool:
    return len(x.terms) == len(y.terms) and all(
        list(a.factors.values()) == list(b.factors.values())
        and a.c == b.c and a.factors and a.map is None and b.map is None
        for a, b in zip(x.terms, y.terms)
    )  # fmt: skip


def _stacked_term(terms: Sequence[Term]) -> Term:
    columns = zip(*(term.factors.items() for term in terms))
    factors = {_stacked_form([form for form, _ in column]): column[0][1] for column in columns}
    return Term(factors, terms[0].c)


def _stacked_form(forms: Sequence[Form]) -> Form:
    rows: dict = {}
    start, count = 0, sum(form.places for form in forms)
    for form in forms:
        for name, matrix in form.parts.items():
            width = max(matrix.shape[1], rows[name].shape[1] if name in rows else 0)
            full = np.zeros((count, width))
            if name in rows:
                full[:, : rows[name].shape[1]] = rows[name]
            full[start : start + form.places, : matrix.shape[1]] = matrix
            rows[name] = full
        start += form.places
    return Form(rows, count)


def _linear(equation, given):
    """Any other operation that is linear in its first argument and leaves units alone."""
    value, *rest = given
    if isinstance(value, Weight) or not all(isinstance(x, Const) for x in rest):
        raise NotClosed(f"{equation.primitive.name} of that which is drawn")
    if equation.primitive.name == "pad" and np.any(np.asarray(rest[0].array)):
        raise NotClosed("pad with numbers other than 0")
    wide = wide_axes(value.axes)
    before, after = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    if len(before) != len(after) or any(before[n] != after[n] for n in wide):
        raise NotClosed(f"{equation.primitive.name} along units")
    matrix, shape = _matrix(equation, value, rest, wide)
    out = [tuple(_place(n)) for n in shape]
    for n in wide:
        if len(value.axes[n]) != 1:
            raise NotClosed(f"{equation.primitive.name} along an axis of units and places")
        out[n] = value.axes[n]
    return value.mapped(matrix, tuple(out))


@exact_float64
def _matrix(equation, value: Signal, rest, wide) -> tuple[np.ndarray, tuple[int, ...]]:
    """The operation on every unit vector of places, units taken as one."""
    collapsed = [1 if n in wide else size for n, size in enumerate(sizes(value.axes))]
    params = dict(equation.params)
    for name in ("window_dimensions", "window_strides"):
        if name in params and any(params[name][n] != 1 for n in wide):
            raise NotClosed(f"{equation.primitive.name} along units")
    if "padding_config" in params and any(any(params["padding_config"][n]) for n in wide):
        raise NotClosed("pad of units")
    basis = jnp.eye(value.places).reshape(value.places, *collapsed)
    others = [jnp.asarray(x.array, v.aval.dtype) for x, v in zip(rest, equation.invars[1:])]
    apply = lambda x: equation.primitive.bind(x, *others, **params)  # noqa: E731
    found = np.asarray(jax.vmap(apply)(basis))
    return found.reshape(value.places, -1).T, found.shape[1:]


def _cumsum(equation, given):
    if equation.params["axis"] in wide_axes(given[0].axes):
        raise NotClosed("cumsum of units")
    return _linear(equation, given)


# ---------------------------------------------------------------------------- sums


def _reduce_sum(equation, given):
    (value,), summed = given, equation.params["axes"]
    if isinstance(value, Weight):
        raise Refused("reduce_sum of a weight: what is normalised is not drawn independently")
    wide = wide_axes(value.axes)
    kept = tuple(axis for n, axis in enumerate(value.axes) if n not in summed)
    moved = np.moveaxis(numbers(value.axes), summed, range(len(summed)))
    rows = moved.reshape(-1, places(kept))
    if set(wide) & set(summed):
        if set(wide) - set(summed):
            raise NotClosed("reduce_sum over some of the units")
        if units(value.axes) < FEWEST_UNITS:
            raise NotClosed(f"sum over {units(value.axes)} units, too few for its limit")
        total = units(value.axes) * second_moments.mean(value)[rows].sum(0)
        return Const(total.reshape(sizes(kept)))
    matrix = np.zeros((places(kept), value.places))
    for row in rows:
        matrix[np.arange(len(row)), row] += 1
    return value.mapped(matrix, kept)


def _gather(equation, given):
    value, indices = given
    if not isinstance(indices, Const):
        raise NotClosed("gather at places that hang on the signal")
    return _gathered(equation, value, np.asarray(indices.array))


@exact_float64
def _gathered(equation, value: Signal, indices):
    params = dict(equation.params)
    wide = wide_axes(value.axes)
    shape = sizes(value.axes)
    slices = list(params["slice_sizes"])
    numbers_ = params["dimension_numbers"]
    for n in wide:
        if slices[n] != shape[n] or n in numbers_.start_index_map or len(value.axes[n]) != 1:
            raise NotClosed("gather of units")
        slices[n] = 1
    params["slice_sizes"] = tuple(slices)
    params["fill_value"] = -1
    ids = jnp.asarray(numbers(value.axes), jnp.int64)
    found = np.asarray(equation.primitive.bind(ids, jnp.asarray(indices), **params))
    if np.any(found < 0):
        raise NotClosed("gather beyond the end of an array")
    out = [tuple(_place(n)) for n in found.shape]
    window = [n for n in range(len(shape)) if n not in numbers_.collapsed_slice_dims]
    window = [n for n in window if n not in numbers_.operand_batching_dims]
    for dim, n in zip(numbers_.offset_dims, window):
        if n in wide:
            out[dim] = value.axes[n]
    return value.at(found.ravel(), tuple(out))


_LINEAR = ("pad", "reduce_window_sum")
SHAPES = {
    "reshape": _reshape, "transpose": _transpose, "broadcast_in_dim": _broadcast,
    "squeeze": _squeeze, "slice": _slice, "dynamic_slice": _dynamic_slice, "rev": _rev,
    "concatenate": _concatenate, "reduce_sum": _reduce_sum, "gather": _gather,
    "cumsum": _cumsum, "split": _split, "stack": _stack, "unstack": _unstack,
    **dict.fromkeys(_LINEAR, _linear),
}  # fmt: skip
