"""What a measuring pass fixes at compile time: shapes, block sizes, what is kept in memory."""

import math
from dataclasses import dataclass

import jax
from jax.sharding import AxisType, Mesh

from sigprop.activations import Activation
from sigprop.propagation.normalisation import Norm

__all__ = ["PLAIN", "BlockPlan", "Plan", "block_plan", "make_plan"]

# Rows (cells x inputs) of one multiply. On a CPU a block this high and its activations stay in
# cache, and more rows gain next to nothing; a GPU wants as many as it can get. The number does not
# depend on how many cells there are: the same block compiles to the same arithmetic, so a cell's
# bits depend neither on the rest of the grid nor on the number of devices.
_BLOCK_ROWS = {"cpu": 256}
_BLOCK_ROWS_ACCELERATOR = 8192


_NORMS = {
    "layer_norm": Norm(over_inputs=False, centred=True),
    "rms_norm": Norm(over_inputs=False, centred=False),
    "batch_norm": Norm(over_inputs=True, centred=True),
}


@dataclass(frozen=True)
class BlockPlan:
    """What a layer is, as far as it is fixed at compile time."""

    residual: bool = False
    norm_before: Norm | None = None
    norm_after: Norm | None = None
    learned: bool = False  # a scale and shift of each unit follow the norm (or stand in for it)
    unit_rows: bool = False  # weight normalisation
    dropout: bool = False
    shared_masks: bool = False

    @property
    def couples_inputs(self) -> bool:
        """Whether the inputs of a cell are mixed."""
        return self.norm_before is not None and self.norm_before.over_inputs

    @property
    def homogeneous(self) -> bool:
        """Whether a layer of a homogeneous activation without bias is homogeneous."""
        return self.norm_before is None and self.norm_after is None and not self.learned

    @property
    def stored(self) -> int:
        """Arrays the size of a signal that the way back needs of each layer."""
        return 1 + (self.norm_before is not None) + (self.norm_after is not None)


PLAIN = BlockPlan()


def block_plan(
    block: str, norm: str | None, *, learned: bool, dropout: bool, shared_masks: bool
) -> BlockPlan:
    """What the names of an `Architecture` mean for a pass."""
    after = norm is not None and norm.startswith("post_")
    found = _NORMS.get((norm or "").removeprefix("post_"))
    return BlockPlan(
        residual=block == "residual",
        norm_before=None if after else found,
        norm_after=found if after else None,
        learned=learned,
        unit_rows=norm == "weight_norm",
        dropout=dropout,
        shared_masks=shared_masks,
    )


@dataclass(frozen=True)
class Plan:
    """Static description of a pass; hashable, so that equal plans share one compiled program."""

    activation: Activation
    depth: int
    width: int
    in_features: int
    inputs: int
    distribution: str
    independent: bool
    held: bool  # weights of all layers in memory, rather than drawn again where they are used
    cells_per_block: int
    segment: int  # layers whose derivatives are stored at a time
    segment_held: bool  # weights of a segment in memory while it is worked on
    dtype: str
    precision: jax.lax.Precision
    mesh: Mesh
    block: BlockPlan = PLAIN

    @property
    def hidden_layers(self) -> int:
        """Layers after the first."""
        return self.depth - 1

    @property
    def segments(self) -> int:
        """How many segments the hidden layers make (at least one); the last may be partly empty."""
        return max(1, -(-self.hidden_layers // max(1, self.segment)))

    @property
    def log_scale(self) -> bool:
        """Whether the forward pass is carried in log scale: φ(t x) = t φ(x) for t > 0."""
        return self.activation.homogeneous_slopes is not None and self.block.homogeneous

    @property
    def devices(self) -> int:
        """How many devices share the cells."""
        return self.mesh.size

    def padded(self, cells: int) -> int:
        """The number of cells, rounded up to whole blocks on every device."""
        step = self.cells_per_block * self.devices
        return -(-cells // step) * step


def make_plan(
    *,
    activation: Activation,
    depth: int,
    width: int,
    in_features: int,
    inputs: int,
    distribution: str,
    independent: bool,
    dtype: jax.numpy.dtype,
    precision: jax.lax.Precision,
    memory_budget: int,
    always_held: bool = False,
    block: BlockPlan = PLAIN,
) -> Plan:
    """Choose block and segment sizes for the local devices.

    ``memory_budget`` is in bytes: what the held weights may take, and what the stored derivatives
    of one block may take on each device. Where the derivatives do not fit, layers are worked on in
    segments: only the state at the start of each is kept, and it is run forward again before it is
    run backward. Segments of about sqrt(depth) layers need the least memory.
    """
    devices = jax.local_devices()
    mesh = Mesh(devices, ("cells",), axis_types=(AxisType.Auto,))
    hidden_layers, layer_weights = depth - 1, width * width * dtype.itemsize
    held = always_held or hidden_layers * layer_weights <= memory_budget
    rows = _BLOCK_ROWS.get(devices[0].platform, _BLOCK_ROWS_ACCELERATOR)
    cells_per_block = 1 if independent else -(-rows // inputs)
    stored = hidden_layers * cells_per_block * inputs * width * dtype.itemsize * block.stored
    segment = hidden_layers if stored <= memory_budget else math.isqrt(hidden_layers) + 1
    return Plan(
        activation=activation,
        depth=depth,
        width=width,
        in_features=in_features,
        inputs=inputs,
        distribution=distribution,
        independent=independent,
        held=held,
        cells_per_block=cells_per_block,
        segment=segment,
        segment_held=segment * layer_weights <= memory_budget,
        dtype=dtype.name,
        precision=precision,
        mesh=mesh,
        block=block,
    )
