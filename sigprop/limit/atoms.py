r"""Gaussian values at places, as linear forms in atoms.

An *atom* is what one drawn weight makes of all that it is multiplied by: jointly Gaussian over its
uses, by the second moments of what came in. Of two places i, j it keeps what they lack,
D_ij = ½ E[(z_i - z_j)²], beside the variances v: where inputs come close that is what is left of
the digits. A linear form x = A z has, with row sums r = A 1 and m = A v,

    v(x)_i = r_i m_i - (A D Aᵀ)_ii,
    D(x, y)_ij = ½ (r_i - r̂_j)(m_i - m̂_j) + (A D Bᵀ)_ij - ½ (A D Aᵀ)_ii - ½ (B D Bᵀ)_jj,

in which nothing cancels for forms that pick places (all of D_ii is 0) or weigh them alike.
"""

import functools
import itertools
from collections.abc import Hashable, Mapping

import numpy as np

from sigprop.limit.refusals import NotClosed

__all__ = ["Atom", "Fixed", "Form", "Tag", "common", "joint"]

_ids = itertools.count()
Tag = tuple  # which of the units: () for all, else a chain of (size, start, stop)


class Atom:
    """Units, alike and independent, at a growing number of places."""

    gaussian = True

    def __init__(self, name: Hashable, variance: np.ndarray, lack: np.ndarray):
        self.name, self.variance, self.lack = name, variance, lack

    def grown(self, variance: np.ndarray, own: np.ndarray, with_former: np.ndarray) -> None:
        """Add places that lack ``own`` among themselves and ``with_former`` (new, former)."""
        self.variance = np.concatenate([self.variance, variance])
        self.lack = np.block([[self.lack, with_former.T], [with_former, own]])


class Fixed(Atom):
    """Known numbers, of which units are drawn: their means over units stand for expectations."""

    gaussian = False

    def __init__(self, array: np.ndarray):
        square = np.mean(array**2, axis=1)
        lack = np.stack([np.mean((array - row) ** 2, axis=1) / 2 for row in array])
        super().__init__(("fixed", array.tobytes(), array.shape), square, lack)
        self.array = array


class Form:
    """A linear form: by atom, and which of its units, a matrix (places, atom's places).

    ``root``, ``scale`` and ``index`` say of which other form it is a multiple at which places, so
    that one function's argument is recognised under another's.
    """

    def __init__(self, parts: Mapping[tuple[Atom, Tag], np.ndarray], places: int, root=None):
        self.parts, self.places, self.number = dict(parts), places, next(_ids)
        self.root, self.scale, self.index = root or (self, np.ones(places), np.arange(places))
        self._derived: dict = {}

    @property
    def gaussian(self) -> bool:
        """Whether all atoms are Gaussian."""
        return all(atom.gaussian for atom, _ in self.parts)

    @functools.cached_property
    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Variances, and what every two places lack."""
        variance, _, lack = joint(self, self)
        return variance, lack

    def at(self, index: np.ndarray) -> "Form":
        """At chosen places; the form itself, and any derived one, has but one object."""
        return self._multiple(self.scale[index], self.index[index])

    def scaled(self, factor: np.ndarray) -> "Form":
        """Times a number for every place."""
        return self._multiple(self.scale * factor, self.index)

    def _multiple(self, scale: np.ndarray, index: np.ndarray) -> "Form":
        root: Form = self.root
        if np.array_equal(index, root.index) and np.array_equal(scale, root.scale):
            return root
        key = (scale.tobytes(), index.tobytes())
        if key not in root._derived:
            parts = {name: scale[:, None] * matrix[index] for name, matrix in root.parts.items()}
            root._derived[key] = Form(parts, index.size, (root, scale, index))
        return root._derived[key]

    def mapped(self, matrix: np.ndarray) -> "Form":
        """Linear combinations of its places."""
        return Form({name: matrix @ part for name, part in self.parts.items()}, len(matrix))

    def tagged(self, tag: tuple) -> "Form":
        """Of some of the units only."""
        key = ("tag", tag)
        if key not in self._derived:
            parts = {(atom, (*old, tag)): part for (atom, old), part in self.parts.items()}
            self._derived[key] = Form(parts, self.places)
        return self._derived[key]

    def plus(self, other: "Form", sign: float = 1.0) -> "Form":
        """The sum, or difference."""
        parts = dict(self.parts)
        for name, matrix in other.parts.items():
            mine = parts.get(name)
            parts[name] = sign * matrix if mine is None else _padded_sum(mine, sign * matrix)
        return Form(parts, self.places)


def _padded_sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of forms in one atom, which may have grown between them."""
    width = max(a.shape[1], b.shape[1])
    wider = [np.pad(m, ((0, 0), (0, width - m.shape[1]))) for m in (a, b)]
    return wider[0] + wider[1]


