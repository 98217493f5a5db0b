r"""Values at infinite width: sums of linear maps, over places, of products of functions.

A `Signal` is Σ_k c_k M_k Π_m f_m(G_m): every G_m a linear form in atoms at every place, every f_m a
function of one number, M_k a linear map over places. What a program does to its signals keeps this
shape as long as every function meets one Gaussian at a place; then all expectations are integrals
over one or two of them.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from sigprop.limit.atoms import Form
from sigprop.limit.axes import Axes, places
from sigprop.limit.expressions import IDENTITY, Expression, literal, node
from sigprop.limit.refusals import NotClosed

__all__ = ["Const", "Signal", "Term", "Unknown", "of_form"]

_MOST_TERMS = 48
Map = np.ndarray | None  # None: as it is; one axis: a number for every place; two: any


@dataclass(frozen=True, eq=False)
class Const:
    """A known array; ``written`` if it stands in the program, whatever the model's numbers are."""

    array: Any
    written: bool = False


@dataclass(frozen=True, eq=False)
class Unknown:
    """What is not known exactly, and why."""

    operation: str
    reason: str

    def __str__(self) -> str:
        """In a sentence."""
        return self.reason if self.operation in self.reason else f"{self.operation}: {self.reason}"


@dataclass(frozen=True, eq=False)
class Term:
    """C M Π f(G)."""

    factors: Mapping[Form, Expression]
    c: float = 1.0
    map: Map = None

    @property
    def plain(self) -> bool:
        """Whether its map, if any, is a number for every place."""
        return self.map is None or self.map.ndim == 1

    @property
    def linear(self) -> Form | None:
        """The Gaussian that it is, or None."""
        if len(self.factors) == 1:
            ((form, f),) = self.factors.items()
            if f == IDENTITY:
                return form
        return None

    def scaled(self, factor: float) -> "Term":
        """Times a number that stands in the program."""
        return replace(self, c=self.c * factor)

    def weighted(self, by: np.ndarray) -> "Term":
        """Times a number for every place."""
        if self.map is None or self.map.ndim == 1:
            return replace(self, map=by if self.map is None else self.map * by)
        return replace(self, map=by[:, None] * self.map)

    def mapped(self, matrix: np.ndarray) -> "Term":
        """Behind a linear map over places."""
        if not self.factors:  # known numbers
            here = np.ones(matrix.shape[1]) if self.map is None else self.map
            return replace(self, map=matrix @ here)
        if self.map is None:
            return replace(self, map=matrix)
        return replace(self, map=matrix * self.map if self.map.ndim == 1 else matrix @ self.map)

    def at(self, index: np.ndarray) -> "Term":
        """At chosen places."""
        if self.map is not None and self.map.ndim == 2:
            return replace(self, map=self.map[index])
        factors = {form.at(index): f for form, f in self.factors.items()}
        return replace(self, factors=factors, map=None if self.map is None else self.map[index])


def _merged(terms: list[Term]) -> list[Term]:
    """Terms that differ in one function only as one."""
    kept: list[Term] = []
    for term in terms:
        for place, other in enumerate(kept):
            both = _one_of(other, term)
            if both is not None:
                kept[place] = both
                break
        else:
            kept.append(term)
    return [term for term in kept if term.c != 0.0]


def _one_of(a: Term, b: Term) -> Term | None:
    same = a.map is b.map or (
        a.map is not None and b.map is not None and np.array_equal(a.map, b.map)
    )
    if not same or set(a.factors) != set(b.factors):
        return None
    differing = [form for form, f in a.factors.items() if b.factors[form] != f]
    if not differing:
        return replace(a, c=a.c + b.c)
    if len(differing) > 1:
        return None
    (form,) = differing
    summed = _sum(_times(a.c, a.factors[form]), _times(b.c, b.factors[form]))
    return replace(a, factors={**a.factors, form: summed}, c=1.0)


def _times(c: float, f: Expression) -> Expression:
    return f if c == 1.0 else node("mul", jnp.multiply, (), (literal(float(c)), f))


def _sum(f: Expression, g: Expression) -> Expression:
    return node("add", jnp.add, (), (f, g))


