"""The deep multilayer perceptron: depth scanned, variances traced."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, UInt32

from sigprop._checks import check_whole_number
from sigprop.architecture import Architecture
from sigprop.networks import initialisers

__all__ = ["MLP", "Affine"]


def check_plain(architecture: Architecture) -> None:
    """Raise unless the layers are W φ(z) + b."""
    if not architecture.is_plain:
        raise ValueError(
            "architecture must have block='plain', norm=None and dropout=0 here, got "
            f"block={architecture.block!r}, norm={architecture.norm!r}, "
            f"dropout={architecture.dropout!r}"
        )


class Scale(nnx.Variable):
    """A factor applied to a parameter where it is used; not itself trained."""


class Affine(nnx.Module):
    """z = W x + b, or a stack of such layers along a leading axis.

    Parameters
    ----------
    weight, bias
        Unit draws, shapes (..., fan_out, fan_in) and (..., fan_out).
    weight_scale, bias_scale
        What turns them into W and b: sqrt(weight_var / fan_in) and sqrt(bias_var).
    parameterisation
        "standard": the parameters are W and b. "ntk": they are the unit draws, and the scales are
        kept beside them.
    """

    def __init__(
        self,
        weight: Float[Array, "..."],
        bias: Float[Array, "..."],
        weight_scale: Float[Array, ""],
        bias_scale: Float[Array, ""],
        parameterisation: str,
    ):
        self.scaled_at_use = parameterisation == "ntk"
        if self.scaled_at_use:
            self.weight = nnx.Param(weight)
            self.bias = nnx.Param(bias)
            self.weight_scale = Scale(weight_scale)
            self.bias_scale = Scale(bias_scale)
        else:
            self.weight = nnx.Param(weight_scale * weight)
            self.bias = nnx.Param(bias_scale * bias)

    @property
    def fan_in(self) -> int:
        """Entries of an input."""
        return self.weight[...].shape[-1]

    @property
    def fan_out(self) -> int:
        """Entries of an output."""
        return self.weight[...].shape[-2]

    def effective(self) -> tuple[Float[Array, "*stack out in"], Float[Array, "*stack out"]]:
        """W and b as they act, whatever the parameterisation."""
        weight, bias = self.weight[...], self.bias[...]
        if self.scaled_at_use:
            return self.weight_scale[...] * weight, self.bias_scale[...] * bias
        return weight, bias

    def __call__(self, x: Float[Array | np.ndarray, "*batch in"]) -> Float[Array, "*batch out"]:
        """W x + b for a single (not stacked) layer."""
        return self.apply(self.weight[...], self.bias[...], x)

    def apply(
        self,
        weight: Float[Array, "out in"],
        bias: Float[Array, " out"],
        x: Float[Array | np.ndarray, "*batch in"],
    ) -> Float[Array, "*batch out"]:
        """W x + b from the parameters of one layer of a stack."""
        # The product is scaled rather than the weight: no scaled copy of a whole stack is made.
        z = jnp.matmul(x, weight.T)
        if self.scaled_at_use:
            return self.weight_scale[...] * z + self.bias_scale[...] * bias
        return z + bias


class MLP(nnx.Module):
    """z¹ = W¹ x⁰ + b¹, x^l = φ(z^l), z^l = W^l x^{l-1} + b^l for l = 1..depth.

    W_ij has variance weight_var / fan_in and b_i ~ N(0, bias_var), in every layer and for every
    initialiser. The first layer stands apart (it may be rectangular), the others are stacked and
    scanned, so compile time does not depend on depth. Plain `jax.jit`, `jax.vmap`, `jax.grad` work
    on the module, and on functions that build one: ``weight_var`` and ``bias_var`` may be traced.

    Parameters
    ----------
    architecture
        With scalar variances: one network. `jax.vmap` over the construction for several.
    in_features
        Entries of an input, >= 1.
    out_features
        Entries of the readout's output, >= 1; no readout if None. The readout acts on x^depth and
        is not counted in depth.
    rngs
        `nnx.Rngs` (its ``params`` stream is used) or a random key, from which every layer's draws
        come as `initialisers.unit_weight` and `initialisers.unit_bias` say.
    readout_weight_var, readout_bias_var
        Variances of the readout; those of the architecture if None.

    Raises
    ------
    ValueError
        If a variance is not a scalar or a size is not a whole number >= 1.

    Examples
    --------
    >>> from sigprop.architecture import Architecture
    >>> tanh = Architecture(depth=5, width=16, activation="tanh", weight_var=1.5, bias_var=0.1)
    >>> network = MLP(tanh, 8, rngs=nnx.Rngs(0))
    >>> network(jnp.ones((3, 8))).shape, network.features(jnp.ones(8)).shape
    ((3, 16), (16,))
    """

    def __init__(
        self,
        architecture: Architecture,
        in_features: int,
        out_features: int | None = None,
        *,
        rngs: nnx.Rngs | Key[Array, ""] | UInt32[Array, "2"],
        readout_weight_var: ArrayLike | None = None,
        readout_bias_var: ArrayLike | None = None,
    ):
        in_features = check_whole_number("in_features", in_features)
        if architecture.grid_shape != ():
            raise ValueError(
                "architecture must have scalar weight_var and bias_var to make one network, got a "
                f"grid of shape {architecture.grid_shape}; jax.vmap over it makes them all"
            )
        check_plain(architecture)
        self.depth, self.width = architecture.depth, architecture.width
        self.activation = architecture.activation
        self.parameterisation = architecture.parameterisation
        key = rngs.params() if isinstance(rngs, nnx.Rngs) else rngs
        self.first = _layer(architecture, key, 1, self.width, in_features)
        self.hidden = _stack(architecture, key)
        own = _with_variances(architecture, readout_weight_var, readout_bias_var)
        self.readout = None if out_features is None else _readout(own, key, out_features)

    def __call__(self, x: Float[Array | np.ndarray, "*batch in"]) -> Float[Array, "*batch out"]:
        """z^depth, or the readout of x^depth where there is one."""
        z = _last(self, x)
        return z if self.readout is None else self.readout(self.activation(z))

    def features(self, x: Float[Array | np.ndarray, "*batch in"]) -> Float[Array, "*batch width"]:
        """x^depth = φ(z^depth)."""
        return self.activation(_last(self, x))

    def preactivations(
        self, x: Float[Array | np.ndarray, "*batch in"]
    ) -> Float[Array, "layer *batch width"]:
        """z^1 .. z^depth, stacked."""
        return _every(self, x)


# Compiled at module level, so that eager calls on equal shapes do not compile again.


@jax.jit
def _last(network: MLP, x) -> Array:
    z, _ = lax.scan(lambda z, layer: (_next(network, z, layer), None), *_scanned(network, x))
    return z


@jax.jit
def _every(network: MLP, x) -> Array:
    start, layers = _scanned(network, x)
    twice = lambda z: (z, z)  # noqa: E731
    _, rest = lax.scan(lambda z, layer: twice(_next(network, z, layer)), start, layers)
    return jnp.concatenate([start[None], rest])


def _scanned(network: MLP, x):
    """z¹, and the stacked layers that follow."""
    hidden = network.hidden
    return network.first(x), (hidden.weight[...], hidden.bias[...])


def _next(network: MLP, z, layer):
    weight, bias = layer
    return network.hidden.apply(weight, bias, network.activation(z))


def _scales(architecture: Architecture, fan_in: int) -> tuple[Array, Array]:
    dtype = jnp.result_type(float)
    weight_var = jnp.asarray(architecture.weight_var, dtype)  # type: ignore[arg-type]
    bias_var = jnp.asarray(architecture.bias_var, dtype)  # type: ignore[arg-type]
    return jnp.sqrt(weight_var / fan_in), jnp.sqrt(bias_var)


def _layer(architecture: Architecture, key, layer: int, fan_out: int, fan_in: int) -> Affine:
    weight = initialisers.unit_weight(key, layer, architecture.distribution, fan_out, fan_in)
    bias = initialisers.unit_bias(key, layer, fan_out)
    return Affine(weight, bias, *_scales(architecture, fan_in), architecture.parameterisation)


def _readout(architecture: Architecture, key, out_features: int) -> Affine:
    check_whole_number("out_features", out_features)
    return _layer(architecture, key, architecture.depth + 1, out_features, architecture.width)


def _stack(architecture: Architecture, key) -> Affine:
    """Layers 2..depth."""
    depth, width = architecture.depth, architecture.width
    weights, biases = _stacked_draws(architecture.distribution, depth, width, key)
    return Affine(weights, biases, *_scales(architecture, width), architecture.parameterisation)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _stacked_draws(distribution: str, depth: int, width: int, key):
    """One layer after another, so that only one layer's temporaries exist."""
    draw = lambda layer: (  # noqa: E731
        initialisers.unit_weight(key, layer, distribution, width, width),
        initialisers.unit_bias(key, layer, width),
    )
    return lax.map(draw, jnp.arange(2, depth + 1))


def _with_variances(architecture: Architecture, weight_var, bias_var) -> Architecture:
    leaves, static = jax.tree.flatten(architecture)
    own = [architecture.weight_var if weight_var is None else weight_var]
    own += [architecture.bias_var if bias_var is None else bias_var]
    return jax.tree.unflatten(static, own + leaves[2:])
