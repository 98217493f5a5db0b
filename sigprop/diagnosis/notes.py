"""What is kept of a layer's output and of the gradient by it, taken on the host."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from sigprop.program import Atom, Line, Note, Site, size

__all__ = ["line_note_of", "note_of", "slope_note_of"]


def note_of(site: Site, flat: tuple[float, float]) -> Note:
    """Of a site's output, of what enters, of the weight and of the bias."""
    acting = {"entering": site.entering, "weight": site.weight, "bias": site.bias}
    acting = {k: atom for k, atom in acting.items() if atom is not None and site.kind != "block"}

    def collect(look):
        arrays = {name: jnp.asarray(look(atom)) for name, atom in acting.items()}
        real = {k: x for k, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.inexact)}
        scales = [jnp.asarray(look(atom)) for atom in site.scales]
        return {"ran": jnp.ones(()), "output": look(Atom(site.output)), **real, "scales": scales}

    def reduce(given, stacked):
        z = np.asarray(given["output"])
        found: dict[str, Any] = {
            name: size(given[name], stacked) for name in ("output", *acting) if name in given
        }
        found.setdefault("entering", size(np.zeros(z.shape[:stacked]), stacked))
        for scale in given["scales"]:
            found["weight"]["largest"] = found["weight"]["largest"] * np.abs(np.asarray(scale))
        if not np.isnan(flat[0]):
            at_rest = _by_unit((z <= flat[0]) | (z >= flat[1]), site.units, stacked)
            found["saturated"] = at_rest
        return {**found, "ran": np.asarray(given["ran"]), **_moments(z, stacked)}

    return Note(collect, reduce)


def _moments(z: np.ndarray, stacked: int) -> dict[str, Any]:
    """Mean, and kurtosis."""
    z = np.real(z) if np.iscomplexobj(z) else z
    with np.errstate(all="ignore"):
        z = z.astype(np.float64 if z.itemsize == 8 else np.float32)
        z = z.reshape(*z.shape[:stacked], -1)
        scale = np.maximum(np.abs(z).max(axis=-1, initial=0.0), 1e-30)[..., None]
        small = z / scale
        mean = small.mean(axis=-1, keepdims=True)
        off = (small - mean) ** 2
        variance = off.mean(axis=-1)
        kurtosis = (off**2).mean(axis=-1) / variance**2
    return {"mean": (mean * scale)[..., 0], "kurtosis": kurtosis}


def slope_note_of(site: Site) -> Callable[[Any, int], Any]:
    """Of the gradient at a site's output: its size, by example too, and units without any."""

    def reduce(g, stacked):
        g = np.asarray(g)
        others = [a for a in range(g.ndim - stacked) if a not in site.units]
        found = {**size(g, stacked), "dead": _by_unit(g == 0, site.units, stacked)}
        if others:
            found["examples"] = size(np.moveaxis(g, others[0] + stacked, stacked), stacked + 1)
        return found

    return reduce


def line_note_of(line: Line, note: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
    """Of the gradient by what goes through time: its size at every step besides."""

    def reduce(g, stacked):
        found = note(g, stacked)
        axis = stacked - 1 if line.axis is None else stacked + line.axis
        g = np.moveaxis(np.asarray(g), axis, 0)
        return {**found, "steps": size(g, 1), "steps_by_example": size(g, min(g.ndim, 2))}

    return reduce


def _by_unit(holds: np.ndarray, units: Sequence[int], stacked: int) -> Any:
    """The share of units of which something holds everywhere."""
    ours = {axis + stacked for axis in units}
    others = tuple(a for a in range(stacked, holds.ndim) if a not in ours)
    return holds.all(axis=others).mean(axis=tuple(range(stacked, stacked + len(ours))))
