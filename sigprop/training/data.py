"""Examples to learn from: the record, seeded splits, standardisation."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jax import tree_util

from sigprop._checks import check_finite, check_known, check_whole_number
from sigprop._precision import is_traced

__all__ = ["TASKS", "Data", "Splits", "check_data", "classification", "regression", "split",
           "standardised"]  # fmt: skip

TASKS = ("classification", "regression")


@tree_util.register_dataclass
@dataclass(frozen=True)
class Data:
    """Inputs with what is to be learnt of them. A pytree; batches of it are of this type too.

    Made by `classification` or `regression`, which check it.

    Attributes
    ----------
    inputs
        (examples, entries), or (examples, ...) for models that take more axes.
    targets
        Classification: whole numbers 0..classes - 1, shape (examples,). Regression: real numbers,
        shape (examples, outputs).
    task
        "classification" or "regression".
    classes
        How many there are; None for a regression.
    """

    inputs: Any
    targets: Any
    task: str = field(metadata={"static": True})
    classes: int | None = field(default=None, metadata={"static": True})

    def __len__(self) -> int:
        return np.shape(self.inputs)[0]

    @property
    def in_features(self) -> int:
        """Entries of the last axis of an input."""
        return np.shape(self.inputs)[-1]

    @property
    def out_features(self) -> int:
        """What a model must put out: a logit for each class, or the entries of a target."""
        return np.shape(self.targets)[-1] if self.classes is None else self.classes

    def take(self, indices: Any) -> "Data":
        """The examples at ``indices`` (which may be traced), in that order."""
        return replace(self, inputs=self.inputs[indices], targets=self.targets[indices])


@tree_util.register_dataclass
@dataclass(frozen=True)
class Splits:
    """Disjoint examples to train on, to stop by, and to report."""

    train: Data
    validation: Data | None = None
    test: Data | None = None

    def map(self, fn: Callable[[Data], Data]) -> "Splits":
        """``fn`` of each part that there is."""
        some = lambda part: None if part is None else fn(part)  # noqa: E731
        return Splits(fn(self.train), some(self.validation), some(self.test))


def classification(inputs: Any, labels: Any, classes: int | None = None) -> Data:
    """Inputs with labels 0..classes - 1 (one more than the largest label if not given).

    Raises
    ------
    ValueError
        If there are no examples, inputs are not finite, or a label is out of range.

    Examples
    --------
    >>> data = classification([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 1, 1])
    >>> len(data), data.in_features, data.out_features
    (3, 2, 2)
    """
    labels = np.asarray(labels)
    if classes is None:
        classes = int(labels.max()) + 1 if labels.size and labels.dtype.kind in "iu" else 1
    data = Data(np.asarray(inputs), labels, "classification", classes)
    check_data(data)
    return _in_32_bits(data)


def regression(inputs: Any, targets: Any) -> Data:
    """Inputs with real targets; a list of numbers is one entry for each example.

    Raises
    ------
    ValueError
        If there are no examples, or a number is not finite.

    Examples
    --------
    >>> regression([0.0, 1.0], [2.0, 5.0]).inputs.shape
    (2, 1)
    """
    inputs, targets = (np.asarray(a) for a in (inputs, targets))
    column = lambda a: a[:, None] if a.ndim == 1 else a  # noqa: E731
    data = Data(column(inputs), column(targets), "regression")
    check_data(data)
    return _in_32_bits(data)


def _in_32_bits(data: Data) -> Data:
    dtype = np.float32 if data.task == "regression" else np.int32
    return replace(data, inputs=data.inputs.astype(np.float32), targets=data.targets.astype(dtype))


def check_data(data: Data, name: str = "data") -> None:
    """Raise ValueError unless the examples can be learnt from; traced ones only by shape."""
    check_known("task", data.task, TASKS)
    examples = np.shape(data.inputs)[:1]
    if not examples or 0 in np.shape(data.inputs):
        raise ValueError(
            f"{name} must hold at least one example, got inputs of shape {np.shape(data.inputs)}"
        )
    if np.shape(data.targets)[:1] != examples:
        raise ValueError(
            f"{name} must have a target for each of its {examples[0]} inputs, got targets of shape "
            f"{np.shape(data.targets)}"
        )
    check_finite("inputs", data.inputs)
    if data.task == "classification":
        _check_labels(data)
    elif np.ndim(data.targets) < 2:
        raise ValueError(
            f"targets must have shape (examples, outputs), got {np.shape(data.targets)}"
        )
    else:
        check_finite("targets", data.targets)


def _check_labels(data: Data) -> None:
    classes = check_whole_number("classes", data.classes)
    if np.ndim(data.targets) != 1:
        raise ValueError(f"labels must have shape (examples,), got {np.shape(data.targets)}")
    if is_traced(data.targets):
        return
    labels = np.asarray(data.targets)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be whole numbers, got dtype {labels.dtype}")
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        index = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"labels must be between 0 and {classes - 1}, got {labels[index]} at index ({index},)"
        )


def split(data: Data, *, validation: float = 0.15, test: float = 0.15, seed: int = 0) -> Splits:
    """Shuffle the examples and deal them out.

    Parameters
    ----------
    data
        All examples.
    validation, test
        Shares >= 0 of the whole, together < 1, rounded to whole examples; None where that is 0.
    seed
        Decides the order.

    Raises
    ------
    ValueError
        For shares out of range, or if nothing would be left to train on.

    Examples
    --------
    >>> parts = split(regression(np.arange(10.0), np.arange(10.0)), validation=0.2, test=0.1)
    >>> len(parts.train), len(parts.validation), len(parts.test)
    (7, 2, 1)
    """
    check_data(data)
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise ValueError(
            f"validation and test must be shares >= 0 that add up to less than 1, got "
            f"{validation} and {test}"
        )
    order = np.random.default_rng(seed).permutation(len(data))
    kept, tested = round(validation * len(data)), round(test * len(data))
    if kept + tested >= len(data):
        raise ValueError(
            f"data must leave examples to train on, got {len(data)} of which {kept} are for "
            f"validation and {tested} for test"
        )
    parts = np.split(order, [kept, kept + tested])
    of = [data.take(np.sort(part)) if len(part) else None for part in parts]
    return Splits(train=data.take(parts[2]), validation=of[0], test=of[1])


def standardised(splits: Splits, *, targets: bool = False) -> Splits:
    """Every entry of the inputs shifted and scaled to mean 0 and variance 1 over the training part.

    Entries that never change there are only shifted. The other parts get the same shift and scale.

    Parameters
    ----------
    splits
        Made by `split` or a reader.
    targets
        Whether to treat the targets of a regression the same way.

    Examples
    --------
    >>> line = split(regression(np.arange(100.0), np.arange(100.0)))
    >>> bool(abs(standardised(line).train.inputs.mean()) < 1e-6)
    True
    """
    shift, scale = _moments(splits.train.inputs)
    moved = splits.map(lambda part: replace(part, inputs=_moved(part.inputs, shift, scale)))
    if not (targets and splits.train.task == "regression"):
        return moved
    shift, scale = _moments(splits.train.targets)
    return moved.map(lambda part: replace(part, targets=_moved(part.targets, shift, scale)))


def _moments(values: Any) -> tuple[np.ndarray, np.ndarray]:
    exact = np.asarray(values, np.float64)
    deviation = exact.std(axis=0)
    return exact.mean(axis=0), np.where(deviation > 0, deviation, 1.0)


def _moved(values: Any, shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return ((np.asarray(values, np.float64) - shift) / scale).astype(np.float32)


def as_splits(data: Any) -> Splits:
    """Examples alone are all for training; every part is checked and put on the device once.

    A pair of arrays (inputs, targets) is a classification if the targets are whole numbers, one
    for each input, else a regression.
    """
    if isinstance(data, tuple | list) and len(data) == 2:
        data = _of_arrays(*data)
    if not isinstance(data, Data | Splits):
        raise ValueError(
            "data must be a training.Data, a training.Splits or a pair of arrays (inputs, targets),"
            f" got {type(data).__name__}"
        )
    splits = Splits(data) if isinstance(data, Data) else data
    for name in ("train", "validation", "test"):
        part = getattr(splits, name)
        if part is not None:
            check_data(part, f"{name} data")
    return jax.tree.map(jax.numpy.asarray, splits)


def _of_arrays(inputs: Any, targets: Any) -> Data:
    inputs, targets = np.asarray(inputs), np.asarray(targets)
    labels = targets.ndim == 1 and targets.dtype.kind in "iu"
    return classification(inputs, targets) if labels else regression(inputs, targets)
