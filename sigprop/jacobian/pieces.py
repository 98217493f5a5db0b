"""One factor cut into pieces that can be applied one after the other without loss.

A factor with columns of very different size, or with columns of zeros (``W diag(φ')``), is a dense
factor after a diagonal one: ``A = B diag(c)``. Applied in turn both are harmless, while ``A`` at
once would drown the small columns. Rows of different size need no such care, unless their range
leaves that of a double. All diagonal pieces are powers of two, so nothing is rounded.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

__all__ = ["Mixing", "Piece", "Rescaling", "pieces"]

_COLUMN_RANGE = 12  # bits between columns of an ordinary factor; more is split off
_ROW_RANGE = 500  # bits one piece may span, squares of which are still doubles
_ZERO = np.iinfo(np.int64).min // 4  # exponent that stands for a row or column of zeros


@dataclass(frozen=True)
class Mixing:
    """A dense matrix with largest entry about one, times ``2**exponent``."""

    matrix: Float[np.ndarray, "rows columns"]
    exponent: int

    def times(self, frame: Float[np.ndarray, "columns rank"]):
        """``matrix @ frame``, and the size of the numbers each row was summed from."""
        used = frame.any(axis=1).astype(np.float64)
        return self.matrix @ frame, np.sqrt(np.square(self.matrix) @ used)


@dataclass(frozen=True)
class Rescaling:
    """``diag(kept * 2**row_exponent) * 2**exponent``."""

    row_exponent: Int[np.ndarray, " rows"]
    kept: Bool[np.ndarray, " rows"]
    exponent: int

    @property
    def diagonal(self) -> Float[np.ndarray, " rows"]:
        """The diagonal without its common exponent."""
        return np.ldexp(self.kept.astype(np.float64), self.row_exponent)

    def times(self, frame: Float[np.ndarray, "rows rank"]):
        """``diagonal @ frame``, and the size of its rows."""
        scaled = self.diagonal[:, None] * frame
        return scaled, np.linalg.norm(scaled, axis=1)


Piece = Mixing | Rescaling


def pieces(factor: Float[np.ndarray, "rows columns"]) -> Iterator[Piece]:
    """What ``factor`` is the product of, first to act first."""
    columns = _exponents(factor, axis=0)
    if not _spread(columns) <= _COLUMN_RANGE:
        yield from _rescalings(columns)
        factor = np.ldexp(factor, -np.where(columns == _ZERO, 0, columns))
    rows = _exponents(factor, axis=1)
    nonzero = rows[rows != _ZERO]
    if _spread(nonzero) <= _ROW_RANGE:
        top = int(np.max(nonzero)) if nonzero.size else 0
        yield Mixing(np.ldexp(factor, -top), top)
        return
    yield Mixing(np.ldexp(factor, -np.where(rows == _ZERO, 0, rows)[:, None]), 0)
    yield from _rescalings(rows)


def _exponents(factor, axis):
    size = np.max(np.abs(factor), axis=axis, initial=0.0)
    return np.where(size > 0, np.frexp(size)[1].astype(np.int64), _ZERO)


def _spread(exponents) -> int:
    return int(np.max(exponents) - np.min(exponents)) if exponents.size else 0


def _rescalings(exponents) -> Iterator[Rescaling]:
    kept = exponents != _ZERO
    top = int(np.max(exponents[kept])) if kept.any() else 0
    rest = np.where(kept, exponents - top, 0)
    while True:
        now = np.maximum(rest, -_ROW_RANGE)
        yield Rescaling(now, kept, top)
        rest, top = rest - now, 0
        if not rest.any():
            return
