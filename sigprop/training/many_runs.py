"""Many configurations at once: how many together, on which device, and in what order."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import AxisType, PartitionSpec
from jax.typing import ArrayLike

from sigprop._blas_threads import on_one_blas_thread
from sigprop._checks import check_whole_number
from sigprop.training import loop
from sigprop.training.data import Data, Splits
from sigprop.training.optimisers import Optimiser, as_optimiser
from sigprop.training.progress import bar
from sigprop.training.readings import Readings

__all__ = ["cells_together", "train_grid"]

_TOGETHER_ON_CPU = 4


def cells_together() -> int | None:
    """How many configurations one device trains in one batched multiply; None: all of its share.

    On a CPU a few: their weights and activations stay in cache, and plain vmap over hundreds is
    slower than one after another. On an accelerator as many as there are.
    """
    return _TOGETHER_ON_CPU if jax.default_backend() == "cpu" else None


def train_grid(
    architecture_or_init: Any,
    data: Data | Splits | tuple[Any, Any],
    optimiser: Optimiser | optax.GradientTransformation,
    *,
    steps: int,
    key: Any,
    batch_size: int | None = None,
    loss: Any = None,
    predict: Any = None,
    readings: Readings = Readings(),  # noqa: B008  # frozen
    patience: int | None = None,
    min_improvement: ArrayLike = 0.0,
    keep_model: bool = False,
    together: int | None = None,
    progress: bool = False,
) -> loop.Training:
    """`train` at every cell of a grid: one compile, every core or device at work.

    The numbers of the architecture (or the arrays of a `jax.tree_util.Partial`), of the optimiser,
    and the keys broadcast against each other like NumPy arrays; their common shape is the grid.

    Parameters
    ----------
    architecture_or_init, data, optimiser, steps, batch_size, loss, predict, readings, patience,
    min_improvement
        As for `train`. Arrays in a Partial must all have the grid's dimensions, and no others.
    key
        One key for all cells, which then differ in nothing but their configuration, or an array of
        keys that broadcasts with the rest.
    keep_model
        Whether to keep all trained models.
    together
        Configurations in one batched multiply; `cells_together` chooses if None. Cells are padded
        to a multiple of it times the number of devices, so the answers do not depend on how many
        devices there are.
    progress
        Whether to show a progress bar over cells on the error stream.

    Returns
    -------
    Training
        Every array has the grid's dimensions first.

    Raises
    ------
    ValueError
        As `train`; if shapes do not broadcast.

    Examples
    --------
    >>> from sigprop.architecture import Architecture
    >>> from sigprop.training.tasks import digits
    >>> tanh = Architecture(3, 16, "tanh", weight_var=[[1.0], [2.0]])
    >>> grid = train_grid(tanh, digits(), Optimiser("sgd", [0.1, 1.0, 1e9]), steps=5,
    ...                   batch_size=32, key=jax.random.key(0))
    >>> grid.loss.shape, grid.test_accuracy.shape
    ((2, 3, 5), (2, 3))
    """
    rule = as_optimiser(optimiser)
    init, splits, settings = loop.checked_call(
        architecture_or_init, data, rule, steps=steps, key=key, batch_size=batch_size,
        loss=loss, predict=predict, readings=readings, patience=patience,
        min_improvement=min_improvement, keep_model=keep_model,
    )  # fmt: skip
    cells, shape = _flat_cells((init, rule, key))
    count = int(np.prod(shape))
    devices = jax.local_devices()
    group = _group(together, count, len(devices))
    pieces = []
    with bar(progress) as shown:
        task = shown.add_task("training", total=count)
        for chosen in _chunks(count, group * len(devices), progress):
            part = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], cells)
            begun = on_one_blas_thread(_begun, settings, splits, part)
            pieces.append(_trained(settings, splits, (*part[1:], begun), group, len(devices)))
            if progress:
                jax.block_until_ready(pieces[-1])
            shown.advance(task, len(chosen))
    whole = jax.tree.map(lambda *parts: jnp.concatenate(parts)[:count], *pieces)
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), whole)


def _group(together: int | None, count: int, devices: int) -> int:
    together = cells_together() if together is None else together
    if together is None:
        return -(-count // devices)
    return check_whole_number("together", together)


def _flat_cells(configuration: Any) -> tuple[Any, tuple[int, ...]]:
    """Every leaf with one leading axis of cells; and the grid's shape."""
    leaves, structure = jax.tree.flatten(configuration)
    leaves = [_array(leaf) for leaf in leaves]
    try:
        shape = np.broadcast_shapes(*(leaf.shape for leaf in leaves))
    except ValueError:
        given = ", ".join(f"{leaf.shape}" for leaf in leaves if leaf.shape)
        raise ValueError(
            "architecture, optimiser and key must broadcast against each other, got arrays of "
            f"shape {given}"
        ) from None
    flat = [jnp.broadcast_to(leaf, shape).reshape(-1) for leaf in leaves]
    return jax.tree.unflatten(structure, flat), shape


def _array(leaf: Any) -> Any:
    """An array; one of floats in JAX's default precision."""
    array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    return jnp.asarray(array, jnp.result_type(float))


def _chunks(count: int, row: int, in_pieces: bool) -> list[np.ndarray]:
    """Indices of cells call by call, all calls of one size, the last cell repeated to fill it."""
    rows = -(-count // row)
    rows_a_call = max(1, rows // 20) if in_pieces else rows
    calls = -(-rows // rows_a_call)
    padded = np.minimum(np.arange(calls * rows_a_call * row), count - 1)
    return np.split(padded, calls)


@functools.partial(jax.jit, static_argnums=0)
def _begun(settings: loop.Settings, splits: Splits, cells: Any) -> loop.State:
    """Every cell's network, drawn on one device.

    Inside a program of several devices, batched decompositions (orthogonal weights) wait for
    threads that all wait for them: XLA's CPU backend hangs.
    """
    one = lambda init, optimiser, key: loop.begin(settings, init, splits, optimiser, key)  # noqa: E731
    return jax.vmap(one)(*cells)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _trained(settings: loop.Settings, splits: Splits, cells: Any, group: int, devices: int) -> Any:
    """Cells dealt out to the devices; on each, group after group, a group together."""
    mesh = jax.make_mesh((devices,), ("cells",), axis_types=(AxisType.Auto,))
    spread, everywhere = PartitionSpec("cells"), PartitionSpec()

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(spread, everywhere), out_specs=spread, check_vma=False
    )
    def share(cells, splits):
        one = lambda cell: loop.finish(settings, splits, *cell)  # noqa: E731
        grouped = jax.tree.map(lambda leaf: leaf.reshape(-1, group, *leaf.shape[1:]), cells)
        trained = lax.map(jax.vmap(one), grouped)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), trained)

    return share(cells, splits)
