"""The classic demonstrations: a line, an overflow, a vanishing gradient, a check, a classifier."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop import gradients, theory, training
from sigprop.architecture import Architecture
from sigprop.networks import MLP
from sigprop.studies import inputs
from sigprop.studies.base_study import Arrays, Study, whole
from sigprop.studies.epochs import trained_by_epoch
from sigprop.studies.variables import Variable, quantity
from sigprop.training import Data, Optimiser, Readings, Splits

__all__ = ["Basics"]

_AXES = ("seed",)
_LINE_STEP, _CURVE_STEP = 0.1, 0.01
_COURSES = ("as it is", "smaller step", "standardised inputs")
_COMPARISONS = 40
_SLOPE_EDGES = np.linspace(-12.0, 0.0, 49)  # of log10 of a tanh's slope
_ENTRIES = {"N(0, 1) entries": None, "N(0, 1/fan-in)": 1.0}


@dataclass(frozen=True)
class Basics(Study):
    """Five demonstrations, each with the numbers that make its point.

    Handed to `sigprop.sweeps.run` with a grid of ``seed`` (numbers).

    - ``line_*``: gradient descent recovers y = 3 x + 2 from noisy examples.
    - ``parabola_*``: y = x² on x = 1..1000 overflows at step size 0.01, and two cures.
    - ``wide_*``: a 1000-100-1 tanh network with N(0, 1) weights, whose slopes are nearly all 0,
      beside one with weights of variance 1/fan-in.
    - ``check_*``: back-propagation against differences; of a right and of a spoilt gradient.
    - ``classifier_*``: inputs-128-128-10, relu, Adam: norms by epoch and layer.

    Parameters
    ----------
    steps
        Of the two regressions, >= 2.
    epochs
        Of the classifier, >= 1.
    width
        Units of the classifier's two hidden layers, >= 1.
    batch_size
        Of the classifier, >= 1.
    seed
        Decides, with the seed of the grid, draws and batches.
    data
        Image files as `training.load` reads them; scikit-learn's digits if None.

    Raises
    ------
    ValueError
        For a value out of range or files that cannot be read.

    Examples
    --------
    >>> Basics(epochs=3).coordinates["epoch"].tolist()
    [0, 1, 2, 3]
    """

    steps: int = whole(400, least=2)
    epochs: int = whole(20, least=1)
    width: int = whole(128, least=1)
    batch_size: int = whole(64, least=1)
    seed: int = whole(0, least=0)
    data: str | Path | None = None

    name = "basics"
    version = 1
    title = "from gradient descent to a cure"
    static_axes = ()
    traced_axes = _AXES
    meanings = {  # noqa: RUF012
        "step": ("update", "1"),
        "course": ("how the parabola is fitted", None),
        "entries": ("weights of the 1000-100-1 network", None),
        "slope_bin": ("log10 of the slope of a unit", "1"),
        "comparison": ("comparison of a gradient check", "1"),
        "gradient": ("gradient that is checked", None),
        "epoch": ("epochs trained", "1"),
        "classifier_layer": ("layer of the classifier", None),
        "example": ("example of the line", "1"),
    }
    matmul_precision = "default"
    bytes_per_cell = 2**24

    def __post_init__(self):
        super().__post_init__()
        if self.batch_size > len(self.images.train):
            raise ValueError(
                f"batch_size must be at most the {len(self.images.train)} examples to train on, "
                f"got {self.batch_size}"
            )

    @functools.cached_property
    def images(self) -> Splits:
        """What the classifier learns."""
        return training.load(self.data)

    @property
    def coordinates(self) -> dict[str, np.ndarray]:
        """Of every dimension."""
        return {
            "step": np.arange(self.steps),
            "course": np.asarray(_COURSES),
            "entries": np.asarray(list(_ENTRIES)),
            "slope_bin": (_SLOPE_EDGES[1:] + _SLOPE_EDGES[:-1]) / 2,
            "comparison": np.arange(_COMPARISONS),
            "gradient": np.asarray(["right", "spoilt"]),
            "epoch": np.arange(self.epochs + 1),
            "classifier_layer": np.asarray(["hidden 1", "hidden 2", "readout"]),
            "example": np.arange(_LINE_EXAMPLES),
        }

    @property
    def variables(self) -> dict[str, Variable]:
        """Every output."""
        put = functools.partial(quantity, _AXES)
        by_epoch = ("epoch", "classifier_layer")
        return {
            "line_x": put("x of an example of the line", "example"),
            "line_y": put("y of an example of the line", "example"),
            "line_loss": put("mean squared error of the line", "step"),
            "line_slope": put("slope found (3 is true)"),
            "line_intercept": put("intercept found (2 is true)"),
            "line_slope_exact": put("slope of least squares"),
            "line_intercept_exact": put("intercept of least squares"),
            "parabola_loss": put("mean squared error, nan after divergence", "course", "step"),
            "parabola_diverged_at": put("step of divergence, -1 if none", "course", dtype="int64"),
            "parabola_step_size": put("step size", "course"),
            "wide_slope_share": put("share of units with a slope in the bin", "entries",
                                    "slope_bin"),
            "wide_mean_square_slope": put("mean squared slope of the units", "entries"),
            "wide_mean_square_slope_theory": put("predicted mean squared slope", "entries"),
            "wide_dead_share": put("share of units with a slope below 0.01", "entries"),
            "check_gradient": put("slope by back-propagation", "gradient", "comparison"),
            "check_difference": put("slope by differences", "gradient", "comparison"),
            "check_error": put("error bar of their difference", "gradient", "comparison"),
            "check_wrong": put("1 where the two disagree", "gradient", "comparison", dtype="int8"),
            "classifier_gradient_norm": put("norm of a layer's gradient", *by_epoch),
            "classifier_weight_norm": put("norm of a layer's weights and biases", *by_epoch),
            "classifier_accuracy": put("accuracy on validation examples", "epoch"),
            "classifier_loss": put("loss on training examples", "epoch"),
            "classifier_test_accuracy": put("accuracy on test examples at the end"),
        }  # fmt: skip

    def config(self) -> dict[str, Any]:
        """What decides the results; images by the numbers in them, not their place."""
        train = self.images.train
        shown = inputs.content_of_arrays(np.asarray(train.inputs), np.asarray(train.targets))
        rest = {name: value for name, value in super().config().items() if name != "data"}
        return rest | {"images": "digits" if self.data is None else shown}

    def attributes(self) -> dict[str, Any]:
        """Also which images, by name."""
        data = "scikit-learn digits" if self.data is None else Path(self.data).name
        return super().attributes() | {"data": data}

    def measured(self, static: Mapping[str, str], cells: Mapping[str, Any], told: Arrays) -> Arrays:
        """All five, for every seed."""
        rows = [self._row(int(seed)) for seed in cells["seed"]]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _row(self, seed: int) -> dict[str, Any]:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(self.seed), seed), 5)
        found = {
            **_line(self.steps, keys[0], self.seed + seed),
            **_parabola(self.steps, keys[1]),
            **_wide(keys[2]),
            **_checks(keys[3]),
            **self._classifier(keys[4]),
        }
        return {name: np.asarray(value) for name, value in found.items()}

    def _classifier(self, key: Any) -> dict[str, Any]:
        net = Architecture(depth=2, width=self.width, activation="relu", initialiser="he")
        adam = Optimiser("adam", 1e-3)
        seen = trained_by_epoch(net, self.images, adam, epochs=self.epochs,
                                batch_size=self.batch_size, key=key)  # fmt: skip
        return {f"classifier_{name}": value for name, value in seen.items()}


_LINE_EXAMPLES = 256


def _straight(key: Any) -> MLP:
    """The line w x + b, from w ~ N(0, 1) and b = 0."""
    return MLP(Architecture(1, 1, "linear", 1.0), 1, rngs=key)


def _fitted(data: Data, steps: int, rate: float, key: Any) -> training.Training:
    quiet = Readings(examples=1, gradient_norms=False, activations=False)
    return training.train(_straight, data, Optimiser("sgd", rate), steps=steps, key=key,
                          readings=quiet)  # fmt: skip


def _line(steps: int, key: Any, seed: int) -> dict[str, Any]:
    """Plain gradient descent on all examples; least squares says where it must end."""
    data = training.linear_regression(_LINE_EXAMPLES, seed=seed)
    run = _fitted(data, steps, _LINE_STEP, key)
    x, y = (np.asarray(a, np.float64).ravel() for a in (data.inputs, data.targets))
    slope, intercept = np.polyfit(x, y, 1)
    return {
        "line_x": x,
        "line_y": y,
        "line_loss": run.loss,
        "line_slope": run.model.first.weight[0, 0],
        "line_intercept": run.model.first.bias[0],
        "line_slope_exact": slope,
        "line_intercept_exact": intercept,
    }


def _parabola(steps: int, key: Any) -> dict[str, Any]:
    """One line fitted to y = x² three times; steps above 2/λ, the largest curvature λ, overflow."""
    raw = training.parabola(1000)
    scaled = training.standardised(Splits(raw)).train
    columns = np.column_stack([np.asarray(raw.inputs, np.float64), np.ones(len(raw))])
    stable = 1 / (2 * np.linalg.eigvalsh(columns.T @ columns / len(raw))[-1])
    rates = (_CURVE_STEP, float(stable), _CURVE_STEP)
    runs = [_fitted(d, steps, r, key) for d, r in zip((raw, raw, scaled), rates)]
    return {
        "parabola_loss": np.stack([run.loss for run in runs]),
        "parabola_diverged_at": np.stack([run.diverged_at for run in runs]),
        "parabola_step_size": np.asarray(rates),
    }


def _wide(key: Any) -> dict[str, Any]:
    """One layer of 100 tanh units on 1000 N(0, 1) inputs; φ' = 1 - tanh² multiplies gradients."""
    inputs = jax.random.normal(jax.random.fold_in(key, 1), (512, 1000))
    rows = []
    for given in _ENTRIES.values():
        weight_var = 1000.0 if given is None else given
        network = MLP(Architecture(1, 100, "tanh", weight_var), 1000, 1, rngs=key)
        z = np.asarray(network.preactivations(inputs)[0], np.float64)
        slope = 1 / np.cosh(z) ** 2
        logs = np.clip(np.log10(slope), _SLOPE_EDGES[0], -1e-9)  # what is smaller joins the lowest
        told = theory.chi("tanh", weight_var, weight_var=1.0)
        share = np.histogram(logs, _SLOPE_EDGES)[0] / logs.size
        rows.append((share, np.mean(slope**2), float(told), np.mean(slope < 0.01)))
    names = ("slope_share", "mean_square_slope", "mean_square_slope_theory", "dead_share")
    return {f"wide_{name}": np.stack(column) for name, column in zip(names, zip(*rows))}


