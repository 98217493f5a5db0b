"""The order/chaos phase diagram: mean-field theory beside real networks on real inputs."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sigprop import architecture, propagation, theory
from sigprop.studies import infinite_width, inputs, plane_theory
from sigprop.studies import phase_diagram_outputs as outputs
from sigprop.studies.base_study import Arrays, Study, above_one, tuning, whole
from sigprop.studies.gradient_classes import growth_class
from sigprop.studies.variables import Variable

__all__ = ["PhaseDiagram"]


@dataclass(frozen=True)
class PhaseDiagram(Study):
    """Theory and measurement of signal propagation at every (weight_var, bias_var).

    Handed to `sigprop.sweeps.run` with a grid of ``activation``, ``initialiser`` (strings),
    ``weight_var`` and ``bias_var`` (numbers). Every (activation, initialiser) is one compiled
    program; all cells share each seed's unit draw of the weights, so neighbouring cells err
    together: a patch of one colour among the disagreements is one deviation, not many.

    Parameters
    ----------
    depth
        Weight layers L, >= 2.
    width
        Units a layer N, >= 4. Networks of width N // 2 are measured too, to find the finite-width
        part of the gradient growth (`infinite_width.at_infinite_width`).
    seeds
        Networks (and pairs of inputs) measured at every cell and width, >= 2.
    seed
        Decides the draws and which digits are shown.
    input_file
        A ``.npy`` of input pairs (`inputs.load_pairs`; seed s sees pair s modulo their number);
        digit images, another pair for each seed, if None.
    input_second_moment
        |x|²/N₀ > 0 that inputs are brought to.
    input_correlation
        Cosine that the two inputs of a pair are brought to, -1 to 1.
    stable_factor
        A gradient norm that changes by no more than this factor over the depth counts as stable.
    measuring_bytes
        Bytes that one measurement may hold (`propagation.measure`); decides speed alone.

    Raises
    ------
    ValueError
        For a value out of range or unusable inputs.

    Examples
    --------
    >>> study = PhaseDiagram(depth=10, width=32, seeds=2)
    >>> study.variables["chi_1_theory"].axes
    ('activation', 'weight_var', 'bias_var')
    """

    depth: int = whole(100, least=2)
    width: int = whole(512, least=4)
    seeds: int = whole(8, least=2)
    seed: int = whole(0, least=0)
    input_file: str | Path | None = None
    input_second_moment: float = 1.0
    input_correlation: float = 0.5
    stable_factor: float = above_one(10.0)
    measuring_bytes: int = tuning(2**28)

    name = "phase_diagram"
    version = 3
    title = "signal propagation at initialisation: theory and measured networks"
    static_axes = ("activation", "initialiser")
    traced_axes = ("weight_var", "bias_var")
    told_axes = ("activation", "weight_var", "bias_var")
    meanings = plane_theory.LINE_MEANINGS
    file_field = "input_file"

    def __post_init__(self):
        super().__post_init__()
        inputs.check_moments(self.input_second_moment, self.input_correlation)
        if self.input_file is not None:
            self.pairs  # noqa: B018  # raises for inputs that cannot be used

    @functools.cached_property
    def pairs(self) -> np.ndarray:
        """The inputs, (seeds, 2, N₀), at the second moment and correlation asked for."""
        return inputs.with_moments(
            inputs.pairs_for(self.seeds, seed=self.seed, input_file=self.input_file),
            second_moment=self.input_second_moment,
            correlation=self.input_correlation,
        )

    @property
    def bytes_per_cell(self) -> int:
        """Readings of every layer and seed, and the activations of two inputs."""
        return self.depth * (2 * self.width * 4 + (self.seeds + 4) * len(outputs.PER_LAYER) * 8)

    @property
    def coordinates(self) -> dict[str, np.ndarray]:
        """Layers are counted from 1."""
        return {"layer": np.arange(1, self.depth + 1), **plane_theory.LINE_COORDINATES}

    @property
    def variables(self) -> dict[str, Variable]:
        """Every output; theory is stored without the initialiser axis."""
        return outputs.theory_variables() | outputs.measured_variables()

    def boundary(self, answers: Mapping[str, np.ndarray]) -> np.ndarray:
        """Phase and class of growth: where a refined sweep spends its cells."""
        return 10 * answers["phase_theory"] + answers["growth_measured"]

    def attributes(self) -> dict[str, Any]:
        """Also where the recipes land, and which names stand for others."""
        here = {
            name: architecture.recipe(name).weight_var(self.width, self.width)
            for name in ("he", "xavier", "lecun")
        }
        landing = {"recipes": json.dumps(here), "same_as": plane_theory.same_as()}
        return super().attributes() | landing

    def told(self, static: Mapping[str, str], cells: Mapping[str, Any]) -> Arrays:
        """Fixed point, trajectory, gradient growth, and the lines of the diagram."""
        activation, moment = static["activation"], self.input_second_moment
        start = theory.input_variance(moment, **cells)
        fixed = theory.fixed_point(activation, variance0=start, **cells)
        path = theory.propagate(activation, depth=self.depth, variance0=start, **cells)
        rate = np.asarray(path.gradient_rate)
        found = {f"{name}_theory": getattr(fixed, name) for name in outputs.OF_FIXED_POINT} | {
            "fixed_point_variance_theory": fixed.variance,
            "fixed_point_correlation_theory": fixed.correlation,
            "variance_theory": path.variance,
            # E|u|² = N at layer L.
            "log_gradient_z_theory": np.asarray(path.log_gradient) + np.log(self.width),
            "gradient_rate_theory": rate,
            "growth_theory": self._growth(rate),
            **plane_theory.critical(activation, cells["bias_var"]),
            **plane_theory.lines(activation, moment),
        }
        return {name: np.asarray(value) for name, value in found.items()}

    def measured(self, static: Mapping[str, str], cells: Mapping[str, Any], told: Arrays) -> Arrays:
        """Two widths, what they tend to, and how far that is from theory."""
        expected = told["gradient_rate_theory"]
        wide = self._measure(static, cells, self.width)
        narrow = self._measure(static, cells, self.width // 2)
        rate, stderr = infinite_width.at_infinite_width(
            _growth_at(self.width, wide),
            _growth_at(self.width // 2, narrow),
            layers=self.depth - 1,
            seeds=self.seeds,
        )
        off = infinite_width.standard_errors_off
        raw_stderr = np.hypot(wide.gradient_rate_stderr, infinite_width.ROUNDING)
        per_layer = {f"{name}_measured": getattr(wide, name) for name in outputs.PER_LAYER}
        per_layer |= {f"{n}_stderr": getattr(wide, f"{n}_stderr") for n in outputs.PER_LAYER}
        return per_layer | {
            "gradient_rate_measured": wide.gradient_rate,
            "gradient_rate_stderr": wide.gradient_rate_stderr,
            "log_gradient_variance_measured": wide.log_gradient_variance,
            "gradient_rate_half_width_measured": narrow.gradient_rate,
            "gradient_rate_half_width_stderr": narrow.gradient_rate_stderr,
            "log_gradient_variance_half_width_measured": narrow.log_gradient_variance,
            "gradient_rate_infinite_width_measured": rate,
            "gradient_rate_infinite_width_stderr": stderr,
            "disagreement_raw": off(wide.gradient_rate, raw_stderr, expected),
            "disagreement_corrected": off(rate, stderr, expected),
            "phase_measured": _phase(wide.gradient_rate, wide.gradient_rate_stderr),
            "growth_measured": self._growth(wide.gradient_rate),
            "diverged_at_layer_measured": wide.diverged_at_layer,
            **self._expected_spread(static, cells),
        }

    def _growth(self, rate: np.ndarray) -> np.ndarray:
        return growth_class(rate, depth=self.depth, stable_factor=self.stable_factor)

    def _expected_spread(self, static, cells) -> Arrays:
        """The error bars that theory expects; weights of either ensemble have their own."""
        orthogonal = architecture.distribution_of(static["initialiser"]) == "orthogonal"
        found = theory.log_gradient_variance(
            static["activation"],
            depth=self.depth,
            width=self.width,
            variance0=theory.input_variance(self.input_second_moment, **cells),
            correlation0=self._first_correlation(cells),
            ensemble="orthogonal" if orthogonal else "gaussian",
            **cells,
        )
        stderr = found.rate_stderr(depth=self.depth, seeds=self.seeds)
        return {
            "log_gradient_variance_theory": np.asarray(found.variance),
            "gradient_rate_stderr_theory": np.asarray(stderr),
        }

    def _first_correlation(self, cells) -> np.ndarray:
        """c¹ of the inputs; where neither weights nor biases act there is no signal: that of x⁰."""
        silent = (cells["weight_var"] == 0) & (cells["bias_var"] == 0)
        found = theory.input_correlation(
            self.input_correlation,
            second_moment=self.input_second_moment,
            weight_var=np.where(silent, 1.0, cells["weight_var"]),
            bias_var=cells["bias_var"],
        )
        return np.asarray(found)

    def _measure(self, static, cells, width: int) -> propagation.Measurement:
        networks = architecture.Architecture(self.depth, width, **static, **cells)
        # Widths draw from keys of their own: their errors must be independent to add.
        key = jax.random.fold_in(jax.random.key(self.seed), width)
        return propagation.measure(
            networks,
            self.pairs.astype(np.float32),
            key=key,
            seeds=self.seeds,
            memory_budget=self.measuring_bytes,
        )


def _growth_at(width: int, found: propagation.Measurement) -> infinite_width.GrowthAtWidth:
    return infinite_width.GrowthAtWidth(
        width, found.gradient_rate, found.gradient_rate_stderr, found.log_gradient_variance
    )


def _phase(rate: np.ndarray, stderr: np.ndarray) -> np.ndarray:
    """Ordered or chaotic by the sign of the growth; critical within two standard errors of 0."""
    near = np.abs(rate) <= 2 * stderr
    cases = [near, rate < 0, rate > 0]
    codes = [theory.Phase.CRITICAL, theory.Phase.ORDERED, theory.Phase.CHAOTIC]
    return np.select(cases, codes, theory.Phase.UNDEFINED).astype(np.int8)
