"""The training loop: scanned over steps, mapped over whatever is traced, frozen on divergence."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax, tree_util
from jax.typing import ArrayLike

from sigprop._checks import check_whole_number
from sigprop._precision import is_traced
from sigprop.training.batches import batch_at, checked_batch_size
from sigprop.training.data import Data, Splits, as_splits
from sigprop.training.models import Parts, initialiser_of, take_apart, weights_among
from sigprop.training.optimisers import AnyOptimiser, Optimiser, as_optimiser
from sigprop.training.problem import Problem, check_problem, problem_of
from sigprop.training.progress import shown
from sigprop.training.readings import Reading, Readings, read
from sigprop.training.stopping import Patience, Stopping

__all__ = ["Settings", "Training", "begin", "checked_call", "finish", "train"]


@dataclass(frozen=True)
class Settings:
    """All that decides the compiled program, besides shapes."""

    steps: int
    batch_size: int
    problem: Problem
    readings: Readings
    patience: Patience | None = None
    keep_model: bool = True

    @property
    def block(self) -> int:
        """Steps between readings."""
        return min(self.readings.every or self.steps, self.steps)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Steps before each reading: none before the first, fewer perhaps before the last."""
        rest = self.steps % self.block
        return (0, *[self.block] * (self.steps // self.block), *([rest] if rest else []))


@tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """All that changes from step to step."""

    parts: Parts
    optimiser: Any
    step: Any
    diverged_at: Any
    stopping: Stopping | None


@tree_util.register_dataclass
@dataclass(frozen=True)
class Training:
    """How it went. Under `jax.vmap`, and from `train_grid`, every array has leading axes.

    Attributes
    ----------
    loss
        (steps,): loss of each step's batch before its update; nan for steps that were not taken.
    diverged_at
        Step whose loss or gradient was the first not to be finite, from which on the parameters
        stand still; -1 if none.
    stopped_at
        Step at which early stopping ended it; -1 if it did not.
    reading_steps
        (readings,): steps taken before each reading.
    readings
        `Reading`, every array with a leading axis of readings.
    test_loss, test_accuracy
        At the end, on the test examples; None without them, or without classes.
    final
        The trained model taken apart (`Parts`); None if it was not to be kept.
    """

    loss: Any
    diverged_at: Any
    stopped_at: Any
    reading_steps: Any
    readings: Reading
    test_loss: Any
    test_accuracy: Any
    final: Any

    @property
    def model(self) -> Any:
        """The trained model (of one run: under vmap, index the record first)."""
        return self.final.model()

    @property
    def train_loss(self) -> Any:
        """Loss on training examples, by reading."""
        return self.readings.train_loss

    @property
    def accuracy(self) -> Any:
        """Accuracy on training examples, by reading; None for a regression."""
        return self.readings.accuracy

    @property
    def layer_gradient_norms(self) -> dict[str, Any] | None:
        """By layer: norm of the gradient of the training loss by the weights, by reading."""
        return self.readings.layer_gradient_norms


def train(
    architecture_or_init: Any,
    data: Data | Splits | tuple[Any, Any],
    optimiser: Optimiser | optax.GradientTransformation,
    *,
    steps: int,
    key: Any,
    batch_size: int | None = None,
    loss: str | Callable | None = None,
    predict: Callable | None = None,
    readings: Readings = Readings(),  # noqa: B008  # frozen
    patience: int | None = None,
    min_improvement: float = 0.0,
    keep_model: bool = True,
    progress: bool = False,
) -> Training:
    """Train one network; under `jax.vmap`, a grid of them.

    Parameters
    ----------
    architecture_or_init
        An `Architecture` (with a readout for the task added), an NNX module that is
        trained as it is, or a function of a key that makes a model: an NNX module, or any callable
        pytree. Arrays inside a `jax.tree_util.Partial` or an
        Architecture may be traced.
    data
        Examples to train on, or `Splits` with validation and test examples too. A pair of arrays
        (inputs, targets) is a classification if the targets are whole numbers, one for each
        input, else a regression.
    optimiser
        Rule, step size, clipping, penalty; its numbers may be traced. Or any Optax transformation.
    steps
        Updates, >= 1.
    key
        Decides the initialisation, the batches and the dropout masks.
    batch_size
        Examples a step, drawn without replacement and shuffled anew every epoch; all of them, in
        their order, if None.
    loss
        "cross_entropy" (what a classification has by default), "mean_squared_error", or a function
        of (model, batch) that returns one real number, where ``batch`` has inputs and targets.
    predict
        ``predict(model, inputs, key)`` if a model is not called as ``model(inputs)``; the key is
        None in evaluation.
    readings
        What to read on the way, and how often.
    patience
        Stop after this many readings in a row without a better validation loss, and go back to the
        best; None: never.
    min_improvement
        By how much a validation loss must be lower to count as better, >= 0.
    keep_model
        Whether the record holds the trained model.
    progress
        Whether to show a progress bar on the error stream, moved at every reading.

    Returns
    -------
    Training
        Divergence and early stopping are data: the step is recorded and the parameters stand still.

    Raises
    ------
    ValueError
        For data, sizes, a loss or a model that do not fit.

    Examples
    --------
    >>> from sigprop.architecture import Architecture
    >>> from sigprop.training.tasks import digits
    >>> relu = Architecture(depth=2, width=32, activation="relu", initialiser="he")
    >>> run = train(relu, digits(), Optimiser("adam", 1e-2), steps=100, batch_size=64,
    ...             key=jax.random.key(0))
    >>> run.loss.shape, bool(run.test_accuracy > 0.8), int(run.diverged_at)
    ((100,), True, -1)
    """
    rule = as_optimiser(optimiser)
    init, splits, settings = checked_call(
        architecture_or_init, data, rule, steps=steps, key=key, batch_size=batch_size,
        loss=loss, predict=predict, readings=readings, patience=patience,
        min_improvement=min_improvement, keep_model=keep_model,
    )  # fmt: skip
    _check_single(rule)
    if not progress or is_traced(init, splits, rule, key):
        return _run(settings, init, splits, rule, key)
    state = begin(settings, init, splits, rule, key)
    advance = functools.partial(_advance, settings, splits, rule, key)
    return _end(settings, splits, *shown(advance, state, settings.lengths))


def checked_call(
    architecture_or_init: Any,
    data: Data | Splits | tuple[Any, Any],
    optimiser: AnyOptimiser,
    *,
    steps: int,
    key: Any,
    batch_size: int | None,
    loss: str | Callable | None,
    predict: Callable | None,
    readings: Readings,
    patience: int | None,
    min_improvement: ArrayLike,
    keep_model: bool,
) -> tuple[Any, Splits, Settings]:
    """The arguments of `train`, checked and sorted into what may be traced and what may not."""
    splits = as_splits(data)
    init = initialiser_of(architecture_or_init, splits.train)
    check_whole_number("steps", steps)
    size = checked_batch_size(batch_size, len(splits.train))
    problem = problem_of(loss, predict, splits.train)
    settings = Settings(
        steps, size, problem, readings, Patience.of(patience, min_improvement, splits), keep_model
    )
    return init, splits, settings


def _check_single(optimiser: AnyOptimiser) -> None:
    if optimiser.grid_shape != ():
        raise ValueError(
            "optimiser must have scalar numbers to train one network, got a grid of shape "
            f"{optimiser.grid_shape}; jax.vmap or train_grid trains them all"
        )


@functools.partial(jax.jit, static_argnums=0)
def _run(
    settings: Settings, init: Any, splits: Splits, optimiser: AnyOptimiser, key: Any
) -> Training:
    """All of it as one program."""
    state = begin(settings, init, splits, optimiser, key)
    return finish(settings, splits, optimiser, key, state)


def finish(
    settings: Settings,
    splits: Splits,
    optimiser: AnyOptimiser,
    key: Any,
    state: State,
) -> Training:
    """All steps and readings of a network that has begun."""
    lengths = jnp.asarray(settings.lengths)
    return _end(settings, splits, *_advance(settings, splits, optimiser, key, state, lengths))


@functools.partial(jax.jit, static_argnums=0)
def begin(
    settings: Settings, init: Any, splits: Splits, optimiser: AnyOptimiser, key: Any
) -> State:
    """A new network and its optimiser, before the first step."""
    check_problem(settings.problem, init, splits.train.take(slice(0, settings.batch_size)), key)
    parts = take_apart(init(jax.random.fold_in(key, 0)))
    return State(
        parts,
        _chain(optimiser, parts).init(parts.params),
        jnp.zeros((), jnp.int32),
        jnp.full((), -1, jnp.int32),
        None if settings.patience is None else Stopping.start(parts.params),
    )


def _chain(optimiser: AnyOptimiser, parts: Parts) -> optax.GradientTransformation:
    return optimiser.transformation(weights_among(parts))


@functools.partial(jax.jit, static_argnums=0)
def _advance(settings, splits, optimiser, key, state, lengths):
    """For each of ``lengths``, so many steps and a reading. One program for all lengths."""
    chain = _chain(optimiser, state.parts)
    one = functools.partial(_step, settings, splits.train, chain, key)

    def record(at, carried):
        state, losses = carried
        state, loss = one(state)
        return state, losses.at[at].set(loss)

    def block(state, length):
        losses = jnp.full((settings.block,), jnp.nan)
        state, losses = lax.fori_loop(0, length, record, (state, losses))
        reading = read(settings.problem, state.parts, splits, settings.readings)
        if settings.patience is not None and state.stopping is not None:
            state = _judged(settings.patience, state.stopping, state, reading)
        return state, (losses, reading)

    return lax.scan(block, state, lengths)


def _judged(patience: Patience, stopping: Stopping, state: State, reading: Reading) -> State:
    stopping = stopping.after(
        patience, reading.validation_loss, state.parts.params, state.step, state.diverged_at < 0
    )
    return replace(state, stopping=stopping)


def _step(settings: Settings, train: Data, chain, key, state: State):
    """One update, or none where the run has diverged or was stopped; and its loss."""
    batch = train
    if settings.batch_size < len(train):
        shuffle = jax.random.fold_in(key, 1)
        batch = train.take(batch_at(shuffle, state.step, settings.batch_size, len(train)))
    mask_key = jax.random.fold_in(jax.random.fold_in(key, 2), state.step)
    parts, params = state.parts, state.parts.params

    def objective(params):
        model = replace(parts, params=params).model()
        value = settings.problem.loss_of(model, batch, mask_key)
        return value, parts.structure.rest_of(model)

    (loss, rest), gradient = jax.value_and_grad(objective, has_aux=True)(params)
    running = state.diverged_at < 0
    if state.stopping is not None:
        running &= state.stopping.stopped_at < 0
    finite = jnp.isfinite(loss) & _all_finite(gradient)
    updates, moved = chain.update(gradient, state.optimiser, params)
    after = (replace(parts, params=optax.apply_updates(params, updates), rest=rest), moved)
    parts, moved = _where(running & finite, after, (parts, state.optimiser))
    return replace(
        state,
        parts=parts,
        optimiser=moved,
        step=state.step + 1,
        diverged_at=jnp.where(running & ~finite, state.step, state.diverged_at),
    ), jnp.where(running, loss, jnp.nan)


def _all_finite(tree: Any):
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _where(go, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(go, a, b), new, old)


@functools.partial(jax.jit, static_argnums=0)
def _end(settings: Settings, splits: Splits, state: State, seen) -> Training:
    losses, readings = seen
    parts, test = state.parts, splits.test
    if state.stopping is not None:
        parts = replace(parts, params=state.stopping.chosen(parts.params))
    scores = (None, None) if test is None else settings.problem.score(parts.model(), test)
    return Training(
        loss=losses[1:].reshape(-1)[: settings.steps],  # no steps before the first reading
        diverged_at=state.diverged_at,
        stopped_at=jnp.full((), -1) if state.stopping is None else state.stopping.stopped_at,
        reading_steps=jnp.cumsum(jnp.asarray(settings.lengths)),
        readings=readings,
        test_loss=scores[0],
        test_accuracy=scores[1],
        final=parts if settings.keep_model else None,
    )
