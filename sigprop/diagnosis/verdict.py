"""From readings to a verdict, by rules that are written down, and the evidence for it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sigprop.diagnosis.growth import Growth, growth
from sigprop.diagnosis.passed import Readings
from sigprop.diagnosis.statistics import LayerReading

__all__ = ["VERDICTS", "Finding", "judge", "weight_layers"]

VERDICTS = ("healthy", "vanishing", "exploding", "nonfinite")

STABLE_FACTOR = 10.0
"""Gradient norms may change by this much between the first and the last layer."""

_SURE = 2.0  # standard errors
_MANY = 0.5  # a fraction of units worth a remark
_FORMAT = "{:.3g}"


@dataclass(frozen=True)
class Finding:
    """The verdict, the growth it rests on and the evidence."""

    verdict: str
    growth: Growth
    evidence: tuple[str, ...]


def weight_layers(layers: Sequence[LayerReading]) -> list[LayerReading]:
    """Those that growth is judged by."""
    return [layer for layer in layers if layer.weighs]


def judge(readings: Readings, layers: Sequence[LayerReading], batch_finite: bool) -> Finding:
    """The verdict.

    In this order:

    1. *nonfinite*: the loss, an output or a gradient is not finite.
    2. *vanishing*: no gradient at all reaches the first weight layer.
    3. *vanishing*, *exploding*: over the weight layers the gradient norm changes by more than a
       factor of 10, by two standard errors or more beyond it.
    4. *healthy*.
    """
    series = np.asarray([layer.log_gradient for layer in weight_layers(layers)])
    found = growth(series)
    remarks = (*_growth_remark(found), *_unit_remarks(layers), *_unread_remark(readings))
    broken = _nonfinite(readings, layers, batch_finite)
    if broken:
        return Finding("nonfinite", found, (*broken, *remarks))
    cut = _cut_off(layers)
    if cut:
        return Finding("vanishing", found, (cut, *remarks))
    if series.size and not np.isfinite(series).any():
        return Finding("vanishing", found, ("the loss has no slope at all here", *remarks))
    beyond = abs(found.total) - _SURE * found.total_stderr > 2 * math.log(STABLE_FACTOR)
    if beyond:
        return Finding("vanishing" if found.rate < 0 else "exploding", found, remarks)
    return Finding("healthy", found, remarks)


# ---------------------------------------------------------------------------- evidence


def _nonfinite(
    readings: Readings, layers: Sequence[LayerReading], batch_finite: bool
) -> tuple[str, ...]:
    """Where what is not finite first appears, forwards and backwards."""
    found = []
    if not batch_finite:
        found.append("the batch itself holds nan or infinity")
    bad = [name for name, value in readings.parameters.items() if not np.isfinite(value).all()]
    if bad:
        found.append(f"parameters at {bad[0]} are not finite")
    forward = [layer for layer in layers if not layer.finite_output]
    if forward:
        found.append(f"going forward, {_where(forward[0])} is the first output that is not finite")
    elif not math.isfinite(readings.loss):
        found.append("every layer's output is finite, but the loss is not")
    backward = [layer for layer in layers if not layer.finite_gradient]
    if backward and not forward:
        found.append(
            f"going backward, the gradient first fails to be finite at {_where(backward[-1])}"
        )
    wrong = [name for name, value in readings.gradients.items() if not np.isfinite(value).all()]
    if wrong and not found:
        found.append(f"the gradient by {wrong[0]} is not finite")
    return tuple(found)


def _where(layer: LayerReading) -> str:
    return f"{layer.name} ({layer.kind})"


def _cut_off(layers: Sequence[LayerReading]) -> str:
    """Whether the way to the first weight layer is cut."""
    weights = weight_layers(layers)
    if not weights or not any(layer.log_gradient == -math.inf for layer in weights[:1]):
        return ""
    reached = [layer for layer in weights if layer.log_gradient > -math.inf]
    if not reached:
        return "not one weight layer receives a gradient: it is exactly 0 everywhere"
    return (
        f"the gradient is exactly 0 at {weights[0].name}: nothing arrives below {reached[0].name}"
    )


def _growth_remark(found: Growth) -> tuple[str, ...]:
    if not math.isfinite(found.rate):
        few = f"growth cannot be told from {found.layers} layers with a gradient: it takes 3"
        return (few,)
    factor = math.exp(min(found.total / 2, 700.0))
    return (
        f"ln |gradient|² grows by {found.rate:+.3f} ± {found.stderr:.3f} a layer towards the "
        f"input, a factor of {_FORMAT.format(factor)} in norm over {found.layers} layers",
    )


def _unit_remarks(layers: Sequence[LayerReading]) -> tuple[str, ...]:
    """Layers with many dead or saturated units."""
    remarks = []
    weights = weight_layers(layers)
    for what, fractions in {
        "dead (no gradient on any example)": [layer.dead for layer in weights],
        "saturated": [layer.saturated for layer in weights],
    }.items():
        worst = np.nan_to_num(np.asarray(fractions), nan=0.0)
        if worst.size and worst.max() >= _MANY:
            place = int(worst.argmax())
            remarks.append(f"{worst[place]:.0%} of the units of {weights[place].name} are {what}")
    return tuple(remarks)


def _unread_remark(readings: Readings) -> tuple[str, ...]:
    if not readings.unread:
        return ()
    return (f"not passed, or not readable: {', '.join(readings.unread)}",)
