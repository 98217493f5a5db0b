r"""Values that do not close, as populations: replicas of the model's own arrays, drawn together.

Every value has a leading axis of R replicas and runs through the program as it is. Only four things
are done otherwise: a product with a drawn weight becomes a draw of the Gaussian that it tends to,
with mean and covariance matched over the whole population; a mean over all units is one over the
replicas too; random bits differ between replicas; and weights that are looked up or added are
drawn for every replica.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.limit.refusals import Refused
from sigprop.limit.weights import Weight

__all__ = ["Drawing", "Population"]

_FEWEST = 20  # samples for every place that is drawn jointly
_BEYOND = 6.0  # standard errors


@dataclass(frozen=True, eq=False)
class Population:
    """(replicas, ...) and which of the axes behind the first are wide."""

    array: jax.Array
    wide: frozenset[int]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one replica."""
        return self.array.shape[1:]


@dataclass
class _Use:
    """One operand of a weight, what was drawn for it, and its places."""

    operand: jax.Array  # (replicas or 1, places, taps, units)
    drawn: jax.Array  # (replicas, places, units): the Gaussian part, of unit scale


@dataclass
class Drawing:
    """Draws products with weights, jointly with earlier products of the same.

    Attributes
    ----------
    replicas
        R.
    shares
        By array: the largest part of a second moment that a weight's own transpose made.
    """

    key: jax.Array
    replicas: int
    shares: dict[int, float] = field(default_factory=dict)
    uses: dict[tuple, list[_Use]] = field(default_factory=dict)

    def normal(self, shape: tuple[int, ...]) -> jax.Array:
        """Fresh unit Gaussians."""
        self.key, here = jax.random.split(self.key)
        return jax.random.normal(here, shape)

    def matched(self, places: int, units: int, given: jax.Array | None) -> jax.Array:
        """(replicas, places, units): mean 0, unit covariance, none with ``given``; exactly."""
        count = self.replicas * units
        known = 0 if given is None else given.shape[1]
        if count < _FEWEST * (places + known):
            raise Refused(
                f"{places + known} places drawn jointly from {count} samples: "
                f"fewer than {_FEWEST} for each"
            )
        fresh = _rows(self.normal((self.replicas, places, units)))
        fresh = fresh - fresh.mean(1, keepdims=True)
        if given is not None:
            former = _rows(given)
            former = former - former.mean(1, keepdims=True)
            fresh = fresh - (fresh @ former.T) @ _inverse(former @ former.T) @ former
        covariance = fresh @ fresh.T / count
        fresh = jnp.linalg.solve(jnp.linalg.cholesky(covariance), fresh)
        return _unrows(fresh, self.replicas, units)

    def product(
        self, weight: Weight, contracted: frozenset[int], operand: jax.Array, units: int, conv: bool
    ) -> jax.Array:
        """A weight times an operand (replicas, places, taps, channels)."""
        key = (*weight.part, contracted, weight.flipped)
        former = self.uses.setdefault(key, [])
        own = weight.variance * _second(operand, operand)
        if former:
            drawn = self._with_former(weight, former, operand, own, units)
        else:
            drawn = _root(own) @ self.matched(operand.shape[1], units, None)
        former.append(_Use(operand, drawn))
        returned = self._returned(weight, contracted, operand, conv)
        found = drawn if returned is None else drawn + returned
        if returned is not None:
            share = 1 - float(jnp.mean(drawn**2) / jnp.mean(found**2))
            self.shares[weight.leaf] = max(self.shares.get(weight.leaf, 0.0), share)
        return weight.scale * found

    def _with_former(self, weight, former: list[_Use], operand, own, units) -> jax.Array:
        """Drawn given what the same weight made of other operands."""
        before = jnp.concatenate([use.drawn for use in former], axis=1)
        rows = [[weight.variance * _second(a.operand, b.operand) for b in former] for a in former]
        joint = jnp.block(rows)
        across = jnp.concatenate([weight.variance * _second(operand, u.operand) for u in former], 1)
        gain = across @ _inverse(joint)
        left = own - gain @ across.T
        return gain @ before + _root(left) @ self.matched(operand.shape[1], units, before)

    def _returned(self, weight, contracted, operand, conv: bool) -> jax.Array | None:
        """σ² n Σ_t x_t E[∂g/∂z_t], by a regression of g on what z_t drew (Stein)."""
        opposite = [
            use
            for (leaf, ranges, axes, _), uses in self.uses.items()
            if leaf == weight.leaf and ranges == weight.ranges and not axes & contracted
            for use in uses
        ]
        if not opposite or operand.shape[0] == 1:
            return None
        drawn = jnp.concatenate([use.drawn for use in opposite], axis=1)
        count, channels = drawn.shape[0] * drawn.shape[2], operand.shape[3]
        if operand.shape[2] > 1 or drawn.shape[2] != channels:
            if conv and self._independent(operand, drawn):
                return None
            raise Refused("a weight over several places that has met its own transpose")
        g = _rows(operand[:, :, 0, :])
        z = _rows(drawn)
        slope = (g @ z.T / count) @ _inverse(z @ z.T / count)
        if conv:
            if self._independent(operand, drawn):
                return None
            raise Refused("a convolution that has met its own transpose")
        inputs = [
            jnp.broadcast_to(u.operand, (self.replicas, *u.operand.shape[1:])) for u in opposite
        ]
        if any(x.shape[2] != 1 for x in inputs):
            raise Refused("a weight over several places that has met its own transpose")
        x = jnp.concatenate([x[:, :, 0, :] for x in inputs], axis=1)
        return weight.variance * channels * jnp.einsum("pt,rtn->rpn", slope, x)

    def _independent(self, operand: jax.Array, drawn: jax.Array) -> bool:
        """Whether no operand is correlated with a draw beyond the noise of the population."""
        channels = min(operand.shape[3], drawn.shape[2])
        if operand.shape[3] != drawn.shape[2]:
            return False
        g = jnp.concatenate(list(jnp.moveaxis(operand, 2, 0)), axis=1)
        g, z = _rows(g), _rows(drawn)
        size = jnp.sqrt(jnp.mean(g**2, 1)[:, None] * jnp.mean(z**2, 1))
        c = (g @ z.T / g.shape[1]) / jnp.where(size > 0, size, 1.0)
        return bool(jnp.max(jnp.abs(c)) < _BEYOND / np.sqrt(drawn.shape[0] * channels))


def _rows(x: jax.Array) -> jax.Array:
    """(replicas, places, units) as (places, samples)."""
    return jnp.moveaxis(x, 1, 0).reshape(x.shape[1], -1)


def _unrows(x: jax.Array, replicas: int, units: int) -> jax.Array:
    return jnp.moveaxis(x.reshape(len(x), replicas, units), 0, 1)


def _second(x: jax.Array, y: jax.Array) -> jax.Array:
    """Σ over taps and channels of x_i x_j, its mean over replicas."""
    if x.shape[0] == y.shape[0]:
        return jnp.einsum("rptc,rqtc->pq", x, y) / x.shape[0]
    return jnp.einsum("ptc,qtc->pq", x.mean(0), y.mean(0))


def _root(covariance: jax.Array) -> jax.Array:
    values, vectors = jnp.linalg.eigh((covariance + covariance.T) / 2)
    return vectors * jnp.sqrt(jnp.maximum(values, 0.0))


def _inverse(covariance: jax.Array) -> jax.Array:
    return jnp.linalg.pinv((covariance + covariance.T) / 2, rtol=1e-10, hermitian=True)
