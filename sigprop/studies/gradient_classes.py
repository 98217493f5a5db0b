"""Do gradients vanish, pass or explode over the depth of a network?"""

import enum

import numpy as np
from jaxtyping import Float, Int

__all__ = ["Growth", "growth_class"]


class Growth(enum.IntEnum):
    """What becomes of the gradient norm between the last layer and the first."""

    VANISHING = 0
    STABLE = 1
    EXPLODING = 2
    UNDEFINED = 3  # nothing finite to judge by


def growth_class(
    gradient_rate: Float[np.ndarray, "*cells"], *, depth: int, stable_factor: float
) -> Int[np.ndarray, "*cells"]:
    """The `Growth` that a rate amounts to over ``depth`` layers.

    Stable means |rate| (depth − 1) <= 2 ln(stable_factor): the norm (whose square grows at
    ``gradient_rate``) changes by no more than that factor.

    Parameters
    ----------
    gradient_rate
        Growth a layer of the log squared norm; positive if it grows towards the input.
    depth
        Weight layers, >= 2.
    stable_factor
        > 1.

    Returns
    -------
    numpy.ndarray
        Codes of `Growth`, same shape; undefined where the rate is nan.

    Examples
    --------
    >>> growth_class(np.asarray([-0.5, 0.01, 0.5, np.nan]), depth=100, stable_factor=10.0)
    array([0, 1, 2, 3], dtype=int8)
    """
    limit = 2 * np.log(stable_factor)
    total = gradient_rate * (depth - 1)
    classes = [total < -limit, np.abs(total) <= limit, total > limit]
    codes = [Growth.VANISHING, Growth.STABLE, Growth.EXPLODING]
    return np.select(classes, codes, Growth.UNDEFINED).astype(np.int8)
