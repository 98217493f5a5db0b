"""Optax optimisers as records whose numbers may be traced: one compile for a grid of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sigprop._checks import check_known, check_non_negative, check_positive, check_whole_number

__all__ = ["OPTIMISERS", "SCHEDULES", "AnyOptimiser", "OptaxOptimiser", "Optimiser", "as_optimiser"]

Numbers = Any  # a number, an array or list of them, a tracer; None where that has a meaning

_RULES: dict[str, Callable[["Optimiser"], optax.GradientTransformation]] = {
    "sgd": lambda o: optax.identity(),
    "momentum": lambda o: optax.trace(decay=o.momentum),
    "nesterov": lambda o: optax.trace(decay=o.momentum, nesterov=True),
    "adam": lambda o: optax.scale_by_adam(),
    "adamw": lambda o: optax.chain(
        optax.scale_by_adam(), optax.add_decayed_weights(o.weight_decay)
    ),
    "rmsprop": lambda o: optax.scale_by_rms(decay=0.9, eps=1e-8),
    "adagrad": lambda o: optax.scale_by_rss(initial_accumulator_value=0.1, eps=1e-7),
}
OPTIMISERS = tuple(_RULES)

_SHAPES: dict[str, Callable[[int], optax.Schedule]] = {
    "constant": lambda steps: optax.constant_schedule(1.0),
    "linear": lambda steps: optax.linear_schedule(1.0, 0.0, steps),
    "cosine": lambda steps: optax.cosine_decay_schedule(1.0, steps),
    "exponential": lambda steps: optax.exponential_decay(1.0, steps, 0.01),
}
SCHEDULES = tuple(_SHAPES)

_POSITIVE = ("learning_rate", "clip_by_norm", "clip_by_value", "adaptive_clip")
_NON_NEGATIVE = ("momentum", "l2", "weight_decay")
_LEAVES = (*_POSITIVE, *_NON_NEGATIVE)
_STATIC = ("name", "schedule", "schedule_steps", "warmup_steps")


@dataclass(frozen=True)
class Optimiser:
    """How parameters follow the gradient: a rule, a step size, and what is done to the gradient.

    The gradient g of the loss goes through, in this order: + l2 · W (weights, not biases);
    adaptive clipping; clipping of each entry; clipping of the global norm; the rule; and
    −learning_rate · schedule(step).

    Parameters
    ----------
    name
        "sgd"; "momentum" and "nesterov"; "adam" (Kingma & Ba 2014); "adamw" (Loshchilov & Hutter
        2017); "rmsprop" (Tieleman & Hinton 2012); "adagrad" (Duchi, Hazan & Singer 2011). Constants
        that are not named here are those of Optax.
    learning_rate
        > 0.
    momentum
        Of "momentum" and "nesterov", in [0, 1).
    l2
        λ >= 0 of the penalty (λ/2) Σ W², None for none. Losses are reported without it.
    weight_decay
        Of "adamw", >= 0: decoupled from the rule.
    clip_by_norm
        Largest global norm > 0 (Pascanu, Mikolov & Bengio 2013); None not to clip.
    clip_by_value
        Largest absolute entry > 0.
    adaptive_clip
        Largest ratio > 0 of gradient to parameter norm, unit by unit (Brock et al. 2021).
    schedule
        "constant", "linear" (to 0), "cosine" (to 0) or "exponential" (to 1%), over
        ``schedule_steps`` after the warm-up.
    schedule_steps
        Length of the schedule; must be given unless it is constant.
    warmup_steps
        Steps over which the step size first grows, linearly, from learning_rate / warmup_steps.

    Raises
    ------
    ValueError
        For an unknown name or a number out of range.

    Notes
    -----
    A pytree: the numbers up to ``adaptive_clip`` are leaves (arrays of them make a grid, traced
    ones work), names and counts of steps are static.

    Examples
    --------
    >>> Optimiser("sgd", 0.1).learning_rate
    0.1
    >>> Optimiser("adam", [0.1, 0.01], clip_by_norm=1.0).grid_shape
    (2,)
    >>> Optimiser("sgd", -0.1)
    Traceback (most recent call last):
    ...
    ValueError: learning_rate must be finite and > 0, got -0.1
    """

    name: str = "sgd"
    learning_rate: Numbers = 0.1
    momentum: Numbers = 0.9
    l2: Numbers = None
    weight_decay: Numbers = 1e-4
    clip_by_norm: Numbers = None
    clip_by_value: Numbers = None
    adaptive_clip: Numbers = None
    schedule: str = "constant"
    schedule_steps: int | None = None
    warmup_steps: int = 0

    def __post_init__(self):
        check_known("optimiser", self.name, OPTIMISERS)
        check_known("schedule", self.schedule, SCHEDULES)
        check_whole_number("warmup_steps", self.warmup_steps, 0)
        if self.schedule != "constant":
            check_whole_number("schedule_steps", self.schedule_steps)
        for name in _LEAVES:
            value = getattr(self, name)
            if isinstance(value, list | tuple):
                object.__setattr__(self, name, np.asarray(value))
            if value is None and name != "learning_rate":
                continue
            (check_positive if name in _POSITIVE else check_non_negative)(name, value)

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Broadcast shape of the numbers: () for a single optimiser."""
        return np.broadcast_shapes(*(np.shape(leaf) for leaf in jax.tree.leaves(self)))

    def transformation(self, is_weight: Any = None) -> optax.GradientTransformation:
        """The Optax chain, for the numbers as they are (traced or not).

        Parameters
        ----------
        is_weight
            Tree of booleans like the parameters': what the L2 penalty acts on; all if None.
        """
        steps: list[optax.GradientTransformation] = []
        if self.l2 is not None:
            steps.append(optax.add_decayed_weights(self.l2, is_weight))
        if self.adaptive_clip is not None:
            steps.append(optax.adaptive_grad_clip(self.adaptive_clip))
        if self.clip_by_value is not None:
            steps.append(optax.clip(self.clip_by_value))
        if self.clip_by_norm is not None:
            steps.append(optax.clip_by_global_norm(self.clip_by_norm))
        return _promoting(optax.chain(*steps, _RULES[self.name](self), self._descent()))

    def _descent(self) -> optax.GradientTransformation:
        rate = jnp.asarray(self.learning_rate, jnp.result_type(float))
        if self.schedule == "constant" and not self.warmup_steps:
            return optax.scale(-rate)
        shape = _SHAPES[self.schedule](self.schedule_steps or 1)
        return optax.scale_by_schedule(lambda count: -rate * _factor(shape, count, self))


