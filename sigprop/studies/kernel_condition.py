"""How well conditioned kernels are, by depth: infinite width beside networks of finite width."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop import gradients, networks, theory
from sigprop.architecture import Architecture
from sigprop.studies import infinite_width, inputs
from sigprop.studies.base_study import Arrays, Study, whole
from sigprop.studies.variables import Variable, flags, quantity

__all__ = ["KernelCondition"]

_CELL = ("activation", "weight_var", "bias_var")
# A float32 kernel matrix is known to about this much of its largest entry.
_RESOLUTION = 1e-5


@dataclass(frozen=True)
class KernelCondition(Study):
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

    depth: int = whole(1000, least=2)
    measured_depth: int = whole(64, least=1)
    width: int = whole(256, least=4)
    count: int = whole(5, least=2)
    outputs: int = whole(16, least=1)
    seeds: int = whole(8, least=2)
    seed: int = whole(0, least=0)
    input_correlation: float = 0.2

    name = "kernel_condition"
    version = 2
    title = "condition numbers of NNGP and NTK: theory and finite networks"
    static_axes = ("activation",)
    traced_axes = ("weight_var", "bias_var")
    told_axes = _CELL
    meanings = {  # noqa: RUF012
        "depth": ("affine layers", "1"),
        "measured_depth": ("affine layers of measured networks", "1"),
    }

    def __post_init__(self):
        super().__post_init__()
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

    def told(self, static: Mapping[str, str], cells: Mapping[str, Any]) -> Arrays:
        """Condition numbers at every depth."""
        name, start = static["activation"], theory.input_variance(1.0, **cells)
        told = theory.kernel_conditioning(
            name,
            inputs=self.count,
            depth=self.depth,
            variance0=start,
            correlation0=theory.input_correlation(self.input_correlation, **cells),
            **cells,
        )
        fixed = theory.fixed_point(name, variance0=start, **cells)
        return {
            "nngp_condition_theory": np.asarray(told.nngp),
            "ntk_condition_theory": np.asarray(told.ntk),
            "chi_1_theory": np.asarray(fixed.chi_1),
            "phase_theory": np.asarray(fixed.phase),
        }

    def measured(self, static: Mapping[str, str], cells: Mapping[str, Any], told: Arrays) -> Arrays:
        """Networks of two widths at some depths, and what they tend to."""
        name = static["activation"]
        widths = self.width, self.width // 2
        wide, narrow = (self._at_width(name, width, cells) for width in widths)
        limit, stderr = infinite_width.extrapolated(widths, *zip(wide, narrow))
        return {
            "log_ntk_condition_measured": wide[0],
            "log_ntk_condition_stderr": wide[1],
            "log_ntk_condition_infinite_width_measured": limit,
            "log_ntk_condition_infinite_width_stderr": stderr,
        }

    def _at_width(self, name: str, width: int, cells) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard error of ln κ at every measured depth, the last axis."""
        found = [self._networks(name, depth, width, cells) for depth in self.measured_depths]
        means, stderrs = zip(*found)
        return np.stack(means, axis=-1), np.stack(stderrs, axis=-1)

    def _networks(self, name: str, depth: int, width: int, cells) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard error of ln κ over seeds; nan beyond what float32 resolves."""
        # Widths draw from keys of their own: their errors must be independent to add.
        key = jax.random.fold_in(jax.random.key(self.seed), depth)
        key = key if width == self.width else jax.random.fold_in(key, width)
        keys = jax.random.split(key, self.seeds)
        numbers = [jnp.asarray(cells[axis], jnp.float32) for axis in self.traced_axes]
        x = jnp.asarray(self.digits, jnp.float32)
        matrices = _kernels(name, depth, width, min(self.outputs, width), keys, x, *numbers)
        values = np.linalg.eigvalsh(np.asarray(matrices, np.float64))
        with np.errstate(invalid="ignore", divide="ignore"):
            resolved = values[..., 0] > _RESOLUTION * values[..., -1]
            logs = np.where(resolved, np.log(values[..., -1] / values[..., 0]), np.nan)
        return logs.mean(-1), logs.std(-1, ddof=1) / np.sqrt(self.seeds)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _kernels(name, depth, width, outputs, keys, x, weight_var, bias_var):
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
