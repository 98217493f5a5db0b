"""One call on one's own model: is it fit to be trained, and if not, what would repair it?"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen, nnx

from sigprop.diagnosis.reading import read
from sigprop.diagnosis.remedy import remedy
from sigprop.diagnosis.report import Diagnosis, without_slope
from sigprop.diagnosis.statistics import layer_readings
from sigprop.diagnosis.structure import structure_of
from sigprop.diagnosis.verdict import Finding, judge, share_read, unread
from sigprop.gradients.objective import ConstantLoss, objective, one_number

__all__ = ["diagnose"]


def diagnose(
    model: Any,
    loss: Callable[[Any, Any], Any],
    batch: Any,
    *,
    apply: Callable[..., Any] | None = None,
) -> Diagnosis:
    """Read every layer of a model on one batch, forwards and backwards, and judge.

    Parameters
    ----------
    model
        A Flax NNX module, a bound Linen module (``module.bind(variables)``) or a pair
        (module, variables), a callable pytree (Equinox modules, dataclasses), a list of callables,
        any tree that holds one of these (a pair of an Equinox model and its state), or, with
        ``apply``, a tree of arrays. It is not changed, and need not be written for this.
    loss
        ``loss(model, batch)`` returns one real number, or a tuple that begins with it. The model it
        gets is of the type that was given.
    batch
        Whatever ``loss`` takes: tens of examples are enough.
    apply
        For parameters without a model around them, as Haiku and Flax's TrainState have them: the
        loss is then given the function ``model(*args) = apply(params, *args)``.

    Returns
    -------
    Diagnosis
        ``.verdict`` ("healthy", "vanishing", "exploding", "nonfinite", "undecided", "unread"),
        ``.evidence``, ``.suggestion``, ``.assert_healthy()``, which fails on all but the first.

    Raises
    ------
    ValueError
        If the model is not callable or has no parameters, or the loss does not use it, fails on
        the batch or is not one real number.

    Notes
    -----
    The loss is read as a program (a jaxpr), in which every multiply of a signal by parameters is a
    layer, whoever wrote it. A way through layers goes from the loss to the input; where it splits,
    every branch is a way of its own. *Vanishing* and *exploding* mean that |∂loss/∂z| changes by
    more than a factor of 10 from the last layer of a way to its first, or from the last step of a
    loop through time to its first. docs/diagnosis.md says what each verdict can and cannot tell.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from sigprop.architecture import Architecture
    >>> from sigprop.networks import MLP
    >>> network = MLP(Architecture(12, 64, "relu", 1.0, 0.0), 8, 1, rngs=jax.random.key(0))
    >>> x = jax.random.normal(jax.random.key(1), (16, 8))
    >>> found = diagnose(network, lambda network, x: jnp.mean((network(x) - 1) ** 2), x)
    >>> found.verdict, found.gradient_rate < -0.3
    ('vanishing', True)
    >>> print(found.suggestion[:28])
    weight variance 1.01 -> 2.00
    """
    if apply is not None:
        loss = _of_function(loss, apply)
    try:
        target = _objective(model, loss, batch, apply is not None)
    except ConstantLoss:
        return without_slope(float(one_number(loss(model, batch))))
    structure = structure_of(target, model)
    finite = _finite(batch)

    def judged(values: Sequence[Any], trial_of: Finding | None = None):
        reading = read(structure, values)
        layers = layer_readings(reading)
        return reading, layers, judge(reading, layers, finite, trial_of)

    reading, layers, finding = judged(target.parameters.values)
    advice, cure = remedy(reading, finding, layers, lambda values: judged(values, finding)[2])
    return Diagnosis(
        verdict=finding.verdict,
        evidence=finding.evidence,
        suggestion=advice,
        loss=reading.measured.loss,
        gradient_rate=finding.ends.rate,
        gradient_rate_stderr=finding.ends.rate_stderr,
        layers=layers,
        unread=unread(reading),
        opened=reading.opened,
        share_read=share_read(reading),
        repaired=None if cure is None else target.parameters.rebuild(cure),
    )


def _of_function(loss: Callable, apply: Callable) -> Callable:
    return lambda params, batch: loss(lambda *args, **more: apply(params, *args, **more), batch)


def _objective(model: Any, loss: Callable, batch: Any, applied: bool):
    """Checked; of what cannot be called at all, that is said rather than what came of it."""
    callable_ = applied or _is_callable(model)
    try:
        return objective(model, loss, batch)
    except ValueError as error:
        if callable_:
            raise
        raise ValueError(
            "model must be a Flax module, a callable pytree or a list of callables, or come with "
            f"apply=, got {type(model).__name__}: {error}"
        ) from error


def _is_callable(model: Any) -> bool:
    """The model itself, or anything in a container of layers."""
    if callable(model) or isinstance(model, nnx.Module | linen.Module):
        return True
    parts = jax.tree.leaves(model, is_leaf=lambda node: callable(node) and node is not model)
    return any(callable(part) for part in parts)


def _finite(batch: Any) -> bool:
    arrays = [leaf for leaf in jax.tree.leaves(batch) if hasattr(leaf, "dtype")]
    floating = [array for array in arrays if jax.numpy.issubdtype(array.dtype, np.inexact)]
    return all(bool(np.isfinite(np.asarray(array)).all()) for array in floating)
