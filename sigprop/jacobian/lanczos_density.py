"""Density of squared singular values without the matrix: stochastic Lanczos quadrature."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt32

from sigprop._checks import check_whole_number
from sigprop.jacobian.flat import flat_function
from sigprop.jacobian.golub_kahan import bidiagonalised

__all__ = ["SpectralDensity", "spectral_density"]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["squares", "weights"], meta_fields=[]
)
@dataclass(frozen=True)
class SpectralDensity:
    """Point masses that stand for the spectrum of λ = s², one set per random probe.

    Attributes
    ----------
    squares
        Where the masses sit.
    weights
        Their sizes; the sum over one probe is 1.
    """

    squares: Float[Array, "*batch probes nodes"]
    weights: Float[Array, "*batch probes nodes"]

    def mean_of(
        self, function: Callable[[Float[Array, "probes nodes"]], Float[Array, "probes nodes"]]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Average of ``function(λ)`` over the spectrum, and its standard error over probes."""
        each = jnp.sum(self.weights * function(self.squares), axis=1)
        return jnp.mean(each), jnp.std(each, ddof=1) / jnp.sqrt(float(len(each)))

    def density(
        self, squares: Float[Array, " points"], width: float
    ) -> tuple[Float[Array, " points"], Float[Array, " points"]]:
        """Density of λ at ``squares``, smoothed by a Gaussian of standard deviation ``width``.

        Returns the density and its standard error over probes.
        """
        offsets = (squares[:, None, None] - self.squares) / width
        kernels = jnp.exp(-jnp.square(offsets) / 2) / (width * jnp.sqrt(2 * jnp.pi))
        each = jnp.sum(kernels * self.weights, axis=2)
        return jnp.mean(each, axis=1), jnp.std(each, axis=1, ddof=1) / jnp.sqrt(each.shape[1] * 1.0)

    def cumulative(self, squares: Float[Array, " points"]) -> Float[Array, " points"]:
        """Fraction of the spectrum at or below ``squares``."""
        below = jnp.where(self.squares <= squares[:, None, None], self.weights, 0.0)
        return jnp.mean(jnp.sum(below, axis=2), axis=1)


def spectral_density(
    fn: Callable,
    x: Any,
    *,
    key: Key[Array, ""] | UInt32[Array, "2"],
    probes: int = 16,
    nodes: int = 64,
) -> SpectralDensity:
    r"""The distribution of the squared singular values of the Jacobian of ``fn`` at ``x``.

    For a random unit vector v, Gauss quadrature from the Golub-Kahan bidiagonal matrix started at v
    gives ``Σ_k w_k f(λ_k) ≈ vᵀ f(JᵀJ) v``, exactly for polynomials of degree < 2 nodes; the mean
    over v is the mean of f over the spectrum (Ubaru, Chen and Saad 2017, "Fast estimation of
    tr(f(A)) via stochastic Lanczos quadrature"). JJᵀ is taken instead where it is smaller.

    Parameters
    ----------
    fn, x
        As for `singular_values`.
    key
        For the probes.
    probes
        Random vectors, >= 2.
    nodes
        Lanczos steps a probe; at most the smaller dimension of J is used.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> scales = jnp.linspace(0.0, 1.0, 500)
    >>> spectrum = spectral_density(lambda x: scales * x, jnp.ones(500), key=jax.random.key(0))
    >>> mean, stderr = spectrum.mean_of(lambda squares: squares)
    >>> bool(abs(mean - 1 / 3) < 4 * stderr)
    True
    """
    flat = flat_function(fn, x)
    probes = check_whole_number("probes", probes, minimum=2)
    nodes = min(check_whole_number("nodes", nodes), flat.inputs, flat.outputs)
    forward, backward, inputs, outputs = (
        (flat.forward, flat.backward, flat.inputs, flat.outputs)
        if flat.inputs <= flat.outputs
        else (flat.backward, flat.forward, flat.outputs, flat.inputs)
    )

    def quadrature(key):
        probe_key, noise_key = jax.random.split(key)
        start = jax.random.normal(probe_key, (1, inputs), flat.dtype)
        matrix = bidiagonalised(forward, backward, start, outputs, nodes, noise_key).matrix
        _, values, right = jnp.linalg.svd(matrix)
        return jnp.square(values), jnp.square(right[:, 0])

    # One probe after the other: its Krylov vectors are the memory that counts.
    run = jax.jit(lambda keys: jax.lax.map(quadrature, keys))
    return SpectralDensity(*run(jax.random.split(key, probes)))
