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

from sigprop.jacobian.flat import has_forward_mode, stateless

__all__ = [
    "Dense",
    "ElementwiseLayer",
    "Layered",
    "Layers",
    "Scanned",
    "layer_jacobian",
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
        for index, layer in enumerate(map(stateless, self.layers)):
            after = _shape_after(layer, x, f"layers[{index}]")
            jacobians.append(layer_jacobian(layer, x, after))
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
            return layer(x), layer_jacobian(layer, x, x)

        return [lax.scan(advance, x, self.stacked_params)[1]]

    def layer(self, params: Any) -> Callable:
        """The layer with these parameters."""

        def apply(x):
            new = self.step(x, params)
            return new[0] if isinstance(new, tuple) else new

        return apply


def layer_jacobian(layer, x, after) -> Float[Array, "out in"]:
    """From the (weight, derivative) a layer exposes, or in the mode with fewer passes."""
    if isinstance(layer, ElementwiseLayer):
        weight, derivative = layer.weight_and_derivative(x)
        return derivative[:, None] * weight
    forward = x.size <= after.size and has_forward_mode(layer, x)
    differentiate = jax.jacfwd if forward else jax.jacrev
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