@functools.lru_cache(maxsize=4096)
def joint(x: Form, y: Form) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variances of both, and what x_i and y_j lack, (places of x, places of y)."""
    _check_units(x, y)
    names = dict.fromkeys((*x.parts, *y.parts))
    variance_x, variance_y = np.zeros(x.places), np.zeros(y.places)
    lack = np.zeros((x.places, y.places))
    for name in names:
        a, b = x.parts.get(name), y.parts.get(name)
        v_x, v_y, lacking = _of_one(name[0], a, b, x.places, y.places)
        variance_x, variance_y, lack = variance_x + v_x, variance_y + v_y, lack + lacking
    return _with_fixed(x, y, variance_x, variance_y, lack)


@functools.lru_cache(maxsize=4096)
def common(x: Form, y: Form) -> np.ndarray:
    """Cov(x_i, y_j) from what they share alone: exactly 0 where that is nothing."""
    _check_units(x, y)
    total = np.zeros((x.places, y.places))
    for name in x.parts.keys() & y.parts.keys():
        atom, a, b = name[0], x.parts[name], y.parts[name]
        rows, columns = a.shape[1], b.shape[1]
        variance = atom.variance[:rows, None] + atom.variance[:columns]
        total += a @ (variance / 2 - atom.lack[:rows, :columns]) @ b.T
    for (atom, a), (other, b) in itertools.product(_fixed_parts(x), _fixed_parts(y)):
        if atom is not other:
            total += a @ _overlap(atom, other) @ b.T
    return total


def _of_one(atom: Atom, a, b, rows: int, columns: int):
    r_a, m_a, own_a = _sums(atom, a, rows)
    r_b, m_b, own_b = _sums(atom, b, columns)
    lack = (r_a[:, None] - r_b) * (m_a[:, None] - m_b) / 2 - (own_a[:, None] + own_b) / 2
    if a is not None and b is not None:
        lack = lack + a @ atom.lack[: a.shape[1], : b.shape[1]] @ b.T
    return r_a * m_a - own_a, r_b * m_b - own_b, lack


def _sums(atom: Atom, matrix, rows: int):
    if matrix is None:
        return np.zeros(rows), np.zeros(rows), np.zeros(rows)
    n = matrix.shape[1]
    own = np.einsum("ik,kl,il->i", matrix, atom.lack[:n, :n], matrix, optimize=True)
    return matrix.sum(1), matrix @ atom.variance[:n], own


def _with_fixed(x: Form, y: Form, variance_x, variance_y, lack):
    """Known arrays are not independent of one another."""
    of_x, of_y = _fixed_parts(x), _fixed_parts(y)
    for (atom, a), (other, b) in itertools.product(of_x, of_y):
        if atom is not other:
            lack = lack - a @ _overlap(atom, other) @ b.T
    variance_x, variance_y = variance_x + _among(of_x), variance_y + _among(of_y)
    half = np.asarray(_among(of_x)) / 2, np.asarray(_among(of_y)) / 2
    return variance_x, variance_y, lack + half[0][..., None] + half[1]


def _fixed_parts(form: Form) -> list[tuple["Fixed", np.ndarray]]:
    found = [(atom, m) for (atom, _), m in form.parts.items() if isinstance(atom, Fixed)]
    if found and any(tag != () for atom, tag in form.parts if isinstance(atom, Fixed)):
        raise NotClosed("slice of a known array along its units")
    return found


def _overlap(atom: Fixed, other: Fixed) -> np.ndarray:
    if atom.array.shape[1] != other.array.shape[1]:
        raise NotClosed("add of known arrays with different numbers of units")
    return atom.array @ other.array.T / atom.array.shape[1]


def _among(fixed: list[tuple["Fixed", np.ndarray]]):
    """What different known arrays in one form have in common at every place."""
    pairs = itertools.permutations(fixed, 2)
    return sum(np.einsum("ik,kl,il->i", a, _overlap(f, g), b) for (f, a), (g, b) in pairs)


def _check_units(x: Form, y: Form) -> None:
    """Different parts of one atom's units are independent; parts that overlap have no rule."""
    for (atom, tag), (other, other_tag) in itertools.product(x.parts, y.parts):
        if atom is other and tag != other_tag and not _disjoint(tag, other_tag):
            raise NotClosed("slice of units that overlap others of the same signal")


def _disjoint(tag: Tag, other: Tag) -> bool:
    for (size, start, stop), (size_b, start_b, stop_b) in zip(tag, other):
        if (size, start, stop) != (size_b, start_b, stop_b):
            return size == size_b and (stop <= start_b or stop_b <= start)
    return False
