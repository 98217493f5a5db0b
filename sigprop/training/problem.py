"""What is asked of a model: the loss and the accuracy on some examples, checked once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from sigprop.training import objectives
from sigprop.training.data import Data
from sigprop.training.models import outputs_of, take_apart

__all__ = ["Problem", "problem_of"]


@dataclass(frozen=True)
class Problem:
    """A loss, and how a model is called. Static: it decides the program.

    Attributes
    ----------
    loss
        A name of `objectives.LOSSES`, or a function of (model, batch) that returns one real number.
    predict
        ``predict(model, inputs, key)``: outputs, in training if there is a key, else in evaluation.
    """

    loss: str | Callable
    predict: Callable = outputs_of

    def loss_of(self, model: Any, data: Data, key: Any) -> Any:
        """The loss, in training if there is a key."""
        if callable(self.loss):
            return jnp.asarray(self.loss(model, data))
        function = objectives.named_loss(self.loss, data.task)
        return function(self.predict(model, data.inputs, key), data.targets)

    def accuracy_of(self, model: Any, data: Data) -> Any:
        """Share of right answers; None for a regression."""
        if data.task != "classification":
            return None
        return objectives.accuracy(self.predict(model, data.inputs, None), data.targets)

    def score(self, model: Any, data: Data) -> tuple[Any, Any]:
        """Loss and accuracy in evaluation."""
        return self.loss_of(model, data, None), self.accuracy_of(model, data)


def problem_of(loss: str | Callable | None, predict: Callable | None, data: Data) -> Problem:
    """What `train` was asked for, with the task's own loss where none is named."""
    loss = objectives.default_loss(data.task) if loss is None else loss
    if isinstance(loss, str):
        objectives.named_loss(loss, data.task)
    elif not callable(loss):
        raise ValueError(f"loss must be a name or a function, got {type(loss).__name__}")
    return Problem(loss) if predict is None else Problem(loss, predict)


def check_problem(problem: Problem, init: Callable, batch: Data, key: Any) -> None:
    """Raise ValueError unless the loss of a batch can be computed and is one real number."""

    def compute(key, batch):
        model = take_apart(init(key)).model()
        outputs = None if callable(problem.loss) else problem.predict(model, batch.inputs, key)
        return outputs, problem.loss_of(model, batch, key)

    shapes = f"inputs of shape {batch.inputs.shape}"
    try:
        outputs, value = jax.eval_shape(compute, key, batch)
    except (TypeError, ValueError, IndexError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ValueError(f"the model must accept a batch with {shapes}: {first}") from error
    if outputs is not None:
        _check_outputs(outputs, batch)
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"loss must return one real number, got shape {value.shape} of {value.dtype}"
        )


def _check_outputs(outputs: Any, batch: Data) -> None:
    wanted = (len(batch), batch.out_features)
    given = getattr(outputs, "shape", type(outputs).__name__)
    if given != wanted:
        raise ValueError(f"the model's outputs for a batch must have shape {wanted}, got {given}")
