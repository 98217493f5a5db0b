"""What a network is: the one record that theory and networks both read."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from sigprop import activations
from sigprop._checks import (
    check_below_one,
    check_known,
    check_non_negative,
    check_one_of,
    check_whole_number,
    of_variances,
)
from sigprop._precision import is_traced
from sigprop.kinds import Dense, Kind, Pointwise, compose, usual
from sigprop.kinds import Sequence as InTurn

__all__ = [
    "BLOCKS",
    "DISTRIBUTIONS",
    "NORMS",
    "Architecture",
    "Recipe",
    "distribution_of",
    "recipe",
    "recipe_names",
]

BLOCKS = ("plain", "residual")
"""How a layer's output is joined to what came in."""

NORMS = usual.NORMS.keys()
"""What is normalised: the activation's input, a layer's output (post_), or the weights' rows."""

DISTRIBUTIONS = ("gaussian", "truncated_normal", "uniform", "orthogonal")
"""What a unit-variance weight may be drawn from."""


@dataclass(frozen=True)
class Recipe:
    """A named initialiser: a distribution and the variance its authors chose.

    Attributes
    ----------
    name
        As asked for.
    distribution
        One of `DISTRIBUTIONS`.
    weight_var
        ``weight_var(fan_in, fan_out)`` = fan_in · Var[W_ij]: the recipe in this library's units.
    source
        Paper, year, equation.
    """

    name: str
    distribution: str
    weight_var: Callable[[int, int], float]
    source: str


def _xavier_var(fan_in: int, fan_out: int) -> float:
    return 2.0 * fan_in / (fan_in + fan_out)


def _he_var(fan_in: int, fan_out: int) -> float:
    return 2.0


def _lecun_var(fan_in: int, fan_out: int) -> float:
    return 1.0


# family: (weight_var, default distribution, source); the default is the one of the paper.
_FAMILIES = {
    "xavier": (_xavier_var, "uniform", "Glorot & Bengio 2010, eq. 16"),
    "he": (_he_var, "gaussian", "He, Zhang, Ren & Sun 2015, eq. 10"),
    "lecun": (_lecun_var, "gaussian", "LeCun, Bottou, Orr & Müller 1998, eq. 16"),
}
_FAMILY_ALIASES = {"glorot": "xavier", "kaiming": "he"}
_SUFFIXES = {"normal": "gaussian", "uniform": "uniform"}


def recipe_names() -> tuple[str, ...]:
    """Every name that `recipe` knows.

    Examples
    --------
    >>> recipe_names()[:3]
    ('xavier', 'xavier_normal', 'xavier_uniform')
    """
    families = [*_FAMILIES, *_FAMILY_ALIASES]
    return tuple(f + s for f in families for s in ("", "_normal", "_uniform"))


def recipe(name: str) -> Recipe:
    """The `Recipe` called ``name``: xavier = glorot, he = kaiming or lecun, with a suffix or not.

    Suffixes are ``_normal`` and ``_uniform``. Without one a recipe has the distribution of its
    paper: uniform for xavier, normal for he and lecun. All draw plain (not truncated) normals.

    Raises
    ------
    ValueError
        For an unknown name.

    Examples
    --------
    >>> recipe("he").distribution, recipe("he").weight_var(512, 512)
    ('gaussian', 2.0)
    >>> recipe("glorot").distribution, recipe("glorot").weight_var(64, 192)
    ('uniform', 0.5)
    """
    check_one_of("recipe", name, recipe_names())
    family, _, suffix = name.partition("_")
    weight_var, distribution, source = _FAMILIES[_FAMILY_ALIASES.get(family, family)]
    return Recipe(name, _SUFFIXES.get(suffix, distribution), weight_var, source)


def distribution_of(initialiser: str) -> str:
    """What the weights are drawn from; a recipe lends its distribution.

    Where weight_var is given, initialisers of one distribution make the very same networks.

    Raises
    ------
    ValueError
        For an unknown name.

    Examples
    --------
    >>> distribution_of("orthogonal"), distribution_of("he"), distribution_of("xavier")
    ('orthogonal', 'gaussian', 'uniform')
    """
    check_one_of("initialiser", initialiser, (*DISTRIBUTIONS, *recipe_names()))
    return initialiser if initialiser in DISTRIBUTIONS else recipe(initialiser).distribution


