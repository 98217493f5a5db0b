"""Affine layers, alone or stacked: what is a parameter, and how it acts."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from sigprop.kinds.norm import inverse_root

__all__ = ["Affine", "Scale", "WeightNormalised"]


class Scale(nnx.Variable):
    """A factor applied where something is used; not itself trained."""


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
        return self.apply(self.layers(), x)

    def layers(self) -> tuple[Array, ...]:
        """The parameters; a scan over them hands `apply` those of one layer at a time."""
        return self.weight[...], self.bias[...]

    def apply(
        self, layer: tuple[Array, ...], x: Float[Array | np.ndarray, "*batch in"]
    ) -> Float[Array, "*batch out"]:
        """W x + b from one layer of `layers`."""
        # The product is scaled rather than the weight: no scaled copy of a whole stack is made.
        weight, bias = layer
        z = jnp.matmul(x, weight.T)
        if self.scaled_at_use:
            return self.weight_scale[...] * z + self.bias_scale[...] * bias
        return z + bias


class WeightNormalised(nnx.Module):
    """z = g ⊙ (V / |V|) x + b: the norm of every row of W is a parameter of its own.

    g starts at sqrt(weight_var) in every row (Salimans & Kingma 2016, eq. 2, without their
    data-dependent start). Used as `Affine`, whose arguments it takes; V starts at what W would be
    there. With "ntk" the parameters are V = the unit draw and g = 1, scaled where they are used.
    """

    def __init__(
        self,
        weight: Float[Array, "..."],
        bias: Float[Array, "..."],
        weight_scale: Float[Array, ""],
        bias_scale: Float[Array, ""],
        parameterisation: str,
    ):
        row_norm = weight_scale * weight.shape[-1] ** 0.5
        self.scaled_at_use = parameterisation == "ntk"
        if self.scaled_at_use:
            self.direction = nnx.Param(weight)
            self.gain = nnx.Param(jnp.ones_like(bias))
            self.bias = nnx.Param(bias)
            self.gain_scale = Scale(row_norm)
            self.bias_scale = Scale(bias_scale)
        else:
            self.direction = nnx.Param(weight_scale * weight)
            self.gain = nnx.Param(row_norm * jnp.ones_like(bias))
            self.bias = nnx.Param(bias_scale * bias)

    @property
    def fan_in(self) -> int:
        """Entries of an input."""
        return self.direction[...].shape[-1]

    @property
    def fan_out(self) -> int:
        """Entries of an output."""
        return self.direction[...].shape[-2]

    def effective(self) -> tuple[Float[Array, "*stack out in"], Float[Array, "*stack out"]]:
        """W and b as they act."""
        direction, gain, bias = self._scaled(self.layers())
        return gain[..., None] * direction, bias

    def __call__(self, x: Float[Array | np.ndarray, "*batch in"]) -> Float[Array, "*batch out"]:
        """W x + b for a single (not stacked) layer."""
        return self.apply(self.layers(), x)

    def layers(self) -> tuple[Array, ...]:
        """The parameters; a scan over them hands `apply` those of one layer at a time."""
        return self.direction[...], self.gain[...], self.bias[...]

    def apply(
        self, layer: tuple[Array, ...], x: Float[Array | np.ndarray, "*batch in"]
    ) -> Float[Array, "*batch out"]:
        """W x + b from one layer of `layers`."""
        direction, gain, bias = self._scaled(layer)
        return gain * jnp.matmul(x, direction.T) + bias

    def _scaled(self, layer):
        """V, what its rows are to be multiplied by, and b."""
        direction, gain, bias = layer
        if self.scaled_at_use:
            gain, bias = self.gain_scale[...] * gain, self.bias_scale[...] * bias
        return direction, gain * inverse_root(jnp.sum(jnp.square(direction), axis=-1)), bias
