"""Training: data, objectives, optimisers, and the loop, over a grid of configurations at once."""

from sigprop.training.data import Data, Splits, classification, regression, split, standardised
from sigprop.training.image_files import load
from sigprop.training.loop import Training, train
from sigprop.training.many_runs import train_grid
from sigprop.training.objectives import accuracy, cross_entropy, l2_penalty, mean_squared_error
from sigprop.training.optimisers import OPTIMISERS, Optimiser
from sigprop.training.readings import Readings
from sigprop.training.tasks import digits, linear_regression, parabola, teacher

__all__ = [
    "OPTIMISERS",
    "Data",
    "Optimiser",
    "Readings",
    "Splits",
    "Training",
    "accuracy",
    "classification",
    "cross_entropy",
    "digits",
    "l2_penalty",
    "linear_regression",
    "load",
    "mean_squared_error",
    "parabola",
    "regression",
    "split",
    "standardised",
    "teacher",
    "train",
    "train_grid",
]
