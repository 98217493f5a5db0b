"""What counts as layered: things that give their layers' Jacobians along the way of one input."""

import functools
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

__all__ = [
    "Dense",
    "ElementwiseLayer",
    "Layered",
    "Layers",
    "Scanned",
    "ScannedNetwork",
    "as_layered",
    "hidden_layers",
]

_PRECISION = lax.Precision.HIGHEST


@runtime_checkable
class Layered(Protocol):
    """Anything that can say what its layers' Jacobians are at an input."""

    def jacobians(self, x: Any) -> list[Any]:
        """Arrays (layers, out, in), consecutive layers of equal shape together."""
        ...


@runtime_checkable
class ElementwiseLayer(Protocol):
    """A layer that knows its Jacobian without differentiation."""

    def weight_and_derivative(self, x: Any) -> tuple[Any, Any]:
        """``(W, d)`` with Jacobian ``diag(d) @ W`` at x."""
        ...


@runtime_checkable
class ScannedNetwork(Protocol):
    """A layer apart and a stack of layers: ``z¹ = first(x⁰)``, ``z^{l+1} = W φ(z^l) + b``.

    ``first`` and ``hidden`` give (weight, bias) by ``effective()``, the stack's with a leading axis
    of layers; ``activation`` has ``fn`` and ``derivative``. `sigprop.networks.MLP` is one.
    """

    first: Any
    hidden: Any
    activation: Any


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["weight", "bias"], meta_fields=["activation"]
)
@dataclass(frozen=True)
class Dense:
    """x -> φ(W x + b), whose Jacobian is ``diag(φ'(W x + b)) W``.

    Parameters
    ----------
    weight, bias
        W, shape (out, in), and b, shape (out,).
    activation
        Has ``fn`` and ``derivative``, as what `sigprop.activations.get` returns.
    """

    weight: Float[Array, "out in"]
    bias: Float[Array, " out"]
    activation: Any

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        """φ(W x + b)."""
        return self.activation.fn(self._affine(x))

    def weight_and_derivative(
        self, x: Float[Array, " in"]
    ) -> tuple[Float[Array, "out in"], Float[Array, " out"]]:
        """W and φ'(W x + b)."""
        return self.weight, self.activation.derivative(self._affine(x))

    def _affine(self, x):
        return jnp.matmul(self.weight, x, precision=_PRECISION) + self.bias


