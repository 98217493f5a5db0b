r"""Means and second moments of signals, by the integrals that their terms come down to.

Of two signals x, y the engine asks for variances and for what they lack, D_ij = ½ E[(x_i - y_j)²].
Terms that are the same function of other Gaussians lack an integral of their own, in which nothing
cancels (`quadrature.same`); a sum lacks what its terms lack and what they have in common,

    ½ E[(a_i - a'_j)(b_i - b'_j)],   a ≠ b terms of one sum, a', b' those of the other.
"""

import functools
import itertools

import numpy as np

from sigprop.limit import quadrature
from sigprop.limit.atoms import Form, common, joint
from sigprop.limit.expressions import IDENTITY, Expression
from sigprop.limit.refusals import NotClosed
from sigprop.limit.signals import Signal, Term

__all__ = ["covariance", "forget", "lacking", "mean", "mean_product", "slope_by", "variance"]

_NOTHING = 1e-14


def forget() -> None:
    """Let go of what was integrated."""
    for cached in (joint, common, variance, lacking, _covariance, _term_mean):
        cached.cache_clear()


# ---------------------------------------------------------------------------- at one place


def mean(signal: Signal) -> np.ndarray:
    """E[x] at every place."""
    return sum((_mapped_mean(term) for term in signal.terms), np.zeros(signal.places))


def _mapped_mean(term: Term) -> np.ndarray:
    found = term.c * _term_mean(term)
    if term.map is None or not term.factors:
        return found if term.map is None else found * term.map
    return term.map * found if term.map.ndim == 1 else term.map @ found


@functools.lru_cache(maxsize=4096)
def _term_mean(term: Term):
    """E[Π f(G)] at the places of the Gaussians."""
    total = np.ones(())
    for group in _groups(term):
        if len(group) > 2:
            raise NotClosed("mean of three and more dependent Gaussians")
        total = total * (_one(*group[0]) if len(group) == 1 else _two_at_a_place(*group))
        if not np.any(total):
            break
    return total


def _groups(term: Term) -> list[list[tuple[Form, Expression]]]:
    """Functions by which of their Gaussians depend on each other, at any place; singles first."""
    groups: list[list] = []
    for item in term.factors.items():
        mine = [g for g in groups if any(_dependent_here(item[0], form) for form, _ in g)]
        groups = [g for g in groups if g not in mine] + [[item, *itertools.chain(*mine)]]
    return sorted(groups, key=len)


def _dependent_here(x: Form, y: Form) -> bool:
    return bool(np.any(np.abs(np.diagonal(common(x, y))) > _small(x, y)))


def _small(x: Form, y: Form) -> float:
    return _NOTHING * np.sqrt(x.moments[0].max(initial=0) * y.moments[0].max(initial=0))


def _one(form: Form, f: Expression) -> np.ndarray:
    if f == IDENTITY:
        return np.zeros(form.places) if form.gaussian else _fixed_mean(form)
    _demand_gaussian(form)
    return quadrature.mean(f, form.moments[0])


def _fixed_mean(form: Form) -> np.ndarray:
    fixed = [(atom, m) for (atom, _), m in form.parts.items() if not atom.gaussian]
    return sum((m @ atom.array.mean(1) for atom, m in fixed), np.zeros(form.places))  # type: ignore[attr-defined]


def _demand_gaussian(*forms: Form) -> None:
    if not all(form.gaussian for form in forms):
        raise NotClosed("function of known numbers that differ from unit to unit")


def _two_at_a_place(first, second) -> np.ndarray:
    (x, f), (y, g) = first, second
    variance_x, variance_y, lack = joint(x, y)
    shared = np.diagonal(common(x, y))
    return _expected(x, f, y, g, variance_x, variance_y, np.diagonal(lack), shared)


def _expected(x, f, y, g, variance_x, variance_y, lack, shared) -> np.ndarray:
    """E[f(u) g(v)] cell by cell."""
    if f == IDENTITY == g:
        return shared
    _demand_gaussian(x, y)
    if IDENTITY in (f, g):  # Stein: E[u g(v)] = Cov(u, v) E[g'(v)]
        of, q = (g, variance_y) if f == IDENTITY else (f, variance_x)
        slope = quadrature.mean_with_argument(of, q)
        return shared * slope
    return quadrature.product(f, g, variance_x, variance_y, lack)


@functools.lru_cache(maxsize=4096)
def variance(signal: Signal) -> np.ndarray:
    """E[x²] at every place."""
    return mean_product(signal, signal)


def mean_product(x: Signal, y: Signal) -> np.ndarray:
    """E[x_i y_i] at every place."""
    total = np.zeros(x.places)
    for a, b in itertools.product(x.terms, y.terms):
        total = total + _mean_of_two(a, b, x.places)
    return total