@dataclass(frozen=True)
class Architecture:
    """A deep network at initialisation, or a whole grid of them.

    z¹ = W¹ x⁰ + b¹, with W_ij of mean 0 and variance weight_var / fan_in and b_i ~ N(0, bias_var);
    then for l = 1..depth - 1, with h^l = M(φ(N(z^l))),

    - plain: z^{l+1} = W h^l + b,
    - residual: z^{l+1} = z^l + α W h^l + b;

    and the features are x^depth = φ(N(z^depth)). N is ``norm`` and M dropout, both the identity by
    default. These are names of the usual compositions of `sigprop.kinds`; ``layer`` takes one of
    your own, from z^l to z^{l+1}.

    Parameters
    ----------
    depth
        Number of weight layers, >= 1. A readout is not counted.
    width
        Units of every layer, >= 1.
    activation
        A name, a function of one number, or an `Activation`; kept as an `Activation`.
    weight_var
        σ_w² >= 0, any shape that broadcasts with the other numbers: one network for each entry. May
        be left out where ``initialiser`` is a recipe, which then lends its own value (for square
        layers); a given value wins.
    bias_var
        σ_b² >= 0.
    block
        "plain" or "residual" (He, Zhang, Ren & Sun 2015; Yang & Schoenholz 2017).
    norm
        None; "layer_norm", (z − mean) / std over units (Ba, Kiros & Hinton 2016); "rms_norm",
        z / rms over units (Zhang & Sennrich 2019); "batch_norm", (z − mean) / std of each unit over
        the batch of inputs (Ioffe & Szegedy 2015). "post_layer_norm" and "post_rms_norm" act on
        z^{l+1} as a whole instead of on the activation's input. "weight_norm": every row of a
        weight matrix has norm sqrt(weight_var) exactly (Salimans & Kingma 2016).
    dropout
        Drop rate in [0, 1): M keeps each entry with probability ρ = 1 − dropout and divides it by ρ
        (Srivastava et al. 2014).
    branch_scale
        α >= 0 of a residual block, or "1/sqrt(depth)", which is kept as that number; 1 in a plain
        block.
    layer
        A composition of `sigprop.kinds`, in the place of ``block`` and ``norm``. Where it leaves an
        activation open, that is ``activation``.
    numbers
        What its kinds read besides the four numbers above, by name: ``{"query_var": 2.0}``, >= 0.
    initialiser
        "gaussian", "truncated_normal" (at two standard deviations), "uniform", "orthogonal" (Haar),
        or a recipe (`recipe_names`).
    parameterisation
        "standard": a parameter is W itself. "ntk": a parameter is the unit-variance draw, scaled
        by sqrt(weight_var / fan_in) where it is used (Jacot, Gabriel & Hongler 2018).

    Raises
    ------
    ValueError
        For a value outside these ranges.

    Notes
    -----
    A pytree: ``weight_var``, ``bias_var``, ``dropout``, ``branch_scale`` and those of ``numbers``
    are leaves, so they can be traced, mapped and differentiated; everything else is static.

    Examples
    --------
    >>> Architecture(depth=10, width=64, activation="relu", initialiser="he").weight_var
    2.0
    >>> grid = Architecture(10, 64, "tanh", weight_var=[[1.0], [2.0]], bias_var=[0.0, 0.1, 0.2])
    >>> grid.grid_shape
    (2, 3)
    >>> deep = Architecture(100, 64, "relu", 2.0, block="residual", branch_scale="1/sqrt(depth)")
    >>> deep.branch_scale, deep.is_plain
    (0.1, False)
    >>> from sigprop import kinds
    >>> after = kinds.Sequence(kinds.Dense(), kinds.Pointwise(), kinds.Dense("query_var"))
    >>> own = Architecture(10, 64, "tanh", 1.5, layer=after, numbers={"query_var": 2.0})
    >>> own.all_numbers["query_var"]
    2.0
    """

    depth: int
    width: int
    activation: Any
    weight_var: ArrayLike | Sequence | None = None
    bias_var: ArrayLike | Sequence = 0.0
    block: str = "plain"
    norm: str | None = None
    dropout: ArrayLike | Sequence = 0.0
    branch_scale: ArrayLike | Sequence | str = 1.0
    layer: Kind | None = None
    numbers: Mapping[str, ArrayLike | Sequence] = field(default_factory=dict)
    initialiser: str = "gaussian"
    parameterisation: str = "standard"

    def __post_init__(self):
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        put("depth", check_whole_number("depth", self.depth))
        put("width", check_whole_number("width", self.width))
        put("activation", activations.get(self.activation))
        distribution_of(self.initialiser)  # raises for one that is unknown
        check_one_of("parameterisation", self.parameterisation, ("standard", "ntk"))
        check_known("block", self.block, BLOCKS)
        check_known("norm", self.norm, tuple(NORMS))
        put("weight_var", self._chosen_weight_var())
        put("branch_scale", _branch_scale(self))
        check_below_one("dropout", self.dropout)
        for name, value in self.all_numbers.items():
            check_non_negative(name, value)
        for name in _LEAVES:
            put(name, _array(getattr(self, name)))
        put("numbers", {name: _array(value) for name, value in self.numbers.items()})
        _check_layer(self)
        self.grid_shape  # noqa: B018  # raises where they do not broadcast

    def _chosen_weight_var(self):
        if self.weight_var is not None:
            return self.weight_var
        if self.initialiser in DISTRIBUTIONS:
            raise ValueError(
                f"weight_var must be given: initialiser '{self.initialiser}' has none of its own "
                f"(recipes have one: {', '.join(recipe_names())})"
            )
        return recipe(self.initialiser).weight_var(self.width, self.width)

    @property
    def distribution(self) -> str:
        """What the unit draws come from: one of `DISTRIBUTIONS`."""
        return distribution_of(self.initialiser)

    @property
    def all_numbers(self) -> dict[str, Any]:
        """Every number by its name: the four usual ones and those of ``numbers``."""
        return {**{name: getattr(self, name) for name in _LEAVES}, **self.numbers}

    def with_numbers(self, **numbers: Any) -> "Architecture":
        """The same network with other values of some of its numbers, which are not checked."""
        usual = [numbers.pop(name, getattr(self, name)) for name in _LEAVES]
        own = {name: numbers.pop(name, value) for name, value in self.numbers.items()}
        _check_no_more(numbers)
        return _unflatten(_flatten_with_keys(self)[1], (*usual, own))

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Broadcast shape of all numbers: () for a single network."""
        shapes = [np.shape(value) for value in self.all_numbers.values()]
        try:
            return np.broadcast_shapes(*shapes)
        except ValueError:
            *names, last = self.all_numbers
            given = " and ".join(f"{shape}" for shape in shapes if shape)
            raise ValueError(
                f"{', '.join(names)} and {last} must broadcast, got shapes {given}"
            ) from None

    @property
    def is_plain(self) -> bool:
        """Whether layers are W φ(z) + b and nothing else; not if dropout is being traced."""
        return compose(self).layer == InTurn(Pointwise(self.activation), Dense())


def _check_no_more(numbers: dict) -> None:
    """Raise if there is a number that no architecture of this kind has."""
    if numbers:
        raise ValueError(f"numbers must be those of the architecture, got {', '.join(numbers)}")


def _check_layer(architecture: Architecture) -> None:
    """Raise unless a composition of the user's own is one, and reads what is given."""
    layer, numbers = architecture.layer, architecture.numbers
    if layer is None:
        if numbers:
            raise ValueError(f"numbers are for a layer of your own, got {', '.join(numbers)}")
        return
    if not isinstance(layer, Kind):
        raise ValueError(f"layer must be a composition of sigprop.kinds, got {layer!r}")
    if (architecture.block, architecture.norm) != ("plain", None):
        raise ValueError(
            "block and norm name the usual layers and must be left out beside a layer, got "
            f"block={architecture.block!r}, norm={architecture.norm!r}"
        )
    shape = 1, architecture.width
    if layer.shape_after(shape) != shape:
        raise ValueError(
            f"layer must keep (places, width) = {shape}, gives {layer.shape_after(shape)}"
        )
    _check_read(architecture, set(compose(architecture).numbers))


