"""Codes that theory returns beside its numbers; the names double as CF ``flag_meanings``."""

from enum import IntEnum

__all__ = ["CorrelationStatus", "CriticalStatus", "Phase", "TheoryStatus", "VarianceStatus"]


class Phase(IntEnum):
    """χ₁ against 1: do gradients vanish, persist or explode, do near inputs merge or part."""

    ORDERED = 0
    CRITICAL = 1
    CHAOTIC = 2
    UNDEFINED = 3


class VarianceStatus(IntEnum):
    """Where the variance of a layer goes with depth."""

    FINITE = 0  # to a fixed point q* > 0
    ZERO = 1  # to 0: the signal vanishes
    UNBOUNDED = 2  # to infinity: the signal explodes
    CONTINUUM = 3  # nowhere: every variance is a fixed point (relu at (2, 0))
    NOT_CONVERGED = 4  # a variance map that is not increasing can oscillate for ever
    UNRESOLVED = 5  # to where φ has more detail than its integrals resolve, or none are finite


class CorrelationStatus(IntEnum):
    """Whether the correlation of two inputs has a limit of its own."""

    CONVERGED = 0
    DEPENDS_ON_START = 1  # the map tends to the identity: every c stays where it began
    UNDEFINED = 2


class CriticalStatus(IntEnum):
    """What kind of critical point was found at a bias variance."""

    STABLE = 0  # networks flow to it
    UNSTABLE = 1  # χ₁ = 1 holds at a fixed point that networks flow away from
    NONE = 2
    UNBOUNDED = 3  # χ₁ = 1 as the variance grows without bound (relu with biases)
    EVERY = 4  # whatever the weight variance (normalised relu without biases)


class TheoryStatus(IntEnum):
    """Whether an architecture has an infinite-width theory here."""

    OK = 0
    NO_THEORY = 1
    DEGENERATE = 2  # a batch of three or fewer: normalised, its gradients have no mean square