def _mean_of_two(a: Term, b: Term, count: int) -> np.ndarray:
    if not (a.plain and b.plain):
        return np.diagonal(_term_covariance(a, b, count, count))
    c = a.c * b.c * (1.0 if a.map is None else a.map) * (1.0 if b.map is None else b.map)
    if a.factors == b.factors:
        return np.broadcast_to(c * _term_square(a), (count,))
    one, zero = (Signal((), (Term(t.factors),)) for t in (a, b))
    both = one.times(zero).terms
    return np.broadcast_to(c * sum(_mapped_mean(t) for t in both), (count,))


def _term_square(term: Term):
    """E[Π f(G)²] of independent functions."""
    if not all(len(group) == 1 for group in _groups(term)):
        raise NotClosed("square of dependent Gaussians' product")
    total = np.ones(())
    for form, f in term.factors.items():
        if f == IDENTITY:
            total = total * form.moments[0]
        else:
            _demand_gaussian(form)
            total = total * quadrature.mean_square(f, form.moments[0])
    return total


# ---------------------------------------------------------------------------- at two places


@functools.lru_cache(maxsize=4096)
def lacking(x: Signal, y: Signal) -> np.ndarray:
    """½ E[(x_i - y_j)²] for every place i of x and j of y."""
    if _parallel(x, y):
        total = np.zeros((x.places, y.places))
        for a, b in zip(x.terms, y.terms):
            total = total + _term_lack(a, b, x.places, y.places)
        for m, n in itertools.permutations(range(len(x.terms)), 2):
            total = total + _common(x, y, m, n)
        return total
    return (variance(x)[:, None] + variance(y)) / 2 - covariance(x, y)


def covariance(x: Signal, y: Signal) -> np.ndarray:
    """E[x_i y_j]."""
    if _parallel(x, y):
        return (variance(x)[:, None] + variance(y)) / 2 - lacking(x, y)
    return _covariance(x, y)


@functools.lru_cache(maxsize=4096)
def _covariance(x: Signal, y: Signal) -> np.ndarray:
    pairs = itertools.product(x.terms, y.terms)
    total = np.zeros((x.places, y.places))
    return sum((_term_covariance(a, b, x.places, y.places) for a, b in pairs), total)


def _parallel(x: Signal, y: Signal) -> bool:
    """Whether two signals are the same sum of functions."""
    return len(x.terms) == len(y.terms) and all(
        list(a.factors.values()) == list(b.factors.values()) for a, b in zip(x.terms, y.terms)
    )


def _common(x: Signal, y: Signal, m: int, n: int) -> np.ndarray:
    """½ E[(a_i - a'_j)(b_i - b'_j)] of the m-th and the n-th term."""
    a, b = (Signal(x.axes, (x.terms[k],)) for k in (m, n))
    a_hat, b_hat = (Signal(y.axes, (y.terms[k],)) for k in (m, n))
    here, there = mean_product(a, b), mean_product(a_hat, b_hat)
    across = _covariance(a, b_hat) + _covariance(b, a_hat)
    return (here[:, None] + there - across) / 2


def _term_lack(a: Term, b: Term, rows: int, columns: int) -> np.ndarray:
    """What two terms of one kind lack: (M f)_i and (M' f')_j."""
    own_a, own_b, lack = _field_lack(a, b)
    if a.map is None and b.map is None and a.c == b.c:
        return np.broadcast_to(a.c**2 * lack, (rows, columns))
    r_a, m_a, d_a = _row_sums(a, own_a, rows)
    r_b, m_b, d_b = _row_sums(b, own_b, columns)
    product = _through_maps(a, lack, b, rows, columns)
    spread = (r_a[:, None] - r_b) * (m_a[:, None] - m_b) / 2
    return spread + product - (d_a[:, None] + d_b) / 2


def _row_sums(term: Term, square, rows: int):
    """A 1, A v and the diagonal of A D Aᵀ."""
    if term.map is None or term.map.ndim == 1 or not term.factors:
        r = np.broadcast_to(term.c * (1.0 if term.map is None else term.map), (rows,))
        return r, r * square, np.zeros(rows)
    own = _field_lack(term, term)[2]
    matrix = term.c * term.map
    return matrix.sum(1), matrix @ square, np.einsum("ik,kl,il->i", matrix, own, matrix)


def _through_maps(a: Term, field, b: Term, rows: int, columns: int) -> np.ndarray:
    """A X Bᵀ."""
    if a.map is not None and a.factors:
        field = a.map[:, None] * field if a.map.ndim == 1 else a.map @ field
    elif a.map is not None:
        field = a.map[:, None] * np.broadcast_to(field, (rows, np.shape(field)[-1]))
    if b.map is not None and b.factors:
        field = field * b.map if b.map.ndim == 1 else field @ b.map.T
    elif b.map is not None:
        field = np.broadcast_to(field, (np.shape(field)[0], columns)) * b.map
    return np.broadcast_to(a.c * b.c * field, (rows, columns))


