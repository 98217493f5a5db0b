"""What one layer of a block does to variance, correlation and squared gradient at infinite width.

Let q = E[z²] of the stream z^l, v the variance that the activation sees (1 behind a normalisation,
else q), ρ the keep probability of dropout and α the branch scale. A layer adds

    S = E[φ(u)²]/ρ,   P = E[φ(u) φ(v)],   D = E[φ'(u)²]/ρ · 1/q behind a normalisation,

to the second moment, the covariance of two inputs and the squared gradient; masks shared by the two
inputs divide P by ρ as well. With k = 1 for a skip connection and 0 without,

    q' = k q + α² σ_w² S + σ_b²,   cov' = k cov + α² σ_w² P + σ_b²,   χ = k + α² σ_w² D,

all divided by q' where the sum is normalised afterwards. Schoenholz et al. 2017 (dropout, eqs.
12-14), Yang and Schoenholz 2017 (residual), Xiong et al. 2020 (before and after the sum).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sigprop.activations import Activation
from sigprop.gaussian import pair, single
from sigprop.gaussian.limits import limits

__all__ = ["PLAIN", "Numbers", "Rule", "layers"]

# Beyond these a variance is replaced by its bound where integrals are taken: φ is straight there.
_LEAST, _MOST = 1e-30, 1e30


@dataclass(frozen=True)
class Rule:
    """Which terms a layer has; static.

    Attributes
    ----------
    skip
        Whether the stream is added to the branch.
    before, after
        Whether a normalisation over units acts on the activation's input, or on the sum.
    shared_masks
        Whether the two inputs lose the same units to dropout.
    """

    skip: bool = False
    before: bool = False
    after: bool = False
    shared_masks: bool = False


PLAIN = Rule()


class Numbers(NamedTuple):
    """The numbers of one cell; ``correlation0`` is None where correlations are not wanted."""

    weight_var: Any
    bias_var: Any
    variance0: Any
    dropout: Any
    branch_scale: Any
    correlation0: Any = None


def layers(kind: Activation, rule: Rule, depth: int, nodes: int | None, cell: Numbers):
    """Variance, 1 - c and χ of layers 1..depth; ``nodes`` as in `gaussian.single.squares`."""
    pairs = cell.correlation0 is not None
    start = 1 - cell.correlation0 if pairs else jnp.full_like(cell.variance0, jnp.nan)

    def layer(state, _):
        after, chi = _layer(kind, rule, nodes, cell, state)
        return after, (*state, chi)

    return jax.lax.scan(layer, (cell.variance0, start), length=depth)[1]


def _layer(kind, rule: Rule, nodes, cell: Numbers, state):
    """The next (q, 1 - c), and χ of this layer."""
    q, e = state
    keep = 1 - cell.dropout
    gain = cell.branch_scale**2 * cell.weight_var
    seen = jnp.ones_like(q) if rule.before else q
    inside = jnp.clip(seen, _LEAST, _MOST)
    square, slope = single.squares(kind, inside, nodes)
    stretch = _stretch(kind, seen, inside)
    total = gain * (square / keep) * stretch + cell.bias_var
    chi = gain * slope / keep
    if rule.before:
        chi = chi / q
    if rule.skip:
        total, chi = total + q, chi + 1
    following = e
    if cell.correlation0 is not None:
        lost = gain * _lost(kind, rule, nodes, keep, inside, e, square) * stretch
        following = _ratio(lost + q * e if rule.skip else lost, total, e)
    if rule.after:
        total, chi = jnp.ones_like(total), chi / total
    return (total, following), chi


def _lost(kind, rule: Rule, nodes, keep, q, e, square):
    """S - P: what two inputs' covariance falls short of their second moment, without cancelling."""
    deficit = pair.deficit(kind, q, e, nodes)
    if rule.shared_masks:
        return deficit / keep
    return deficit + square * (1 - keep) / keep


def _ratio(lost, total, otherwise):
    """Lost/total; a vanished or infinite signal keeps the angle it had."""
    moves = (total > 0) & jnp.isfinite(total)
    return jnp.where(moves, lost / jnp.where(moves, total, 1.0), otherwise)


def _stretch(kind: Activation, q, inside):
    """E[φ²] at q over E[φ²] at the bound that stands in for q: φ is straight beyond the bounds."""
    ends = limits(kind)
    small = q / inside if ends.at_zero == 0.0 else jnp.ones_like(q)
    large = q / inside if ends.square_infinity != 0.0 else jnp.ones_like(q)
    return jnp.where(q < inside, small, large)