def _check_read(architecture: Architecture, read: set[str]) -> None:
    missing = sorted(map(str, read - {*_LEAVES, *architecture.numbers}))
    if missing:
        raise ValueError(f"numbers must have {', '.join(missing)}, which the layer reads")
    idle = sorted(set(architecture.numbers) - read)
    if not is_traced(architecture.dropout) and np.any(np.asarray(architecture.dropout)):
        idle += [] if "dropout" in read else ["dropout"]
    if idle:
        raise ValueError(f"{', '.join(idle)}: given, but the layer does not read it")


def _array(value):
    return np.asarray(value) if isinstance(value, list | tuple) else value


def _branch_scale(architecture: Architecture):
    """As given, or the number that "1/sqrt(depth)" stands for."""
    given = architecture.branch_scale
    if isinstance(given, str):
        if given != "1/sqrt(depth)":
            raise ValueError(
                f"branch_scale must be finite and >= 0, or '1/sqrt(depth)', got '{given}'"
            )
        given = 1.0 / math.sqrt(architecture.depth)
    own = isinstance(architecture.layer, Kind) and "branch_scale" in architecture.layer.numbers
    if architecture.block == "plain" and not own:
        _check_one(given)
    return given


def _check_one(branch_scale) -> None:
    accepted = "branch_scale must be 1 in a plain block (block='residual' has one)"
    check_non_negative("branch_scale", branch_scale)
    if is_traced(branch_scale):
        raise ValueError(f"{accepted}, got a traced value")
    if not np.all(np.asarray(branch_scale) == 1.0):
        raise ValueError(f"{accepted}, got {branch_scale!r}")


# What a dataclass makes knows no hint for `weight_std` and its like.
Architecture.__init__ = of_variances(Architecture.__init__)


# Registered by hand: `register_dataclass` rebuilds through __init__, whose checks would refuse the
# placeholders (None, axes, shapes) that JAX's transforms put in place of the leaves.
_LEAVES = ("weight_var", "bias_var", "dropout", "branch_scale")
_STATIC = (
    "depth", "width", "activation", "block", "norm", "layer", "initialiser", "parameterisation",
)  # fmt: skip


def _flatten_with_keys(architecture: Architecture):
    given = (*_LEAVES, "numbers")
    leaves = [(jax.tree_util.GetAttrKey(n), getattr(architecture, n)) for n in given]
    return leaves, tuple(getattr(architecture, name) for name in _STATIC)


def _unflatten(static, leaves) -> Architecture:
    architecture = object.__new__(Architecture)
    for name, value in (*zip(_STATIC, static), *zip((*_LEAVES, "numbers"), leaves)):
        object.__setattr__(architecture, name, value)
    return architecture


jax.tree_util.register_pytree_with_keys(Architecture, _flatten_with_keys, _unflatten)
