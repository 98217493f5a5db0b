"""Passes through a model with certain numbers in it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.diagnosis.structure import Structure
from sigprop.program import Measured, Pass, loss_of, measured

__all__ = ["Reading", "read", "stands_of"]


@dataclass(frozen=True, eq=False)
class Reading:
    """One pass of a model with certain numbers in it.

    Attributes
    ----------
    structure, values
        The model.
    measured
        What the pass found; where the gradient is 0, with factors of 0 opened.
    closed
        What it found with nothing opened.
    opened
        Names of parameters that are exactly 0 and that training opens: below them the gradient is
        that of a random factor in their place.
    stuck
        Names of factors that are exactly 0 and stay so, since their own gradient is 0.
    silent_loss
        The loss of a model whose last layers all give 0.
    """

    structure: Structure
    values: Sequence[Any]
    measured: Measured
    closed: Measured
    opened: tuple[str, ...]
    stuck: tuple[str, ...]
    silent_loss: float


def read(structure: Structure, values: Sequence[Any]) -> Reading:
    """Pass through the model with these numbers in it, and open what training opens.

    Factors of 0 are opened in the order in which training would: those whose own gradient is not
    0, then those whose gradient is not 0 with the former opened, until no more.
    """
    ran, opened, first = structure.ran, set(), None
    while True:
        stands = stands_of(ran, values, opened)
        found = measured(ran, values, structure.data, structure.constants, stands)
        first = first or found
        more = {p for p in ran.closed if _moves(found, p)} - opened
        if not more:
            break
        opened |= more
    silent = loss_of(ran, values, structure.data, structure.constants, stands, 0.0)
    factors = _factors(structure, found)
    stuck = [p for p in ran.closed if p not in opened and p in factors]
    name = lambda places: tuple(structure.parameters[p] for p in sorted(places))  # noqa: E731
    merged = replace(found, slopes=_merged(first.slopes, found.slopes))
    return Reading(structure, values, merged, first, name(opened & factors), name(stuck), silent)


def _merged(first: dict[int, Any], opened: dict[int, Any]) -> dict[int, Any]:
    """Gradients as they are; where there is none, as they are with factors of 0 opened."""
    return {value: _merged_sizes(own, opened[value]) for value, own in first.items()}


def _merged_sizes(own: dict[str, Any], opened: dict[str, Any]) -> dict[str, Any]:
    alive = (own["largest"] != 0) | ~own["finite"]
    return {
        k: _merged_sizes(a, opened[k]) if isinstance(a, dict) else np.where(alive, a, opened[k])
        for k, a in own.items()
    }


def stands_of(ran: Pass, values: Sequence[Any], opened: Collection[int]) -> list[Any]:
    """What stands for arrays of 0: as large as they would usually start, or 0 unless opened."""
    found = []
    for place in ran.closed:
        value = values[place]
        key = jax.random.key(place)
        if value.ndim < 2:
            stand = jax.random.rademacher(key, value.shape, jnp.float32)
        else:
            fan_in = max(value.size // value.shape[-1], 1)
            stand = jax.random.normal(key, value.shape) / np.sqrt(fan_in)
        found.append(stand.astype(value.dtype) * float(place in opened))
    return found


def _moves(found: Measured, place: int) -> bool:
    return bool(np.any(np.asarray(found.gradients[place]["largest"]) != 0))


def _factors(structure: Structure, found: Measured) -> set[int]:
    """Parameters of factors that are exactly 0 where they multiply."""
    sites = [s for s in structure.flow.sites if s.kind not in ("lookup", "block")]
    weights = {s: found.noted[s.output]["weight"]["largest"] for s in sites}
    return {p for s, largest in weights.items() if not np.any(largest) for p in s.largest}
