import runpy
from pathlib import Path

import pytest

TOY = Path(__file__).with_name("toy_study.py")


@pytest.fixture(scope="session")
def toy_script():
    return TOY


@pytest.fixture(scope="session")
def toy():
    """The toy study's module, as a dictionary: `ToyStudy` and `GRID`."""
    return runpy.run_path(str(TOY))
