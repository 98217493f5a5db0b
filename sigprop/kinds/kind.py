"""What a kind of layer has to say of itself; everything else is derived from that.

A kind acts on signals x of shape (inputs, places, width). It names the linear maps whose weights
are drawn (`Mix`), what it trains besides, how it acts at finite width (``apply``) and what it does
to the covariances of an infinitely wide signal (``covariance``). Engines that know no kind make
the rest: networks, measurements, theory, gradients, kernels.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sigprop.activations import Activation
from sigprop.kinds.gauss import Gauss
from sigprop.kinds.state import NoTheory, State

__all__ = ["Combinator", "Kind", "Mix", "bound", "rewritten"]

Signal = Float[Array, "inputs places width"]
Shape = tuple[int, int]  # places, width


class Mix(NamedTuple):
    """A linear map with drawn weights.

    Its entries have variance ``numbers[variance] / fan_in``. The product is bilinear, so the scale
    factors out of it: cells of a grid share one unit-variance draw, and one multiply.
    """

    shape: tuple[int, ...]  # of the draw
    fan_in: int
    multiply: Callable[[Array, Array], Array]
    """``multiply(draw, x)``: bilinear; a bias multiplies ones of shape (inputs, places, 1)."""
    variance: str = "weight_var"
    distribution: str | None = None
    """What unit draws come from; the architecture's own if None (biases are Gaussian always)."""
    prepared: Callable[[Array], Array] | None = None
    """What is done to a draw, of any scale, before it acts: weight norm's rows of one length."""
    constant: bool = False
    """Whether it acts on ones, whatever the signal: a bias."""
    rows: Callable[[Array], Array] | None = None
    """If the draw is a matrix W, the rows it acts on: ``multiply(W, x) = rows(x) Wᵀ``. The norm of
    a weight's gradient then comes from dot products, and no gradient is made."""


class Kind:
    """Base of all kinds, with what most have no need to say. Frozen dataclasses: hashable.

    Attributes
    ----------
    numbers
        Names of the numbers it reads: leaves of an `Architecture`.
    couples_inputs
        Whether one input's signal depends on the others of its batch.
    homogeneous
        Whether apply(t x) = t apply(x) for t > 0 once biases are multiplied by t too, so that a
        signal of any size can be carried as a scale and a signal of size 1.
    random
        Whether ``apply`` draws from its key.

    Notes
    -----
    ``covariance`` may raise `NoTheory`, and does so where it is not given: theory then says so in
    its status, and never takes a kind for another one.
    """

    # Any: plain class attributes here, properties where they depend on the instance.
    numbers: Any = ()
    couples_inputs: Any = False
    homogeneous: Any = False
    random: Any = False

    def mixes(self, shape: Shape) -> dict[str, Mix]:
        """The drawn maps, by name, for signals of ``shape`` (places, width)."""
        return {}

    def trained(self, shape: Shape) -> dict[str, Array]:
        """Gains, shifts and whatever else is trained but not drawn, as they are at the start."""
        return {}

    def shape_after(self, shape: Shape) -> Shape:
        """(places, width) of what comes out."""
        return shape

    def matrix(self, weights: Mapping[str, Array], trained: Mapping[str, Array]) -> Array:
        """W, of a kind that holds one matrix, from the arrays of its mixes as they act."""
        raise ValueError(f"{type(self).__name__} has no one weight matrix")

    def apply(
        self,
        mix: Mapping[str, Callable[[Array], Array]],
        trained: Mapping[str, Array],
        x: Signal,
        *,
        numbers: Mapping[str, ArrayLike],
        key: Array | None = None,
    ) -> Signal:
        """How the layer acts.

        Parameters
        ----------
        mix
            For every name of ``mixes`` the map x -> sqrt(variance / fan_in) · multiply(draw, x).
        trained
            As named by ``trained``.
        x
            The signal.
        numbers
            The numbers of this one network by name, but for those that are the variance of a mix.
        key
            Of this layer, for what is random in every call; None: nothing is.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it acts: give it apply")

    def covariance(self, gauss: Gauss, state: State, numbers: Mapping[str, ArrayLike]) -> State:
        """What the layer does to the second moments of an infinitely wide signal."""
        raise NoTheory(f"{type(self).__name__} gives no covariance")


class Combinator(Kind):
    """A kind made of others, its ``kinds``: it reads what they read and is what they are."""

    kinds: tuple[Kind, ...]

    @property
    def numbers(self) -> tuple[str, ...]:
        """Of all parts, each once."""
        return tuple(dict.fromkeys(name for kind in self.kinds for name in kind.numbers))

    @property
    def couples_inputs(self) -> bool:
        """Whether a part does."""
        return any(kind.couples_inputs for kind in self.kinds)

    @property
    def homogeneous(self) -> bool:
        """Whether all parts are."""
        return all(kind.homogeneous for kind in self.kinds)

    @property
    def random(self) -> bool:
        """Whether a part is."""
        return any(kind.random for kind in self.kinds)

    def matrix(self, weights, trained):
        """Of the only part that has one."""
        having = [k for k in self.kinds if any(m.rows for m in k.mixes((1, 1)).values())]
        return (having[0] if len(having) == 1 else super()).matrix(weights, trained)


def rewritten(kind: Kind, change: Callable[[Kind], Kind]) -> Kind:
    """``kind`` with ``change`` applied to it and, before that, to every kind inside it."""
    if not dataclasses.is_dataclass(kind):
        return change(kind)
    own = {f.name: getattr(kind, f.name) for f in dataclasses.fields(kind)}
    inner = {name: _inside(value, change) for name, value in own.items()}
    same = all(inner[name] is own[name] for name in own)
    return change(kind if same else dataclasses.replace(kind, **inner))


def _inside(value, change):
    if isinstance(value, Kind):
        return rewritten(value, change)
    if isinstance(value, tuple) and any(isinstance(v, Kind) for v in value):
        return tuple(_inside(v, change) for v in value)
    return value


def bound(kind: Kind, activation: Activation) -> Kind:
    """``kind`` with the architecture's activation wherever a field ``activation`` is None."""

    def filled(kind: Kind) -> Kind:
        if getattr(kind, "activation", activation) is None:
            return dataclasses.replace(kind, activation=activation)  # type: ignore[type-var]
        return kind

    return rewritten(kind, filled)
