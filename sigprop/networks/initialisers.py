"""Unit-variance weight draws: the one place where a network's random numbers come from.

Every weight of a network is ``sqrt(weight_var / fan_in)`` times a draw of variance 1 per entry.
The draws of layer l (counted from 1; a readout is layer depth + 1) are a function of the network's
key and l alone, so a network made from a key and a measurement made from the same key hold the
same weights.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt32

from sigprop._checks import check_one_of
from sigprop.architecture import DISTRIBUTIONS, Recipe, recipe, recipe_names
from sigprop.kinds import Mix

__all__ = [
    "DISTRIBUTIONS",
    "Recipe",
    "cotangent",
    "layer_draws",
    "mask_key",
    "recipe",
    "recipe_names",
    "unit_bias",
    "unit_draw",
    "unit_mask",
    "unit_weight",
]

RandomKey = Key[Array, ""] | UInt32[Array, "2"]
Weight = Float[Array, "fan_out fan_in"]


def _gaussian(key, shape, dtype):
    return jax.random.normal(key, shape, dtype)


# Standard deviation of a standard normal cut at +-2: sqrt(1 - 4 pdf(2) / (2 cdf(2) - 1)).
_TRUNCATED_STD = 0.8796256610342398


def _truncated_normal(key, shape, dtype):
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype) / _TRUNCATED_STD


def _uniform(key, shape, dtype):
    edge = 3.0**0.5
    return jax.random.uniform(key, shape, dtype, -edge, edge)


def _orthogonal(key, shape, dtype):
    """Haar (Mezzadri 2007): QR of a Gaussian matrix, columns' signs fixed by the diagonal of R.

    Orthonormal columns (rows, if the matrix is wide) have entries of second moment 1 / long side.
    """
    long, short = max(shape), min(shape)
    exact = dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32  # LAPACK has no halves
    q, r = jnp.linalg.qr(jax.random.normal(key, (long, short), exact))
    q = q * jnp.where(jnp.diagonal(r) < 0, -1.0, 1.0).astype(exact)
    return ((q if shape[0] >= shape[1] else q.T) * jnp.sqrt(jnp.asarray(long, exact))).astype(dtype)


_DRAWS: dict[str, Callable] = {
    "gaussian": _gaussian,
    "truncated_normal": _truncated_normal,
    "uniform": _uniform,
    "orthogonal": _orthogonal,
}


def unit_draw(
    key: RandomKey, distribution: str, fan_out: int, fan_in: int, dtype=None
) -> Float[Array, "{fan_out} {fan_in}"]:
    """A weight matrix whose entries have mean 0 and variance 1.

    Parameters
    ----------
    key
        Random key.
    distribution
        "gaussian"; "truncated_normal", cut at two standard deviations of the uncut normal and
        rescaled; "uniform" on +-sqrt(3); "orthogonal", Haar-distributed, scaled so that
        E[W_ij²] = 1 for rectangular shapes too.
    fan_out, fan_in
        Shape of the matrix: z = W x.
    dtype
        JAX's default float type if None.

    Raises
    ------
    ValueError
        For an unknown distribution.

    Examples
    --------
    >>> q = unit_draw(jax.random.key(0), "orthogonal", 3, 5) / 5**0.5
    >>> bool(jnp.allclose(q @ q.T, jnp.eye(3), atol=1e-6))
    True
    """
    check_one_of("distribution", distribution, DISTRIBUTIONS)
    dtype = jnp.result_type(float) if dtype is None else dtype
    return _DRAWS[distribution](key, (fan_out, fan_in), dtype)


def unit_weight(
    key: RandomKey,
    layer: int | Int[Array, ""],
    distribution: str,
    fan_out: int,
    fan_in: int,
    dtype=None,
) -> Float[Array, "{fan_out} {fan_in}"]:
    """The unit draw of layer ``layer`` (from 1, may be traced) of the network that ``key`` makes.

    Examples
    --------
    >>> unit_weight(jax.random.key(0), 1, "gaussian", 4, 2).shape
    (4, 2)
    """
    weight_key, _ = _layer_keys(key, layer)
    return unit_draw(weight_key, distribution, fan_out, fan_in, dtype)


def unit_bias(
    key: RandomKey, layer: int | Int[Array, ""], fan_out: int, dtype=None
) -> Float[Array, "{fan_out}"]:
    """The N(0, 1) biases of layer ``layer``, before scaling by sqrt(bias_var).

    Examples
    --------
    >>> unit_bias(jax.random.key(0), 1, 4).shape
    (4,)
    """
    _, bias_key = _layer_keys(key, layer)
    return jax.random.normal(
        bias_key, (fan_out,), jnp.result_type(float) if dtype is None else dtype
    )


def layer_draws(
    key: RandomKey,
    layer: int | Int[Array, ""],
    mixes: Mapping[str, Mix],
    distribution: str,
    dtype=None,
) -> dict[str, Array]:
    """All unit draws of layer ``layer`` (from 1, may be traced) of the network that ``key`` makes.

    Parameters
    ----------
    key
        The network's.
    layer
        The layer's number.
    mixes
        What its kind draws: `sigprop.kinds.Kind.mixes`. The first of its weights is the layer's
        `unit_weight`, the first that acts on ones its `unit_bias`.
    distribution
        Of those that name none of their own.
    dtype
        JAX's default float type if None.

    Examples
    --------
    >>> from sigprop.kinds import Dense
    >>> drawn = layer_draws(jax.random.key(0), 2, Dense().mixes((1, 4)), "gaussian")
    >>> bool(jnp.all(drawn["weight"] == unit_weight(jax.random.key(0), 2, "gaussian", 4, 4)))
    True
    """
    dtype = jnp.result_type(float) if dtype is None else dtype
    weights, biases = _layer_keys(key, layer)
    found = {}
    for constant, own in ((False, weights), (True, biases)):
        names = [name for name, mix in mixes.items() if mix.constant == constant]
        for number, name in enumerate(names):
            mix = mixes[name]
            of_mix = jax.random.fold_in(own, number) if number else own
            draw = _DRAWS[mix.distribution or distribution]
            found[name] = draw(of_mix, mix.shape, dtype)
    return {name: found[name] for name in mixes}


def mask_key(key: RandomKey, layer: int | Int[Array, ""]) -> RandomKey:
    """The key of what is random in every call at layer ``layer``: `unit_mask` draws from it."""
    return jax.random.fold_in(jax.random.fold_in(key, jnp.uint32(_MASKS)), layer)


def cotangent(
    key: RandomKey, inputs: int, width: int, dtype=None
) -> Float[Array, "{inputs} {width}"]:
    """The N(0, 1) vectors that measured gradients start from at z^depth, one for each input.

    Drawn from layer 0's key, which no weight uses: independent of the network ``key`` makes.

    Examples
    --------
    >>> cotangent(jax.random.key(0), 2, 4).shape
    (2, 4)
    """
    dtype = jnp.result_type(float) if dtype is None else dtype
    return jax.random.normal(jax.random.fold_in(key, 0), (inputs, width), dtype)


# No layer has this number, so masks are independent of weights, biases and cotangents.
_MASKS = 2**32 - 1


def unit_mask(
    key: RandomKey, layer: int | Int[Array, ""], inputs: int, width: int, dtype=None
) -> Float[Array, "{inputs} {width}"]:
    """Uniform numbers in [0, 1): dropout keeps those entries of x^layer where they are below ρ.

    Networks that differ in ρ alone thus share one draw, as those that differ in weight_var do.

    Examples
    --------
    >>> unit_mask(jax.random.key(0), 1, 2, 4).shape
    (2, 4)
    """
    dtype = jnp.result_type(float) if dtype is None else dtype
    return jax.random.uniform(mask_key(key, layer), (inputs, width), dtype)


def _layer_keys(key, layer):
    return jax.random.split(jax.random.fold_in(key, layer))
