"""How deep a network can be and still train: accuracy over depth, weight variance and step size."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from sigprop import activations, theory, training
from sigprop._checks import check_known, check_non_negative, check_positive, check_whole_number
from sigprop.architecture import Architecture
from sigprop.studies.variables import Variable, flags, quantity
from sigprop.training import OPTIMISERS, Optimiser, Readings

__all__ = ["Trainability"]

_RUN = ("activation", "depth", "weight_var", "learning_rate", "seed")
_POINT = ("activation", "weight_var")


@dataclass(frozen=True)
class Trainability:
    """Training runs, read after half and all of their steps, beside the theoretical depth scale.

    Handed to `sigprop.sweeps.run` with a grid of ``activation`` (strings), ``depth``,
    ``weight_var``, ``learning_rate`` and ``seed`` (numbers). Networks learn scikit-learn's digits.
    `sigprop.studies.with_boundaries` reads the answer off what comes back.

    Parameters
    ----------
    width
        Units a layer N, >= 2.
    steps
        Updates of every run, even and >= 2.
    batch_size
        Digits an update, >= 1.
    bias_var
        σ_b² >= 0 of every network.
    optimiser
        A name in `sigprop.training.OPTIMISERS`.
    examples
        Training digits that accuracy is read on, >= 1.
    seed
        Decides, with the seed of the grid, draws and batches; one seed has the same draws at every
        weight variance and step size.

    Raises
    ------
    ValueError
        For a value out of range.

    Examples
    --------
    >>> Trainability(steps=200).coordinates["budget"].tolist()
    [100, 200]

    References
    ----------
    Schoenholz, Gilmer, Ganguli, Sohl-Dickstein, "Deep information propagation", 2017.
    """

    width: int = 128
    steps: int = 300
    batch_size: int = 32
    bias_var: float = 0.05
    optimiser: str = "sgd"
    examples: int = 512
    seed: int = 0

    name = "trainability"
    version = 1
    static_axes = ("activation",)
    traced_axes = ("depth", "weight_var", "learning_rate", "seed")
    cell_multiple = 1

    def __post_init__(self):
        least = {"width": 2, "steps": 2, "batch_size": 1, "examples": 1, "seed": 0}
        for name, minimum in least.items():
            check_whole_number(name, getattr(self, name), minimum)
        if self.steps % 2:
            raise ValueError(f"steps must be even, to be read half-way, got {self.steps}")
        check_non_negative("bias_var", self.bias_var)
        check_known("optimiser", self.optimiser, OPTIMISERS)

    @property
    def coordinates(self) -> dict[str, np.ndarray]:
        """Steps taken at each reading."""
        return {"budget": np.asarray([self.steps // 2, self.steps])}

    @property
    def seconds_per_cell(self) -> float:
        """Of a network of twenty layers, on two cores."""
        return 6e-11 * 20 * self.steps * self.batch_size * self.width**2

    @property
    def bytes_per_cell(self) -> int:
        """What comes back: of the networks themselves only a few live at a time."""
        return 1024

    @property
    def axis_attrs(self) -> dict[str, dict[str, str]]:
        """What the axes mean."""
        return {
            "activation": {"long_name": "activation"},
            "depth": {"long_name": "weight layers, readout not counted", "units": "1"},
            "weight_var": {"long_name": "weight variance times fan-in", "units": "1"},
            "learning_rate": {"long_name": "step size", "units": "1"},
            "seed": {"long_name": "seed", "units": "1"},
            "budget": {"long_name": "updates taken", "units": "1"},
        }

    @property
    def variables(self) -> dict[str, Variable]:
        """Every output."""
        share = "share of right answers on"
        return {
            "train_accuracy": quantity(_RUN, f"{share} training digits", "budget"),
            "validation_accuracy": quantity(_RUN, f"{share} validation digits", "budget"),
            "test_accuracy": quantity(_RUN, f"{share} test digits after all updates"),
            "diverged_at": quantity(
                _RUN, "step at which the run diverged, -1 if none", dtype="int64"
            ),
            "depth_scale_correlation_theory": quantity(
                _POINT, "correlation depth scale xi_c", units="layers"
            ),
            "chi_1_theory": quantity(_POINT, "mean squared singular value of a layer's Jacobian"),
            "phase_theory": flags(_POINT, "phase, by chi_1", theory.Phase),
        }

    def check(self, grid: Mapping[str, Any]) -> None:
        """Raise ValueError for networks, step sizes or seeds that cannot be."""
        for name in grid["activation"]:
            activations.get(name)
        for name, least in (("depth", 1), ("seed", 0)):
            for value in np.asarray(grid[name]).tolist():
                check_whole_number(name, int(value) if value == int(value) else value, least)
        check_non_negative("weight_var", grid["weight_var"])
        check_positive("learning_rate", grid["learning_rate"])

    def boundary(self, answers: Mapping[str, np.ndarray]) -> np.ndarray:
        """Whether the run has learned: where a refined sweep spends its cells."""
        return answers["train_accuracy"][:, -1] > 0.5

    def config(self) -> dict[str, Any]:
        """What decides the results besides the grid."""
        names = ("width", "steps", "batch_size", "bias_var", "optimiser", "examples", "seed")
        return {name: getattr(self, name) for name in names}

    def attributes(self) -> dict[str, Any]:
        """Settings a reader wants at hand, and the machine."""
        device = jax.devices()[0]
        return {
            "title": "accuracy after a fixed budget over depth and weight variance",
            **self.config(),
            "device": f"{len(jax.devices())} x {device.platform} ({device.device_kind})",
            "matmul_precision": "default",
            "dtype": "float32",
        }

    def compute(
        self, static: Mapping[str, str], cells: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Train, one program for each depth; theory beside it."""
        told = theory.fixed_point(
            static["activation"], weight_var=cells["weight_var"], bias_var=self.bias_var
        )
        found: dict[str, np.ndarray] = {}
        for depth in np.unique(cells["depth"]):
            here = cells["depth"] == depth
            chosen = {name: values[here] for name, values in cells.items()}
            for name, values in self._trained(static["activation"], int(depth), chosen).items():
                found.setdefault(name, np.empty((len(here), *values.shape[1:])))[here] = values
        return found | {
            "depth_scale_correlation_theory": np.asarray(told.depth_scale_correlation),
            "chi_1_theory": np.asarray(told.chi_1),
            "phase_theory": np.asarray(told.phase),
        }

    def _trained(self, name: str, depth: int, cells: Mapping[str, np.ndarray]):
        """Runs of one depth, the readings before training left out."""
        key = jax.random.key(self.seed)
        seeds = cells["seed"].astype(np.uint32)
        run = training.train_grid(
            Architecture(depth, self.width, name, cells["weight_var"], self.bias_var),
            training.digits(),
            Optimiser(self.optimiser, cells["learning_rate"]),
            steps=self.steps,
            key=jax.vmap(lambda seed: jax.random.fold_in(key, seed))(seeds),
            batch_size=self.batch_size,
            readings=Readings(
                self.steps // 2, self.examples, gradient_norms=False, activations=False
            ),
        )
        return {
            "train_accuracy": np.asarray(run.accuracy)[:, 1:],
            "validation_accuracy": np.asarray(run.readings.validation_accuracy)[:, 1:],
            "test_accuracy": np.asarray(run.test_accuracy),
            "diverged_at": np.asarray(run.diverged_at),
        }
