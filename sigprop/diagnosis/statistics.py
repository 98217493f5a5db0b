"""What is noted of each layer: its output, the gradient there, its parameters, its activation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from sigprop import activations
from sigprop._precision import exact_float64
from sigprop.diagnosis.passed import Passed

__all__ = ["LayerReading", "layer_readings"]

# Half of float32's digits: what follows a layer is its activation if it agrees to that.
_AGREES = 1e-4
_FEW = 64  # entries tell most activations apart, whatever the layer's shape, by one program each
_FLAT = 0.05  # of the largest slope: a unit with less on every example is saturated


@dataclass(frozen=True)
class LayerReading:
    """One layer. Sums are over all examples and units; units are the last axis of the output.

    Attributes
    ----------
    name, kind
        Path inside the model, and class or function.
    weighs
        Whether it multiplies by a weight of its own: the layers that growth is judged by.
    units
        Entries of the output's last axis.
    mean, rms, kurtosis
        Of the output; the kurtosis of a normal distribution is 3.
    log_gradient
        ln ‖∂loss/∂output‖²; -inf if it is exactly 0.
    log_ratio
        ln of (‖∂loss/∂θ‖² / ‖θ‖²) over its own parameters; nan without any.
    dead
        Fraction of units whose gradient is exactly 0 on every example.
    saturated
        Fraction of units at which the activation that follows has less than 5% of its largest
        slope on every example; nan if that is not known.
    activation
        Name of the activation that was recognised after it, or "".
    weight_var, bias_var
        fan_in · mean W², and mean b²; nan without a weight or a bias.
    finite_output, finite_gradient
        Whether every entry is finite.
    """

    name: str
    kind: str
    weighs: bool
    units: int
    mean: float
    rms: float
    kurtosis: float
    log_gradient: float
    log_ratio: float
    dead: float
    saturated: float
    activation: str
    weight_var: float
    bias_var: float
    finite_output: bool
    finite_gradient: bool


def layer_readings(
    layers: Sequence[Passed], gradients: dict[str, np.ndarray], parameters: dict[str, np.ndarray]
) -> tuple[LayerReading, ...]:
    """A reading of every layer passed."""
    with np.errstate(all="ignore"):
        return tuple(
            _reading(layer, layers[place + 1 :], gradients, parameters)
            for place, layer in enumerate(layers)
        )


def _reading(layer: Passed, later: Sequence[Passed], gradients, parameters) -> LayerReading:
    z, g = layer.output, layer.gradient
    activation = _following(z, later)
    weight_var, bias_var = _variances(layer)
    return LayerReading(
        name=layer.name,
        kind=layer.kind,
        weighs=layer.weighs,
        units=z.shape[-1],
        mean=float(z.mean()),
        rms=float(np.sqrt(np.mean(z**2))),
        kurtosis=float(np.mean((z - z.mean()) ** 4) / np.var(z) ** 2) if z.std() else math.nan,
        log_gradient=_log_square(g),
        log_ratio=_log_ratio(layer, gradients, parameters),
        dead=float(np.mean(_by_unit(np.all, g == 0))),
        saturated=_saturated(activation, z),
        activation=activation,
        weight_var=weight_var,
        bias_var=bias_var,
        finite_output=bool(np.isfinite(z).all()),
        finite_gradient=bool(np.isfinite(g).all()),
    )


def _by_unit(reduce, values: np.ndarray) -> np.ndarray:
    return reduce(values.reshape(-1, values.shape[-1]), axis=0)


def _log_square(*arrays: np.ndarray) -> float:
    largest = max((float(np.abs(a).max()) for a in arrays if a.size), default=0.0)
    if not math.isfinite(largest):
        return math.nan
    if largest == 0:
        return -math.inf
    return math.log(sum(float(np.sum((a / largest) ** 2)) for a in arrays)) + 2 * math.log(largest)


def _log_ratio(layer: Passed, gradients, parameters) -> float:
    """Of the parameters as a whole where a stack shares them: every layer of it has the same."""
    prefix = f"{layer.path}/" if layer.path else ""
    names = [f"{prefix}{name}" for name in layer.parameters]
    if not names:
        return math.nan
    gradient = _log_square(*(gradients[name] for name in names))
    parameter = _log_square(*(parameters[name] for name in names))
    return float(np.subtract(gradient, parameter))


def _variances(layer: Passed) -> tuple[float, float]:
    """Kernels of convolutions count every entry that goes into one output as fan-in."""
    if not layer.weighs:
        return math.nan, math.nan
    weight = max((v for v in layer.parameters.values() if v.ndim >= 2), key=lambda v: v.size)
    biases = [v for name, v in layer.parameters.items() if name in ("bias", "b") and v.ndim == 1]
    biases = biases if layer.bias is None else [layer.bias]
    fan_in = weight.size / layer.output.shape[-1]
    bias_var = float(np.mean(biases[0] ** 2)) if biases else 0.0
    return float(fan_in * np.mean(weight**2)), bias_var


# ---------------------------------------------------------------------------- the activation


def _following(z: np.ndarray, later: Sequence[Passed]) -> str:
    """The activation between this output and what a later layer was given, if one fits.

    A layer in between that kept the shape (a norm, a plain function) ends the search: what comes
    after that acts on its output.
    """
    for layer in later:
        if layer.kind in activations.names() and _fits(layer.kind, z, layer.output):
            return layer.kind
        for x in layer.inputs:
            if x.shape == z.shape:
                return _recognised(z, x)
        if layer.output.shape == z.shape:
            return ""
    return ""


def _recognised(z: np.ndarray, x: np.ndarray) -> str:
    fitting = (name for name in _BY_USE if _fits(name, z, x))
    found = next(fitting, "")
    return "" if found == "linear" else found


# relu before leaky_relu and their like: of those that fit, the plainest.
_BY_USE = (
    "linear",
    "relu",
    "tanh",
    *(n for n in activations.names() if n not in ("linear", "relu", "tanh")),
)


def _fits(name: str, z: np.ndarray, x: np.ndarray) -> bool:
    if x.shape != z.shape or not np.isfinite(z).all() or not np.isfinite(x).all():
        return False
    allowed = _AGREES * max(np.abs(x).max(), 1e-30)
    few = (array.reshape(-1)[:_FEW] for array in (z, x))
    return all(np.abs(_value(name, a) - b).max() <= allowed for a, b in (few, (z, x)))


@exact_float64
def _value(name: str, z: np.ndarray) -> np.ndarray:
    return np.asarray(activations.get(name)(z))


@exact_float64
def _slope(name: str, z: np.ndarray) -> np.ndarray:

    return np.asarray(activations.get(name).derivative(jnp.asarray(z)))


def _saturated(name: str, z: np.ndarray) -> float:
    if not name:
        return math.nan
    largest = np.abs(_slope(name, np.linspace(-5, 5, 201))).max()
    return float(np.mean(_by_unit(np.all, np.abs(_slope(name, z)) < _FLAT * largest)))
