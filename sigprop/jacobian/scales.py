"""Positive numbers of any size: mantissa and exponent apart."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int

__all__ = ["Scales"]

_NEGLIGIBLE = -900.0  # a ratio below 2**-900 changes nothing it is multiplied into


@dataclass(frozen=True)
class Scales:
    """``mantissa * 2**exponent``: products over any depth neither overflow nor lose digits."""

    mantissa: Float[np.ndarray, " n"]
    exponent: Int[np.ndarray, " n"]

    @classmethod
    def of(cls, values: Float[np.ndarray, " n"]) -> "Scales":
        """Scales of ordinary numbers."""
        mantissa, exponent = np.frexp(values)
        return cls(mantissa, exponent.astype(np.int64))

    @property
    def log2(self) -> Float[np.ndarray, " n"]:
        """Logarithms to base two; -inf for zero."""
        with np.errstate(divide="ignore"):
            return self.exponent + np.log2(self.mantissa)

    def __len__(self) -> int:
        return len(self.mantissa)

    def __getitem__(self, index) -> "Scales":
        return Scales(self.mantissa[index], self.exponent[index])

    def __mul__(self, other: "Scales") -> "Scales":
        mantissa, shift = np.frexp(self.mantissa * other.mantissa)
        return Scales(mantissa, self.exponent + other.exponent + shift)

    def ratios(self, rank: int) -> Float[np.ndarray, "rank n"]:
        """``s_j / s_i`` for the first ``rank`` i and every j, clipped to a double's range."""
        exponents = (self.exponent - self.exponent[:rank, None]).astype(np.float64)
        np.clip(exponents, _NEGLIGIBLE, -_NEGLIGIBLE, out=exponents)
        return np.exp2(exponents, out=exponents) * (self.mantissa / self.mantissa[:rank, None])

    def rough_ratios(self, rank: int) -> Float32[np.ndarray, "rank n"]:
        """The same to a digit or two, clipped to a single's range."""
        log2 = np.where(self.mantissa > 0, self.log2, 0.0)
        return np.exp2(np.clip(log2 - log2[:rank, None], -100.0, 100.0).astype(np.float32))
