"""Training runs that fail in a known way, and for each a healthy one of equal shape and budget."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from sigprop import theory
from sigprop._checks import check_known
from sigprop.architecture import Architecture
from sigprop.training import Optimiser

__all__ = ["PATIENTS", "Budget", "Patient", "Setup", "patient"]


@dataclass(frozen=True)
class Budget:
    """What every run may spend, and how large its network is.

    Attributes
    ----------
    depth, width
        Of the networks, >= 2.
    steps
        Updates, >= 1.
    batch_size
        Digits an update, >= 4.
    """

    depth: int = 20
    width: int = 64
    steps: int = 300
    batch_size: int = 64


@dataclass(frozen=True)
class Setup:
    """All that decides one training run but its seed; what a remedy changes one thing of.

    Attributes
    ----------
    task
        "digits", ten classes of 8x8 images with a readout on top of the network; or "parabola",
        the regression y = x² on x = 1..1000.
    architecture
        Of the network; a single layer is the line w x + b itself.
    optimiser
        With its step size.
    steps, batch_size
        Updates, and examples each; all examples if None.
    input_unit
        What inputs are divided by.
    standardised
        Whether every input entry is brought to mean 0 and variance 1 over the training examples.
    patience
        Of early stopping, in twentieths of the budget; None without.
    """

    task: str
    architecture: Architecture
    optimiser: Optimiser
    steps: int
    batch_size: int | None
    input_unit: float = 1.0
    standardised: bool = False
    patience: int | None = None

    @property
    def is_deep(self) -> bool:
        """Whether there is more than one layer for a signal to pass."""
        return self.architecture.depth > 1

    def with_network(self, **changes) -> "Setup":
        """The same with another architecture."""
        return replace(self, architecture=replace(self.architecture, **changes))

    def with_optimiser(self, **changes) -> "Setup":
        """The same with another optimiser."""
        return replace(self, optimiser=replace(self.optimiser, **changes))


@dataclass(frozen=True)
class Patient:
    """A run that fails, one that does not, and in words what is wrong.

    Attributes
    ----------
    title
        For tables and figures.
    untreated, control
        The two runs. They differ in what is wrong and in nothing else.
    """

    title: str
    untreated: Setup
    control: Setup


# The largest number a gradient may have, and a penalty of 0, change nothing; but runs that clip or
# penalise are then the same compiled program as those that do not.
_NOTHING_CLIPPED = 3.0e38


def _network(activation: str, weight_var: float, budget: Budget, learning_rate: float) -> Setup:
    return Setup(
        task="digits",
        architecture=Architecture(budget.depth, budget.width, activation, weight_var),
        optimiser=Optimiser("sgd", learning_rate, l2=0.0, clip_by_value=_NOTHING_CLIPPED),
        steps=budget.steps,
        batch_size=budget.batch_size,
    )


def _critical(setup: Setup, activation: str) -> Setup:
    point = theory.critical_weight_var(activation, bias_var=0.0)
    return setup.with_network(activation=activation, weight_var=float(point.weight_var))


def _sigmoid_unit_entries(budget: Budget) -> Patient:
    # At larger steps some runs train and others do not, and no remedy stands out from that.
    sick = _network("sigmoid", float(budget.width), budget, 0.005)
    return Patient("sigmoid, N(0,1) entries", sick, _critical(sick, "tanh"))


def _sigmoid_xavier(budget: Budget) -> Patient:
    sick = _network("sigmoid", 1.0, budget, 0.02)
    return Patient("sigmoid, σw² = 1", sick, _critical(sick, "tanh"))


def _tanh_ordered(budget: Budget) -> Patient:
    sick = _network("tanh", 0.25, budget, 0.02)
    return Patient("tanh, ordered", sick, _critical(sick, "tanh"))


def _relu_exploding(budget: Budget) -> Patient:
    sick = _network("relu", 8.0, budget, 0.01)
    return Patient("relu, σw² = 8", sick, _critical(sick, "relu"))


def _unscaled_regression(budget: Budget) -> Patient:
    sick = Setup(
        task="parabola",
        architecture=Architecture(1, 1, "linear", 1.0),
        optimiser=Optimiser("sgd", 0.01, l2=0.0, clip_by_value=_NOTHING_CLIPPED),
        steps=budget.steps,
        batch_size=None,
    )
    return Patient("regression y = x²", sick, replace(sick, input_unit=1000.0))


PATIENTS: dict[str, Callable[[Budget], Patient]] = {
    "sigmoid_unit_entries": _sigmoid_unit_entries,
    "sigmoid_xavier": _sigmoid_xavier,
    "tanh_ordered": _tanh_ordered,
    "relu_exploding": _relu_exploding,
    "unscaled_regression": _unscaled_regression,
}
"""Makers of the patients, by name.

The control of a sigmoid network is the critical tanh network: tanh(x) = 2 sigmoid(2x) - 1 is the
same curve, centred, and sigmoid itself has no critical point at which it keeps its mean. The
control of the regression is the same line fitted to x in thousands, with the same step size.
"""


def patient(name: str, budget: Budget) -> Patient:
    """The patient called ``name``.

    Raises
    ------
    ValueError
        For an unknown name.

    Examples
    --------
    >>> patient("sigmoid_unit_entries", Budget()).untreated.architecture.weight_var
    64.0
    """
    check_known("patient", name, tuple(PATIENTS))
    return PATIENTS[name](budget)
