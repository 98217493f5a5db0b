"""What has no law here, and why: raised by a rule, carried to the rows it reaches."""

from dataclasses import dataclass

__all__ = ["NotClosed", "Refused", "Refusal"]


class NotClosed(Exception):
    """An operation leaves what is integrated exactly; sampling may still know it."""


class Refused(Exception):
    """An operation, or a weight, for which neither way has a law."""


@dataclass(frozen=True)
class Refusal:
    """What is refused.

    Attributes
    ----------
    operation
        The primitive, or the name of the weight.
    reason
        Why no number is given.
    """

    operation: str
    reason: str

    def __str__(self) -> str:
        return f"{self.operation}: {self.reason}"
