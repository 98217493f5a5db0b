"""How many steps of gradient descent a deep network needs, by depth, with and without isometry."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import tree_util

from sigprop import activations, theory, training
from sigprop._checks import check_one_of
from sigprop.architecture import Architecture
from sigprop.networks import MLP
from sigprop.studies.base_study import Arrays, Study, positive, whole
from sigprop.studies.variables import Variable, quantity

__all__ = ["ENSEMBLES", "IsometryTraining", "steps_to"]

ENSEMBLES = ("gaussian", "orthogonal")
_LINE = ("activation", "initialiser", "depth")
_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class IsometryTraining(Study):
    """Steps to a fixed loss at every depth, the learning rate tuned for each network.

    Handed to `sigprop.sweeps.run` with a grid of ``activation``, ``initialiser`` (strings) and
    ``depth`` (whole numbers). Networks start on the critical line at the fixed point of a given
    variance q*; their inputs are brought to q¹ = q*. Plain gradient descent on all of the examples
    at once lowers the mean squared error of one-hot labels. The rates tried at depth L are
    m / L, for the multipliers m of a log grid.

    Parameters
    ----------
    width
        Units a layer, >= 2. 64 makes the first layer, on 64 pixels, square.
    examples
        Digits, 2 to 1257.
    variance
        q* > 0.
    steps
        Most updates of a run, >= 1. A run that is not below the threshold by then is censored.
    threshold
        The loss to reach, > 0. All outputs 0 have 0.1.
    rates
        Multipliers, >= 3.
    lowest_rate
        The smallest multiplier, > 0.
    rate_factor
        The ratio of one multiplier to the next, > 1.
    seeds
        Networks at every depth, >= 2; tuned apart.
    seed
        Decides the draws.

    Raises
    ------
    ValueError
        For a value out of range.

    Examples
    --------
    >>> IsometryTraining(rates=3, lowest_rate=2.0, rate_factor=1.5).multipliers
    array([2. , 3. , 4.5])

    Sources: Saxe, McClelland & Ganguli 2014 (linear networks); Pennington, Schoenholz & Ganguli
    2017, section 3 (tanh at small q*).
    """

    width: int = whole(64, least=2)
    examples: int = whole(128, least=2)
    variance: float = positive(1 / 64)
    steps: int = whole(800, least=1)
    threshold: float = positive(0.05)
    rates: int = whole(10, least=3)
    lowest_rate: float = positive(2.0)
    rate_factor: float = 1.4
    seeds: int = whole(4, least=2)
    seed: int = whole(0, least=0)

    name = "isometry_training"
    version = 1
    title = "steps to a fixed loss against depth, orthogonal and gaussian weights"
    static_axes = ("activation", "initialiser")
    traced_axes = ("depth",)
    told_axes = _LINE
    meanings = {  # noqa: RUF012
        "initialiser": ("weight ensemble", None),
        "rate_times_depth": ("learning rate times depth", "1"),
        "network": ("seed", "1"),
    }
    matmul_precision = "default"
    least_depth = 2

    def __post_init__(self):
        super().__post_init__()
        if not (np.isfinite(self.rate_factor) and self.rate_factor > 1):
            raise ValueError(f"rate_factor must be finite and > 1, got {self.rate_factor}")
        available = len(training.digits().train)
        if self.examples > available:
            raise ValueError(f"examples must be <= {available}, got {self.examples}")

    @property
    def multipliers(self) -> np.ndarray:
        """The learning rates times depth."""
        return self.lowest_rate * self.rate_factor ** np.arange(self.rates)

    @property
    def coordinates(self) -> dict[str, np.ndarray]:
        """Rates tried, and networks."""
        return {"rate_times_depth": self.multipliers, "network": np.arange(self.seeds)}

    @property
    def seconds_per_cell(self) -> float:
        """Every depth is a program of its own, and takes as long as a chunk may."""
        return 10.0

    @property
    def bytes_per_cell(self) -> int:
        """The losses of one depth, and what a few hundred layers hold; depths run one by one."""
        return 4 * self.rates * self.seeds * (self.steps + self.width**2 * 256)

    @property
    def variables(self) -> dict[str, Variable]:
        """Every output."""

        def cell(text: str, *dims: str) -> Variable:
            return quantity(_LINE, text, *dims)

        return {
            "weight_var": quantity(("activation",), "critical weight variance at q*"),
            "bias_var": quantity(("activation",), "critical bias variance at q*"),
            "spectrum_variance_theory": cell(
                "variance of the squared singular values of the Jacobian, infinite width"
            ),
            "learning_rate": quantity(("depth",), "learning rate tried", "rate_times_depth"),
            "steps_measured": cell(
                "steps until the loss is below the threshold, nan if it never was",
                "rate_times_depth",
                "network",
            ),
            "loss_lowest": cell("lowest loss on the way", "rate_times_depth", "network"),
            "steps_tuned": cell("fewest steps over learning rates", "network"),
            "learning_rate_tuned": cell("learning rate with the fewest steps", "network"),
        }

    def check(self, grid: Mapping[str, Any]) -> None:
        """Raise ValueError for ensembles, depths and activations that cannot be compared."""
        for name in grid["activation"]:
            _critical_point(name, self.variance)
        for name in grid["initialiser"]:
            check_one_of("initialiser", name, ENSEMBLES)
        super().check(grid)

    def told(self, static: Mapping[str, str], cells: Mapping[str, Any]) -> Arrays:
        """The critical point, and the spread of the spectrum at each depth."""
        weight_var, bias_var = _critical_point(static["activation"], self.variance)
        spectra = [
            theory.jacobian_spectrum(
                static["activation"],
                depth=int(depth),
                weight_var=weight_var,
                variance=self.variance,
                ensemble=static["initialiser"],
            )
            for depth in cells["depth"]
        ]
        return {
            "weight_var": np.asarray(weight_var),
            "bias_var": np.asarray(bias_var),
            "spectrum_variance_theory": np.asarray([s.variance_of_squares for s in spectra]),
        }

    def measured(self, static: Mapping[str, str], cells: Mapping[str, Any], told: Arrays) -> Arrays:
        """Every rate and network, depth by depth: depth decides the program."""
        found = [self._at(static, int(depth), told) for depth in cells["depth"]]
        return {name: np.stack([one[name] for one in found]) for name in found[0]}

    def _at(self, static: Mapping[str, str], depth: int, told: Arrays) -> Arrays:
        weight_var, bias_var = float(told["weight_var"]), float(told["bias_var"])
        network = Architecture(
            depth, self.width, static["activation"], weight_var, bias_var,
            initialiser=static["initialiser"],
        )  # fmt: skip
        rates = self.multipliers / depth
        data = _digits(self.examples, (self.variance - bias_var) / weight_var)
        losses = self._losses(network, data, rates)
        steps = steps_to(losses, self.threshold)
        return {
            "learning_rate": rates,
            "steps_measured": steps,
            "loss_lowest": np.fmin.reduce(losses, axis=-1),
            **_tuned(steps, rates),
        }

    def _losses(self, network: Architecture, data: training.Data, rates: np.ndarray) -> np.ndarray:
        """By rate, network and step."""
        key = jax.random.fold_in(jax.random.key(self.seed), network.depth)
        keys = jax.random.split(key, self.seeds)
        drawn = _DrawnFrom(network, (data.in_features, data.out_features))
        run = training.train_grid(
            tree_util.Partial(drawn, keys[None]),
            data,
            training.Optimiser("sgd", rates[:, None]),
            steps=self.steps,
            key=keys[None],
            loss="mean_squared_error",
            readings=training.Readings(examples=1, gradient_norms=False, activations=False),
        )
        return np.asarray(run.loss, np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class _DrawnFrom:
    """A network of one architecture from a key of its own, whatever the run's key."""

    architecture: Architecture
    data_shape: tuple[int, int]

    def __call__(self, own: Any, key: Any) -> MLP:
        return MLP(self.architecture, *self.data_shape, rngs=own)


