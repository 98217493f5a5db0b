"""The exact rank of every partial product of a chain, by arithmetic modulo primes.

A float64 entry is an integer times a power of two, so the chain can be multiplied out exactly
modulo an odd prime. The rank modulo a prime never exceeds the true rank, and falls below it only
when the prime divides certain minors, once in about two million times; the largest rank over
several primes is right for all practical purposes. No floating-point tolerance enters.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int

from sigprop.jacobian.pieces import Mixing, Piece

__all__ = ["prefix_ranks"]

_PRIMES = (2097143, 2097133, 2097131)  # the largest below 2**21
_BLOCK = 2048  # products of two residues are below 2**42: this many add up exactly in a double


def prefix_ranks(chain: Iterable[Piece], size: int) -> list[int]:
    """Rank of the product of the first 1, 2, ... pieces; the first acts on ``size`` numbers."""
    bases = [np.eye(size) for _ in _PRIMES]
    ranks = []
    for piece in chain:
        bases = [_image_basis(piece, basis, p) for basis, p in zip(bases, _PRIMES)]
        ranks.append(max(basis.shape[1] for basis in bases))
    return ranks


def _image_basis(piece, basis, p):
    """Independent columns that span the image of ``basis`` under ``piece``, modulo ``p``."""
    if isinstance(piece, Mixing):
        image = _multiply(_residues(piece.matrix, p), basis, p)
    else:
        image = _residues(piece.diagonal, p)[:, None] * basis % p
    return image[:, _independent_columns(image, p)]


def _residues(values: Float[np.ndarray, "..."], p: int) -> Float[np.ndarray, "..."]:
    mantissa, exponent = np.frexp(values)
    whole = (mantissa * 2.0**53).astype(np.int64) % p
    levels, index = np.unique(exponent, return_inverse=True)
    powers = np.array([pow(2, int(level) - 53, p) for level in levels], np.int64)
    return (whole * powers[index.reshape(exponent.shape)] % p).astype(np.float64)


def _multiply(a, b, p):
    total = np.zeros((len(a), b.shape[1]))
    for start in range(0, a.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        total = (total + (a[:, block] @ b[block]) % p) % p
    return total


def _independent_columns(image, p) -> Int[np.ndarray, " rank"]:
    """Gaussian elimination by columns: those that are not combinations of earlier ones."""
    rest, free = image.copy(), np.ones(image.shape[1], bool)
    chosen = []
    for row in range(len(rest)):
        candidates = np.flatnonzero(free & (rest[row] != 0))
        if candidates.size == 0:
            continue
        pivot = candidates[0]
        inverse = pow(int(rest[row, pivot]), -1, p)
        multiples = rest[row, candidates[1:]] * inverse % p
        update = rest[row:, candidates[1:]] - rest[row:, pivot, None] * multiples % p
        rest[row:, candidates[1:]] = update % p
        free[pivot] = False
        chosen.append(pivot)
    return np.sort(np.array(chosen, np.int64))
