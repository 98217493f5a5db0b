"""The state of a block of cells at a layer, and what sets its cells apart.

Rows are (input, cell) pairs, inputs outermost; every cell of the block shares the draws, so that a
layer is one matrix multiply.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from sigprop.propagation.scaled import LogSum

__all__ = ["Cells", "PerCell", "PerInput", "Rows", "Signal", "as_rows", "log_rms", "unit_of"]

Rows = Float[Array, "rows width"]
PerCell = Float[Array | np.ndarray, " cells"]
PerInput = Float[Array, "inputs cells"]

# Units are kept where exp and its inverse are normal numbers in float32.
_LARGEST_LOG_UNIT = 80.0


class Cells(NamedTuple):
    """What sets one cell apart from the others: the scales of its weights and biases."""

    first_scale: PerCell  # sqrt(weight_var / in_features)
    hidden_scale: PerCell  # α sqrt(weight_var / width)
    log_bias_scale: PerCell  # log sqrt(bias_var), -inf without bias
    log_branch_scale: PerCell | None = None  # log α, of a residual block
    keep: PerCell | None = None  # ρ, with dropout


class Signal(NamedTuple):
    """The state at layer l: z^l = exp(scale) · z, row by row.

    ``scale`` leaves 0 only for homogeneous activations. ``z_unit`` and ``x_unit`` are logs of the
    typical size of an entry, as far as known beforehand (from the layer before). Squares are taken
    in these units, so that they neither vanish nor overflow before z itself does.
    """

    z: Rows
    size: PerInput  # log of the root mean square of z
    scale: LogSum
    z_unit: PerInput
    x_unit: PerInput
    alive: Bool[Array, " cells"]  # every layer so far finite


def as_rows(per_input: Shaped[Array, "inputs cells"]) -> Shaped[Array, "rows 1"]:
    """One number for each row."""
    return per_input.reshape(-1, 1)


def log_rms(squared_norm: Float[Array, "..."], width: int) -> Float[Array, "..."]:
    """Log of the root mean square of a row."""
    return 0.5 * jnp.log(squared_norm / width)


def unit_of(size: Float[Array, "..."], otherwise: Float[Array, "..."] | float):
    """``size`` where it can serve as a unit, ``otherwise`` where a row has vanished."""
    clipped = jnp.clip(size, -_LARGEST_LOG_UNIT, _LARGEST_LOG_UNIT)
    return jnp.where(jnp.isfinite(size), clipped, jnp.asarray(otherwise, size.dtype))
