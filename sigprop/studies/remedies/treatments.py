"""What people do to a run that fails: each a small function from one run to another, or a no."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from sigprop import theory
from sigprop._checks import check_known
from sigprop.architecture import recipe
from sigprop.studies.remedies.patients import Setup
from sigprop.studies.remedies.treated_runs import curvature
from sigprop.training import Optimiser

__all__ = ["REMEDIES", "NotApplicable", "treated"]


@dataclass(frozen=True)
class NotApplicable:
    """Why a remedy makes no sense for a patient."""

    reason: str


Treated = Setup | NotApplicable

_ONE_LAYER = NotApplicable("a single linear layer has no hidden layer to change")


def treated(name: str, setup: Setup) -> Treated:
    """``setup`` with the remedy called ``name``, and nothing else, or why not.

    Raises
    ------
    ValueError
        For an unknown name.

    Examples
    --------
    >>> from sigprop.studies.remedies.patients import Budget, patient
    >>> exploding = patient("relu_exploding", Budget()).untreated
    >>> treated("he", exploding).architecture.weight_var
    2.0
    >>> treated("relu", exploding).reason
    'the activation is relu already'
    """
    check_known("remedy", name, tuple(REMEDIES))
    return REMEDIES[name](setup)


def _recipe(name: str) -> Callable[[Setup], Treated]:
    def change(setup: Setup) -> Treated:
        width = setup.architecture.width
        return setup.with_network(
            initialiser=name, weight_var=recipe(name).weight_var(width, width)
        )

    return change


def _critical_initialisation(setup: Setup) -> Treated:
    if not setup.is_deep:
        return NotApplicable("one layer has no product of layers to be kept at size 1")
    point = theory.critical_weight_var(setup.architecture.activation, bias_var=0.0)
    return setup.with_network(weight_var=float(point.weight_var))


def _orthogonal(setup: Setup) -> Treated:
    return setup.with_network(initialiser="orthogonal")


def _activation(name: str) -> Callable[[Setup], Treated]:
    def change(setup: Setup) -> Treated:
        if not setup.is_deep:
            return _ONE_LAYER
        if setup.architecture.activation.name == name:
            return NotApplicable(f"the activation is {name} already")
        return setup.with_network(activation=name)

    return change


def _block(**changes) -> Callable[[Setup], Treated]:
    return lambda setup: setup.with_network(**changes) if setup.is_deep else _ONE_LAYER


def _optimiser(**changes) -> Callable[[Setup], Treated]:
    return lambda setup: setup.with_optimiser(**changes)


def _rule(name: str, learning_rate: float) -> Callable[[Setup], Treated]:
    """Rules that scale every step by the gradient's own size come with a step size of their own."""
    return lambda setup: replace(setup, optimiser=Optimiser(name, learning_rate))


def _smaller_step(setup: Setup) -> Treated:
    """A tenth; for a quadratic loss one over its largest curvature, half of what is stable."""
    if setup.is_deep:
        return setup.with_optimiser(learning_rate=setup.optimiser.learning_rate / 10)
    return setup.with_optimiser(learning_rate=1 / curvature(setup))


REMEDIES: dict[str, Callable[[Setup], Treated]] = {
    "xavier": _recipe("xavier"),
    "he": _recipe("he"),
    "lecun": _recipe("lecun"),
    "orthogonal": _orthogonal,
    "critical_initialisation": _critical_initialisation,
    "relu": _activation("relu"),
    "leaky_relu": _activation("leaky_relu"),
    "batch_norm": _block(norm="batch_norm"),
    "layer_norm": _block(norm="layer_norm"),
    "weight_norm": _block(norm="weight_norm"),
    "residual": _block(block="residual"),
    "dropout": _block(dropout=0.1),
    "l2": _optimiser(l2=1e-3),
    "clip_by_norm": _optimiser(clip_by_norm=1.0),
    "clip_by_value": _optimiser(clip_by_value=0.01),
    "adam": _rule("adam", 1e-3),
    "rmsprop": _rule("rmsprop", 1e-3),
    "adagrad": _rule("adagrad", 1e-2),
    "smaller_step": _smaller_step,
    "input_standardisation": lambda setup: replace(setup, standardised=True),
    "small_batch": lambda setup: replace(setup, batch_size=8),
    "early_stopping": lambda setup: replace(setup, patience=3),
}
"""Each alone, on top of the patient as it is: ``relu`` keeps the patient's weight variance."""
