"""One call on one's own model: is it fit to be trained, and if not, what would repair it?"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen, nnx

from sigprop.diagnosis.readings import read
from sigprop.diagnosis.remedy import suggestion
from sigprop.diagnosis.report import Diagnosis
from sigprop.diagnosis.statistics import layer_readings
from sigprop.diagnosis.verdict import judge
from sigprop.gradients.objective import objective

__all__ = ["diagnose"]


def diagnose(model: Any, loss: Callable[[Any, Any], Any], batch: Any) -> Diagnosis:
    """Read every layer of a model on one batch, forwards and backwards, and judge.

    Parameters
    ----------
    model
        A Flax NNX module, a bound Linen module (``module.bind(variables)``) or a pair
        (module, variables), a callable pytree (Equinox modules, dataclasses), or a list of
        callables. It is not changed, and need not be written for this.
    loss
        ``loss(model, batch)`` returns one real number. The model it gets is of the type that was
        given (of a list, a list whose functions report what passes through them).
    batch
        Whatever ``loss`` takes: tens of examples are enough.

    Returns
    -------
    Diagnosis
        ``.verdict`` ("healthy", "vanishing", "exploding", "nonfinite"), ``.evidence``,
        ``.suggestion``, ``.assert_healthy()``. Weights of which no use could be read (inside a
        function with a derivative of its own, say) are named in ``.unread`` and in the evidence.

    Raises
    ------
    ValueError
        If the model is not callable or has no parameters, or the loss does not use it, fails on
        the batch or is not one real number.

    Notes
    -----
    Growth is that of ln ‖∂loss/∂z‖² over the layers with weights, z being their outputs.
    *Vanishing* and *exploding* mean a factor of more than 10 in norm from the last to the first, by
    two standard errors beyond it; *vanishing* too if the first receives no gradient at all.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from sigprop.architecture import Architecture
    >>> from sigprop.networks import MLP
    >>> network = MLP(Architecture(12, 64, "sigmoid", 1.0, 0.0), 8, 1, rngs=jax.random.key(0))
    >>> x = jax.random.normal(jax.random.key(1), (16, 8))
    >>> found = diagnose(network, lambda network, x: jnp.mean(network(x) ** 2), x)
    >>> found.verdict, found.gradient_rate < -2
    ('vanishing', True)
    >>> print(found.suggestion[:54])
    no usual initialisation of sigmoid is critical: tanh w
    """
    if not _is_callable(model):
        raise ValueError(
            "model must be a Flax module, a callable pytree or a list of callables, got "
            f"{type(model).__name__}; gradients.layer_norms reads plain trees of arrays"
        )
    readings = read(objective(model, loss, batch))
    layers = layer_readings(readings.layers, readings.gradients, readings.parameters)
    finding = judge(readings, layers, _finite(batch))
    return Diagnosis(
        verdict=finding.verdict,
        evidence=finding.evidence,
        suggestion=suggestion(finding, layers),
        loss=readings.loss,
        gradient_rate=finding.growth.rate,
        gradient_rate_stderr=finding.growth.stderr,
        layers=layers,
        unread=readings.unread,
    )


def _is_callable(model: Any) -> bool:
    """The model itself, or anything in a container of layers."""
    if callable(model) or isinstance(model, nnx.Module | linen.Module):
        return True
    parts = jax.tree.leaves(model, is_leaf=lambda node: callable(node) and node is not model)
    return any(callable(part) for part in parts)


def _finite(batch: Any) -> bool:
    arrays = [leaf for leaf in jax.tree.leaves(batch) if hasattr(leaf, "dtype")]
    floating = [array for array in arrays if jax.numpy.issubdtype(array.dtype, np.floating)]
    return all(bool(np.isfinite(np.asarray(array, np.float64)).all()) for array in floating)
