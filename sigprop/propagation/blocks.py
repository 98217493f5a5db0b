"""What a block does around its multiply: norm, activation and dropout before, norm after."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from sigprop.networks.initialisers import unit_mask
from sigprop.propagation.draws import Draws
from sigprop.propagation.normalisation import Normalised, normalise
from sigprop.propagation.plan import Plan
from sigprop.propagation.signal import Cells, Rows, Signal

__all__ = ["Trace", "enter", "leave"]


class Trace(NamedTuple):
    """What the way back from z^{l+1} to z^l needs."""

    slope: Rows  # of h^l by N(z^l), elementwise: masks and a learned scale are in it
    before: Normalised | None  # the norm of z^l
    after: Normalised | None  # the norm that made z^{l+1}


def enter(
    plan: Plan, draws: Draws, cells: Cells, signal: Signal, layer: Int[Array, ""]
) -> tuple[Rows, Rows, Normalised | None]:
    """H = M(φ(N(z^{l-1}))), which W^l acts on (l = ``layer``), its slope by N(z), and N(z)."""
    z, before = signal.z, None
    if plan.block.norm_before is not None:
        before = normalise(plan.block.norm_before, z, signal.size)
        z = before.n
    learned = None if plan.block.norm_after is not None else draws.norm_of(layer)
    if learned is not None:
        z = learned[0] * z + learned[1]
    x, slope = plan.activation.value_and_derivative(z)
    if learned is not None:
        slope = slope * learned[0]
    if plan.block.dropout:
        mask = _mask(plan, draws, cells, layer - 1)
        x, slope = x * mask, slope * mask
    return x, slope, before


def leave(
    plan: Plan, draws: Draws, signal: Signal, layer: Int[Array, ""]
) -> tuple[Rows | None, Normalised | None]:
    """z^l = N(what arrived) and its trace, l = ``layer``; None where no norm comes after."""
    if plan.block.norm_after is None:
        return None, None
    after = normalise(plan.block.norm_after, signal.z, signal.size)
    learned = draws.norm_of(layer)
    return (after.n if learned is None else learned[0] * after.n + learned[1]), after


def _mask(plan: Plan, draws: Draws, cells: Cells, layer: Int[Array, ""]) -> Rows:
    """1/ρ where a unit of x^layer is kept, else 0; cells share the uniform numbers behind it."""
    rows = 1 if plan.block.shared_masks else plan.inputs
    uniform = unit_mask(draws.key, layer, rows, plan.width, plan.dtype)
    keep = jnp.asarray(cells.keep)[:, None]
    mask = jnp.where(uniform[:, None] < keep, 1 / keep, jnp.zeros_like(keep))
    whole = (plan.inputs, *mask.shape[1:])
    return jnp.broadcast_to(mask, whole).reshape(-1, plan.width)
