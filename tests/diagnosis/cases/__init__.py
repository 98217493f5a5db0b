"""The table: models whose health is measured, not judged."""

from tests.diagnosis.cases import (
    attention,
    branches,
    convolutional,
    dense,
    held_out,
    operations,
    physics,
    recurrent,
)

MODULES = (dense, operations, branches, convolutional, attention, recurrent, physics, held_out)
CASES = {name: case for module in MODULES for name, case in module.CASES.items()}
MODULE = {name: module for module in MODULES for name in module.CASES}
