"""W x + b, the same for every place: hidden layers, and the linear readout."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax

from sigprop.kinds.kind import Kind, Mix

__all__ = ["Bias", "Dense"]


def _product(weight, x):
    """W x of every row, without transposing W in memory."""
    return lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())))


def _rows(x):
    return x


@dataclass(frozen=True)
class Bias(Kind):
    """x + b, with b_i ~ N(0, bias_var)."""

    bias_var: str = "bias_var"
    homogeneous = True

    @property
    def numbers(self):
        """The name of its variance."""
        return (self.bias_var,)

    def mixes(self, shape):
        """The bias multiplies 1."""
        bias = Mix((shape[1],), 1, jnp.multiply, self.bias_var, "gaussian", constant=True)
        return {"bias": bias}

    def apply(self, mix, trained, x, *, numbers, key=None):
        """X + b."""
        return x + mix["bias"](jnp.ones_like(x[..., :1]))

    def covariance(self, gauss, state, numbers):
        """A bias is common to all inputs and places."""
        return gauss.biased(state, numbers[self.bias_var])


@dataclass(frozen=True)
class Dense(Kind):
    """W x + b, with W_ij of variance weight_var / fan_in and b_i ~ N(0, bias_var).

    Attributes
    ----------
    weight_var, bias_var
        Names of its numbers; no bias if None.
    units
        Entries of the output; as many as come in if None.
    """

    weight_var: str = "weight_var"
    bias_var: str | None = "bias_var"
    units: int | None = None
    homogeneous = True

    @property
    def numbers(self):
        """The names of its variances."""
        return (self.weight_var,) if self.bias_var is None else (self.weight_var, self.bias_var)

    def shape_after(self, shape):
        """As many units as asked for."""
        return shape[0], self.units or shape[1]

    def mixes(self, shape):
        """W, and b if there is one."""
        fan_in, fan_out = shape[1], self.units or shape[1]
        mixes = {"weight": Mix((fan_out, fan_in), fan_in, _product, self.weight_var, rows=_rows)}
        if self.bias_var is not None:
            mixes |= Bias(self.bias_var).mixes((shape[0], fan_out))
        return mixes

    def apply(self, mix, trained, x, *, numbers, key=None):
        """W x + b."""
        z = mix["weight"](x)
        if self.bias_var is None:
            return z
        return Bias(self.bias_var).apply(mix, trained, z, numbers=numbers)

    def matrix(self, weights, trained):
        """W."""
        return weights["weight"]

    def covariance(self, gauss, state, numbers):
        """K -> σ_w² K + σ_b², Gaussian whatever came in."""
        mixed = gauss.mixed(state, numbers[self.weight_var])
        return mixed if self.bias_var is None else gauss.biased(mixed, numbers[self.bias_var])
