"""The evidence in words."""

import math
from collections.abc import Collection, Sequence

import numpy as np

from sigprop.diagnosis.causes import Operation
from sigprop.diagnosis.profiles import Ends, Profile, Spot
from sigprop.diagnosis.reading import Reading
from sigprop.diagnosis.statistics import LayerReading

__all__ = [
    "absurd",
    "change",
    "local",
    "opened",
    "replaced",
    "share",
    "short",
    "stop",
    "stuck",
    "units",
    "unsure",
    "unread",
    "way",
]

_LONGEST = 300
_NAMED = 4
_MANY = 0.5


def short(sentence: str) -> str:
    """No longer than can be read."""
    return sentence if len(sentence) <= _LONGEST else f"{sentence[: _LONGEST - 4]} ..."


def listed(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def factor(log_square: float) -> str:
    """Of norms, from the log of the ratio of their squares."""
    if abs(log_square) > 1400:
        return f"1e{log_square / 2 / math.log(10):+.0f}"
    return f"{math.exp(log_square / 2):.3g}"


def way(main: Profile, ends: Ends) -> tuple[str, ...]:
    """How the gradient grows along the longest way."""
    if ends.first == ends.last:
        return ()
    scale = not ends.counts and abs(ends.change) > 2 * math.log(10)
    return (change(main, ends) + (", a change of scale alone" if scale else ""),)


def change(of: Profile, ends: Ends) -> str:
    """From one end of a way to the other, with the error of the logarithm as a share."""
    first, last = of.names[ends.first], of.names[ends.last]
    times = factor(ends.change)
    error = f" (± {ends.stderr / 2:.1%} over the batch's examples)" if ends.stderr > 0 else ""
    return f"through {of.through}, |gradient| at {first} is {times} times that at {last}{error}"


def unsure(of: Profile, ends: Ends) -> tuple[str, ...]:
    """Two standard errors do not tell it from what is allowed."""
    return (change(of, ends) + ": two standard errors do not tell on which side of the line",)


def local(spot: Spot, step: float, row: LayerReading | None) -> tuple[str, ...]:
    """Most of it happens at one layer."""
    why = ""
    if row is not None:
        why = f": {row.saturated:.0%} of its units are saturated ({row.activation})"
    elif spot.place.site.multiplies:
        why = ": look at its weights"
    return (f"{spot.name} alone changes |gradient| by a factor of {factor(step)}{why}",)


def opened(names: Sequence[str]) -> tuple[str, ...]:
    """Factors of 0 that training opens."""
    if not names:
        return ()
    what = "is exactly 0 and stops" if len(names) == 1 else "are exactly 0 and stop"
    it = "it" if len(names) == 1 else "them"
    return (
        f"{listed(names)} {what} the gradient; one training step opens {it}, so what lies below is "
        "judged with a random factor in its place",
    )


def replaced(names: Sequence[str]) -> tuple[str, ...]:
    """Functions with a derivative of their own that were looked into."""
    if not names:
        return ()
    return (
        f"read inside {listed(names)}, with the derivative of what it computes in the place of its "
        "own; both give the same gradient here",
    )


def stuck(names: Sequence[str]) -> tuple[str, ...]:
    """Factors of 0 that training does not open."""
    return (f"{listed(names)}: exactly 0, with a gradient of exactly 0: training cannot move it",)


def units(layers: Sequence[LayerReading]) -> tuple[str, ...]:
    """Layers with many dead or saturated units."""
    remarks = []
    weights = [layer for layer in layers if layer.weighs]
    for what, name in {"without gradient on any example": "dead", "saturated": "saturated"}.items():
        worst = np.nan_to_num([getattr(layer, name) for layer in weights], nan=0.0)
        if worst.size and worst.max() >= _MANY:
            place = int(worst.argmax())
            remarks.append(f"{worst[place]:.0%} of the units of {weights[place].name} are {what}")
    return tuple(remarks)


def unread(names: Sequence[str], unused: Collection[str]) -> tuple[str, ...]:
    """Parameters that were not seen to act on anything, or that the loss does not use."""
    hidden = [name for name in names if name not in unused]
    idle = [name for name in names if name in unused]
    said = (f"not read, since no signal was seen to meet them: {listed(hidden)}",) if hidden else ()
    return (*said, *([f"not used by this loss: {listed(idle)}"] if idle else []))


def share(read: float, reading: Reading) -> tuple[str, ...]:
    """How much could be read, and what hides the rest."""
    hidden = sorted(set(reading.structure.flow.hidden.values()))
    within = f", the rest is inside {listed(hidden)}" if hidden else ""
    return (f"{read:.0%} of the model's numbers could be read{within}",)


def absurd(reading: Reading) -> tuple[str, ...]:
    """The loss is far from where it would start."""
    times = reading.measured.loss / reading.silent_loss
    return (
        f"the loss of {reading.measured.loss:.3g} is {times:.2g} times that of the same model with "
        f"outputs of 0 ({reading.silent_loss:.3g}): its outputs are absurdly large",
    )


def stop(
    reading: Reading,
    spot: Spot,
    operations: Sequence[Operation],
    row: LayerReading | None,
    count: int,
) -> tuple[tuple[str, ...], str]:
    """What lets no gradient through above a place, and what kind of cause it is."""
    operation = operations[0]
    said, cause = _reason(reading, spot, operation, row)
    below = f"; {count} layers receive no gradient" if count > 1 else ""
    return (f"{spot.name}: {said}: the gradient is exactly 0 from there on down{below}",), cause


def _reason(reading, spot, operation: Operation, row) -> tuple[str, str]:
    if operation.is_flat:
        return f"{operation.where} lets no gradient through, whatever it is given", "flat"
    if operation.is_linear and not _all_at_rest(row):
        return _linear_reason(reading, operation)
    if _weights_are_zero(reading, spot):
        return (
            f"its weights are all 0, so that its units are exactly 0, where {operation.where} has "
            "slope 0", "zero",
        )  # fmt: skip
    name = row.activation if row is not None and row.activation else operation.name
    at = f" at {operation.line}" if operation.line else ""
    if name in ("max", "min", "clamp", "clip") and not (row and row.activation):
        return f"{name}{at} holds every value at its bound", "flat"
    word = "dead" if name.startswith(_SILENT) else "saturated"
    given = f"mean {row.mean:.3g}, rms {row.rms:.3g}" if row is not None else ""
    return (
        f"all its units are {word} on this batch, none is active ({given}): the slope of "
        f"{name}{at} is 0 at every one", word,
    )  # fmt: skip


_SILENT = ("relu", "max", "leaky_relu", "gelu", "silu")  # 0, or nearly, where they are flat


def _all_at_rest(row: LayerReading | None) -> bool:
    return row is not None and row.saturated >= 1.0


def _linear_reason(reading, operation: Operation) -> tuple[str, str]:
    if any(operation.zero[:2]):
        return f"{operation.where} multiplies by 0 (a factor that is exactly zero)", "zero"
    return f"{operation.where} underflows: {operation.dtype} has no number as small", "underflow"


def _weights_are_zero(reading: Reading, spot: Spot) -> bool:
    largest = [reading.measured.values[place]["largest"] for place in spot.place.site.largest]
    return all(not np.any(each) for each in largest)
