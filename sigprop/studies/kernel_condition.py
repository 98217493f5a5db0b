"""How well conditioned kernels are, by depth: infinite width beside networks of finite width."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop import activations, gradients, networks, theory
from sigprop._checks import check_non_negative, check_whole_number
from sigprop.architecture import Architecture
from sigprop.studies import finite_width, inputs
from sigprop.studies.variables import Variable, flags, quantity

__all__ = ["KernelCondition"]

_CELL = ("activation", "weight_var", "bias_var")
# A float32 kernel matrix is known to about this much of its largest entry.
_RESOLUTION = 1e-5


@dataclass(frozen=True)
class KernelCondition:
    """Condition numbers of NNGP and NTK against depth at every (weight_var, bias_var).

    Handed to `sigprop.sweeps.run` with a grid of ``activation`` (strings), ``weight_var`` and
    ``bias_var`` (numbers). Theory holds every depth up to ``depth``; networks, in NTK
    parameterisation, are measured at depths 1, 2, 4, ... up to ``measured_depth``.

    Parameters
    ----------
    depth
        Deepest prediction, in affine layers, >= 2.
    measured_depth
        Deepest network, 1 to ``depth``.
    width
        Units a layer N of the networks, >= 4. Networks of width N // 2 are measured too.
    count
        Inputs m, >= 2: digit images mixed to equal norm and equal correlation.
    outputs
        Output units that an empirical kernel is averaged over, 1 to ``width``.
    seeds
        Networks for every cell and depth, >= 2.
    seed
        Decides the draws and which digits are shown.
    input_correlation
        Cosine between any two inputs, 0 to 1 (1 excluded).

    Raises
    ------
    ValueError
        For a value out of range.

    Examples
    --------
    >>> KernelCondition(depth=8, measured_depth=4).measured_depths
    [1, 2, 4]
    """

    depth: int = 1000
    measured_depth: int = 64
    width: int = 512
    count: int = 5
    outputs: int = 16
    seeds: int = 8
    seed: int = 0
    input_correlation: float = 0.2

    name = "kernel_condition"
    version = 2
    static_axes = ("activation",)
    traced_axes = ("weight_var", "bias_var")
    cell_multiple = 1

    def __post_init__(self):
        for name, least in (("depth", 2), ("measured_depth", 1), ("width", 4), ("count", 2)):
            check_whole_number(name, getattr(self, name), least)
        for name, least in (("outputs", 1), ("seeds", 2), ("seed", 0)):
            check_whole_number(name, getattr(self, name), least)
        if self.measured_depth > self.depth:
            raise ValueError(
                f"measured_depth must be <= depth = {self.depth}, got {self.measured_depth}"
            )
        if self.outputs > self.width:
            raise ValueError(f"outputs must be <= width = {self.width}, got {self.outputs}")
        if not 0 <= self.input_correlation < 1:
            raise ValueError(
                f"input_correlation must be >= 0 and < 1, got {self.input_correlation}"
            )

    @property
    def measured_depths(self) -> list[int]:
        """Powers of two up to ``measured_depth``."""
        return [2**n for n in range(self.measured_depth.bit_length())]

    @functools.cached_property
    def digits(self) -> np.ndarray:
        """The inputs, (count, 64): |x|²/N₀ = 1 and equal cosines between any two."""
        pairs = inputs.digit_pairs((self.count + 2) // 2, seed=self.seed)
        images = pairs.reshape(-1, pairs.shape[-1])[: self.count + 1]
        directions = np.linalg.qr(images.T)[0].T
        c = self.input_correlation
        mixed = np.sqrt(c) * directions[0] + np.sqrt(1 - c) * directions[1:]
        return np.sqrt(images.shape[1]) * mixed

    @property
    def bytes_per_cell(self) -> int:
        """The weights of the networks mapped together, their gradients by every output."""
        weights = self.measured_depth * self.width**2 * 4
        return weights * (2 + self.outputs) + self.depth * 4 * 8

    @property
    def coordinates(self) -> dict[str, np.ndarray]:
        """Depths of theory and of networks."""
        return {
            "depth": np.arange(1, self.depth + 1),
            "measured_depth": np.asarray(self.measured_depths),
        }

    @property
    def axis_attrs(self) -> dict[str, dict[str, str]]:
        """What the axes mean."""
        return {
            "activation": {"long_name": "activation"},
            "weight_var": {"long_name": "weight variance times fan-in", "units": "1"},
            "bias_var": {"long_name": "bias variance", "units": "1"},
            "depth": {"long_name": "affine layers", "units": "1"},
            "measured_depth": {"long_name": "affine layers of measured networks", "units": "1"},
        }

    @property
    def variables(self) -> dict[str, Variable]:
        """Every output."""

        def cell(text: str, *dims: str) -> Variable:
            return quantity(_CELL, text, *dims)

        return {
            "nngp_condition_theory": cell("condition number of the NNGP", "depth"),
            "ntk_condition_theory": cell("condition number of the NTK", "depth"),
            "chi_1_theory": cell("mean squared singular value of one layer's Jacobian at q*"),
            "phase_theory": flags(_CELL, "phase, by chi_1", theory.Phase),
            "log_ntk_condition_measured": cell(
                "log of the condition number of a network's NTK, mean over seeds", "measured_depth"
            ),
            "log_ntk_condition_stderr": cell(
                "standard error over seeds of log_ntk_condition_measured", "measured_depth"
            ),
            "log_ntk_condition_infinite_width_measured": cell(
                "log of the condition number, extrapolated from two widths", "measured_depth"
            ),
            "log_ntk_condition_infinite_width_stderr": cell("its standard error", "measured_depth"),
        }

    def check(self, grid: Mapping[str, Any]) -> None:
        """Raise ValueError for names or variances that no network can have."""
        for name in grid["activation"]:
            activations.get(name)
        for axis in self.traced_axes:
            check_non_negative(axis, grid[axis])

    def config(self) -> dict[str, Any]:
        """What decides the results."""
        return {
            "depth": self.depth,
            "measured_depth": self.measured_depth,
            "width": self.width,
            "count": self.count,
            "outputs": self.outputs,
            "seeds": self.seeds,
            "seed": self.seed,
            "input_correlation": self.input_correlation,
        }

    def attributes(self) -> dict[str, Any]:
        """Settings a reader wants at hand, and the machine."""
        device = jax.devices()[0]
        return {
            **self.config(),
            "title": "condition numbers of NNGP and NTK: theory and finite networks",
            "device": f"{len(jax.devices())} x {device.platform} ({device.device_kind})",
            "matmul_precision": "highest",
            "dtype": "float32",
        }

    def compute(
        self, static: Mapping[str, str], cells: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Theory at every depth, networks at some."""
        name = static["activation"]
        at = {"weight_var": cells["weight_var"], "bias_var": cells["bias_var"]}
        variance0 = theory.input_variance(1.0, **at)
        told = theory.kernel_conditioning(
            name,
            inputs=self.count,
            depth=self.depth,
            variance0=variance0,
            correlation0=theory.input_correlation(self.input_correlation, **at),
            **at,
        )
        fixed = theory.fixed_point(
            name,
            weight_var=cells["weight_var"],
            bias_var=cells["bias_var"],
            variance0=variance0,
        )
        widths = self.width, self.width // 2
        wide, narrow = (self._at_width(name, width, cells) for width in widths)
        limit, stderr = finite_width.extrapolated(widths, *zip(wide, narrow))
        return {
            "nngp_condition_theory": np.asarray(told.nngp),
            "ntk_condition_theory": np.asarray(told.ntk),
            "chi_1_theory": np.asarray(fixed.chi_1),
            "phase_theory": np.asarray(fixed.phase),
            "log_ntk_condition_measured": wide[0],
            "log_ntk_condition_stderr": wide[1],
            "log_ntk_condition_infinite_width_measured": limit,
            "log_ntk_condition_infinite_width_stderr": stderr,
        }

    def _at_width(self, name: str, width: int, cells) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard error of ln κ at every measured depth, the last axis."""
        found = [self._measured(name, depth, width, cells) for depth in self.measured_depths]
        means, stderrs = zip(*found)
        return np.stack(means, axis=-1), np.stack(stderrs, axis=-1)

    def _measured(self, name: str, depth: int, width: int, cells) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard error of ln κ over seeds; nan beyond what float32 resolves."""
        # Widths draw from keys of their own: their errors must be independent to add.
        key = jax.random.fold_in(jax.random.key(self.seed), depth)
        key = key if width == self.width else jax.random.fold_in(key, width)
        keys = jax.random.split(key, self.seeds)
        numbers = [jnp.asarray(cells[axis], jnp.float32) for axis in self.traced_axes]
        x = jnp.asarray(self.digits, jnp.float32)
        matrices = _networks(name, depth, width, min(self.outputs, width), keys, x, *numbers)
        values = np.linalg.eigvalsh(np.asarray(matrices, np.float64))
        with np.errstate(invalid="ignore", divide="ignore"):
            resolved = values[..., 0] > _RESOLUTION * values[..., -1]
            logs = np.where(resolved, np.log(values[..., -1] / values[..., 0]), np.nan)
        return logs.mean(-1), logs.std(-1, ddof=1) / np.sqrt(self.seeds)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _networks(name, depth, width, outputs, keys, x, weight_var, bias_var):
    """Empirical kernels (cells, seeds, count, count); every cell shares each seed's unit draws."""

    def kernel(numbers, key):
        weight_var, bias_var = numbers
        network = Architecture(depth, width, name, weight_var, bias_var, parameterisation="ntk")
        model = networks.MLP(network, x.shape[1], rngs=key)
        return gradients.empirical_ntk(
            model, x, apply=lambda model, x: model(x)[:outputs], trace=True
        )

    def cell(numbers):
        return jax.lax.map(lambda key: kernel(numbers, key), keys)

    return jax.lax.map(cell, (weight_var, bias_var))
