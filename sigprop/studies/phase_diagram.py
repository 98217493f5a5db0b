"""The order/chaos phase diagram: mean-field theory beside real networks on real inputs."""

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from sigprop import activations, architecture, propagation, theory
from sigprop._checks import check_non_negative, check_whole_number
from sigprop.studies import finite_width, growth, inputs, prediction
from sigprop.studies import phase_diagram_outputs as outputs
from sigprop.studies.variables import Variable

__all__ = ["PhaseDiagram"]

_PER_LAYER = (
    "variance", "correlation", "one_minus_correlation",
    "log_gradient_z", "log_gradient_w", "log_gradient_b",
)  # fmt: skip


@dataclass(frozen=True)
class PhaseDiagram:
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
        part of the gradient growth (`finite_width.at_infinite_width`).
    seeds
        Networks (and pairs of inputs) measured at every cell and width, >= 2.
    seed
        Decides the draws and which digits are shown.
    input_file
        A ``.npy`` of input pairs (`inputs.load_pairs`; seed s sees pair s modulo their number);
        digit images, another pair for each seed, if None.
    input_second_moment, input_correlation
        What the inputs are brought to: |x|²/N₀ > 0, and the cosine between the two, -1 to 1.
    stable_factor
        A gradient norm that changes by no more than this factor over the depth counts as stable.

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

    depth: int = 100
    width: int = 512
    seeds: int = 8
    seed: int = 0
    input_file: str | os.PathLike | None = None
    input_second_moment: float = 1.0
    input_correlation: float = 0.5
    stable_factor: float = 10.0

    name = "phase_diagram"
    version = 3
    static_axes = ("activation", "initialiser")
    traced_axes = ("weight_var", "bias_var")
    cell_multiple = 1

    def __post_init__(self):
        check_whole_number("depth", self.depth, 2)
        check_whole_number("width", self.width, 4)
        check_whole_number("seeds", self.seeds, 2)
        check_whole_number("seed", self.seed, 0)
        if not (np.isfinite(self.stable_factor) and self.stable_factor > 1):
            raise ValueError(f"stable_factor must be > 1 and finite, got {self.stable_factor}")
        inputs.check_moments(self.input_second_moment, self.input_correlation)
        if self.input_file is not None:
            self.pairs  # noqa: B018  # raises for inputs that cannot be used

    @functools.cached_property
    def pairs(self) -> np.ndarray:
        """The inputs, (seeds, 2, N₀), at the second moment and correlation asked for."""
        if self.input_file is None:
            chosen = inputs.digit_pairs(self.seeds, seed=self.seed)
        else:
            stored = inputs.load_pairs(self.input_file)
            chosen = stored[np.arange(self.seeds) % len(stored)]
        return inputs.with_moments(
            chosen, second_moment=self.input_second_moment, correlation=self.input_correlation
        )

    @property
    def bytes_per_cell(self) -> int:
        """Readings of every layer and seed, and the activations of two inputs."""
        return self.depth * (2 * self.width * 4 + (self.seeds + 4) * len(_PER_LAYER) * 8)

    @property
    def coordinates(self) -> dict[str, np.ndarray]:
        """Layers are counted from 1."""
        return {"layer": np.arange(1, self.depth + 1), **prediction.LINE_COORDINATES}

    @property
    def axis_attrs(self) -> dict[str, dict[str, str]]:
        """What the axes mean."""
        return {
            "activation": {"long_name": "activation"},
            "initialiser": {"long_name": "distribution of the weights"},
            "weight_var": {"long_name": "weight variance times fan-in", "units": "1"},
            "bias_var": {"long_name": "bias variance", "units": "1"},
            "layer": {"long_name": "layer", "units": "1"},
            **prediction.LINE_AXES,
        }

    @property
    def variables(self) -> dict[str, Variable]:
        """Every output; theory is stored without the initialiser axis."""
        return outputs.theory_variables() | outputs.measured_variables()

    def check(self, grid: Mapping[str, Any]) -> None:
        """Raise ValueError for names or variances that no network can have."""
        for name in grid["activation"]:
            activations.get(name)
        for name in grid["initialiser"]:
            architecture.distribution_of(name)
        for axis in self.traced_axes:
            check_non_negative(axis, grid[axis])

    def boundary(self, answers: Mapping[str, np.ndarray]) -> np.ndarray:
        """Phase and class of growth: where a refined sweep spends its cells."""
        return 10 * answers["phase_theory"] + answers["growth_measured"]

    def config(self) -> dict[str, Any]:
        """What decides the results; inputs of the user's by their content, not their place."""
        return {
            "depth": self.depth,
            "width": self.width,
            "seeds": self.seeds,
            "seed": self.seed,
            "inputs": "digits" if self.input_file is None else self._content(),
            "input_second_moment": self.input_second_moment,
            "input_correlation": self.input_correlation,
            "stable_factor": self.stable_factor,
        }

    def _content(self) -> str:
        digest = hashlib.sha256(np.ascontiguousarray(self.pairs).tobytes()).hexdigest()
        return f"file with content {digest[:16]}"

    def attributes(self) -> dict[str, Any]:
        """Settings a reader wants at hand, the machine, and where the recipes land."""
        device = jax.devices()[0]
        return {
            "title": "signal propagation at initialisation: theory and measured networks",
            "depth": self.depth,
            "width": self.width,
            "seeds": self.seeds,
            "seed": self.seed,
            "stable_factor": self.stable_factor,
            "device": f"{len(jax.devices())} x {device.platform} ({device.device_kind})",
            "matmul_precision": "highest",
            "dtype": "float32",
            "recipes": _recipes(self.width),
            "same_as": prediction.same_as(),
        }

    def compute(
        self, static: Mapping[str, str], cells: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Theory, measurement and their disagreement at every cell."""
        told = prediction.predicted(
            static["activation"],
            depth=self.depth,
            second_moment=self.input_second_moment,
            weight_var=cells["weight_var"],
            bias_var=cells["bias_var"],
        )
        log_gradient = told.pop("log_gradient_theory")
        told["log_gradient_z_theory"] = log_gradient + np.log(self.width)  # E|u|² = N at layer L
        told["growth_theory"] = self._growth(told["gradient_rate_theory"])
        told |= prediction.critical_weight_var(static["activation"], cells["bias_var"])
        told |= prediction.lines(
            static["activation"], self.input_second_moment, len(cells["bias_var"])
        )
        expected = prediction.fluctuations(
            static["activation"],
            depth=self.depth,
            width=self.width,
            seeds=self.seeds,
            orthogonal=architecture.distribution_of(static["initialiser"]) == "orthogonal",
            second_moment=self.input_second_moment,
            correlation=self.input_correlation,
            weight_var=cells["weight_var"],
            bias_var=cells["bias_var"],
        )
        measured = self._measured(static, cells, told["gradient_rate_theory"])
        return told | expected | measured

    def _growth(self, rate: np.ndarray) -> np.ndarray:
        return growth.growth_class(rate, depth=self.depth, stable_factor=self.stable_factor)

    def _measured(
        self, static: Mapping[str, str], cells: Mapping[str, np.ndarray], expected: np.ndarray
    ) -> dict[str, np.ndarray]:
        wide = self._measure(static, cells, self.width)
        narrow = self._measure(static, cells, self.width // 2)
        rate, stderr = finite_width.at_infinite_width(
            _growth_at(self.width, wide),
            _growth_at(self.width // 2, narrow),
            layers=self.depth - 1,
            seeds=self.seeds,
        )
        off = finite_width.standard_errors_off
        raw_stderr = np.hypot(wide.gradient_rate_stderr, finite_width.ROUNDING)
        raw = off(wide.gradient_rate, raw_stderr, expected)
        per_layer = {f"{name}_measured": getattr(wide, name) for name in _PER_LAYER}
        per_layer |= {f"{name}_stderr": getattr(wide, f"{name}_stderr") for name in _PER_LAYER}
        return per_layer | {
            "gradient_rate_measured": wide.gradient_rate,
            "gradient_rate_stderr": wide.gradient_rate_stderr,
            "log_gradient_variance_measured": wide.log_gradient_variance,
            "gradient_rate_half_width_measured": narrow.gradient_rate,
            "gradient_rate_half_width_stderr": narrow.gradient_rate_stderr,
            "log_gradient_variance_half_width_measured": narrow.log_gradient_variance,
            "gradient_rate_infinite_width_measured": rate,
            "gradient_rate_infinite_width_stderr": stderr,
            "disagreement_raw": raw,
            "disagreement_corrected": off(rate, stderr, expected),
            "phase_measured": _phase(wide.gradient_rate, wide.gradient_rate_stderr),
            "growth_measured": self._growth(wide.gradient_rate),
            "diverged_at_layer_measured": wide.diverged_at_layer,
        }

    def _measure(
        self, static: Mapping[str, str], cells: Mapping[str, np.ndarray], width: int
    ) -> propagation.Measurement:
        networks = architecture.Architecture(
            depth=self.depth,
            width=width,
            activation=static["activation"],
            initialiser=static["initialiser"],
            weight_var=cells["weight_var"],
            bias_var=cells["bias_var"],
        )
        # Widths draw from keys of their own: their errors must be independent to add.
        key = jax.random.fold_in(jax.random.key(self.seed), width)
        pairs = self.pairs.astype(np.float32)
        return propagation.measure(networks, pairs, key=key, seeds=self.seeds)


def _growth_at(width: int, found: propagation.Measurement) -> finite_width.GrowthAtWidth:
    return finite_width.GrowthAtWidth(
        width, found.gradient_rate, found.gradient_rate_stderr, found.log_gradient_variance
    )


def _phase(rate: np.ndarray, stderr: np.ndarray) -> np.ndarray:
    """Ordered or chaotic by the sign of the growth; critical within two standard errors of 0."""
    near = np.abs(rate) <= 2 * stderr
    cases = [near, rate < 0, rate > 0]
    codes = [theory.Phase.CRITICAL, theory.Phase.ORDERED, theory.Phase.CHAOTIC]
    return np.select(cases, codes, theory.Phase.UNDEFINED).astype(np.int8)


def _recipes(width: int) -> str:
    families = ("he", "xavier", "lecun")
    return json.dumps({n: architecture.recipe(n).weight_var(width, width) for n in families})
