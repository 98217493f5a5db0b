"""Gated linear units: an activation of one linear map times another (Shazeer 2020)."""

from dataclasses import dataclass

from sigprop.activations import Activation
from sigprop.kinds.dense import Dense
from sigprop.kinds.kind import Kind

__all__ = ["Gated"]


@dataclass(frozen=True)
class Gated(Kind):
    """φ(W_g x) ⊙ W_u x: ReGLU, GeGLU, SwiGLU by φ = relu, gelu, silu; bilinear with "linear".

    Of a signal of variance q, with u ~ N(0, σ_g² q),

        E[h²] = E[φ(u)²] σ_u² q,    a squared gradient gains σ_u² (σ_g² q E[φ'(u)²] + E[φ(u)²]),

    before the `Dense` that follows. Without a norm a homogeneous φ squares the variance: its fixed
    point repels, and a deep stack dies out or explodes doubly exponentially.

    Attributes
    ----------
    activation
        φ; the architecture's own if None.
    gate_var, up_var
        Names of the numbers σ_g² and σ_u².
    units
        Entries of the output; as many as come in if None.
    """

    activation: Activation | None = None
    gate_var: str = "gate_var"
    up_var: str = "up_var"
    units: int | None = None

    @property
    def numbers(self):
        """The names of its variances."""
        return self.gate_var, self.up_var

    def shape_after(self, shape):
        """As many units as asked for."""
        return shape[0], self.units or shape[1]

    def mixes(self, shape):
        """The gate's map and the other."""
        of = lambda var: Dense(var, None, self.units).mixes(shape)["weight"]  # noqa: E731
        return {"gate": of(self.gate_var), "up": of(self.up_var)}

    def apply(self, mix, trained, x, *, numbers, key=None):
        """φ(W_g x) ⊙ W_u x."""
        return self._own.fn(mix["gate"](x)) * mix["up"](x)

    def covariance(self, gauss, state, numbers):
        """Moments of a product of two independent signals are products of theirs."""
        gate = gauss.mixed(state, numbers[self.gate_var])
        up = gauss.mixed(state, numbers[self.up_var])
        return gauss.activated(self._own, gate).times(up)

    @property
    def _own(self) -> Activation:
        if self.activation is None:
            raise ValueError("activation must be given, or come from an architecture (compose)")
        return self.activation
