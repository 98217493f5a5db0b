"""How deep a network can be and still train: accuracy over depth, weight variance and step size."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from sigprop import theory, training
from sigprop._checks import check_known
from sigprop.architecture import Architecture
from sigprop.studies.base_study import Arrays, Study, non_negative, whole
from sigprop.studies.variables import Variable, flags, quantity
from sigprop.training import OPTIMISERS, Optimiser, Readings

__all__ = ["Trainability"]

_RUN = ("activation", "depth", "weight_var", "learning_rate", "seed")
_POINT = ("activation", "weight_var")


@dataclass(frozen=True)
class Trainability(Study):
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

    width: int = whole(128, least=2)
    steps: int = whole(300, least=2)
    batch_size: int = whole(32, least=1)
    bias_var: float = non_negative(0.05)
    optimiser: str = "sgd"
    examples: int = whole(512, least=1)
    seed: int = whole(0, least=0)

    name = "trainability"
    version = 1
    title = "accuracy after a fixed budget over depth and weight variance"
    static_axes = ("activation",)
    traced_axes = ("depth", "weight_var", "learning_rate", "seed")
    told_axes = _POINT
    meanings = {  # noqa: RUF012
        "depth": ("weight layers, readout not counted", "1"),
        "budget": ("updates taken", "1"),
    }
    matmul_precision = "default"

    def __post_init__(self):
        super().__post_init__()
        if self.steps % 2:
            raise ValueError(f"steps must be even, to be read half-way, got {self.steps}")
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

    def told(self, static: Mapping[str, str], cells: Mapping[str, Any]) -> Arrays:
        """The fixed point at each weight variance."""
        point = theory.fixed_point(static["activation"], bias_var=self.bias_var, **cells)
        names = ("depth_scale_correlation", "chi_1", "phase")
        return {f"{name}_theory": np.asarray(getattr(point, name)) for name in names}

    def boundary(self, answers: Mapping[str, np.ndarray]) -> np.ndarray:
        """Whether the run has learned: where a refined sweep spends its cells."""
        return answers["train_accuracy"][:, -1] > 0.5

    def measured(self, static: Mapping[str, str], cells: Mapping[str, Any], told: Arrays) -> Arrays:
        """Runs, one program for each depth."""
        found: dict[str, np.ndarray] = {}
        for depth in np.unique(cells["depth"]):
            here = cells["depth"] == depth
            chosen = {name: values[here] for name, values in cells.items()}
            for name, values in self._trained(static["activation"], int(depth), chosen).items():
                found.setdefault(name, np.empty((len(here), *values.shape[1:])))[here] = values
        return found

    def _trained(self, name: str, depth: int, cells: Mapping[str, Any]):
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