def _check(key: Any) -> tuple[gradients.GradientReport, gradients.GradientReport]:
    """Of a small tanh network on a few digits: its own gradient, and one with a wrong sign."""
    network = MLP(Architecture(3, 8, "tanh", 1.5, 0.1), 64, 10, rngs=key)
    batch = jax.tree.map(jnp.asarray, training.digits().train.take(slice(0, 16)))

    def loss(model: Any) -> Any:
        return training.cross_entropy(model(batch.inputs), batch.targets)

    def spoilt(model: Any) -> Any:
        return _with_wrong_sign(jax.grad(loss)(model))

    ask: Callable = functools.partial(gradients.check, loss, network, key=key)
    return ask(), ask(grad=spoilt)


def _with_wrong_sign(gradient: Any) -> Any:
    """The readout's weights turned the other way."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(gradient)
    turned = [-leaf if "readout" in str(path) and leaf.ndim == 2 else leaf for path, leaf in leaves]
    return jax.tree_util.tree_unflatten(structure, turned)


def _checks(key: Any) -> dict[str, Any]:
    reports = _check(key)
    blank = replace(reports[0].rows[0], gradient=math.nan, difference=math.nan, error=math.nan)
    rows = [(*report.rows, *[blank] * _COMPARISONS)[:_COMPARISONS] for report in reports]
    wrong = gradients.CheckStatus.WRONG
    return {
        "check_gradient": [[row.gradient for row in report] for report in rows],
        "check_difference": [[row.difference for row in report] for report in rows],
        "check_error": [[row.error for row in report] for report in rows],
        "check_wrong": [[row.status == wrong for row in report] for report in rows],
    }
