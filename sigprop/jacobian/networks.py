"""Networks whose depth is scanned, as layers: by their structure, or by what a block does."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sigprop.jacobian.layered import Dense, Layered, Layers, layer_jacobian

__all__ = ["BlockNetwork", "ScannedNetwork", "as_layered", "hidden_layers"]

_PRECISION = lax.Precision.HIGHEST


@runtime_checkable
class ScannedNetwork(Protocol):
    """A layer apart and a stack of layers: ``z¹ = first(x⁰)``, ``z^{l+1} = W φ(z^l) + b``.

    ``first`` and ``hidden`` give (weight, bias) by ``effective()``, the stack's with a leading axis
    of layers; ``activation`` has ``fn`` and ``derivative``. `sigprop.networks.MLP` is one.
    """

    first: Any
    hidden: Any
    activation: Any


@runtime_checkable
class BlockNetwork(Protocol):
    """A network that says itself what a layer does: ``z^{l+1} = layer(z^l, parameters)``.

    `sigprop.networks.MLP` is one. Where it says that it is ``elementwise``, it is taken for a
    `ScannedNetwork`.
    """

    first: Any
    elementwise: bool
    couples_inputs: bool

    def layers(self) -> Any:
        """Parameters of layers 2..depth, stacked along a leading axis."""
        ...

    def layer(self, z: Any, parameters: Any) -> Any:
        """From z^l to z^{l+1}."""
        ...

    def features(self, x: Any) -> Any:
        """x^depth, from x⁰."""
        ...

    def outputs(self, z: Any) -> Any:
        """x^depth, from z^depth."""
        ...


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["first", "weights", "biases"],
    meta_fields=["activation"],
)
@dataclass(frozen=True)
class _ElementwiseStack:
    """x^l = φ(W x^{l-1} + b): one layer of any shape, then a scanned stack of square ones."""

    first: Dense
    weights: Float[Array, "layers width width"]
    biases: Float[Array, "layers width"]
    activation: Any

    def jacobians(self, x):
        def advance(x, layer):
            weight, bias = layer
            dense = Dense(weight, bias, self.activation)
            return dense(x), layer_jacobian(dense, x, x)

        x1 = self.first(x)
        start = layer_jacobian(self.first, x, x1)
        rest = lax.scan(advance, x1, (self.weights, self.biases))[1]
        if start.shape == rest.shape[1:]:
            return [jnp.concatenate([start[None], rest])]
        return [start[None], rest] if len(rest) else [start[None]]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["weights", "biases"], meta_fields=["activation"]
)
@dataclass(frozen=True)
class _HiddenStack:
    """z -> W φ(z) + b, with Jacobian ``W diag(φ'(z))``."""

    weights: Float[Array, "layers width width"]
    biases: Float[Array, "layers width"]
    activation: Any

    def jacobians(self, x):
        def advance(z, layer):
            weight, bias = layer
            after = jnp.matmul(weight, self.activation.fn(z), precision=_PRECISION) + bias
            return after, weight * self.activation.derivative(z)

        return [lax.scan(advance, x, (self.weights, self.biases))[1]]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["network"], meta_fields=["from_z1"]
)
@dataclass(frozen=True)
class _BlockStack:
    """x⁰ -> z¹ -> ... -> z^{L-1} -> x^L; or, from z¹ on, z¹ -> ... -> z^L."""

    network: Any
    from_z1: bool

    def jacobians(self, x):
        _check_batch(self.network, x)
        layers = self.network.layers()
        if self.from_z1:
            return [self._scan(x, layers)[1]]
        depth = 1 + len(jax.tree.leaves(layers)[0])
        if depth == 1:
            return [self._of(lambda x: self.network.outputs(self.network.first(x)), x)[None]]
        z = self.network.first(x)
        start = self._of(self.network.first, x)
        z, between = self._scan(z, jax.tree.map(lambda v: v[:-1], layers))
        last = jax.tree.map(lambda v: v[-1], layers)
        end = self._of(lambda z: self.network.outputs(self.network.layer(z, last)), z)
        rest = jnp.concatenate([between, end[None]])
        if start.shape == rest.shape[1:]:
            return [jnp.concatenate([start[None], rest])]
        return [start[None], rest]

    def _scan(self, z, layers):
        def advance(z, parameters):
            layer = lambda z: self.network.layer(z, parameters)  # noqa: E731
            return layer(z), self._of(layer, z)

        return lax.scan(advance, z, layers)

    def _of(self, layer, x):
        return layer_jacobian(layer, x, jax.eval_shape(layer, x))


def _check_batch(network: BlockNetwork, x) -> None:
    if network.couples_inputs and x.ndim < 2:
        raise ValueError(
            f"x must be a batch, shape (batch, features), got shape {x.shape}: through the "
            "statistics of batch_norm the Jacobian is that of the whole batch; for that of one "
            "input hold the statistics fixed: network.holding(network.statistics(batch))"
        )


def hidden_layers(network: ScannedNetwork) -> Layered:
    """The square layers of a network, ``z^l -> z^{l+1}``, to be looked at from an input z¹.

    With blocks of any kind; dropout is left out, and batch norm is treated as `as_layered` says.
    Spectra of a network whose inputs have fewer entries than its layers have units would otherwise
    be those of a matrix of low rank.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from sigprop.architecture import Architecture
    >>> from sigprop.jacobian import spectra
    >>> from sigprop.networks import MLP
    >>> network = MLP(Architecture(4, 16, "tanh", 1.5, 0.1), 8, rngs=jax.random.key(0))
    >>> z1 = network.first(jnp.ones(8))
    >>> spectra(hidden_layers(network), z1).shape
    (3, 16)
    """
    if isinstance(network, BlockNetwork) and not network.elementwise:
        return _BlockStack(network, from_z1=True)
    weights, biases = network.hidden.effective()
    return _HiddenStack(weights, biases, network.activation)


def as_layered(layered: Any) -> Layered:
    """``layered`` itself, or what a list of functions or a `ScannedNetwork` is as layers.

    The layers of a plain network are x^{l-1} -> x^l. Those of a `BlockNetwork` go from z^l to
    z^{l+1}, as a residual block has it; the first from x⁰ to z¹ and the last to x^depth, so that
    the product of all is ∂x^depth/∂x⁰ for every block. Networks are looked at without dropout.

    Batch norm couples the inputs of a batch. A Jacobian through its statistics is that of the whole
    batch: x of shape (batch, features), a matrix of batch·width rows. That of one input exists
    where the statistics are held fixed: ``network.holding(network.statistics(batch))``.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if isinstance(layered, list | tuple):
        return Layers(layered)
    if hasattr(layered, "jacobians"):
        return layered
    if isinstance(layered, BlockNetwork) and not layered.elementwise:
        return _BlockStack(layered, from_z1=False)
    if isinstance(layered, ScannedNetwork):
        weight, bias = layered.first.effective()
        weights, biases = layered.hidden.effective()
        first = Dense(weight, bias, layered.activation)
        return _ElementwiseStack(first, weights, biases, layered.activation)
    if isinstance(layered, Iterable):
        return Layers(layered)
    raise ValueError(
        "layered must be Layers, Scanned, a network of scanned layers (sigprop.networks.MLP) or a "
        f"list of functions, got {type(layered).__name__}; for one function: singular_values"
    )
