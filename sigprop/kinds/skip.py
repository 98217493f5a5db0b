"""A skip connection: what comes in is added to what a branch makes of it."""

from dataclasses import dataclass, replace

from sigprop.kinds.kind import Combinator, Kind
from sigprop.kinds.state import NoTheory

__all__ = ["Skip"]


@dataclass(frozen=True)
class Skip(Combinator):
    """x + α branch(x) (He, Zhang, Ren and Sun 2015; Yang and Schoenholz 2017).

    Attributes
    ----------
    branch
        A kind that keeps the shape.
    scale
        Name of α; 1 if None.
    """

    branch: Kind
    scale: str | None = "branch_scale"

    @property
    def kinds(self) -> tuple[Kind, ...]:  # type: ignore[override]
        """The branch."""
        return (self.branch,)

    @property
    def numbers(self) -> tuple[str, ...]:
        """The branch's, and α."""
        own = () if self.scale is None else (self.scale,)
        return tuple(dict.fromkeys((*self.branch.numbers, *own)))

    def mixes(self, shape):
        """Of the branch."""
        return self.branch.mixes(shape)

    def trained(self, shape):
        """Of the branch."""
        return self.branch.trained(shape)

    def apply(self, mix, trained, x, *, numbers, key=None):
        """X + α branch(x)."""
        branch = self.branch.apply(mix, trained, x, numbers=numbers, key=key)
        return x + (branch if self.scale is None else numbers[self.scale] * branch)

    def covariance(self, gauss, state, numbers):
        """Moments add where the branch ends in weights of its own: it is uncorrelated with x."""
        branch = self.branch.covariance(gauss, replace(state, fresh=False), numbers)
        if not (branch.fresh and branch.law == state.law == "gaussian"):
            raise NoTheory("a skip is known past a branch that ends in weights of its own only")
        if self.scale is not None:
            branch = branch.scaled(numbers[self.scale] ** 2)
        return state.plus(branch)
