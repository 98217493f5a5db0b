"""From a chain of factors to graded products, piece by piece."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from sigprop.jacobian.graded import Graded, absorb, identity, reconditioned
from sigprop.jacobian.pieces import Piece, pieces
from sigprop.jacobian.triangular import Triangularised, triangularise

__all__ = ["graded_products"]

Factors = Callable[[], Iterable[Float[np.ndarray, "rows columns"]]]

_SMALL = 64  # size at which a look at the right part costs nothing beside the calls themselves
_LOOK_EVERY = 8  # steps otherwise, where it costs a third of a step


def graded_products(factors: Factors, size: int, after: tuple[int, ...]) -> list[Graded]:
    """Products of the first ``after[0]``, ``after[1]``, ... matrices of ``factors()``, in order.

    ``size`` is how many numbers the first matrix acts on. One pass over the chain.
    """
    state, looked = identity(size), 0
    states = {0: state}
    for index, (done, piece) in enumerate(_chain(factors, after)):
        m, row_size = piece.times(state.frame)
        step = triangularise(m, row_size, state.scales)
        state = absorb(state, _with_exponent(step, piece.exponent))
        if size <= _SMALL or index - looked >= _LOOK_EVERY:
            state, looked = reconditioned(state, index - looked), index
        if done in after:
            states[done] = state
    return [states[count] for count in after]


def _chain(factors: Factors, after) -> Iterator[tuple[int, Piece]]:
    """Every piece, with how many whole factors are done when it is (0 in the midst of one)."""
    last = max(after, default=0)
    for done, factor in zip(range(1, last + 1), factors()):
        cut = list(pieces(factor))
        for piece in cut[:-1]:
            yield 0, piece
        yield done, cut[-1]


def _with_exponent(step, exponent) -> Triangularised:
    diagonal = replace(step.diagonal, exponent=step.diagonal.exponent + exponent)
    return replace(step, diagonal=diagonal)