@jax.tree_util.register_static
@dataclass(frozen=True)
class OptaxOptimiser:
    """An Optax transformation as it is: nothing of it is traced."""

    given: optax.GradientTransformation
    grid_shape: ClassVar[tuple[int, ...]] = ()

    def transformation(self, is_weight: Any = None) -> optax.GradientTransformation:
        """Itself."""
        del is_weight
        return _promoting(self.given)


AnyOptimiser = Optimiser | OptaxOptimiser


def as_optimiser(optimiser: Any) -> AnyOptimiser:
    """What `train` follows the gradient by.

    Examples
    --------
    >>> as_optimiser(optax.sgd(0.1)).grid_shape
    ()
    >>> as_optimiser("adam")
    Traceback (most recent call last):
    ...
    ValueError: optimiser must be a training.Optimiser or an Optax transformation, got str
    """
    if isinstance(optimiser, Optimiser | OptaxOptimiser):
        return optimiser
    if isinstance(optimiser, optax.GradientTransformation):
        return OptaxOptimiser(optimiser)
    kind = type(optimiser).__name__
    raise ValueError(
        f"optimiser must be a training.Optimiser or an Optax transformation, got {kind}"
    )


def _promoting(chain: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same under strict promotion, which Optax's counters (float ** int32) do not bear."""

    def update(updates, state, params=None):
        with jax.numpy_dtype_promotion("standard"):
            return chain.update(updates, state, params)

    return optax.GradientTransformation(chain.init, update)


def _factor(shape: optax.Schedule, count: Any, optimiser: Optimiser):
    """Of the step size at step ``count``, counted from 0."""
    count = jnp.asarray(count, jnp.result_type(float))
    after = shape(jnp.maximum(count - optimiser.warmup_steps, 0.0))
    if not optimiser.warmup_steps:
        return after
    return jnp.where(count < optimiser.warmup_steps, (count + 1.0) / optimiser.warmup_steps, after)


# By hand, as for `Architecture`: rebuilding must not run the checks on placeholders.


def _flatten_with_keys(optimiser: Optimiser):
    leaves = [(jax.tree_util.GetAttrKey(n), getattr(optimiser, n)) for n in _LEAVES]
    return leaves, tuple(getattr(optimiser, name) for name in _STATIC)


def _unflatten(static, leaves) -> Optimiser:
    optimiser = object.__new__(Optimiser)
    for name, value in (*zip(_STATIC, static), *zip(_LEAVES, leaves)):
        object.__setattr__(optimiser, name, value)
    return optimiser


jax.tree_util.register_pytree_with_keys(Optimiser, _flatten_with_keys, _unflatten)
