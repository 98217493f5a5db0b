"""What would repair it, with numbers from mean-field theory where it describes the model."""

import math
from collections.abc import Sequence

import numpy as np

from sigprop import theory
from sigprop.diagnosis.growth import Growth
from sigprop.diagnosis.statistics import LayerReading
from sigprop.diagnosis.verdict import Finding, weight_layers
from sigprop.theory import CriticalStatus

__all__ = ["suggestion"]

# Above this weight variance (sigmoid needs 103) a critical point is a curiosity: units saturate.
_USUAL = 8.0
_BIAS_VARS = (0.05, 0.1, 0.25, 0.5, 1.0)
_OTHER = "normalisation layers or residual connections do the same for any activation"


def suggestion(finding: Finding, layers: Sequence[LayerReading]) -> str:
    """One or two sentences."""
    if finding.verdict == "healthy":
        return "nothing to repair"
    if finding.verdict == "nonfinite":
        return _for_nonfinite(finding, layers)
    cut = _for_a_cut(layers) if finding.verdict == "vanishing" else ""
    return cut or _by_theory(finding.growth, layers) or _by_rate(finding.growth)


def _for_nonfinite(finding: Finding, layers: Sequence[LayerReading]) -> str:
    """Overflow after growth has the remedy of growth; else it is one operation's domain."""
    weights = [layer.rms for layer in weight_layers(layers) if layer.finite_output]
    grown = len(weights) >= 3 and weights[-1] > 1e3 * max(weights[0], 1e-30)
    if grown:
        by = f"outputs grow from {weights[0]:.2g} to {weights[-1]:.2g} before they overflow; "
        return by + (
            _by_theory(finding.growth, layers) or "start with smaller weights, or normalise"
        )
    bad = [place for place, layer in enumerate(layers) if not layer.finite_output]
    if bad and bad[0] > 0:
        before = layers[bad[0] - 1]
        return (
            f"look at {layers[bad[0]].name}: the output before it, of {before.name}, is finite "
            f"(mean {before.mean:.3g}, rms {before.rms:.3g}); logarithms, roots and divisions need "
            "their argument kept inside their domain"
        )
    return (
        "look for logarithms, roots and divisions at the edge of their domain, and for inputs or "
        "learning rates so large that numbers overflow"
    )


def _for_a_cut(layers: Sequence[LayerReading]) -> str:
    """The layer that lets nothing through."""
    weights = weight_layers(layers)
    if not weights or weights[0].log_gradient > -math.inf:
        return ""
    reached = [layer for layer in weights if layer.log_gradient > -math.inf]
    if reached and reached[0].weight_var == 0:
        return (
            f"the weights of {reached[0].name} are all exactly 0; after one step they are not: "
            "diagnose then, or start them small"
        )
    dead = [layer for layer in weights if layer.dead == 1.0]
    at = dead[-1] if dead else weights[0]
    return (
        f"no unit of {at.name} is active on this batch (mean {at.mean:.3g}, rms {at.rms:.3g}, bias "
        f"variance {at.bias_var:.3g}): start biases at 0, centre the inputs, or use an activation "
        "with a slope on both sides (leaky_relu)"
    )


def _by_theory(found: Growth, layers: Sequence[LayerReading]) -> str:
    """The critical line, if the theory of a plain stack describes what was measured."""
    hidden = [layer for layer in weight_layers(layers) if layer.activation]
    names = [layer.activation for layer in hidden]
    if not names or not math.isfinite(found.rate):
        return ""
    name = max(set(names), key=names.count)
    own = [layer for layer in hidden if layer.activation == name]
    weight_var, bias_var = (
        float(np.median([getattr(layer, field) for layer in own]))
        for field in ("weight_var", "bias_var")
    )
    variance = float(np.median([layer.rms**2 for layer in own]))
    if not all(map(math.isfinite, (weight_var, bias_var, variance))):
        return ""
    chi = float(theory.chi(name, variance, weight_var=weight_var))
    if not _describes(chi, found):
        return ""
    return _critical(name, weight_var, bias_var, chi)


def _describes(chi: float, found: Growth) -> bool:
    """Whether ln χ is what was measured; a normalised or residual model is another matter."""
    allowed = 0.25 * abs(found.rate) + 3 * found.stderr + 0.1
    return chi > 0 and abs(math.log(chi) - found.rate) <= allowed


def _critical(name: str, weight_var: float, bias_var: float, chi: float) -> str:
    """The nearest critical point that networks stay at, with more bias variance if need be."""
    now = f"(χ₁ = {chi:.3g} a layer now); {_OTHER}"
    for bias in (bias_var, *(b for b in _BIAS_VARS if b > bias_var)):
        point = theory.critical_weight_var(name, bias_var=bias)
        usable = point.status in (CriticalStatus.STABLE, CriticalStatus.UNBOUNDED)
        if usable and point.weight_var <= _USUAL:
            weights = f"weight variance {weight_var:.2f} -> {point.weight_var:.2f}"
            more = f" and bias variance {bias_var:.2f} -> {bias:.2f}"
            biases = f" at bias variance {bias:.2f}" if bias == bias_var else more
            return f"{weights}{biases} puts this {name} stack on the critical line {now}"
    tanh = theory.critical_weight_var("tanh", bias_var=0.05)
    return (
        f"no usual initialisation of {name} is critical: tanh with weight variance "
        f"{tanh.weight_var:.2f} at bias variance 0.05 is {now}"
    )


def _by_rate(found: Growth) -> str:
    """Without a theory: what would undo the growth of a stack whose units keep their slopes."""
    if not math.isfinite(found.rate):
        return f"no theory for this model; {_OTHER}"
    return (
        f"no theory for this model; every layer multiplies the gradient by "
        f"{math.exp(found.rate / 2):.3g}: weights {math.exp(-found.rate / 2):.3g} times as large "
        f"would undo that where units keep their slopes, and {_OTHER}"
    )
