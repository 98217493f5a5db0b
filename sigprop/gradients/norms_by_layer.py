"""Norms of gradients layer by layer, of any model, grouped by module path."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import tree_util
from jaxtyping import Array, Float

from sigprop._precision import is_traced
from sigprop._tables import markdown_table, number, text_table
from sigprop.gradients.objective import objective
from sigprop.gradients.parameters import natural_order, take_apart

__all__ = ["LayerNorms", "layer_norms", "log_square_norms"]

Norms = Float[Array | np.ndarray, "*mapped rows"]

_HEADINGS = ("layer", "parameters", "|gradient|", "|parameter|", "ratio")


@tree_util.register_dataclass
@dataclass(frozen=True)
class LayerNorms:
    """Gradient and parameter norms of a model, a row for each layer; prints as a table.

    Attributes
    ----------
    layers
        Path of each module that holds parameters, "hidden[3]" for layer 3 of a stacked one.
    counts
        Parameters of each.
    log_gradient, log_parameter
        ln ‖∂loss/∂θ‖² and ln ‖θ‖² over all its parameters θ; -inf for a norm of 0, nan if not
        finite. Float64 NumPy, or JAX arrays under a transformation.
    loss
        The loss itself.
    """

    layers: tuple[str, ...] = field(metadata={"static": True})
    counts: tuple[int, ...] = field(metadata={"static": True})
    log_gradient: Norms
    log_parameter: Norms
    loss: Any

    @property
    def gradient(self) -> Norms:
        """‖∂loss/∂θ‖ of each row."""
        return _exp(self.log_gradient / 2)

    @property
    def parameter(self) -> Norms:
        """‖θ‖ of each row."""
        return _exp(self.log_parameter / 2)

    @property
    def ratio(self) -> Norms:
        """‖∂loss/∂θ‖ / ‖θ‖, formed from the logs; nan where both are 0."""
        with np.errstate(all="ignore"):
            return _exp((self.log_gradient - self.log_parameter) / 2)

    def rows(self) -> list[tuple[str, ...]]:
        """The table's cells as text."""
        numbers = zip(self.gradient, self.parameter, self.ratio)
        texts = [[number(float(value)) for value in row] for row in numbers]
        return [(n, str(c), *t) for n, c, t in zip(self.layers, self.counts, texts)]

    def __str__(self) -> str:
        """A table, a line for each layer."""
        return text_table(_HEADINGS, self.rows())

    def _repr_markdown_(self) -> str:
        return markdown_table(_HEADINGS, self.rows())


def layer_norms(
    model: Any,
    loss: Callable[[Any, Any], Any],
    batch: Any,
    *,
    stacked: Collection[str] = (),
) -> LayerNorms:
    """Norm of the gradient of ``loss(model, batch)`` by each layer's parameters.

    Parameters
    ----------
    model
        A Flax NNX module (its `nnx.Param` variables count, running statistics do not), a bound
        Linen module or a pair (module, variables), or any pytree of arrays: callable, a list of
        layers, a dict. It is not changed.
    loss
        ``loss(model, batch)`` returns one real number. The model it gets is of the type that was
        given here.
    batch
        Whatever ``loss`` takes.
    stacked
        Paths of modules whose arrays hold one layer after the other along a leading axis. Modules
        with a weight (layers, ...) beside a bias (layers, units), as scanned layers of
        `sigprop.networks.MLP`, ``nnx.vmap`` and ``nn.scan`` have, are recognised.

    Returns
    -------
    LayerNorms
        Rows grouped by module path; a parameter of the model itself is a row of its own. Works
        under `jax.jit`, `jax.vmap` and the like.

    Raises
    ------
    ValueError
        If the model has no parameters or the loss is not one real number or fails on the batch.

    Examples
    --------
    >>> import jax
    >>> from sigprop.architecture import Architecture
    >>> from sigprop.networks import MLP
    >>> network = MLP(Architecture(3, 16, "tanh", 1.5, 0.1), 8, 1, rngs=jax.random.key(0))
    >>> square = lambda network, x: jnp.mean(network(x) ** 2)
    >>> norms = layer_norms(network, square, jnp.ones((4, 8)))
    >>> norms.layers, norms.counts
    (('first', 'hidden[0]', 'hidden[1]', 'readout'), (144, 272, 272, 17))
    >>> norms.gradient.shape, bool((norms.ratio > 0).all())
    ((4,), True)
    """
    target = objective(model, loss, batch)
    names, values = target.parameters.names, target.parameters.values
    loss_value, gradients = target.value_and_gradient()
    groups = _groups(names, [np.shape(value) for value in values], stacked)
    if not is_traced(loss_value, gradients):
        loss_value = float(loss_value)
        gradients, values = (list(map(_magnitudes, each)) for each in (gradients, values))
    layers = tuple(row for group in groups for row in group.rows)
    log_gradient, log_parameter = (_per_row(groups, each) for each in (gradients, values))
    return LayerNorms(layers, _counts(groups, values), log_gradient, log_parameter, loss_value)


