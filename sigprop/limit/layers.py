"""What a layer, given as the function that it is, does to the covariances of a Gaussian signal."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sigprop._precision import exact_float64
from sigprop.limit import second_moments
from sigprop.limit.atoms import Atom, Form
from sigprop.limit.axes import labelled
from sigprop.limit.exact import Interpreter
from sigprop.limit.recognised import learn
from sigprop.limit.signals import Const, Signal, Unknown, of_form
from sigprop.limit.tracing import straight, traced
from sigprop.limit.weights import Law, whole

__all__ = ["layer_covariance"]

# What the largest of all units may be taken for, without the layer's covariance feeling it.
_LARGEST = (4.0, 37.0)


@exact_float64
def layer_covariance(
    act: Callable,
    variance: Float[np.ndarray, "inputs places"],
    lack: Float[np.ndarray, "points points"],
    *,
    weights: Mapping[str, tuple[tuple[int, ...], float]],
    width: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """E[y²], and what every two points of y lack, for y = act(weights, x) of a Gaussian x.

    Parameters
    ----------
    act
        ``act(weights, x)``, weights by name and x of shape (inputs, places, width).
    variance
        E[x²] of every input at every place.
    lack
        ½ E[(x - x̂)²] of every two points (inputs by places, in row-major order).
    weights
        Shape and variance of the entries of every array, by name; a variance of 0 stands for ones.
    width
        Of x; at least 64, so that sums over it count as means.

    Returns
    -------
    The same of y, points in its own row-major order.

    Raises
    ------
    ValueError
        If it does not close exactly; the operation and the reason are named.

    Examples
    --------
    >>> import jax
    >>> half = lambda w, x: jax.nn.relu(x) @ w["kernel"]
    >>> one = np.ones((1, 1)), np.zeros((1, 1))
    >>> found, _ = layer_covariance(half, *one, weights={"kernel": ((64, 64), 1 / 64)})
    >>> found.round(12).tolist()
    [0.5]
    """
    learn()
    inputs, places = variance.shape
    shapes = {name: shape for name, (shape, _) in weights.items()}
    ones = {name: jnp.ones(shape) for name, shape in shapes.items()}
    program = traced(straight, act, ones, jnp.ones((inputs, places, width)))[0]
    names = sorted(weights)  # the order of a dict's leaves
    values: list[Any] = []
    for n, name in enumerate(names):
        shape, var = weights[name]
        values.append(whole(n, shape, Law(var, 0.0, True, 1)) if var else Const(np.ones(shape)))
    axes = labelled((inputs, places, width), (2,))
    count = inputs * places
    form = Form({(Atom("signal", variance.ravel(), lack), ()): np.eye(count)}, count)
    given = [*values, of_form(axes, form)]
    arrays = {n: shapes[name] for n, name in enumerate(names)}
    try:
        one, other = (_moments(Interpreter(arrays, {}, size), program, given) for size in _LARGEST)
    finally:
        second_moments.forget()
    for a, b in zip(one, other):
        if not np.allclose(a, b, rtol=1e-9, atol=1e-12 * one[0].max(initial=0)):
            raise ValueError("the layer does not close exactly: it hangs on its largest unit")
    return one


def _moments(engine: Interpreter, program: Any, given: list) -> tuple[np.ndarray, np.ndarray]:
    (found,) = engine.run(program.jaxpr, program.consts, given)
    if isinstance(found, Unknown):
        raise ValueError(f"the layer does not close exactly: {found}")
    if not isinstance(found, Signal):
        raise ValueError("the layer does not close exactly: its output is a known array")
    return second_moments.variance(found), second_moments.lacking(found, found)
