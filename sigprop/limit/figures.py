"""The figures of every row, exactly where that closes."""

import functools
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from sigprop._precision import exact_float64
from sigprop.limit import second_moments
from sigprop.limit.axes import labelled, units
from sigprop.limit.elementwise import as_signal
from sigprop.limit.exact import Interpreter, Later
from sigprop.limit.interpreting import Reading
from sigprop.limit.population import Drawing, Population
from sigprop.limit.recognised import learn
from sigprop.limit.refusals import NotClosed
from sigprop.limit.sampling import Sampler
from sigprop.limit.signals import Const, Signal, Unknown

__all__ = ["Figures", "exact_figures", "sampled_figures"]


@dataclass(frozen=True)
class Figures:
    """Of one row: what a back end finds, or why it does not."""

    shape: tuple[int, ...] = ()
    units: int = 0
    second_moment: np.ndarray | None = None
    lack: np.ndarray | None = None
    reason: Unknown | None = None
    gradient: np.ndarray | None = None  # E[g_i g_j]
    gradient_reason: Unknown | None = None
    share: float = 0.0
    note: str = ""

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.reason is None and self.gradient_reason is None

    @property
    def log_gradient(self) -> float:
        """Ln E|g|²."""
        if self.gradient is None:
            return float("nan")
        with np.errstate(divide="ignore"):
            return float(np.log(self.units * np.trace(self.gradient)))


def exact_figures(reading: Reading) -> list[Figures]:
    """Of every row, by quadrature."""
    learn()
    engine = Interpreter(*_shapes_and_means(reading))
    rows = _run(engine, reading, [Later(end) for end in reading.joint.ends])
    try:
        shares = engine.multiplier.shares
        return [_figures(z, g, shares.get(m.leaf, 0.0)) for z, g, m in rows]
    finally:
        second_moments.forget()


def _shapes_and_means(reading: Reading) -> tuple[dict, dict]:
    """Of the model's arrays, by number; means where there are any."""
    shapes = {n: v.shape for n, v in enumerate(reading.opened.values)}
    return shapes, {n: law.mean for n, law in enumerate(reading.laws) if law.mean}


def _run(engine: Any, reading: Reading, ends: list) -> list[tuple[Any, Any, Any]]:
    """Every product with its gradient and its multiply; ones come back where a loss has no end."""
    both = reading.joint
    shifts = [Const(np.broadcast_to(0.0, s.shape), written=True) for s in both.shifts]
    ends = ends or [Const(np.ones(s.shape), written=True) for s in both.cotangents]
    given = [*reading.leaves(), *reading.data, *shifts, *ends]
    out = engine.run(both.program.jaxpr, both.program.consts, given)
    count = len(both.multiplies)
    none = Unknown("gradient", both.backward)
    gradients = [none] * count if both.backward else out[count : 2 * count]
    return list(zip(out[:count], gradients, both.multiplies))


def _as_signal(z: Const, g: Any) -> Signal:
    """A product that no signal has reached yet: its units are those of its gradient."""
    shape = np.shape(z.array)
    axes = g.axes if isinstance(g, Signal) else labelled(shape, (len(shape) - 1,))
    return as_signal(z, axes)


def _figures(z: Any, g: Any, share: float) -> Figures:
    if isinstance(z, Unknown):
        return Figures(reason=z, gradient_reason=z)
    try:
        if isinstance(z, Const):
            z = _as_signal(z, g)
        second, lack = second_moments.variance(z), second_moments.lacking(z, z)
    except NotClosed as reason:
        lost = Unknown("second moment", str(reason))
        return Figures(reason=lost, gradient_reason=lost)
    shape = tuple(p.size for axis in z.axes for p in axis if not p.wide)
    found = {"shape": shape, "units": units(z.axes), "second_moment": second, "lack": lack}
    found["share"] = share
    if isinstance(g, Unknown):
        return Figures(**found, gradient_reason=g)
    if isinstance(g, Const):
        if np.any(np.asarray(g.array)):
            reason = Unknown("gradient", "it is a known array, not a signal's")
            return Figures(**found, gradient_reason=reason)
        return Figures(**found, gradient=np.zeros((z.places, z.places)))
    try:
        return Figures(**found, gradient=second_moments.covariance(g, g))
    except NotClosed as reason:
        return Figures(**found, gradient_reason=Unknown("gradient", str(reason)))


# ---------------------------------------------------------------------------- sampled


@exact_float64
def sampled_figures(reading: Reading, samples: int, key: Any) -> list[Figures]:
    """Of every row, of one population."""
    both = reading.joint
    widest = max((max(m.output.aval.shape, default=1) for m in both.multiplies), default=1)
    replicas = max(8, -(-samples // widest))
    engine = Sampler(Drawing(key, replicas), *_shapes_and_means(reading))
    ends = [functools.partial(_cotangent, engine, end) for end in both.ends]
    rows = _run(engine, reading, ends)
    shares, notes = engine.drawing.shares, engine.notes
    return [
        _of_population(z, g, shares.get(m.leaf, 0.0), notes.get(m.leaf, "")) for z, g, m in rows
    ]


def _cotangent(engine: Sampler, end: Any, env: Any) -> Any:
    """Independent unit Gaussians of the shape and the units of an output."""
    value = env[end]
    if isinstance(value, Unknown):
        return value
    if isinstance(value, Const):
        return Unknown("gradient", "the output does not depend on drawn weights")
    return Population(engine.drawing.normal(value.array.shape), value.wide)


def _of_population(z: Any, g: Any, share: float, note: str) -> Figures:
    if isinstance(z, Unknown):
        return Figures(reason=z, gradient_reason=z)
    if isinstance(z, Const):
        wide = frozenset({np.ndim(z.array) - 1})
        z = Population(jnp.asarray(z.array)[None], wide)
    rows, shape, units_ = _by_place(z.array, z.wide)
    second = np.mean(rows**2, axis=1)
    lack = np.stack([np.mean((rows - row) ** 2, axis=1) / 2 for row in rows])
    found = {"shape": shape, "units": units_, "second_moment": second, "lack": lack}
    found |= {"share": share, "note": note}
    if isinstance(g, Unknown):
        return Figures(**found, gradient_reason=g)
    array = g.array if isinstance(g, Population) else np.asarray(g.array)[None]
    columns, *_ = _by_place(array, z.wide)
    return Figures(**found, gradient=columns @ columns.T / columns.shape[1])


def _by_place(array: Any, wide: frozenset[int]) -> tuple[np.ndarray, tuple[int, ...], int]:
    """(places, samples), the shape of the places, and units at each."""
    array = np.asarray(array, float)
    sites = [n for n in range(array.ndim - 1) if n not in wide]
    moved = array.transpose(*(n + 1 for n in sites), 0, *(n + 1 for n in sorted(wide)))
    shape = tuple(moved.shape[: len(sites)])
    units_ = int(np.prod([array.shape[n + 1] for n in wide]))
    kept = tuple(n for n in shape if n > 1)
    return moved.reshape(int(np.prod(shape)), -1), kept, units_
