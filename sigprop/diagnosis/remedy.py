"""What would repair it. Numbers are tried on the model itself, and given only if they cure it."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop import theory
from sigprop.diagnosis.profiles import Ends, Spot
from sigprop.diagnosis.reading import Reading
from sigprop.diagnosis.sentences import listed
from sigprop.diagnosis.statistics import LayerReading
from sigprop.diagnosis.verdict import Finding
from sigprop.theory import CriticalStatus

__all__ = ["remedy"]

# Above this weight variance (sigmoid needs 103) a critical point is a curiosity: units saturate.
_USUAL = 8.0
_BIAS_VARS = (0.05, 0.1, 0.25, 0.5, 1.0)
_OTHER = "normalisation layers or residual connections do the same for any activation"
_NONE = "none is known; a model of this kind is usually repaired by normalisation or skips"
_TRIALS = 8
_ADVICE = {
    "nan": "restore the parameters from before they were lost, and lower the learning rate",
    "batch": "look at the data",
    "flat": (
        "replace that operation by one with a slope, or pass the gradient straight through it: "
        "x + stop_gradient(f(x) - x)"
    ),
    "underflow": "compute that part in float32 or bfloat16, or scale the loss up",
    "domain": (
        "keep the argument of that operation inside its domain: logarithms, roots and divisions "
        "away from 0, exponents below 88; inside a where, both branches are differentiated"
    ),
    "unread": (
        "hand over the function inside without its own derivative, or judge that part on its own"
    ),
    "examples": "a larger batch tells",
    "none": "give it at least one multiply by a parameter",
}

Trial = tuple[str, Sequence[Any]]


def remedy(
    reading: Reading,
    finding: Finding,
    layers: Sequence[LayerReading],
    judged: Callable[[Sequence[Any]], Finding],
) -> tuple[str, Sequence[Any] | None]:
    """One or two sentences, and the arrays of the model with the numbers in them applied."""
    if finding.verdict == "healthy":
        return "nothing to repair", None
    for text, values in _trials(reading, finding, layers, judged):
        if judged(values).verdict == "healthy":
            return text, values
    return _ADVICE.get(finding.cause) or _no_number(finding, layers), None


def _no_number(finding: Finding, layers: Sequence[LayerReading]) -> str:
    return _sigmoid(finding, layers) or _NONE


def _trials(reading, finding: Finding, layers, judged) -> Iterator[Trial]:
    """What may help, the most telling first."""
    if finding.cause in ("dead", "saturated", "zero"):
        yield from _without_bias(reading, finding.spots, len(finding.spots))
        yield from _drawn_anew(reading, finding)
    if finding.cause in ("rate", "loss", "overflow", "saturated"):
        yield from _without_bias(reading, finding.spots, 2)
        yield from _critical(reading, finding, layers)
        yield from _rescaled(reading, finding, layers, judged)


# ---------------------------------------------------------------------------- one layer


def _without_bias(reading: Reading, spots: Sequence[Spot], most: int) -> Iterator[Trial]:
    """Biases of the layers at fault at 0."""
    names = reading.structure.parameters
    biases = {p for s in spots for p in s.place.site.sources - s.place.site.largest}
    biases = {p for p in biases if np.any(reading.values[p])}
    if biases and len(spots) <= most:
        text = f"start {listed([names[p] for p in sorted(biases)])} at 0"
        yield text, _changed(reading.values, {p: 0.0 * reading.values[p] for p in biases})


def _drawn_anew(reading: Reading, finding: Finding) -> Iterator[Trial]:
    """Weights that are 0, drawn with variance 2 / fan_in."""
    places = {p: s.place.site for s in finding.spots for p in s.place.site.largest}
    zero = {p: site for p, site in places.items() if not np.any(reading.values[p])}
    if not zero:
        return
    names = [reading.structure.parameters[p] for p in sorted(zero)]
    drawn = {
        p: math.sqrt(2 / site.fan_in)
        * jax.random.normal(jax.random.key(p), reading.values[p].shape, reading.values[p].dtype)
        for p, site in zero.items()
    }
    yield f"draw {listed(names)} with variance 2 / fan_in", _changed(reading.values, drawn)


def _changed(values: Sequence[Any], new: dict[int, Any]) -> list[Any]:
    return [new.get(place, value) for place, value in enumerate(values)]


# ---------------------------------------------------------------------------- all of a way


def _weights(spots: Sequence[Spot]) -> list[int]:
    return sorted({p for s in spots if s.place.site.multiplies for p in s.place.site.largest})


def _scaled(values: Sequence[Any], places: Sequence[int], factor: float) -> list[Any]:
    return _changed(values, {p: values[p] * jnp.asarray(factor, values[p].dtype) for p in places})


def _rescaled(reading: Reading, finding: Finding, layers, judged) -> Iterator[Trial]:
    """One factor for all weights of the way that leaves their variances usual."""
    spots = finding.spots or (finding.main.spots if finding.main else ())
    places = _weights(spots)
    if not places:
        return
    usual = [_USUAL, 0.1]
    variances = [layer.weight_var for layer in layers if layer.name in {s.name for s in spots}]
    typical = float(np.median([v for v in variances if math.isfinite(v)] or [math.nan]))
    if not typical > 0:
        return
    high, low = (math.log(each / typical) / 2 for each in usual)
    best = _search(lambda f: judged(_scaled(reading.values, places, f)), finding, low, high)
    if best is None:
        return
    names = [reading.structure.parameters[p] for p in places]
    text = f"{listed(names)} {best:.3g} times as large"
    yield text, _scaled(reading.values, places, best)


def _search(
    judged: Callable[[float], Finding], start: Finding, low: float, high: float
) -> float | None:
    """By halves, in the log of the factor; None if no factor between two helps."""
    if start.change < 0:
        low = max(low, 0.0)
    elif start.change > 0:
        high = min(high, 0.0)
    if low >= high:
        return None
    for _ in range(_TRIALS):
        middle = round((low + high) / 2, 3)
        found = judged(math.exp(middle))
        if found.verdict == "healthy":
            return float(f"{math.exp(middle):.3g}")
        if found.change < 0:
            low = middle
        else:
            high = middle
    return None


# ---------------------------------------------------------------------------- theory


def _hidden(finding: Finding, layers: Sequence[LayerReading]) -> list[LayerReading]:
    names = finding.main.names if finding.main is not None else ()
    return [layer for layer in layers if layer.weighs and layer.name in names and layer.activation]


def _numbers(finding: Finding, layers: Sequence[LayerReading]):
    """The commonest activation of the way, its layers' variances, and its χ₁."""
    hidden = _hidden(finding, layers)
    names = [layer.activation for layer in hidden]
    if not names:
        return None
    name = max(set(names), key=names.count)
    own = [layer for layer in hidden if layer.activation == name]
    weight_var, bias_var, variance = (
        float(np.median([value(layer) for layer in own]))
        for value in (lambda x: x.weight_var, lambda x: x.bias_var, lambda x: x.rms**2)
    )
    if not all(map(math.isfinite, (weight_var, bias_var, variance))) or weight_var <= 0:
        return None
    chi = float(theory.chi(name, variance, weight_var=weight_var))
    return name, weight_var, bias_var, chi


