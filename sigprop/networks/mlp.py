"""The deep multilayer perceptron and its blocks: depth scanned, variances traced."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, UInt32

from sigprop._blas_threads import on_one_blas_thread
from sigprop._checks import check_one_of, check_whole_number
from sigprop._precision import is_traced
from sigprop.architecture import Architecture
from sigprop.networks import initialisers
from sigprop.networks.affine import Affine, Scale, WeightNormalised
from sigprop.networks.normalisation import HeldNormalisation, Normalisation, Statistics

__all__ = ["MLP"]

Inputs = Float[Array | np.ndarray, "*batch in"]
Randomness = nnx.Rngs | Key[Array, ""] | UInt32[Array, "2"]


class MLP(nnx.Module):
    """z¹ = W¹ x⁰ + b¹, x^l = φ(z^l), z^{l+1} = W x^l + b; or as the `Architecture`'s block has it.

    W_ij has variance weight_var / fan_in and b_i ~ N(0, bias_var), in every layer and for every
    initialiser. The first layer stands apart (it may be rectangular), the others are stacked and
    scanned, so compile time does not depend on depth. Plain `jax.jit`, `jax.vmap`, `jax.grad` work
    on the module, and on functions that build one: all four numbers of the architecture may be
    traced.

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
        come as `initialisers.unit_weight` and `initialisers.unit_bias` say.
    readout_weight_var, readout_bias_var
        Variances of the readout; those of the architecture if None.

    Raises
    ------
    ValueError
        If a number is not a scalar or a size is not a whole number >= 1.

    Notes
    -----
    A norm over units or over the batch is followed by a trainable scale and shift for every unit,
    1 and 0 at the start. ``weight_norm`` has the rows' norms as parameters beside their directions.

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
        if architecture.layer is not None:
            raise ValueError("architecture with a layer of its own has theory only, no network yet")
        if architecture.grid_shape != ():
            raise ValueError(
                "architecture must have scalar weight_var, bias_var, dropout and branch_scale to "
                f"make one network, got a grid of shape {architecture.grid_shape}; jax.vmap over "
                "it makes them all"
            )
        self.depth, self.width = architecture.depth, architecture.width
        self.activation = architecture.activation
        self.parameterisation = architecture.parameterisation
        self.block, self.norm = architecture.block, architecture.norm
        self.branch_scale = None if self.block == "plain" else _number(architecture.branch_scale)
        self.dropout = _number(architecture.dropout) if _may_drop(architecture) else None
        self.normalisation = _normalisation(architecture)
        key = rngs.params() if isinstance(rngs, nnx.Rngs) else rngs
        self.first = _layer(architecture, key, 1, self.width, in_features)
        self.hidden = _stack(architecture, key)
        own = _with_variances(architecture, readout_weight_var, readout_bias_var)
        self.readout = None if out_features is None else _readout(own, key, out_features)

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
        """x^depth = φ(N(z^depth)), without a mask of its own."""
        return self.outputs(self._last(x, key, masks))

    def outputs(self, z: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """x^depth = φ(N(z^depth)) from z^depth."""
        return _features(self, z)

    def preactivations(
        self, x: Inputs, *, key: Randomness | None = None, masks: str = "independent"
    ) -> Float[Array, "layer *batch width"]:
        """z^1 .. z^depth, stacked."""
        return _every(self, self._checked(x), _mask_key(key, masks), masks)

    def statistics(
        self, x: Inputs, *, key: Randomness | None = None, masks: str = "independent"
    ) -> Statistics:
        """Mean and variance over a batch of every unit of z^1 .. z^depth: what batch norm uses."""
        z = self.preactivations(x, key=key, masks=masks)
        axes = tuple(range(1, z.ndim - 1))
        return Statistics(jnp.mean(z, axis=axes), jnp.var(z, axis=axes))

    def holding(self, statistics: Statistics) -> "MLP":
        """The same network with batch norm's statistics fixed: it acts on every input alone."""
        if self.normalisation is None or self.norm != "batch_norm":
            raise ValueError(f"norm must be 'batch_norm' to hold statistics, got {self.norm!r}")
        held = nnx.clone(self)
        held.normalisation = HeldNormalisation(self.normalisation, statistics)
        return held

    # What one layer does, for those who look into it: z' = join(z, α W enter(z) + b).

    @property
    def elementwise(self) -> bool:
        """Whether layers are x -> φ(W x + b)."""
        return self.block == "plain" and self.normalisation is None

    @property
    def couples_inputs(self) -> bool:
        """Whether the output of one input depends on the others of its batch."""
        return self.normalisation is not None and self.normalisation.couples_inputs

    def layers(self) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Parameters of layers 2..depth, stacked as `layer` takes them one at a time."""
        return self.hidden.layers(), self.norms()[0]

    def layer(
        self, z: Float[Array, "*batch width"], parameters: tuple[tuple[Array, ...], ...]
    ) -> Float[Array, "*batch width"]:
        """From z^l to z^{l+1}, without dropout."""
        return _next(self, None, "independent", z, (*parameters, None))

    def norms(self) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """The norms' parameters: those of the stacked layers, and those of the features."""
        if self.normalisation is None:
            return (), ()
        layers = self.normalisation.layers()
        if _acts_after(self.norm):
            return layers, ()
        return tuple(v[:-1] for v in layers), tuple(v[-1] for v in layers)

    def enter(
        self, z: Float[Array, "*batch width"], norm: tuple[Array, ...]
    ) -> Float[Array, "*batch width"]:
        """φ(N(z)): what the next layer's weights act on, but for dropout."""
        if self.normalisation is None or _acts_after(self.norm):
            return self.activation(z)
        return self.activation(self.normalisation.apply(norm, z))

    def scaled_branch(self, h: Float[Array, "*any"]) -> Float[Array, "*any"]:
        """α h."""
        return h if self.branch_scale is None else self.branch_scale[...] * h

    def join(
        self,
        z: Float[Array, "*batch width"],
        branch: Float[Array, "*batch width"],
        norm: tuple[Array, ...],
    ) -> Float[Array, "*batch width"]:
        """The branch, with z added in a residual block, normalised if that comes after."""
        if self.block == "residual":
            branch = z + branch
        if self.normalisation is None or not _acts_after(self.norm):
            return branch
        return self.normalisation.apply(norm, branch)

    def _last(self, x, key, masks: str):
        return _last(self, self._checked(x), _mask_key(key, masks), masks)

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
    step = functools.partial(_next, network, key, masks)
    z, _ = lax.scan(lambda z, layer: (step(z, layer), None), *_scanned(network, x))
    return z


@functools.partial(jax.jit, static_argnames="masks")
def _every(network: MLP, x, key, masks: str) -> Array:
    start, layers = _scanned(network, x)
    step = functools.partial(_next, network, key, masks)
    twice = lambda z: (z, z)  # noqa: E731
    _, rest = lax.scan(lambda z, layer: twice(step(z, layer)), start, layers)
    return jnp.concatenate([start[None], rest])


@jax.jit
def _features(network: MLP, z) -> Array:
    return network.enter(z, network.norms()[1])


def _scanned(network: MLP, x):
    """z¹, and the stacked layers that follow, numbered by the z they act on."""
    return network.first(x), (*network.layers(), jnp.arange(1, network.depth))


def _next(network: MLP, key, masks: str, z, layer):
    affine, norm, number = layer
    h = network.enter(z, norm)
    if key is not None and network.dropout is not None:
        h = _dropped(h, 1 - network.dropout[...], key, masks, number)
    branch = network.hidden.apply(affine, network.scaled_branch(h))
    return network.join(z, branch, norm)


def _dropped(h, keep, key, masks: str, number):
    rows = 1 if masks == "shared" else h.size // h.shape[-1]
    uniform = initialisers.unit_mask(key, number, rows, h.shape[-1], h.dtype)
    kept = uniform.reshape(h.shape if masks == "independent" else h.shape[-1:]) < keep
    return jnp.where(kept, h / keep, jnp.zeros_like(h))


def _mask_key(key, masks: str):
    check_one_of("masks", masks, ("independent", "shared"))
    return key.dropout() if isinstance(key, nnx.Rngs) else key


def _acts_after(norm: str | None) -> bool:
    return norm is not None and norm.startswith("post_")


def _number(value) -> Scale:
    return Scale(jnp.asarray(value, jnp.result_type(float)))


def _may_drop(architecture: Architecture) -> bool:
    dropout: Any = architecture.dropout
    return is_traced(dropout) or bool(dropout > 0)


def _normalisation(architecture: Architecture) -> Normalisation | HeldNormalisation | None:
    """Of z^1 .. z^depth; where it comes after the layer, of z^2 .. z^depth."""
    norm = architecture.norm
    if norm in (None, "weight_norm"):
        return None
    layers = architecture.depth - (1 if _acts_after(norm) else 0)
    return Normalisation(norm.removeprefix("post_"), layers, architecture.width)


def _scales(architecture: Architecture, fan_in: int) -> tuple[Array, Array]:
    dtype = jnp.result_type(float)
    weight_var = jnp.asarray(architecture.weight_var, dtype)  # type: ignore[arg-type]
    bias_var = jnp.asarray(architecture.bias_var, dtype)  # type: ignore[arg-type]
    return jnp.sqrt(weight_var / fan_in), jnp.sqrt(bias_var)


def _affine(architecture: Architecture, weight, bias, kind: type):
    scales = _scales(architecture, weight.shape[-1])
    return kind(weight, bias, *scales, architecture.parameterisation)


def _kind(architecture: Architecture) -> type:
    return WeightNormalised if architecture.norm == "weight_norm" else Affine


def _layer(architecture: Architecture, key, layer: int, fan_out: int, fan_in: int, kind=None):
    weight = initialisers.unit_weight(key, layer, architecture.distribution, fan_out, fan_in)
    bias = initialisers.unit_bias(key, layer, fan_out)
    return _affine(architecture, weight, bias, kind or _kind(architecture))


def _readout(architecture: Architecture, key, out_features: int) -> Affine:
    check_whole_number("out_features", out_features)
    number, width = architecture.depth + 1, architecture.width
    return _layer(architecture, key, number, out_features, width, Affine)


def _stack(architecture: Architecture, key):
    """Layers 2..depth."""
    depth, width = architecture.depth, architecture.width
    draw = functools.partial(_stacked_draws, architecture.distribution, depth, width)
    # A small decomposition for each layer: up to four times slower if BLAS shares out each.
    orthogonal = architecture.distribution == "orthogonal"
    weights, biases = on_one_blas_thread(draw, key) if orthogonal else draw(key)
    return _affine(architecture, weights, biases, _kind(architecture))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _stacked_draws(distribution: str, depth: int, width: int, key):
    """One layer after another, so that only one layer's temporaries exist."""
    draw = lambda layer: (  # noqa: E731
        initialisers.unit_weight(key, layer, distribution, width, width),
        initialisers.unit_bias(key, layer, width),
    )
    return lax.map(draw, jnp.arange(2, depth + 1))


def _with_variances(architecture: Architecture, weight_var, bias_var) -> Architecture:
    own = {"weight_var": weight_var, "bias_var": bias_var}
    return architecture.with_numbers(**{n: v for n, v in own.items() if v is not None})