def log_square_norms(gradients: Any, *, stacked: Collection[str] = ()) -> dict[str, Array]:
    """The log ln ‖g‖² of each layer of a tree of gradients; pure, for jit, vmap and scan.

    Parameters
    ----------
    gradients
        Gradients (or parameters, or updates): any pytree, an `nnx.State`, a module.
    stacked
        As in `layer_norms`.

    Returns
    -------
    dict
        By row, in the order of `layer_norms`: scalars; -inf where every entry is 0.

    Examples
    --------
    >>> tree = {"a": {"w": jnp.ones((2, 2)), "b": jnp.zeros(2)}, "c": {"w": jnp.zeros(3)}}
    >>> {name: f"{float(value):.4f}" for name, value in log_square_norms(tree).items()}
    {'a': '1.3863', 'c': '-inf'}
    """
    found = take_apart(gradients)
    groups = _groups(found.names, [np.shape(value) for value in found.values], stacked)
    rows = [row for group in groups for row in group.rows]
    return dict(zip(rows, _per_row(groups, found.values)))


# ---------------------------------------------------------------------------- grouping


@dataclass(frozen=True)
class _Group:
    """The arrays of one module, by their place in the model; ``layers`` is None if not stacked."""

    name: str
    members: tuple[int, ...]
    layers: int | None

    @property
    def rows(self) -> list[str]:
        if self.layers is None:
            return [self.name]
        return [f"{self.name}[{layer}]" for layer in range(self.layers)]


def _groups(
    names: Sequence[str], shapes: Sequence[tuple[int, ...]], stacked: Collection[str]
) -> list[_Group]:
    """Arrays that share a module, in natural order of the modules' paths."""
    members: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        members.setdefault(name.rpartition("/")[0] or name, []).append(index)
    unknown = sorted(set(stacked) - set(members))
    if unknown:
        raise ValueError(
            f"stacked must name modules among {', '.join(sorted(members))}, got {unknown[0]!r}"
        )
    return [
        _Group(name, tuple(own), _layers_of({names[i]: shapes[i] for i in own}, name in stacked))
        for name, own in sorted(members.items(), key=lambda item: natural_order(item[0]))
    ]


def _layers_of(shapes: Mapping[str, tuple[int, ...]], told: bool) -> int | None:
    leading = {shape[:1] for shape in shapes.values()}
    if told:
        if len(leading) != 1 or leading == {()}:
            raise ValueError(
                f"stacked modules must have one leading axis of layers, got {dict(shapes)}"
            )
        return leading.pop()[0]
    return leading.pop()[0] if len(leading) == 1 and _look_stacked(shapes) else None


def _look_stacked(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """A bias or a scale has one axis; one of two beside a weight of three or more is stacked."""
    kinds = {name.rpartition("/")[2]: shape for name, shape in shapes.items()}
    vectors = [shape for name, shape in kinds.items() if name in ("bias", "scale", "b")]
    if not vectors or any(len(shape) != 2 for shape in vectors):
        return False
    return all(
        len(shape) == 2 if name in ("bias", "scale", "b") else len(shape) >= 3
        for name, shape in kinds.items()
    )


# ---------------------------------------------------------------------------- norms


def _per_row(groups: Sequence[_Group], values: Sequence[Any]) -> Norms:
    """In NumPy for NumPy arrays, in JAX for JAX's."""
    pieces = [_log_norms([values[i] for i in group.members], group.layers) for group in groups]
    if isinstance(values[0], np.ndarray):
        return np.concatenate(pieces)
    dtype = jnp.result_type(*(piece.dtype for piece in pieces))
    return jnp.concatenate([piece.astype(dtype) for piece in pieces])


def _log_norms(arrays: Sequence[Any], layers: int | None) -> Norms:
    """The log of Σ v² over the arrays, layer by layer; no square under- or overflows."""
    xp = np if isinstance(arrays[0], np.ndarray) else jnp
    arrays = [xp.abs(a) for a in arrays]
    rows = 1 if layers is None else layers
    dtype = max((jnp.dtype(jnp.float32), *(a.dtype for a in arrays)), key=lambda d: d.itemsize)
    entries = xp.concatenate([a.reshape(rows, -1).astype(dtype) for a in arrays], axis=1)
    if 0 in entries.shape:
        return xp.full(rows, -np.inf, dtype)
    largest = xp.max(xp.abs(entries), axis=1)
    some = largest > 0
    scale = xp.where(some, largest, 1)
    with np.errstate(invalid="ignore"):  # inf / inf, for a gradient that is not finite
        total = xp.sum((entries / scale[:, None]) ** 2, axis=1)
    finite = xp.log(xp.where(some, total, 1)) + 2 * xp.log(scale)
    return xp.where(some, finite, xp.where(largest == 0, -np.inf, np.nan))


def _magnitudes(array: Any) -> np.ndarray:
    """|v| of each entry, real or complex of any precision, as float64."""
    return np.asarray(jnp.abs(array), np.float64)


def _counts(groups: Sequence[_Group], values: Sequence[Any]) -> tuple[int, ...]:
    counts = []
    for group in groups:
        total = sum(math.prod(np.shape(values[index])) for index in group.members)
        rows = len(group.rows)
        counts += [total // rows] * rows if rows else []
    return tuple(counts)


def _exp(values: Norms) -> Norms:
    return jnp.exp(values) if isinstance(values, jax.Array) else np.exp(values)