@dataclass(frozen=True, eq=False)
class Signal:
    """A sum of terms, at the places of ``axes``."""

    axes: Axes
    terms: tuple[Term, ...]

    @functools.cached_property
    def places(self) -> int:
        """How many."""
        return places(self.axes)

    @property
    def form(self) -> Form | None:
        """The linear form that it is, with nothing added, or None."""
        if len(self.terms) == 1 and self.terms[0].map is None and self.terms[0].c == 1.0:
            return self.terms[0].linear
        return None

    def with_terms(self, terms) -> "Signal":
        """With others in their place; Gaussian ones are taken together."""
        terms = _gathered(_merged(list(terms)))
        if len(terms) > _MOST_TERMS:
            raise NotClosed(f"a sum of more than {_MOST_TERMS} different functions")
        return replace(self, terms=tuple(terms))

    def at(self, index: np.ndarray, axes: Axes) -> "Signal":
        """At chosen places."""
        return Signal(axes, tuple(term.at(index) for term in self.terms))

    def mapped(self, matrix: np.ndarray, axes: Axes) -> "Signal":
        """Behind a linear map over places; one that picks places leaves functions as they are."""
        if matrix.size and np.all(np.count_nonzero(matrix, axis=1) <= 1):
            index = np.abs(matrix).argmax(axis=1)
            weights = matrix[np.arange(len(matrix)), index]
            return self.at(index, axes).weighted(weights)
        return Signal(axes, ()).with_terms(term.mapped(matrix) for term in self.terms)

    def tagged(self, tag: tuple, axes: Axes) -> "Signal":
        """Some of the units."""
        terms = [
            replace(t, factors={form.tagged(tag): f for form, f in t.factors.items()})
            for t in self.terms
        ]
        return Signal(axes, tuple(terms))

    def scaled(self, factor: float) -> "Signal":
        """Times a number that stands in the program."""
        return replace(self, terms=tuple(term.scaled(factor) for term in self.terms if factor))

    def weighted(self, by: np.ndarray) -> "Signal":
        """Times a known number for every place."""
        if np.all(by == 1):
            return self
        return self.with_terms(term.weighted(by) for term in self.terms)

    def plus(self, other: "Signal", sign: float = 1.0) -> "Signal":
        """The sum, or the difference."""
        return self.with_terms([*self.terms, *(t.scaled(sign) for t in other.terms)])

    def times(self, other: "Signal") -> "Signal":
        """The product, unit by unit."""
        terms = [_product(a, b) for a in self.terms for b in other.terms]
        return self.with_terms(terms)

    def argument(self, operation: str) -> tuple[Form | None, Expression]:
        """The one Gaussian, and the function of it, that this is."""
        return _argument(self, operation)


def of_form(axes: Axes, form: Form) -> Signal:
    """A Gaussian as a signal."""
    return Signal(axes, (Term({form: IDENTITY}),))


def _gathered(terms: list[Term]) -> list[Term]:
    """With all linear terms as one form; a multiple written in the program stays one."""
    linear = [t for t in terms if t.linear is not None]
    computed = [t for t in linear if t.map is not None]
    if len(linear) < 2 and not computed:
        return terms
    total = functools.reduce(Form.plus, (_form_of(t) for t in linear))
    return [Term({total: IDENTITY}), *(t for t in terms if t.linear is None)]


def _form_of(term: Term) -> Form:
    (form,) = term.factors
    if term.map is None:
        return form if term.c == 1.0 else form.scaled(np.full(form.places, term.c))
    if term.map.ndim == 1:
        return form.scaled(term.c * term.map)
    return form.mapped(term.c * term.map)


def _product(a: Term, b: Term) -> Term:
    if not (a.plain and b.plain):
        if a.factors and b.factors:
            raise NotClosed("mul of signals that mix places")
        a, b = (a, b) if a.factors else (b, a)  # b is known numbers
        return (a if b.map is None else a.weighted(b.map)).scaled(b.c)
    map_ = a.map if b.map is None else (b.map if a.map is None else a.map * b.map)
    term = Term(dict(a.factors), a.c * b.c, map_)
    for form, f in b.factors.items():
        term = _with_factor(term, form, f)
    return term


def _with_factor(term: Term, form: Form, f: Expression) -> Term:
    """A function more; of a multiple of another function's argument as one of that."""
    factors = dict(term.factors)
    for other in factors:
        if other is form:
            factors[other] = _multiplied(factors[other], f)
            return replace(term, factors=factors)
        if other.root is form.root and np.array_equal(other.index, form.index):
            ratio = form.scale / np.where(other.scale == 0, 1.0, other.scale)
            if np.any((other.scale == 0) & (form.scale != 0)):
                continue
            if f == IDENTITY:
                factors[other] = _multiplied(factors[other], f)
                return replace(term, factors=factors).weighted(ratio)
            if np.all(ratio == ratio[0]):
                factors[other] = _multiplied(factors[other], _stretched(f, float(ratio[0])))
                return replace(term, factors=factors)
            raise NotClosed("mul of functions of one Gaussian scaled differently at its places")
    factors[form] = f
    return replace(term, factors=factors)


def _multiplied(f: Expression, g: Expression) -> Expression:
    if 1.0 in (f.constant, g.constant):
        return g if f.constant == 1.0 else f
    return node("mul", jnp.multiply, (), (f, g))


def _stretched(f: Expression, ratio: float) -> Expression:
    """X -> f(ratio x)."""
    return node("at", lambda z: f(z), f.number, (_times(ratio, IDENTITY),))


def _argument(signal: Signal, operation: str) -> tuple[Form | None, Expression]:
    forms = {form for term in signal.terms for form in term.factors}
    several = NotClosed(f"{operation} of several Gaussians at a place")
    if len(forms) > 1:
        raise several
    total, form = literal(0.0), next(iter(forms), None)
    for term in signal.terms:
        f = next(iter(term.factors.values()), literal(1.0))
        total = _plus(total, _times(term.c * _common(term.map, operation), f))
    return form, total


def _plus(f: Expression, g: Expression) -> Expression:
    return g if f.constant == 0.0 else _sum(f, g)


def _common(map_: Map, operation: str) -> float:
    """A factor that all places have in common."""
    if map_ is None:
        return 1.0
    if map_.ndim == 1 and np.all(map_ == map_[:1]):
        return float(map_[0])
    raise NotClosed(f"{operation} of functions scaled differently at their places")
