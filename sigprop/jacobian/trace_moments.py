"""Moments of the squared singular values without the matrix: Hutchinson's estimator."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt32
from matfree import stochtrace

from sigprop._checks import check_whole_number
from sigprop.jacobian.flat import flat_function

__all__ = ["Moments", "moments"]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["moments", "moments_stderr"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Moments:
    """Entry p - 1 is the mean of λ^p = s^{2p} over the spectrum, with its standard error."""

    moments: Float[Array, "*batch order"]
    moments_stderr: Float[Array, "*batch order"]


def moments(
    fn: Callable,
    x: Any,
    *,
    key: Key[Array, ""] | UInt32[Array, "2"],
    order: int = 2,
    probes: int = 64,
) -> Moments:
    r"""Moments ``tr((JᵀJ)^p) / n``, p = 1..order, of the Jacobian of ``fn`` at ``x``.

    n is the smaller dimension of J. For a vector v of independent signs ``E[vᵀ A v] = tr A``
    (Hutchinson 1989); ``vᵀ (JᵀJ)^p v`` is the squared norm of p products with J and Jᵀ in turn.

    Parameters
    ----------
    fn, x
        As for `singular_values`.
    key
        For the probes.
    order
        Highest p, >= 1.
    probes
        Random vectors, >= 2.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> result = moments(lambda x: 2 * x, jnp.ones(100), key=jax.random.key(0), order=3)
    >>> result.moments, result.moments_stderr
    (Array([ 4., 16., 64.], dtype=float32), Array([0., 0., 0.], dtype=float32))
    """
    flat = flat_function(fn, x)
    order = check_whole_number("order", order)
    probes = check_whole_number("probes", probes, minimum=2)
    narrow = flat.inputs <= flat.outputs
    products = (flat.forward, flat.backward) if narrow else (flat.backward, flat.forward)
    size = min(flat.inputs, flat.outputs)

    def squared_norms(_, vector):
        norms = []
        for power in range(order):
            vector = products[power % 2](vector)
            norms.append(jnp.sum(jnp.square(vector)) / size)
        return jnp.stack(norms)

    like = jnp.zeros(size, flat.dtype)
    estimate = stochtrace.estimator_monte_carlo_mean_and_sem(
        squared_norms, stochtrace.sampler_signs(like, num=probes)
    )
    mean, error = jax.jit(lambda key: estimate(None, key))(key)
    # matfree divides by the number of probes, which understates the error for few of them.
    return Moments(mean, error * (probes / (probes - 1)) ** 0.5)