def _critical_point(activation: str, variance: float) -> tuple[float, float]:
    """σ_w² = 1/E[φ'²] and σ_b² = q* − σ_w² E[φ²] (Schoenholz et al. 2017)."""
    activations.get(activation)
    weight_var = 1 / float(theory.chi(activation, variance, weight_var=1.0))
    carried = float(theory.variance_map(activation, variance, weight_var=weight_var, bias_var=0.0))
    bias_var = variance - carried
    if bias_var < -1e-12 * variance:
        raise ValueError(
            f"activation must have a critical point of variance {variance:g}, got {activation}, "
            f"which would need bias_var {bias_var:.3g}"
        )
    return weight_var, max(bias_var, 0.0)


def _digits(examples: int, second_moment: float) -> training.Data:
    """Digits less their mean image, each brought to one length."""
    data = training.digits().train
    images = np.asarray(data.inputs, np.float64)
    images = images - images.mean(axis=0)
    images = images / np.sqrt(np.mean(images**2, axis=1, keepdims=True))
    inputs = np.sqrt(second_moment) * images[:examples]
    return training.classification(inputs, np.asarray(data.targets)[:examples], _CLASSES)


def steps_to(losses: np.ndarray, threshold: float) -> np.ndarray:
    """Where losses (..., steps) first go below ``threshold``, on straight lines between steps.

    Examples
    --------
    >>> steps_to(np.asarray([[4.0, 3.0, 1.0, 0.5], [4.0, 3.0, np.nan, np.nan]]), 1.5)
    array([1.75,  nan])
    """
    below = losses < threshold
    first = below.argmax(axis=-1)[..., None]
    at = np.take_along_axis(losses, first, axis=-1)[..., 0]
    before = np.take_along_axis(losses, np.maximum(first - 1, 0), axis=-1)[..., 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        crossing = np.where(
            first[..., 0] == 0, 0.0, first[..., 0] - (threshold - at) / (before - at)
        )
    return np.where(below.any(axis=-1), crossing, np.nan)


def _tuned(steps: np.ndarray, rates: np.ndarray) -> dict[str, np.ndarray]:
    """For each network the fewest steps, and the rate that takes them; nan if none got there."""
    filled = np.where(np.isnan(steps), np.inf, steps)
    fewest = filled.min(axis=0)
    reached = np.isfinite(fewest)
    return {
        "steps_tuned": np.where(reached, fewest, np.nan),
        "learning_rate_tuned": np.where(reached, rates[filled.argmin(axis=0)], np.nan),
    }
