"""The forward pass of one network: signals, their sizes and angles, what backward needs."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from sigprop.networks.initialisers import mask_key
from sigprop.propagation.draws import Draws
from sigprop.propagation.one_layer import Act, act, act_and_pull
from sigprop.propagation.plan import Plan
from sigprop.propagation.scaled import LogSum, Products, log_norms

__all__ = ["Cell", "Signal", "SignalReading", "WayBack", "enter", "hidden", "step"]

PerInput = Float[Array, " inputs"]


class Cell(NamedTuple):
    """What sets one network apart from the others that share its draws; leaves (cells,) of many.

    Attributes
    ----------
    first, hidden
        sqrt(variance / fan_in) of every drawn map, by name; 0 where there is nothing to scale.
    numbers
        By name, as `sigprop.kinds.Kind.apply` takes them.
    """

    first: Mapping[str, ArrayLike]
    hidden: Mapping[str, ArrayLike]
    numbers: Mapping[str, ArrayLike]


class Signal(NamedTuple):
    """The state at layer l: z^l = exp(scale) · z, input by input.

    ``scale`` leaves 0 only where the plan says ``log_scale``.
    """

    z: Float[Array, "inputs places width"]
    size: PerInput  # log of the root mean square of z
    scale: LogSum
    alive: Bool[Array, ""]  # every layer so far finite


class SignalReading(NamedTuple):
    """What layer l shows of z^l."""

    log_variance: PerInput
    one_minus_correlation: Float[Array, ""]
    alive: Bool[Array, ""]


class WayBack(NamedTuple):
    """What backward needs of a layer: what pulls cotangents, and the rows its weights act on."""

    pull: Callable
    rows: dict[str, Products | None]


def enter(plan: Plan, draws: Draws, cell: Cell, inputs: Float[Array, "inputs in_features"]):
    """Layer 1: the signal, what it shows, and the way back to its weights."""
    x = inputs[:, None]
    scale = jnp.zeros(len(inputs), x.dtype)
    if plan.log_scale:
        largest = jnp.max(jnp.abs(inputs), axis=-1)
        largest = jnp.where(largest > 0, largest, jnp.ones_like(largest))
        x, scale = x / largest[:, None, None], jnp.log(largest)
    start = Signal(x, _size(x), LogSum.of(scale), jnp.asarray(True))
    own = Act(
        kind=plan.first,
        mixes=dict(plan.drawing.first),
        weights=lambda layer: draws.first,
        layer=None,
        scales=cell.first,
        trained=_trained(plan.first, x, {} if draws.trained is None else draws.trained[0]),
        numbers=cell.numbers,
        key=None,
    )
    return step(plan, own, start)


def hidden(plan: Plan, draws: Draws, cell: Cell, layer: Int[Array, ""]) -> Act:
    """What it takes for ``layer``, 2..depth, to act."""
    start = jnp.zeros((1, *plan.drawing.shape), plan.dtype)
    return Act(
        kind=plan.layer,
        mixes=dict(plan.drawing.hidden),
        weights=lambda layer: draws.layer(plan.drawing, layer),
        layer=layer,
        scales=cell.hidden,
        trained=_trained(plan.layer, start, draws.trained_by(layer)),
        numbers=cell.numbers,
        key=mask_key(draws.key, layer - 1) if plan.layer.random else None,
    )


def _trained(kind, x, given):
    """As given, else as at the start."""
    start = kind.trained(x.shape[1:])
    return {name: given.get(name, value.astype(x.dtype)) for name, value in start.items()}


def step(
    plan: Plan, own: Act, signal: Signal, pulled: bool = True
) -> tuple[Signal, SignalReading, Any]:
    """From z^{l-1} to z^l: the signal, what it shows, and the way back if there is to be one."""
    x, scale = signal.z, signal.scale
    if plan.log_scale:
        x, scale, scales = _rescaled(own, signal)
    else:  # what has diverged is no input to anything; a signal in log scale cannot
        x = jnp.where(signal.alive, x, jnp.zeros_like(x))
        scales = {name: _per_input(own, name, x) for name in own.mixes}
    own = own._replace(scales=scales)
    if pulled:
        z, pull, entered = act_and_pull(own, x)
        way = WayBack(pull, {n: _scaled(rows, scale.value) for n, rows in entered.items()})
    else:
        z, way = act(own, x), None
    size = _size(z)  # -inf of a signal that has vanished, inf or nan of one that is not finite
    after = Signal(z, size, scale, signal.alive & jnp.all(size < jnp.inf))
    return after, _reading(after), way


def _rescaled(own: Act, signal: Signal) -> tuple[Array, LogSum, dict[str, ArrayLike]]:
    """The signal where neither it nor a bias overflows, its scale, and those of the maps there."""
    constants = [n for n, mix in own.mixes.items() if mix.constant]
    biases = [jnp.log(jnp.asarray(own.scales[n], signal.z.dtype)) for n in constants]
    growth = signal.size
    for bias in biases:
        growth = jnp.maximum(growth, bias - signal.scale.value)
    growth = jnp.where(jnp.isfinite(growth), growth, jnp.zeros_like(growth))
    scale = signal.scale.plus(growth)
    within = {n: jnp.exp(bias - scale.value) for n, bias in zip(constants, biases)}
    return signal.z * jnp.exp(-growth)[:, None, None], scale, {**own.scales, **within}


def _per_input(own: Act, name: str, x: Array) -> Array:
    scale = jnp.asarray(own.scales[name], x.dtype)
    return jnp.broadcast_to(scale, x.shape[:1]) if own.mixes[name].constant else scale


def _size(z: Array) -> PerInput:
    """Log of the root mean square of every input's signal."""
    rows = z.reshape(len(z), -1)
    return log_norms(rows) - 0.5 * jnp.log(jnp.asarray(rows.shape[1], z.dtype))


def _reading(signal: Signal) -> SignalReading:
    return SignalReading(
        log_variance=2 * (signal.scale.value + signal.size),
        one_minus_correlation=_one_minus_correlation(signal),
        alive=signal.alive,
    )


def _scaled(rows: Products | None, x_scale: PerInput) -> Products | None:
    """In true size: rows follow inputs, place by place."""
    if rows is None:
        return None
    places = rows.scale.shape[0] // x_scale.shape[0]
    return rows._replace(scale=rows.scale + jnp.repeat(x_scale, places))


def _one_minus_correlation(signal: Signal) -> Float[Array, ""]:
    """|a/|a| − b/|b||² / 2: where 1 − c is small, 1 − a·b/(|a||b|) would be rounding error."""
    if len(signal.z) < 2:
        return jnp.full((), jnp.nan, signal.z.dtype)
    # A vanished or infinite row has no direction: 0 · inf gives nan.
    unit = signal.z[:2] * jnp.exp(-signal.size[:2])[:, None, None]
    return jnp.mean(jnp.square(unit[0] - unit[1])) / 2
