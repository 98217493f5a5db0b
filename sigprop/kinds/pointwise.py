"""φ(z), unit by unit."""

from dataclasses import dataclass

from sigprop.activations import Activation
from sigprop.kinds.kind import Kind

__all__ = ["Pointwise"]


@dataclass(frozen=True)
class Pointwise(Kind):
    """An activation; the architecture's own if None."""

    activation: Activation | None = None

    @property
    def homogeneous(self) -> bool:
        """Whether φ(t x) = t φ(x) for t > 0."""
        return self.activation is not None and self.activation.homogeneous_slopes is not None

    def apply(self, mix, trained, x, *, numbers, key=None):
        """φ(x)."""
        return self._own.fn(x)

    def covariance(self, gauss, state, numbers):
        """E[φ(u) φ(v)] of every two points."""
        return gauss.activated(self._own, state)

    @property
    def _own(self) -> Activation:
        if self.activation is None:
            raise ValueError("activation must be given, or come from an architecture (compose)")
        return self.activation
