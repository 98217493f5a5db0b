"""Weight norm: every row of a weight matrix has a trained length (Salimans and Kingma 2016)."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from sigprop.kinds.dense import Dense
from sigprop.kinds.norm import inverse_root

__all__ = ["WeightNorm", "unit_rows"]


Weights = Float[Array, "*stack fan_out fan_in"]


@dataclass(frozen=True)
class WeightNorm(Dense):
    """γ ⊙ W x + b, where every row of W has norm sqrt(weight_var) exactly and γ starts at 1.

    At infinite width what `Dense` is: its rows' norms are all one there.
    """

    def mixes(self, shape):
        """W with rows of one length, and b."""
        mixes = super().mixes(shape)
        return mixes | {"weight": mixes["weight"]._replace(prepared=unit_rows)}

    def trained(self, shape):
        """Of every row."""
        return {"gain": jnp.ones(self.units or shape[1])}

    def apply(self, mix, trained, x, *, numbers, key=None):
        """γ ⊙ W x + b."""
        gained = {"weight": lambda x: trained["gain"] * mix["weight"](x)}
        return super().apply({**mix, **gained}, trained, x, numbers=numbers)

    def matrix(self, weights, trained):
        """γ ⊙ W."""
        return trained["gain"][..., None] * weights["weight"]


def unit_rows(
    weight: Float[Array, "*stack fan_out fan_in"],
) -> Float[Array, "*stack fan_out fan_in"]:
    """The rows made equally long, sqrt(fan_in).

    Examples
    --------
    >>> rows = unit_rows(jnp.asarray([[3.0, 4.0], [0.0, 2.0]]))
    >>> bool(jnp.allclose(jnp.linalg.norm(rows, axis=1), 2**0.5))
    True
    """
    square = jnp.sum(jnp.square(weight), axis=-1, keepdims=True)
    return weight * (inverse_root(square) * jnp.sqrt(jnp.asarray(weight.shape[-1], weight.dtype)))
