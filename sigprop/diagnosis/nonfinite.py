"""What is not finite: which parameters, or which operation, forwards or backwards."""

import math
from collections.abc import Sequence

import numpy as np

from sigprop.diagnosis.causes import Operation, backward_cause, forward_cause
from sigprop.diagnosis.profiles import Spot
from sigprop.diagnosis.reading import Reading

__all__ = ["nonfinite"]


def nonfinite(reading: Reading, found: Sequence[Spot], batch_finite: bool, explain: bool):
    """Sentences, and what kind of cause it is; nothing where all is finite."""
    names, measured = reading.structure.parameters, reading.measured
    spoilt = [n for n, v in zip(names, measured.values) if not np.all(v["finite"])]
    wrong = [n for n, g in zip(names, measured.gradients) if not np.all(g["finite"])]
    if not wrong and math.isfinite(measured.loss) and not spoilt:
        return (), ""
    if spoilt:
        return (_parameters(spoilt),), "nan"
    if not explain:
        return ("the loss or a gradient is not finite",), ""
    if not batch_finite:
        return ("the batch itself holds nan or infinity",), "batch"
    if not math.isfinite(measured.loss):
        return _forward(reading, found)
    return _backward(reading, found, wrong)


def _parameters(spoilt: Sequence[str]) -> str:
    shown = ", ".join(spoilt[:5]) + (f" and {len(spoilt) - 5} more" if len(spoilt) > 5 else "")
    return f"{shown}: parameters that are nan or infinite; the model must be restored"


def _forward(reading: Reading, found: Sequence[Spot]):
    broken = [s for s in found if math.isnan(s.log_signal)]
    fine = [s.place.site.output for s in found if not math.isnan(s.log_signal)]
    ends = [a.value for a in reading.structure.graph.program.outputs if a.value is not None]
    start = [broken[0].place.site.output] if broken else ends[:1]
    operations = forward_cause(reading, start, fine)
    place = _place(found, broken[:1], fine)
    if not operations:
        return (f"going forward, the first result that is not finite is {place}",), "overflow"
    overflows = _kind(operations[0]) == "overflow"
    said = _described(operations[0], "overflows" if overflows else "gives nan or infinity")
    return (f"{said}: the first result going forward that is not finite, {place}",), _kind(
        operations[0]
    )


def _place(found: Sequence[Spot], broken: Sequence[Spot], fine: Sequence[int]) -> str:
    if broken:
        return f"at {broken[0].name} or just before it"
    return f"between {found[-1].name} and the loss" if found else "in the loss"


def _backward(reading: Reading, found: Sequence[Spot], wrong: Sequence[str]):
    broken = [s for s in found if math.isnan(s.log_gradient)]
    fine = [s.place.site.output for s in found if not math.isnan(s.log_gradient)]
    if broken:
        start = [broken[-1].place.site.output]
    else:
        inputs = reading.structure.graph.program.inputs
        start = [inputs[reading.structure.parameters.index(name)] for name in wrong]
    operations = backward_cause(reading, start, fine)
    where = f"above {broken[-1].name}" if broken else f"on the way to {wrong[0]}"
    if not operations:
        return (f"going backward, the gradient first fails to be finite {where}",), "domain"
    said = _described(operations[0], "has an infinite slope or gives back nan:")
    return (
        f"{said} going backward, its gradient is the first that is not finite, {where}",
    ), "domain"


def _described(operation: Operation, what: str) -> str:
    if math.isnan(operation.low):
        return f"{operation.where} {what}"
    low, high = operation.low, operation.high
    given = f"of numbers from {low:.3g} to {high:.3g}" if low != high else f"of {low:.3g}"
    return f"{operation.where} {given} {what}"


_GROWING = ("add", "sub", "mul", "dot_general", "conv_general_dilated", "reduce_sum", "integer_pow")


def _kind(operation: Operation) -> str:
    return "overflow" if operation.node.name in (*_GROWING, "square") else "domain"
