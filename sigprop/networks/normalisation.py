"""What networks divide their signals by: sizes over units, or statistics over a batch."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sigprop.kinds.norm import inverse_root

__all__ = ["HeldNormalisation", "Normalisation", "Statistics"]


class Statistics(NamedTuple):
    """Mean and (biased) variance of every unit of every layer over a batch.

    A pytree: averages of several batches' statistics are statistics too.
    """

    mean: Float[Array, "layers width"]
    variance: Float[Array, "layers width"]


class Normalisation(nnx.Module):
    """γ ⊙ N(z) + β for a stack of layers; γ and β are parameters that start at 1 and 0.

    N is (z − mean)/std ("layer_norm", over units; "batch_norm", of each unit over the batch) or
    z/rms over units ("rms_norm"). Nothing is added to the divisor; what has none is mapped to β.
    """

    def __init__(self, kind: str, layers: int, width: int):
        self.couples_inputs = kind == "batch_norm"
        self.centred = kind != "rms_norm"
        self.scale = nnx.Param(jnp.ones((layers, width)))
        self.shift = nnx.Param(jnp.zeros((layers, width)))

    def layers(self) -> tuple[Array, ...]:
        """The parameters; a scan over them hands `apply` those of one layer."""
        return self.scale[...], self.shift[...]

    def apply(
        self, layer: tuple[Array, ...], z: Float[Array, "*batch width"]
    ) -> Float[Array, "*batch width"]:
        """γ ⊙ N(z) + β from one layer of `layers`."""
        scale, shift = layer
        axes = tuple(range(z.ndim - 1)) if self.couples_inputs else -1
        if self.centred:
            z = z - jnp.mean(z, axis=axes, keepdims=True)
        return scale * z * inverse_root(jnp.mean(jnp.square(z), axis=axes, keepdims=True)) + shift


class HeldNormalisation(nnx.Module):
    """γ ⊙ (z − mean)/std + β with the statistics of some other batch: inputs stay apart.

    Raises
    ------
    ValueError
        If the statistics are not those of as many layers and units.
    """

    def __init__(self, own: "Normalisation | HeldNormalisation", statistics: Statistics):
        shape = own.scale[...].shape
        given = jnp.shape(statistics.mean), jnp.shape(statistics.variance)
        if given != (shape, shape):
            raise ValueError(
                f"statistics must have mean and variance of shape {shape} (layers, units), got "
                f"{given[0]} and {given[1]}"
            )
        self.couples_inputs = False
        self.scale, self.shift = nnx.Param(own.scale[...]), nnx.Param(own.shift[...])
        self.mean = nnx.BatchStat(statistics.mean)
        self.variance = nnx.BatchStat(statistics.variance)

    def layers(self) -> tuple[Array, ...]:
        """Parameters and statistics, as `apply` takes them."""
        return self.scale[...], self.shift[...], self.mean[...], self.variance[...]

    def apply(
        self, layer: tuple[Array, ...], z: Float[Array, "*batch width"]
    ) -> Float[Array, "*batch width"]:
        """The normalisation from one layer of `layers`."""
        scale, shift, mean, variance = layer
        return scale * (z - mean) * inverse_root(variance) + shift
