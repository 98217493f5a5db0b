"""Tasks that need no download: the digits of scikit-learn, and synthetic ones."""

import numpy as np

from sigprop._checks import check_whole_number
from sigprop.training.data import Data, Splits, classification, regression, split

__all__ = ["digits", "linear_regression", "parabola", "teacher"]


def digits(*, validation: float = 0.15, test: float = 0.15, seed: int = 0) -> Splits:
    """The 1797 images of 8x8 pixels that ship with scikit-learn, ten classes, pixels 0 to 1.

    Examples
    --------
    >>> digits().train.inputs.shape
    (1257, 64)
    """
    import sklearn.datasets  # takes seconds to import; only digits need it

    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    whole = classification(np.asarray(images) / 16.0, labels, 10)
    return split(whole, validation=validation, test=test, seed=seed)


def linear_regression(
    examples: int = 256,
    *,
    slope: float = 3.0,
    intercept: float = 2.0,
    noise: float = 0.1,
    seed: int = 0,
) -> Data:
    """The line y = slope · x + intercept + noise · n, with x uniform on [-1, 1] and n normal.

    Examples
    --------
    >>> linear_regression(10).targets.shape
    (10, 1)
    """
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, check_whole_number("examples", examples))
    return regression(x, slope * x + intercept + noise * rng.standard_normal(examples))


def parabola(largest: int = 1000) -> Data:
    """The regression y = x² on x = 1..largest, not scaled: gradient descent on it overflows.

    Examples
    --------
    >>> float(parabola().targets.max())
    1000000.0
    """
    x = np.arange(1.0, check_whole_number("largest", largest) + 1)
    return regression(x, x**2)


def teacher(
    examples: int = 1024,
    *,
    in_features: int = 16,
    width: int = 32,
    depth: int = 1,
    out_features: int = 1,
    seed: int = 0,
) -> Data:
    """What a random tanh network makes of N(0, 1) inputs: ``depth`` hidden layers, no biases.

    Weights have variance 2 / fan_in in the hidden layers and 1 / fan_in in the last, so targets are
    of order 1. ``depth=0`` is a linear teacher.

    Examples
    --------
    >>> teacher(8, in_features=3, out_features=2).targets.shape
    (8, 2)
    """
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((check_whole_number("examples", examples), in_features))
    x = inputs
    for _ in range(check_whole_number("depth", depth, 0)):
        weight = rng.standard_normal((width, x.shape[1])) * np.sqrt(2.0 / x.shape[1])
        x = np.tanh(x @ weight.T)
    last = rng.standard_normal((out_features, x.shape[1])) / np.sqrt(x.shape[1])
    return regression(inputs, x @ last.T)
