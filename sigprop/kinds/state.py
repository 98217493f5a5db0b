r"""What is known of an infinitely wide signal: its second moments, over inputs and places.

Of two points (an input at a place each) with variances v, v̂ and covariance k the state keeps
1 - c = 1 - k/√(v v̂), because where inputs come close 1 - c is what is left of the digits. Sums
and maps are written in what two points *lack*,

    ½ E[(z - ẑ)²] = (v + v̂)/2 - k = √(v v̂) (1 - c) + (√v - √v̂)²/2,

which is linear in the moments: a common bias adds nothing to it, independent signals add theirs.

Gradients are the derivative of the covariance of two *copies* of one input (Price 1958): if the
copies' covariance changes by X, that of the layer's output changes by E[J X Jᵀ]. `copies` holds
what they lack, 0 where they are one; engines differentiate in it.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sigprop._derivatives import with_value

__all__ = ["Lacking", "NoTheory", "State"]


class NoTheory(Exception):
    """Raised by a kind that does not know what it does to a signal; caught by theory."""


class Lacking(NamedTuple):
    """½ E[(z - ẑ)²] of every two points, as the fields of `State`."""

    own: Float[Array, "inputs places places"]
    cross: Float[Array, "pairs places places"]
    copies: Float[Array, "copies places places"]

    def plus(self, other: "Lacking") -> "Lacking":
        """Of the sum of two independent signals."""
        return jax.tree.map(jnp.add, self, other)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Second moments of an infinitely wide signal, of one input, of two, or of a batch.

    Attributes
    ----------
    variance
        E[z²] of every input at every place; one row where all inputs are alike.
    own
        1 - c between the places of one input.
    cross
        1 - c between the places of two inputs; empty (0, places, places) for one input. The inputs
        of a batch are exchangeable: what holds of two holds of every two.
    copies
        What copies of the signal lack: first an input and its own copy, then, if there are two,
        an input and another input's copy; of two inputs that differ, one and a copy of the other.
        Empty unless gradients are asked for.
    law
        "gaussian": units are centred Gaussian, as those that leave a mix; "any": no such thing is
        known (behind an activation); "batch": a Gaussian signal that is still to be normalised over
        its batch, which `Gauss.activated` does together with the activation.
    fresh
        Whether the signal is uncorrelated with what entered the innermost skip connection.
    batch
        Inputs of the batch it is normalised over; None for very many.
    """

    variance: Float[Array, "inputs places"]
    own: Float[Array, "inputs places places"]
    cross: Float[Array, "pairs places places"]
    copies: Float[Array, "copies places places"]
    law: str = field(default="gaussian", metadata={"static": True})
    fresh: bool = field(default=False, metadata={"static": True})
    batch: int | None = field(default=None, metadata={"static": True})

    @classmethod
    def of(cls, variance: Array, apart: Array | None = None, copies: Array | None = None):
        """One place; inputs of one variance (a scalar), at ``apart`` = 1 - c, or of two (2,)."""
        variance = variance.reshape(-1, 1)
        none = jnp.zeros((0, 1, 1), variance.dtype)
        return cls(
            variance=variance,
            own=jnp.zeros((len(variance), 1, 1), variance.dtype),
            cross=none if apart is None else apart.reshape(1, 1, 1),
            copies=none if copies is None else copies.reshape(-1, 1, 1),
        )

    @property
    def places(self) -> int:
        """Places an input has."""
        return self.variance.shape[1]

    @property
    def alike(self) -> bool:
        """Whether all inputs have one law."""
        return len(self.variance) == 1

    @property
    def uniform(self) -> bool:
        """Whether all points have one variance, so that nothing need be compared."""
        return self.variance.shape == (1, 1)

    def demand(self, law: str, what: str) -> None:
        """Raise `NoTheory` unless the signal's law is the one that ``what`` is known for."""
        if self.law != law:
            raise NoTheory(f"{what} is known of a {law} signal only, not of one of law {self.law}")

    # ------------------------------------------------------------------ pairs of points

    def ends(self, which: str) -> tuple[Array, Array]:
        """Variances of the two points of every entry of a field, broadcasting against it."""
        first, last = self.variance[:1], self.variance[-1:]
        if which == "own":
            first = last = self.variance
        return first[:, :, None], last[:, None, :]

    def sizes(self, which: str) -> Array:
        """√(v v̂) of every entry of a field."""
        if self.uniform:
            return self.variance[None]
        a, b = self.ends(which)
        return jnp.sqrt(a) * jnp.sqrt(b)

    def _unequal(self, which: str) -> Array:
        """(√v - √v̂)²/2: what points of different variance lack though c = 1."""
        if self.uniform:
            return jnp.zeros_like(self.variance[None])
        a, b = self.ends(which)
        return jnp.square(jnp.sqrt(a) - jnp.sqrt(b)) / 2

    def lacking(self) -> Lacking:
        """½ E[(z - ẑ)²] of every two points."""
        return Lacking(self._lack("own"), self._lack("cross"), self.copies)

    def _lack(self, which: str) -> Array:
        apart = getattr(self, which)
        return self.sizes(which) * apart + self._unequal(which)

    def becoming(self, variance: Array, lacking: Lacking, **changes) -> "State":
        """The signal whose points have these variances and lack this much.

        What has vanished, or overflowed, keeps the angle it had.
        """
        moved = replace(self, variance=variance, copies=lacking.copies, **changes)
        return replace(
            moved,
            own=moved._apart("own", lacking.own, self.own),
            cross=moved._apart("cross", lacking.cross, self.cross),
        )

    def _apart(self, which: str, lacking: Array, otherwise: Array) -> Array:
        size = self.sizes(which)
        lacking = lacking - self._unequal(which)
        moves = (size > 0) & jnp.isfinite(size)
        apart = jnp.where(moves, lacking / jnp.where(moves, size, jnp.ones_like(size)), otherwise)
        if self.uniform:
            return apart
        # Rounding must take no correlation beyond ±1; derivatives are those of the formula.
        return apart + jax.lax.stop_gradient(jnp.clip(apart, 0, 2) - apart)

    # ------------------------------------------------------------------ what kinds do to signals

    def scaled(self, factor) -> "State":
        """Every variance and covariance times ``factor``."""
        return replace(self, variance=factor * self.variance, copies=factor * self.copies)

    def plus(self, other: "State") -> "State":
        """The sum with an independent signal."""
        variance = self.variance + other.variance
        after = self.becoming(variance, self.lacking().plus(other.lacking()))
        return after if self.uniform else after._shared_by(self, other)

    def times(self, other: "State") -> "State":
        """The product with an independent signal, unit by unit; no longer Gaussian."""

        def lacking(which: str) -> Array:
            (v, v_hat), (w, w_hat) = self.ends(which), other.ends(which)
            mine, theirs = getattr(self.lacking(), which), getattr(other.lacking(), which)
            both = (v + v_hat) / 2 * theirs + (w + w_hat) / 2 * mine - mine * theirs
            return both + (v - v_hat) * (w - w_hat) / 4

        lost = Lacking(*map(lacking, Lacking._fields))
        return self.becoming(self.variance * other.variance, lost, law="any", fresh=False)

    def shifted(self, variance) -> "State":
        """With a random number of this variance, common to all points, added to every unit."""
        after = self.becoming(self.variance + variance, self.lacking())
        if self.uniform:
            return after
        alike = replace(
            self,
            variance=jnp.broadcast_to(variance, self.variance.shape),
            own=jnp.zeros_like(self.own),
            cross=jnp.zeros_like(self.cross),
        )
        return after._shared_by(self, alike)

    def _shared_by(self, *parts: "State") -> "State":
        """With every 1 - c, of the same value, as a sum of squares, in which nothing cancels."""

        def apart(which: str) -> Array:
            total = jnp.zeros_like(getattr(self, which))
            for part in parts:
                first, last = (
                    jnp.sqrt(share / jnp.where(whole > 0, whole, 1.0))
                    for share, whole in zip(part.ends(which), self.ends(which))
                )
                total += jnp.square(first - last) / 2 + first * last * getattr(part, which)
            found = getattr(self, which)
            known = jnp.isfinite(total) & (self.sizes(which) > 0)
            return with_value(found, jax.lax.stop_gradient(jnp.where(known, total, found)))

        return replace(self, own=apart("own"), cross=apart("cross"))

    def normalised(self) -> "State":
        """Divided by its root mean square, input by input and place by place; nothing stays so."""
        size = self.sizes("copies")
        copies = (self.copies - self._unequal("copies")) / jnp.where(size > 0, size, 1.0)
        return replace(
            self,
            variance=jnp.where(self.variance > 0, 1.0, 0.0 * self.variance),
            copies=jnp.where(size > 0, copies, 0.0 * copies),
        )

    def as_batch(self, batch: int | None) -> "State":
        """To be normalised over its batch, together with the activation that comes next."""
        if self.places > 1:
            raise NoTheory("batch norm is known of one place only")
        return replace(self, law="batch", batch=batch)

    def thinned(self, keep, shared: bool) -> "State":
        """Units kept with probability ``keep`` and divided by it.

        Copies lose the same units, places of one input different ones, and two inputs the same
        ones if ``shared``.
        """
        one_place = jnp.eye(self.places, dtype=bool)
        alike = one_place & shared
        angle = lambda apart, same: jnp.where(same, apart, 1 - keep + keep * apart)  # noqa: E731
        a, b = self.ends("copies")
        more = (a + b) / 2 * (1 - keep) / keep
        same = jnp.stack([one_place, alike])[: len(self.copies)]
        return replace(
            self,
            variance=self.variance / keep,
            own=angle(self.own, one_place),
            cross=angle(self.cross, alike),
            copies=jnp.where(same, self.copies / keep, self.copies + more),
        )
