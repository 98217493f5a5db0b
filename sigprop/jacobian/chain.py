"""From a chain of factors to graded products: float64 where it serves, integers where it does not.

Which arithmetic a factor gets is decided by the error that its own triangularisation reports, not
by a flag.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from sigprop.jacobian.graded import Graded, absorb, checked, identity, reconditioned, separated
from sigprop.jacobian.integer_qr import (
    InsufficientBitsError,
    fixed_product,
    integer_triangularise,
    to_fixed,
)
from sigprop.jacobian.modular_rank import prefix_ranks
from sigprop.jacobian.pieces import Mixing, Piece, pieces
from sigprop.jacobian.triangular import EPSILON, Triangularised, triangularise

__all__ = ["graded_products"]

Factors = Callable[[], Iterable[Float[np.ndarray, "rows columns"]]]

_WORTH_REFINING = 1e-11  # relative error of a scale from which integers are used if they are cheap
_GOOD = 1e-10  # estimated error of a whole product that is left as it is
_MUST_REFINE = 1e-7  # ... and from which they are used even if they are not
_SINGULAR = 1e-2  # ... and from which only exact arithmetic can tell whether there is a scale
_CHEAP = 1e6  # integer multiplications that pass unnoticed (a tenth of a second)
_BUDGET = 6e8  # integer multiplications that one pass may cost (a minute or so)
_RANK_BUDGET = 1e11  # floating-point multiplications that the ranks may cost, likewise
_FIRST_BITS, _MOST_BITS = 192, 12288
_SMALL = 64  # size at which a look at the right part costs nothing beside the calls themselves
_LOOK_EVERY = 8  # steps otherwise, where it costs a third of a step


class _NumericallySingularError(ArithmeticError):
    """Float64 cannot tell a small scale from none."""


class _OverBudgetError(ArithmeticError):
    """The integers would take too long."""


def graded_products(factors: Factors, size: int, after: tuple[int, ...]) -> list[Graded]:
    """Products of the first ``after[0]``, ``after[1]``, ... matrices of ``factors()``, in order.

    ``size`` is how many numbers the first matrix acts on. ``factors`` is called once for every
    pass over the chain; there is one pass if no factor is singular to working precision. Where the
    budget for exact arithmetic does not allow a better result, the variances say so.
    """
    try:
        states = _float_pass(factors, size, after)
    except _NumericallySingularError:
        ranks = _affordable_ranks(factors, size)
        states = _float_pass(factors, size, after, ranks, stop_if_singular=False)
    if _worst(states) <= _GOOD:
        return states
    budget = _BUDGET if _worst(states) > _MUST_REFINE else 10 * _CHEAP
    return _integer_product(factors, size, after, budget) or states


def _chain(factors: Factors, after) -> Iterator[tuple[int, Piece]]:
    """Every piece, with how many whole factors are done when it is (0 in the midst of one)."""
    last = max(after, default=0)
    for done, factor in zip(range(1, last + 1), factors()):
        cut = list(pieces(factor))
        for piece in cut[:-1]:
            yield 0, piece
        yield done, cut[-1]


def _worst(states) -> float:
    return max(
        (float(np.sqrt(np.max(s.rounding.variance, initial=0.0))) for s in states), default=0.0
    )


def _float_pass(factors, size, after, ranks=None, *, stop_if_singular=True) -> list[Graded]:
    """Frames in float64; single factors in integers where their error asks for it."""
    state, spent, looked = identity(size), 0.0, 0
    states = {0: state}
    for index, (done, piece) in enumerate(_chain(factors, after)):
        rank = None if ranks is None else ranks[index]
        m, row_size = piece.times(state.frame)
        step = triangularise(m, row_size, state.scales, rank)
        error = float(np.max(step.relative_error, initial=0.0))
        if stop_if_singular and error > _SINGULAR:
            raise _NumericallySingularError
        cost = _integer_cost(state.frame, _FIRST_BITS)
        if error > (_WORTH_REFINING if cost <= _CHEAP else _MUST_REFINE):
            spent += cost
            step = step if spent > _BUDGET else _refined(piece, state, rank, step)
        state = absorb(state, _with_exponent(step, piece.exponent))
        if size <= _SMALL or index - looked >= _LOOK_EVERY:
            state, looked = reconditioned(state, index - looked), index
        if done in after:
            states[done] = state
    return [states[count] for count in after]


def _refined(piece, state, rank, step) -> Triangularised:
    """The step in integers of as many bits as it takes; as it was if no number of bits does."""
    bits = _FIRST_BITS
    while bits <= _MOST_BITS:
        try:
            frame = to_fixed(state.frame, bits)
            return integer_triangularise(
                piece, frame, bits, state.scales, rank=rank, frame_error=EPSILON
            )[1]
        except InsufficientBitsError:
            bits *= 2
    return step


def _integer_product(factors, size, after, budget) -> list[Graded] | None:
    """Passes with the frames in integers too; None if they would take too long."""
    if 3.0 * size**3 * max(after, default=0) > budget:
        return None
    ranks, bits = _affordable_ranks(factors, size), _FIRST_BITS
    while ranks is not None and bits <= _MOST_BITS:
        try:
            states = _integer_pass(factors, size, after, ranks, bits, budget)
        except InsufficientBitsError:
            bits *= 2
            continue
        except _OverBudgetError:
            return None
        if _worst(states) <= _WORTH_REFINING:
            return states
        bits *= 2
    return None


def _integer_pass(factors, size, after, ranks, bits, budget) -> list[Graded]:
    state, frame, spent = identity(size), to_fixed(np.eye(size), bits), 0.0
    states = {0: state}
    for (done, piece), rank in zip(_chain(factors, after), ranks):
        spent += _integer_cost(frame, bits)
        if spent > budget:
            raise _OverBudgetError
        frame, step = integer_triangularise(
            piece, frame, bits, state.scales, rank=rank, frame_error=2.0**-bits
        )
        state = absorb(state, _with_exponent(step, piece.exponent))
        state, frame = _integer_reconditioned(state, frame, bits)
        if done in after:
            states[done] = state
    return [states[count] for count in after]


def _integer_reconditioned(state, frame, bits):
    state, skew = checked(state, 1)
    if not skew:
        return state, frame
    factor, based = separated(state)
    inner, step = integer_triangularise(
        Mixing(factor, 0),
        to_fixed(np.eye(len(factor)), bits),
        bits,
        based.scales,
        rank=None,
        frame_error=2.0**-bits,
    )
    frame = fixed_product(frame[:, state.descending_order()], inner, bits)
    return absorb(based, step), frame


def _integer_cost(frame, bits) -> float:
    """Multiplications of one step, counted as ones of the first number of bits."""
    rows, columns = frame.shape
    return (rows * rows * columns + 2.0 * rows * columns * columns) * (bits / _FIRST_BITS) ** 1.5


def _affordable_ranks(factors, size) -> list[int] | None:
    cost, every = 0.0, 0
    for factor in factors():
        every += 1
        cost += float(factor.size) * size
        if cost > _RANK_BUDGET:
            return None
    return prefix_ranks((piece for _, piece in _chain(factors, (every,))), size)


def _with_exponent(step, exponent) -> Triangularised:
    diagonal = replace(step.diagonal, exponent=step.diagonal.exponent + exponent)
    return replace(step, diagonal=diagonal)
