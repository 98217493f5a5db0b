"""The neural tangent kernel of a network as it stands, of any width and any model."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sigprop._checks import check_finite
from sigprop.gradients.parameters import take_apart

__all__ = ["empirical_ntk"]

Kernel = Float[Array, "n m out out"] | Float[Array, "n m"]


def empirical_ntk(
    model: Any,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    apply: Callable[[Any, Any], Any] | None = None,
    trace: bool = False,
) -> Kernel:
    """Θ_ab(x, x') = ⟨∂f_a(x)/∂θ, ∂f_b(x')/∂θ⟩ over every trained array θ of a model.

    Parameters
    ----------
    model
        Anything that `layer_norms` takes: a Flax NNX module, a bound Linen module, a pytree of
        arrays. A sigprop `MLP` compares with `theory.kernels` in ``parameterisation="ntk"``.
    x1, x2
        Inputs (n, ...) and (m, ...), the leading axis counting them; ``x2`` is ``x1`` if None.
    apply
        ``apply(model, x)`` is the output for ONE input, of any shape, its entries counted as
        ``out``. ``model(x)`` by default.
    trace
        Average the diagonal over outputs, Σ_a Θ_aa/out: (n, m) rather than (n, m, out, out).

    Returns
    -------
    jax.Array
        (n, m, out, out), or (n, m), in the parameters' precision. Works under jit and vmap.

    Raises
    ------
    ValueError
        For inputs that are not finite or of shapes that differ, a model without parameters, or an
        output that is not real.

    Notes
    -----
    Row x is one backward pass for each output; a forward-mode pass along it then meets every x'
    (Novak, Sohl-Dickstein and Schoenholz 2022): no Jacobian of all inputs is ever held, at most
    the gradients of one input's outputs. Multiplies run at the highest precision.

    Examples
    --------
    >>> x = jnp.asarray([[1.0, 2.0], [3.0, 0.0]])
    >>> linear = {"weight": jnp.zeros(2), "bias": jnp.zeros(())}
    >>> out = lambda p, x: p["weight"] @ x + p["bias"]
    >>> empirical_ntk(linear, x, apply=out, trace=True).tolist()  # x·x' + 1
    [[6.0, 4.0], [4.0, 10.0]]
    """
    x1 = _inputs("x1", x1)
    x2 = x1 if x2 is None else _inputs("x2", x2)
    if x1.shape[1:] != x2.shape[1:]:
        raise ValueError(
            f"x2 must hold inputs of shape {x1.shape[1:]} as x1 does, got {x2.shape[1:]}"
        )
    parameters = take_apart(model)
    call = _call if apply is None else apply

    def outputs(values, x):
        return jnp.ravel(call(parameters.rebuild(values), x))

    count = _outputs_of(outputs, parameters.values, x1[0])

    def entry(rows, x):
        """Every output's gradient row against every output at ``x``: (out, out)."""
        # By a complex array, JAX's gradient is the conjugate of the direction of steepest ascent.
        rows = jax.tree.map(jnp.conj, rows)
        along = lambda row: jax.jvp(lambda v: outputs(v, x), (parameters.values,), (row,))[1]  # noqa: E731
        block = jax.vmap(along)(rows)
        return jnp.trace(block) / count if trace else block

    def row(x):
        out, pull = jax.vjp(lambda v: outputs(v, x), parameters.values)
        (rows,) = jax.vmap(pull)(jnp.eye(count, dtype=out.dtype))
        return jax.vmap(lambda other: entry(rows, other))(x2)

    with jax.default_matmul_precision("highest"):
        return jax.lax.map(row, x1)


def _call(model, x):
    return model(x)


def _inputs(name: str, x: ArrayLike):
    check_finite(name, x)
    if jnp.ndim(x) < 1 or 0 in jnp.shape(x):
        raise ValueError(f"{name} must hold one input or more along axis 0, got {jnp.shape(x)}")
    array = x if isinstance(x, jax.Array) else np.asarray(x)
    return jnp.asarray(array, jnp.result_type(float) if array.dtype == np.float64 else None)


def _outputs_of(outputs: Callable, values: tuple[Any, ...], x) -> int:
    """How many entries an output has."""
    shape = jax.eval_shape(outputs, values, x)
    if not jnp.issubdtype(shape.dtype, jnp.floating):
        raise ValueError(f"model must return real numbers, got {shape.dtype}")
    return shape.size
