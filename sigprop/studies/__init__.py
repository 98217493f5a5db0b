"""Questions where theory meets measurement; each is handed to a sweep."""

from sigprop.studies.basics import Basics
from sigprop.studies.blocks import BLOCKS, Blocks
from sigprop.studies.conditioning_map import ConditioningMap
from sigprop.studies.gradient_classes import Growth, growth_class
from sigprop.studies.inputs import digit_pairs, load_pairs, with_moments
from sigprop.studies.isometry_training import IsometryTraining
from sigprop.studies.jacobian_spectrum import JacobianSpectrum
from sigprop.studies.kernel_condition import KernelCondition
from sigprop.studies.phase_diagram import PhaseDiagram
from sigprop.studies.remedies import PATIENTS, REMEDIES, Remedies
from sigprop.studies.trainability import Trainability
from sigprop.studies.trainable_depth import BoundaryStatus, with_boundaries

__all__ = [
    "PATIENTS",
    "REMEDIES",
    "Basics",
    "ConditioningMap",
    "BLOCKS",
    "Blocks",
    "Growth",
    "IsometryTraining",
    "JacobianSpectrum",
    "KernelCondition",
    "PhaseDiagram",
    "Remedies",
    "Trainability",
    "BoundaryStatus",
    "digit_pairs",
    "growth_class",
    "load_pairs",
    "with_moments",
    "with_boundaries",
]
