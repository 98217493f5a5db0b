r"""Second moments of two inputs, through φ, scaled and added, with the angle between them kept.

Two centred random variables are vectors whose squared lengths are their variances. 1 - c is half
the squared distance of their directions, and it is computed as one: a sum of squares, in which
nothing cancels when the two nearly coincide. Equal ones keep 1 - c = 0 exactly, whatever is done to
them, and so do opposite ones 1 + c = 0 under an odd φ: chaos amplifies neither rounding.

Values of 1 - c and 1 + c carry no derivatives: those go through variances and covariance, in which
everything is differentiable, at vanishing variances too, where no angle is.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sigprop._derivatives import with_value
from sigprop.activations import Activation
from sigprop.gaussian import pair, price
from sigprop.gaussian.closed_forms import closed_form
from sigprop.gaussian.moments import Cell, smoothed, split
from sigprop.gaussian.single import mean_square, slope_square
from sigprop.gaussian.terms import least_variance, most_variance, odd
from sigprop.gaussian.windows import shared_sums

__all__ = ["constant", "covariance_value", "scaled", "slope", "through", "total"]

Scalar = Float[Array, ""]


def constant(variance: Scalar) -> Cell:
    """One random number that both inputs share, such as a bias."""
    zero = jnp.zeros_like(variance)
    return Cell(variance, variance, variance, zero, zero + 2)


def scaled(gain: Scalar, cell: Cell) -> Cell:
    """Both multiplied by √gain."""
    return cell._replace(a=gain * cell.a, b=gain * cell.b, covariance=gain * cell.covariance)


def total(*cells: Cell) -> Cell:
    """The sum of independent parts."""
    a, b, covariance = (sum(cell[i] for cell in cells[1:]) + cells[0][i] for i in range(3))
    apart, together = jnp.zeros_like(a), jnp.zeros_like(a)
    for cell in cells:
        share_a, share_b = (
            jnp.sqrt(part / jnp.where(whole > 0, whole, 1.0))
            for part, whole in ((cell.a, a), (cell.b, b))
        )
        differs = jnp.square(share_a - share_b) / 2
        apart += differs + share_a * share_b * cell.apart
        together += differs + share_a * share_b * cell.together
    beyond = ~jnp.isfinite(a + b)  # no shares: the angle it had
    apart, together = (
        jnp.where(beyond, cells[0][place], angle) for place, angle in ((3, apart), (4, together))
    )
    return _settled(a, b, covariance, apart, together)


def through(
    activation: Activation, cell: Cell, squares: tuple[Scalar, Scalar], nodes: int | None = None
) -> Cell:
    """Second moments of φ(u) and φ(v), of which ``squares`` are E[φ(u)²] and E[φ(v)²]."""
    fixed = jax.lax.stop_gradient((cell, squares))
    found = _settled(*squares, jnp.zeros_like(cell.a), *_angles(activation, *fixed, nodes))
    value = covariance_value(found)
    return found._replace(covariance=price.product(activation, _seen(cell), value, nodes))


def slope(activation: Activation, cell: Cell, nodes: int | None = None) -> Scalar:
    """E[φ'(u) φ'(v)]; where u = v the very number that E[φ'²] of one is."""
    seen = _seen(cell)
    found = price.slope_product(activation, seen, nodes)
    one = cell.apart == 0
    if odd(activation):
        one = one | (cell.together == 0)
    fixed = jax.lax.stop_gradient(seen.a)
    return with_value(
        found, jnp.where(one & (cell.a == cell.b), slope_square(activation, fixed), found)
    )


def _seen(cell: Cell) -> Cell:
    """With variances moved to where expectations can be taken; derivatives unchanged."""
    least, most = least_variance(cell.a.dtype), most_variance(cell.a.dtype)

    def moved(q):
        inside = jnp.where(q > 0, jnp.minimum(q, most), least)
        return with_value(q, inside)

    return cell._replace(a=moved(cell.a), b=moved(cell.b))


def _settled(a, b, covariance, apart, together) -> Cell:
    """Angles without derivatives; a right one where a variance vanishes."""
    moves = (a > 0) & (b > 0)
    one = jnp.ones_like(apart)
    apart, together = (
        jax.lax.stop_gradient(jnp.where(moves, jnp.clip(angle, 0, 2), one))
        for angle in (apart, together)
    )
    return Cell(a, b, covariance, apart, together)


def covariance_value(cell: Cell) -> Scalar:
    """The covariance by variances and angle; of equal ones exactly their variance."""
    root = jnp.where(cell.a == cell.b, cell.a, jnp.sqrt(cell.a) * jnp.sqrt(cell.b))
    cosine = jnp.where(cell.apart <= cell.together, 1 - cell.apart, cell.together - 1)
    known = ~jnp.isnan(cell.a + cell.b)
    return jnp.where((cosine == 0) & known, 0.0, root * cosine)  # 0 · inf counts as 0


def _angles(activation: Activation, cell: Cell, squares, nodes):
    """1 - c and 1 + c of φ(u) and φ(v)."""
    if not odd(activation):
        return _angles_as_given(activation, cell, squares, nodes)
    # φ(-v) = -φ(v): of the two that are nearer to one another.
    turned = cell.apart > cell.together
    near, far = jnp.minimum(cell.apart, cell.together), jnp.maximum(cell.apart, cell.together)
    nearer = cell._replace(apart=near, together=far)
    near, far = _angles_as_given(activation, nearer, squares, nodes)
    return jnp.where(turned, far, near), jnp.where(turned, near, far)


def _angles_as_given(activation: Activation, cell: Cell, squares, nodes):
    own = jnp.minimum(cell.apart, cell.together)
    seen = _seen(cell)
    size_a, size_b = (jnp.where(square > 0, square, 1.0) for square in squares)
    if activation.homogeneous_slopes is not None:  # the same angle at any variance
        left, right = activation.homogeneous_slopes
        one = jnp.ones_like(cell.a)
        apart = pair.deficit(activation, one, cell.apart) / mean_square(activation, one)
        return apart, cell.together if left == right else 2 - apart

    def equal():
        apart = pair.deficit(activation, seen.a, own, nodes) / size_a
        return apart, 2 - apart

    def unequal():
        lost = pair.deficit(activation, seen.a, own, nodes) / (2 * size_a)
        lost += pair.deficit(activation, seen.b, own, nodes) / (2 * size_b)
        minus, plus = _means(activation, seen, jnp.sqrt(size_a), jnp.sqrt(size_b), nodes)
        return lost + minus, lost + plus

    same = (cell.a == cell.b) & (cell.apart <= cell.together)
    return jax.lax.cond(same, equal, unequal)


def _means(activation, cell: Cell, size_a, size_b, nodes):
    """E_w[(φ̄(u|w)/|φ(u)| ∓ φ̄(v|w)/|φ(v)|)²]/2, given what u and v share."""
    shared, own, sign = split(cell.apart, cell.together)
    bends = [(activation, cell.a, jnp.ones_like(sign)), (activation, cell.b, sign)]
    closed = closed_form(activation)

    def squares_at(w):
        # Both in one call, so that opposite ones are opposite to the last digit.
        m = jnp.concatenate([jnp.sqrt(cell.a * shared) * w, sign * jnp.sqrt(cell.b * shared) * w])
        s = jnp.sqrt(
            jnp.repeat(jnp.stack([cell.a, cell.b]), w.size, total_repeat_length=m.size) * own
        )
        if closed is not None and closed.smoothed is not None:
            mean = closed.smoothed(m, s)
        else:
            mean = smoothed(activation, ((0, 0),), m, s, nodes)[0]
            mean = jnp.where(own > 0, mean, activation.fn(m))  # no sum of weights that rounds
        mean_a, mean_b = mean[: w.size] / size_a, mean[w.size :] / size_b
        return jnp.stack([jnp.square(mean_a - mean_b), jnp.square(mean_a + mean_b)]) / 2

    return shared_sums(bends, shared, own, squares_at, nodes)
