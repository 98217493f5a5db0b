"""What a measuring pass fixes at compile time: kinds, shapes, block sizes, what is kept."""

import math
from dataclasses import dataclass

import jax
from jax.sharding import AxisType, Mesh

from sigprop.kinds import Composition, Kind, Mix, Shape
from sigprop.propagation.one_layer import stored_bytes
from sigprop.propagation.slopes import keeping_slopes

__all__ = ["Drawing", "Plan", "make_plan"]

# Rows (cells x inputs) of one multiply. On a CPU a block this high and its activations stay in
# cache, and more rows gain next to nothing; a GPU wants as many as it can get. The number does not
# depend on how many cells there are: the same block compiles to the same arithmetic, so a cell's
# bits depend neither on the rest of the grid nor on the number of devices.
_BLOCK_ROWS = {"cpu": 256}
_BLOCK_ROWS_ACCELERATOR = 8192


@dataclass(frozen=True)
class Drawing:
    """What is drawn, and how; networks that differ in activation or norm alone share it."""

    first: tuple[tuple[str, Mix], ...]
    hidden: tuple[tuple[str, Mix], ...]
    depth: int
    inputs: int
    shape: Shape  # (places, width) of every z
    distribution: str
    dtype: str
    held: bool  # weights of all layers in memory, rather than drawn again where they are used
    mesh: Mesh

    @property
    def by_products(self) -> bool:
        """Whether the gradients of all weights come from dot products of rows."""
        return all(mix.rows or mix.constant for _, mix in self.hidden)


@dataclass(frozen=True)
class Plan:
    """Static description of a pass; hashable, so that equal plans share one compiled program."""

    first: Kind
    layer: Kind
    drawing: Drawing
    independent: bool
    cells_per_block: int
    segment: int  # layers whose derivatives are stored at a time
    segment_held: bool  # weights of a segment in memory while it is worked on
    precision: str

    @property
    def depth(self) -> int:
        """Number of layers."""
        return self.drawing.depth

    @property
    def inputs(self) -> int:
        """Inputs of a pass."""
        return self.drawing.inputs

    @property
    def dtype(self) -> str:
        """What is computed in."""
        return self.drawing.dtype

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
        """Whether the forward pass is carried in log scale: a layer of t x is t times that of x."""
        homogeneous = self.layer.homogeneous and self.first.homogeneous
        return homogeneous and self.drawing.by_products

    @property
    def joint(self) -> bool:
        """Whether the cotangents of all inputs need one scale, since they will be added up."""
        return self.layer.couples_inputs or not self.drawing.by_products

    @property
    def devices(self) -> int:
        """How many devices share the cells."""
        return self.drawing.mesh.size

    def padded(self, cells: int) -> int:
        """The number of cells, rounded up to whole blocks on every device."""
        step = self.cells_per_block * self.devices
        return -(-cells // step) * step


def make_plan(
    made: Composition,
    *,
    depth: int,
    width: int,
    in_features: int,
    inputs: int,
    distribution: str,
    independent: bool,
    dtype: str,
    precision: jax.lax.Precision,
    memory_budget: int,
    always_held: bool = False,
) -> Plan:
    """Choose block and segment sizes for the local devices.

    ``memory_budget`` is in bytes: what the held weights may take, and what the stored derivatives
    of one block may take on each device. Where they do not fit, layers are worked on in segments:
    only the state at the start of each is kept, and it is run forward again before it is run
    backward. Segments of about sqrt(depth) layers need the least memory.
    """
    devices = jax.local_devices()
    mesh = Mesh(devices, ("cells",), axis_types=(AxisType.Auto,))
    first, layer = keeping_slopes(made.first), keeping_slopes(made.layer)
    hidden = layer.mixes((1, width))
    hidden_layers = depth - 1
    entries = sum(math.prod(mix.shape) for mix in hidden.values())
    layer_weights = entries * jax.numpy.dtype(dtype).itemsize
    rows = _BLOCK_ROWS.get(devices[0].platform, _BLOCK_ROWS_ACCELERATOR)
    cells_per_block = 1 if independent else -(-rows // inputs)
    stored = (
        hidden_layers * cells_per_block * stored_bytes(layer, hidden, inputs, (1, width), dtype)
    )
    fits = stored <= memory_budget
    segment = hidden_layers if fits else _segment(hidden_layers)
    return Plan(
        first=first,
        layer=layer,
        drawing=Drawing(
            first=tuple(first.mixes((1, in_features)).items()),
            hidden=tuple(hidden.items()),
            depth=depth,
            inputs=inputs,
            shape=(1, width),
            distribution=distribution,
            dtype=dtype,
            held=always_held or hidden_layers * layer_weights <= memory_budget,
            mesh=mesh,
        ),
        independent=independent,
        cells_per_block=cells_per_block,
        segment=segment,
        segment_held=segment * layer_weights <= memory_budget,
        precision=precision.name.lower(),
    )


def _segment(layers: int) -> int:
    """About sqrt(layers), and of those lengths the one that goes least beyond the last layer."""
    root = math.isqrt(layers) + 1
    return min(range(root, root + root // 4 + 1), key=lambda length: -layers % length)