def _critical(reading: Reading, finding: Finding, layers) -> Iterator[Trial]:
    """The nearest critical point that networks stay at, with more bias variance if need be."""
    numbers = _numbers(finding, layers)
    if numbers is None or finding.main is None:
        return
    name, weight_var, bias_var, chi = numbers
    now = f"(χ₁ = {chi:.3g} a layer now); {_OTHER}"
    for bias in (bias_var, *(b for b in _BIAS_VARS if b > bias_var)):
        point = theory.critical_weight_var(name, bias_var=bias)
        usable = point.status in (CriticalStatus.STABLE, CriticalStatus.UNBOUNDED)
        if usable and point.weight_var <= _USUAL:
            weights = f"weight variance {weight_var:.2f} -> {point.weight_var:.2f}"
            more = f" and bias variance {bias_var:.2f} -> {bias:.2f}"
            biases = f" at bias variance {bias:.2f}" if bias == bias_var else more
            text = f"{weights}{biases} puts this {name} stack on the critical line {now}"
            yield text, _at(reading, finding, layers, name, float(point.weight_var), bias, bias_var)


def _at(reading, finding, layers, name, weight_var, bias, bias_var) -> list[Any]:
    """The way's layers with these variances."""
    activations = {layer.name: layer.activation for layer in layers}
    sites = {s.place.site for s in finding.main.spots if activations.get(s.name) == name}
    now = {layer.name: layer.weight_var for layer in layers}
    new: dict[int, Any] = {}
    for spot in finding.main.spots:
        if spot.place.site not in sites or spot.place.site.stacked:
            continue
        for place in spot.place.site.largest:
            factor = math.sqrt(weight_var / max(now[spot.name], 1e-300))
            new[place] = reading.values[place] * jnp.asarray(factor, reading.values[place].dtype)
    for site in {site for site in sites if site.stacked}:
        own = [now[s.name] for s in finding.main.spots if s.place.site is site]
        factor = math.sqrt(weight_var / max(float(np.median(own)), 1e-300))
        for place in site.largest:
            new[place] = reading.values[place] * jnp.asarray(factor, reading.values[place].dtype)
    if bias != bias_var:
        for place in {p for site in sites for p in site.sources - site.largest}:
            value = reading.values[place]
            drawn = jax.random.normal(jax.random.key(place), value.shape, value.dtype)
            new[place] = jnp.asarray(math.sqrt(bias), value.dtype) * drawn
    return _changed(reading.values, new)


def _describes(chi: float, found: Ends) -> bool:
    """Whether ln χ is what was measured; a normalised or residual model is another matter."""
    allowed = 0.25 * abs(found.rate) + 3 * found.rate_stderr + 0.1
    return chi > 0 and math.isfinite(found.rate) and abs(math.log(chi) - found.rate) <= allowed


def _sigmoid(finding: Finding, layers: Sequence[LayerReading]) -> str:
    """Of an activation with no critical point that theory describes: another activation."""
    numbers = _numbers(finding, layers)
    if numbers is None or not _describes(numbers[3], finding.ends):
        return ""
    name, _, _, chi = numbers
    points = [theory.critical_weight_var(name, bias_var=b) for b in (0.0, *_BIAS_VARS)]
    if any(float(p.weight_var) <= _USUAL for p in points):
        return ""
    tanh = theory.critical_weight_var("tanh", bias_var=0.05)
    return (
        f"no usual initialisation of {name} is critical: tanh with weight variance "
        f"{tanh.weight_var:.2f} at bias variance 0.05 is (χ₁ = {chi:.3g} a layer now); {_OTHER}"
    )
