"""What a skip, a normalisation or dropout does to gradients over many layers."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from sigprop import propagation, theory
from sigprop._checks import check_known
from sigprop.architecture import Architecture
from sigprop.kinds import compose
from sigprop.studies import infinite_width, inputs
from sigprop.studies.base_study import Arrays, Study, non_negative, tuning, whole
from sigprop.studies.variables import Variable, flags, quantity

__all__ = ["BLOCKS", "Blocks"]

BLOCKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weight_norm": {"norm": "weight_norm"},
    "dropout": {"dropout": 0.1},
    "layer_norm": {"norm": "layer_norm"},
    "post_rms_norm": {"norm": "post_rms_norm"},
    "batch_norm": {"norm": "batch_norm"},
    "residual": {"block": "residual"},
    "residual_scaled": {"block": "residual", "branch_scale": "1/sqrt(depth)"},
    "residual_layer_norm": {"block": "residual", "norm": "layer_norm"},
    "residual_post_layer_norm": {"block": "residual", "norm": "post_layer_norm"},
    "residual_batch_norm": {"block": "residual", "norm": "batch_norm"},
    "residual_layer_norm_dropout": {"block": "residual", "norm": "layer_norm", "dropout": 0.1},
}
"""Names of blocks, and what they are in an `Architecture`."""

_COSINE = 0.5  # between the images of a batch
_EVERYWHERE = ("activation", "block", "weight_var")


@dataclass(frozen=True)
class Blocks(Study):
    """Theory and measurement of the gradient at every layer, for every block.

    Handed to `sigprop.sweeps.run` with a grid of ``activation``, ``block`` (names in `BLOCKS`) and
    ``weight_var`` (numbers).

    Parameters
    ----------
    depth
        Weight layers L, >= 2.
    width
        Units a layer N, >= 4. Networks of width N // 2 are measured too.
    seeds
        Networks at every cell, each with images of its own, >= 2.
    batch
        Images a batch B under batch norm, 4 to 63; one image elsewhere.
    bias_var
        σ_b² >= 0 of every network.
    seed
        Decides the draws and which digits are shown.
    measuring_bytes
        Bytes that one measurement may hold (`propagation.measure`); decides speed alone.

    Raises
    ------
    ValueError
        For a value out of range.

    Examples
    --------
    >>> Blocks(depth=10, width=32).variables["log_gradient_theory"].dims
    ('layer',)
    """

    depth: int = whole(1000, least=2)
    width: int = whole(256, least=4)
    seeds: int = whole(8, least=2)
    batch: int = whole(16, least=4)
    bias_var: float = non_negative(0.05)
    seed: int = whole(0, least=0)
    measuring_bytes: int = tuning(2**28)

    name = "blocks"
    version = 2
    title = "gradients through blocks: theory and measured networks"
    static_axes = ("activation", "block")
    traced_axes = ("weight_var",)
    told_axes = _EVERYWHERE
    meanings = {"block": ("block", None)}  # noqa: RUF012

    def __post_init__(self):
        super().__post_init__()
        inputs.check_batches(self.seeds, self.batch)

    @functools.cached_property
    def images(self) -> Float[np.ndarray, "seeds batch pixels"]:
        """Digits of mean square 1, every pair of a batch at cosine 0.5."""
        return inputs.digit_batches(self.seeds, self.batch, seed=self.seed, correlation=_COSINE)

    @property
    def bytes_per_cell(self) -> int:
        """Readings of every layer and seed, and the activations of a batch."""
        return self.depth * (self.batch * self.width * 4 + 64 * self.seeds)

    @property
    def coordinates(self) -> dict[str, np.ndarray]:
        """Layers are counted from 1."""
        return {"layer": np.arange(1, self.depth + 1)}

    @property
    def variables(self) -> dict[str, Variable]:
        """Every output."""
        layer = functools.partial(quantity, _EVERYWHERE)
        gradient = "log squared gradient by the pre-activations at layer 1 less that at the layer"
        return {
            "log_gradient_theory": layer(f"{gradient}, infinite width", "layer"),
            "log_gradient_measured": layer(f"{gradient}, mean over seeds", "layer"),
            "log_gradient_stderr": layer("its standard error", "layer"),
            "log_gradient_corrected_measured": layer(
                f"{gradient}, mean over seeds plus half the variance over seeds", "layer"
            ),
            "log_gradient_corrected_stderr": layer("its standard error", "layer"),
            "log_gradient_infinite_width_measured": layer(
                f"{gradient}, mean over seeds extrapolated from two widths", "layer"
            ),
            "log_gradient_infinite_width_stderr": layer("its standard error", "layer"),
            "variance_theory": layer("variance of the pre-activations, infinite width", "layer"),
            "variance_measured": layer("variance, mean over seeds", "layer"),
            "variance_stderr": layer("its standard error", "layer"),
            "gradient_rate_theory": layer("rate of the law below"),
            "gradient_kind_theory": flags(
                _EVERYWHERE, "how the squared gradient grows with depth", theory.GrowthKind
            ),
            "variance_rate_theory": layer("rate of the law below"),
            "variance_kind_theory": flags(
                _EVERYWHERE, "how the variance grows with depth", theory.GrowthKind
            ),
            "theory_status": flags(_EVERYWHERE, "whether there is a theory", theory.TheoryStatus),
            "diverged_at_layer_measured": quantity(
                _EVERYWHERE, "first layer not finite in some seed, 0 if none", dtype="int32"
            ),
        }

    def check(self, grid: Mapping[str, Any]) -> None:
        """Raise ValueError for names or variances that no network can have."""
        super().check(grid)
        for name in grid["block"]:
            check_known("block", name, tuple(BLOCKS))

    def _network(self, static: Mapping[str, str], weight_var: Any) -> Architecture:
        block = BLOCKS[static["block"]]
        return Architecture(
            self.depth, self.width, static["activation"], weight_var, self.bias_var, **block
        )

    def _batch_of(self, network: Architecture) -> int | None:
        return self.batch if compose(network).layer.couples_inputs else None

    def told(self, static: Mapping[str, str], cells: Mapping[str, Any]) -> Arrays:
        """Gradient and variance at every layer, and the law of each."""
        network = self._network(static, cells["weight_var"])
        weight_var, bias_var = np.asarray(network.weight_var), self.bias_var
        variance0 = theory.input_variance(1.0, weight_var=weight_var, bias_var=bias_var)
        correlation0 = theory.input_correlation(
            _COSINE, second_moment=1.0, weight_var=weight_var, bias_var=bias_var
        )
        path = theory.predict(
            network,
            variance0=variance0,
            correlation0=correlation0,
            batch=self._batch_of(network),
        )
        return {
            "log_gradient_theory": _from_first(np.asarray(path.log_gradient)),
            "variance_theory": np.asarray(path.variance),
            "theory_status": np.full(weight_var.shape, path.status),
            **self._laws([self._network(static, float(w)) for w in weight_var]),
        }

    def _laws(self, networks: Sequence[Architecture]) -> Arrays:
        laws = [theory.growth_law(net, batch=self._batch_of(net)) for net in networks]
        names = ("gradient_rate", "gradient_kind", "variance_rate", "variance_kind")
        return {f"{n}_theory": np.asarray([getattr(law, n) for law in laws]) for n in names}

    def measured(self, static: Mapping[str, str], cells: Mapping[str, Any], told: Arrays) -> Arrays:
        """Networks of two widths, and what they tend to."""
        network = self._network(static, cells["weight_var"])
        found = [self._measured_seed(network, seed) for seed in range(self.seeds)]
        narrower = replace(network, width=self.width // 2)
        # Widths draw from keys of their own: their errors must be independent to add.
        narrow = [self._measured_seed(narrower, seed + self.seeds) for seed in range(self.seeds)]
        variance = np.stack([one.variance for one in found])
        with np.errstate(invalid="ignore"):  # diverged seeds leave nan
            mean, stderr, spread = self._growth(found)
            half_mean, half_stderr, _ = self._growth(narrow)
            limit, limit_stderr = infinite_width.extrapolated(
                (self.width, self.width // 2), (mean, half_mean), (stderr, half_stderr)
            )
            # E log < log E by half the variance, which is known to √(2/(S - 1)).
            shift_stderr = spread / 2 * np.sqrt(2 / (self.seeds - 1))
            return {
                "log_gradient_measured": mean,
                "log_gradient_stderr": stderr,
                "log_gradient_corrected_measured": mean + spread / 2,
                "log_gradient_corrected_stderr": np.hypot(stderr, shift_stderr),
                "log_gradient_infinite_width_measured": limit,
                "log_gradient_infinite_width_stderr": limit_stderr,
                "variance_measured": variance.mean(0),
                "variance_stderr": variance.std(0, ddof=1) / np.sqrt(self.seeds),
                "diverged_at_layer_measured": _earliest(found),
            }

    def _growth(self, found: Sequence[propagation.Measurement]) -> tuple[np.ndarray, ...]:
        """Mean over seeds, its standard error, and the variance over seeds."""
        growth = np.stack([_from_first(one.log_gradient_z) for one in found])
        spread = growth.var(0, ddof=1)
        return growth.mean(0), np.sqrt(spread / self.seeds), spread

    def _measured_seed(self, network: Architecture, seed: int) -> propagation.Measurement:
        shown = self.images[seed % self.seeds, : self._batch_of(network) or 1].astype(np.float32)
        key = jax.random.fold_in(jax.random.key(self.seed), seed)
        return propagation.measure(
            network, shown, key=key, seeds=1, memory_budget=self.measuring_bytes
        )


def _from_first(log_gradient: np.ndarray) -> np.ndarray:
    """What the gradient gains between each layer and the first."""
    return log_gradient[:, :1] - log_gradient


def _earliest(found: Sequence[propagation.Measurement]) -> np.ndarray:
    """The first layer that diverges in any seed, 0 where none does."""
    layers = np.stack([one.diverged_at_layer for one in found])
    earliest = np.where(layers > 0, layers, np.iinfo(layers.dtype).max).min(0)
    return np.where((layers > 0).any(0), earliest, 0)
