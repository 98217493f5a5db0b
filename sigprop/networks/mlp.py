"""Deep networks of one kind of layer: depth scanned, variances traced."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, UInt32

from sigprop import kinds
from sigprop._blas_threads import on_one_blas_thread
from sigprop._checks import check_one_of, check_whole_number
from sigprop.architecture import Architecture
from sigprop.networks import initialisers
from sigprop.networks.layer import Layer, Scale

__all__ = ["MLP", "Statistics"]

Inputs = Float[Array | np.ndarray, "*batch in"]
Randomness = nnx.Rngs | Key[Array, ""] | UInt32[Array, "2"]


class Statistics(NamedTuple):
    """Mean and (biased) variance of every unit of every layer over a batch.

    A pytree: averages of several batches' statistics are statistics too.
    """

    mean: Float[Array, "layers width"]
    variance: Float[Array, "layers width"]


class MLP(nnx.Module):
    """z¹ = W¹ x⁰ + b¹, x^l = φ(z^l), z^{l+1} = W x^l + b; or as the `Architecture`'s layer has it.

    W_ij has variance weight_var / fan_in and b_i ~ N(0, bias_var), in every layer and for every
    initialiser. The first layer stands apart (it may be rectangular), the others are stacked and
    scanned, so compile time does not depend on depth. Plain `jax.jit`, `jax.vmap`, `jax.grad` work
    on the module, and on functions that build one: all numbers of the architecture may be traced.

    Parameters
    ----------
    architecture
        With scalar numbers: one network. `jax.vmap` over the construction for several.
    in_features
        Entries of an input, >= 1.
    out_features
        Entries of the readout's output, >= 1; no readout if None. The readout acts on x^depth and
        is not counted in depth. It is affine, whatever the block.
    rngs
        `nnx.Rngs` (its ``params`` stream is used) or a random key, from which every layer's draws
        come as `initialisers.layer_draws` says.
    readout_weight_var, readout_bias_var
        Variances of the readout; those of the architecture if None.

    Raises
    ------
    ValueError
        If a number is not a scalar or a size is not a whole number >= 1.

    Notes
    -----
    A norm over units or over the batch is followed by a trainable scale and shift for every unit,
    1 and 0 at the start. ``weight_norm`` has a gain for every row, 1 at the start: the row's norm
    over sqrt(weight_var).

    Dropout acts only where a call is given a ``key``: without one a call is deterministic.

    ``batch_norm`` takes its statistics from the batch of the call (all axes but the last). To act
    on single inputs, or with the statistics of other data, hold them fixed::

        held = network.holding(network.statistics(batch))

    Nothing is updated on the way, so all of it works under `jax.jit`; a running average is an
    average of `statistics`, which is a pytree.

    Examples
    --------
    >>> from sigprop.architecture import Architecture
    >>> tanh = Architecture(depth=5, width=16, activation="tanh", weight_var=1.5, bias_var=0.1)
    >>> network = MLP(tanh, 8, rngs=nnx.Rngs(0))
    >>> network(jnp.ones((3, 8))).shape, network.features(jnp.ones(8)).shape
    ((3, 16), (16,))
    >>> block = {"block": "residual", "norm": "batch_norm", "dropout": 0.1}
    >>> network = MLP(Architecture(5, 16, "relu", 2.0, **block), 8, rngs=nnx.Rngs(0))
    >>> batch = jax.random.normal(jax.random.key(1), (32, 8))
    >>> network(batch, key=jax.random.key(2)).shape
    (32, 16)
    >>> held = network.holding(network.statistics(batch))
    >>> bool(jnp.allclose(held(batch[0]), network(batch)[0], atol=1e-4))
    True
    """

    def __init__(
        self,
        architecture: Architecture,
        in_features: int,
        out_features: int | None = None,
        *,
        rngs: Randomness,
        readout_weight_var: ArrayLike | None = None,
        readout_bias_var: ArrayLike | None = None,
    ):
        in_features = check_whole_number("in_features", in_features)
        _check_one(architecture)
        key = rngs.params() if isinstance(rngs, nnx.Rngs) else rngs
        made, numbers = kinds.compose(architecture), _numbers(architecture)
        self.depth, self.width = architecture.depth, architecture.width
        self.activation = architecture.activation
        self.first = _layer(architecture, key, made.first, 1, in_features, numbers)
        self.hidden = _stack(architecture, key, made.layer, numbers)
        self.last = Layer(made.last, (1, self.width), {}, numbers, architecture.parameterisation)
        given = {"weight_var": readout_weight_var, "bias_var": readout_bias_var}
        own = numbers | {name: _number(v) for name, v in given.items() if v is not None}
        self.readout = (
            None if out_features is None else _readout(architecture, key, own, out_features)
        )
        self.numbers = nnx.Dict(
            {name: Scale(numbers[name]) for name in made.numbers if name not in _variances(made)}
        )

    def __call__(
        self, x: Inputs, *, key: Randomness | None = None, masks: str = "independent"
    ) -> Float[Array, "*batch out"]:
        """z^depth, or the readout of x^depth where there is one.

        Parameters
        ----------
        x
            Inputs, any number of leading axes.
        key
            For dropout: a key (layer l's masks are `initialisers.unit_mask` of it) or `nnx.Rngs`
            (its ``dropout`` stream). None: no dropout.
        masks
            "independent": every input has its own. "shared": all inputs of the call have the same.
        """
        z = self._last(x, key, masks)
        return z if self.readout is None else self.readout(self.outputs(z))

    def features(
        self, x: Inputs, *, key: Randomness | None = None, masks: str = "independent"
    ) -> Float[Array, "*batch width"]:
        """x^depth: z^depth as the next layer's weights would get it, without a mask of its own."""
        return self.outputs(self._last(x, key, masks))

    def outputs(self, z: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """x^depth from z^depth: φ(N(z^depth)) of the usual layers."""
        return _features(self, z)

    def preactivations(
        self, x: Inputs, *, key: Randomness | None = None, masks: str = "independent"
    ) -> Float[Array, "layer *batch width"]:
        """z^1 .. z^depth, stacked."""
        return _every(self, self._checked(x), _call_key(key, masks), masks)

    def statistics(
        self, x: Inputs, *, key: Randomness | None = None, masks: str = "independent"
    ) -> Statistics:
        """Mean and variance over a batch of every unit of z^1 .. z^depth: what batch norm uses."""
        z = self.preactivations(x, key=key, masks=masks)
        axes = tuple(range(1, z.ndim - 1))
        return Statistics(jnp.mean(z, axis=axes), jnp.var(z, axis=axes))

    def holding(self, statistics: Statistics) -> "MLP":
        """The same network with batch norm's statistics fixed: it acts on every input alone."""
        if _held(self.last.kind) == self.last.kind:
            raise ValueError("norm must be 'batch_norm' to hold statistics: no layer has it here")
        _check_statistics(statistics, (self.depth, self.width))
        held = nnx.clone(self)
        _hold(held.hidden, jax.tree.map(lambda v: v[:-1], statistics))
        _hold(held.last, jax.tree.map(lambda v: v[-1], statistics))
        return held

    # One layer at a time, for those who look into it.

    @property
    def elementwise(self) -> bool:
        """Whether layers are x -> φ(W x + b)."""
        kind = kinds.rewritten(self.hidden.kind, _without_dropout)
        dense = type(self.first.kind)()
        return kind == kinds.Sequence(kinds.Pointwise(self.activation), dense)

    @property
    def couples_inputs(self) -> bool:
        """Whether the output of one input depends on the others of its batch."""
        return self.hidden.kind.couples_inputs

    def layers(self) -> dict[str, Array]:
        """Parameters of layers 2..depth, stacked as `layer` takes them one at a time."""
        return self.hidden.parameters()

    def layer(
        self, z: Float[Array, "*batch width"], parameters: dict[str, Array]
    ) -> Float[Array, "*batch width"]:
        """From z^l to z^{l+1}, without dropout."""
        rows = _as_places(z)
        return self.hidden.apply(parameters, rows, self.values()).reshape(jnp.shape(z))

    def values(self) -> dict[str, Array]:
        """The numbers that layers read besides the variances of their weights, by name."""
        return {name: value[...] for name, value in self.numbers.items()}

    def _last(self, x, key, masks: str):
        return _last(self, self._checked(x), _call_key(key, masks), masks)

    def _checked(self, x):
        if self.couples_inputs and np.ndim(x) < 2:
            raise ValueError(
                "x must be a batch, shape (batch, features), where batch_norm takes its statistics "
                f"from it, got shape {np.shape(x)}; for single inputs hold them fixed: "
                "network.holding(network.statistics(batch))"
            )
        return x


# Compiled at module level, so that eager calls on equal shapes do not compile again.


@functools.partial(jax.jit, static_argnames="masks")
def _last(network: MLP, x, key, masks: str) -> Array:
    step = _step(network, key, masks)
    z, _ = lax.scan(lambda z, layer: (step(z, layer), None), *_scanned(network, x))
    return z.reshape(*jnp.shape(x)[:-1], network.width)


@functools.partial(jax.jit, static_argnames="masks")
def _every(network: MLP, x, key, masks: str) -> Array:
    start, layers = _scanned(network, x)
    step = _step(network, key, masks)
    twice = lambda z: (z, z)  # noqa: E731
    _, rest = lax.scan(lambda z, layer: twice(step(z, layer)), start, layers)
    every = jnp.concatenate([start[None], rest])
    return every.reshape(network.depth, *jnp.shape(x)[:-1], network.width)


@jax.jit
def _features(network: MLP, z) -> Array:
    last = network.last
    return last.apply(last.parameters(), _as_places(z), network.values()).reshape(jnp.shape(z))


def _as_places(z) -> Array:
    """(inputs, places, width), with one place."""
    return jnp.asarray(z).reshape(-1, 1, jnp.shape(z)[-1])


def _scanned(network: MLP, x):
    """z¹, and the stacked layers that follow, numbered by the z they act on."""
    return network.first(_as_places(x)), (network.layers(), jnp.arange(1, network.depth))


def _step(network: MLP, key, masks: str):
    numbers = network.values()

    def step(z, layer):
        parameters, number = layer
        own = None if key is None else initialisers.mask_key(key, number)
        return network.hidden.apply(parameters, z, numbers, own, masks)

    return step


def _call_key(key, masks: str):
    check_one_of("masks", masks, ("independent", "shared"))
    return key.dropout() if isinstance(key, nnx.Rngs) else key


def _without_dropout(kind: kinds.Kind) -> kinds.Kind:
    if not isinstance(kind, kinds.Sequence):
        return kind
    return kinds.Sequence(*(part for part in kind.kinds if not isinstance(part, kinds.Dropout)))


# ------------------------------------------------------------------------- making one


def _check_one(architecture: Architecture) -> None:
    if architecture.grid_shape != ():
        raise ValueError(
            f"architecture must have scalar {', '.join(architecture.all_numbers)} to make one "
            f"network, got a grid of shape {architecture.grid_shape}; jax.vmap over it makes them "
            "all"
        )


def _number(value) -> Array:
    return jnp.asarray(value, jnp.result_type(float))


def _numbers(architecture: Architecture) -> dict[str, Array]:
    return {name: _number(value) for name, value in architecture.all_numbers.items()}


def _variances(made: kinds.Composition) -> set[str]:
    """The names of numbers that are in the weights already."""
    mixes = [*made.first.mixes((1, 1)).values(), *made.layer.mixes((1, 1)).values()]
    return {mix.variance for mix in mixes}


def _layer(architecture: Architecture, key, kind, layer: int, fan_in: int, numbers) -> Layer:
    shape = 1, fan_in
    draws = initialisers.layer_draws(key, layer, kind.mixes(shape), architecture.distribution)
    return Layer(kind, shape, draws, numbers, architecture.parameterisation)


def _readout(architecture: Architecture, key, numbers, out_features: int) -> Layer:
    kind = kinds.Dense(units=check_whole_number("out_features", out_features))
    return _layer(architecture, key, kind, architecture.depth + 1, architecture.width, numbers)


def _stack(architecture: Architecture, key, kind, numbers) -> Layer:
    """Layers 2..depth."""
    depth, shape = architecture.depth, (1, architecture.width)
    mixes = tuple(kind.mixes(shape).items())
    draw = functools.partial(_stacked_draws, architecture.distribution, depth, mixes)
    # A small decomposition for each layer: up to four times slower if BLAS shares out each.
    orthogonal = architecture.distribution == "orthogonal"
    draws = on_one_blas_thread(draw, key) if orthogonal else draw(key)
    return Layer(kind, shape, draws, numbers, architecture.parameterisation, (depth - 1,))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _stacked_draws(distribution: str, depth: int, mixes, key):
    """One layer after another, so that only one layer's temporaries exist."""
    draw = lambda layer: initialisers.layer_draws(key, layer, dict(mixes), distribution)  # noqa: E731
    return lax.map(draw, jnp.arange(2, depth + 1))


# ------------------------------------------------------------------------- held statistics


def _held(kind: kinds.Kind) -> kinds.Kind:
    """With every batch norm in it held."""
    held = kinds.BatchNorm(held=True)
    return kinds.rewritten(kind, lambda k: held if isinstance(k, kinds.BatchNorm) else k)


def _check_statistics(statistics: Statistics, shape: tuple[int, int]) -> None:
    given = jnp.shape(statistics.mean), jnp.shape(statistics.variance)
    if given != (shape, shape):
        raise ValueError(
            f"statistics must have mean and variance of shape {shape} (layers, units), got "
            f"{given[0]} and {given[1]}"
        )


def _hold(layer: Layer, statistics: Statistics) -> None:
    layer.hold(_held(layer.kind), statistics._asdict())