@jax.tree_util.register_pytree_node_class
class Layers:
    """Functions applied one after the other; the sizes of their arrays may differ.

    Parameters
    ----------
    layers
        Callables (functions, NNX modules, `Dense`), the first to act first. One with a method
        ``weight_and_derivative(x) -> (W, d)`` is not differentiated: its Jacobian is diag(d) W.

    Raises
    ------
    ValueError
        If there are none, or one is not callable.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> halves = Layers([jnp.tanh, lambda x: x[:2] / 2])
    >>> halves(jnp.zeros(3)).shape
    (2,)
    """

    def __init__(self, layers: Iterable[Callable]):
        self.layers = tuple(layers)
        if not self.layers:
            raise ValueError("layers must hold at least one function, got none")

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The composition."""
        for layer in self.layers:
            x = layer(x)
        return x

    def jacobians(self, x: Float[Array, "..."]) -> list[Float[Array, "_ out in"]]:
        """Layers' Jacobians at x, in groups of equal shape."""
        jacobians = []
        for index, layer in enumerate(self.layers):
            after = _shape_after(layer, x, f"layers[{index}]")
            jacobians.append(_layer_jacobian(layer, x, after))
            x = layer(x)
        return _grouped(jacobians)

    def tree_flatten(self):
        """The layers that are pytrees are traced, plain functions are static."""
        leaves, structure = jax.tree.flatten(self.layers)
        dynamic = [None if callable(leaf) else leaf for leaf in leaves]
        static = tuple(leaf if callable(leaf) else None for leaf in leaves)
        return dynamic, (structure, static)

    @classmethod
    def tree_unflatten(cls, static, dynamic):
        """The reverse of `tree_flatten`."""
        structure, functions = static
        leaves = [d if f is None else f for d, f in zip(dynamic, functions)]
        layers = object.__new__(cls)
        layers.layers = tuple(jax.tree.unflatten(structure, leaves))
        return layers


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["stacked_params"], meta_fields=["step"]
)
@dataclass(frozen=True)
class Scanned:
    """One function applied with one set of parameters after another; compile time ignores depth.

    Parameters
    ----------
    step
        ``step(x, params) -> next x`` of the shape of x. As in `jax.lax.scan`, a pair (next x,
        anything) is accepted.
    stacked_params
        Pytree whose leaves have a leading axis of layers.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> scaled = Scanned(lambda x, a: jnp.tanh(a * x), jnp.array([1.0, 2.0]))
    >>> scaled(jnp.zeros(3)).shape
    (3,)
    """

    step: Callable
    stacked_params: Any

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The composition."""
        return lax.scan(lambda x, p: (self.layer(p)(x), None), x, self.stacked_params)[0]

    @property
    def depth(self) -> int:
        """How many layers."""
        lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(self.stacked_params)}
        if len(lengths) != 1 or lengths == {()}:
            raise ValueError(
                "stacked_params must have one leading axis of layers, got leading axes "
                f"{sorted(lengths)}"
            )
        return lengths.pop()[0]

    def jacobians(self, x: Float[Array, "..."]) -> list[Float[Array, "_ out in"]]:
        """Layers' Jacobians at x, one group."""
        first = jax.tree.map(lambda leaf: leaf[0], self.stacked_params)
        after = _shape_after(self.layer(first), x, "step") if self.depth else x
        if after.shape != x.shape or after.dtype != x.dtype:
            raise ValueError(
                f"step must return an array like the x it is given, {x.dtype}{list(x.shape)}, "
                f"got {after.dtype}{list(after.shape)}"
            )

        def advance(x, params):
            layer = self.layer(params)
            return layer(x), _layer_jacobian(layer, x, x)

        return [lax.scan(advance, x, self.stacked_params)[1]]

    def layer(self, params: Any) -> Callable:
        """The layer with these parameters."""

        def apply(x):
            new = self.step(x, params)
            return new[0] if isinstance(new, tuple) else new

        return apply


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
            return dense(x), _layer_jacobian(dense, x, x)

        x1 = self.first(x)
        start = _layer_jacobian(self.first, x, x1)
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


def hidden_layers(network: ScannedNetwork) -> Layered:
    """The square layers of a network, ``z^l -> z^{l+1}``, to be looked at from an input z¹.

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
    weights, biases = network.hidden.effective()
    return _HiddenStack(weights, biases, network.activation)


def as_layered(layered: Any) -> Layered:
    """``layered`` itself, or what a list of functions or a `ScannedNetwork` is as layers.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if isinstance(layered, list | tuple):
        return Layers(layered)
    if hasattr(layered, "jacobians"):
        return layered
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


def _layer_jacobian(layer, x, after) -> Float[Array, "out in"]:
    """From the (weight, derivative) a layer exposes, or in the mode with fewer passes."""
    if isinstance(layer, ElementwiseLayer):
        weight, derivative = layer.weight_and_derivative(x)
        return derivative[:, None] * weight
    differentiate = jax.jacfwd if x.size <= after.size else jax.jacrev
    with jax.default_matmul_precision("highest"):
        return differentiate(layer)(x).reshape(after.size, x.size)


def _shape_after(layer, x, name):
    try:
        after = jax.eval_shape(layer, x)
    except (TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{name} does not take an array of shape {x.shape}: {reason}") from error
    if not isinstance(after, jax.ShapeDtypeStruct) or not jnp.issubdtype(after.dtype, jnp.floating):
        given = jax.tree.map(lambda leaf: str(leaf.dtype), after)
        raise ValueError(f"{name} must return one array of floating-point numbers, got {given}")
    return after


def _grouped(jacobians) -> list[Float[Array, "_ out in"]]:
    groups = itertools.groupby(jacobians, key=jnp.shape)
    return [jnp.stack(list(group)) for _, group in groups]