def _field_lack(a: Term, b: Term):
    """Squares of two products of functions, and what they lack, before c and M.

    Of products of independent f, g: D(fg) = v̄_f D_g + v̄_g D_f - D_f D_g + Δv_f Δv_g/4.
    """
    square_a, square_b, lack = np.ones(1), np.ones(1), np.zeros((1, 1))
    if not _matched(a, b):
        square_a, square_b = np.atleast_1d(_term_square(a)), np.atleast_1d(_term_square(b))
        return square_a, square_b, _mean_of(square_a, square_b) - _field_covariance(a, b)
    for (x, f), (y, _) in zip(a.factors.items(), b.factors.items()):
        v, w, d = _function_lack(x, y, f)
        difference = (square_a[:, None] - square_b) * (v[:, None] - w) / 4
        lack = _mean_of(square_a, square_b) * d + _mean_of(v, w) * lack - lack * d + difference
        square_a, square_b = square_a * v, square_b * w
    return square_a, square_b, lack


def _mean_of(a, b):
    return (a[:, None] + b) / 2


def _matched(a: Term, b: Term) -> bool:
    """Whether only like functions of two products depend on each other."""
    pairs = [(x, y) for x, y in itertools.product(a.factors, b.factors)]
    order = list(zip(a.factors, b.factors))
    return all((x, y) in order or not _dependent(x, y) for x, y in pairs) and all(
        len(g) == 1 for term in (a, b) for g in _groups(term)
    )


def _dependent(x: Form, y: Form) -> bool:
    return bool(np.any(np.abs(common(x, y)) > _small(x, y)))


def _function_lack(x: Form, y: Form, f: Expression):
    """E[f(u)²], E[f(v)²] and ½ E[(f(u) - f(v))²] of every two places."""
    variance_x, variance_y, lack = joint(x, y)
    if f == IDENTITY:
        return variance_x, variance_y, lack
    _demand_gaussian(x, y)
    squares = (quadrature.mean_square(f, v) for v in (variance_x, variance_y))
    return *squares, _same(f, variance_x, variance_y, lack, x is y)


def _same(f: Expression, v, w, lack, one: bool) -> np.ndarray:
    if not one:
        return quadrature.same(f, v[:, None], w, lack)
    found = np.zeros_like(lack)
    i, j = np.triu_indices(len(v), 1)
    if i.size:
        found[i, j] = found[j, i] = quadrature.same(f, v[i], v[j], lack[i, j])
    return found


def _term_covariance(a: Term, b: Term, rows: int, columns: int) -> np.ndarray:
    return _through_maps(a, _field_covariance(a, b), b, rows, columns)


def _field_covariance(a: Term, b: Term) -> np.ndarray:
    """E[Π f(G)_i Π g(H)_j] before c and M."""
    left, total = dict(b.factors), np.ones((1, 1))
    pairs, alone = [], []
    for x, f in a.factors.items():
        met = [y for y in left if _dependent(x, y)]
        if len(met) > 1:
            raise NotClosed("one Gaussian meets several of another product")
        if met:
            pairs.append((x, f, met[0], left.pop(met[0])))
        else:
            alone.append(np.atleast_1d(_one(x, f))[:, None])
    alone += [np.atleast_1d(_one(y, g))[None] for y, g in left.items()]
    for one in alone:
        total = total * one
    if not np.any(total):
        return total
    if not all(len(g) == 1 for term in (a, b) for g in _groups(term)):
        raise NotClosed("product of dependent Gaussians")
    for x, f, y, g in pairs:
        variance_x, variance_y, lack = joint(x, y)
        if f == g and f != IDENTITY:
            squares = (quadrature.mean_square(f, v) for v in (variance_x, variance_y))
            _demand_gaussian(x, y)
            lost = _same(f, variance_x, variance_y, lack, x is y)
            total = total * (_mean_of(*squares) - lost)
        else:
            cells = variance_x[:, None], variance_y[None], lack, common(x, y)
            total = total * _expected(x, f, y, g, *cells)
    return total


# ---------------------------------------------------------------------------- derivatives


def slope_by(signal: Signal, name) -> np.ndarray | None:
    """E[∂x_i/∂a_k] by the places of one atom (and choice of units); None if it is 0."""
    total = None
    for term in signal.terms:
        for form, f in term.factors.items():
            if name not in form.parts:
                continue
            others = Term({g: h for g, h in term.factors.items() if g is not form})
            rest = _term_mean(others)
            if not np.any(rest):
                continue
            slope = np.ones(form.places) if f == IDENTITY else _slope(f, form)
            here = (rest * slope)[:, None] * form.parts[name]
            here = term.c * _behind(term, here)
            total = here if total is None else _added(total, here)
    return total if total is not None and np.any(np.abs(total) > 0) else None


def _slope(f: Expression, form: Form) -> np.ndarray:
    _demand_gaussian(form)
    found = quadrature.mean_with_argument(f, form.moments[0])
    return np.where(np.abs(found) < 1e-13, 0.0, found)  # of an even function, rounding


def _behind(term: Term, field: np.ndarray) -> np.ndarray:
    if term.map is None:
        return field
    return term.map[:, None] * field if term.map.ndim == 1 else term.map @ field


def _added(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    width = max(a.shape[1], b.shape[1])
    wider = [np.pad(m, ((0, 0), (0, width - m.shape[1]))) for m in (a, b)]
    return wider[0] + wider[1]
