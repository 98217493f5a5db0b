"""Standard deviations by name, and numbers that do not broadcast, are told in one line."""

import inspect

import numpy as np
import pytest

from sigprop import theory
from sigprop.architecture import Architecture

OF_VARIANCES = sorted(
    name
    for name in theory.__all__
    if inspect.isfunction(getattr(theory, name))
    and {"weight_var", "bias_var"} & set(inspect.signature(getattr(theory, name)).parameters)
)


def test_the_list_is_not_empty():
    assert {"fixed_point", "kernels", "propagate", "chi"} <= set(OF_VARIANCES)


@pytest.mark.parametrize("name", OF_VARIANCES)
@pytest.mark.parametrize("given", ["weight_std", "sigma_w", "bias_std", "sigma_b", "W_std"])
def test_a_standard_deviation_is_named_with_its_variance(name, given):
    variance = "bias_var" if "b" in given else "weight_var"
    with pytest.raises(TypeError, match=rf"as a variance: {variance} = {given}\*\*2"):
        getattr(theory, name)("tanh", **{given: 1.5})


@pytest.mark.parametrize("given", ["weight_std", "sigma_b"])
def test_an_architecture_says_so_too(given):
    with pytest.raises(TypeError, match=f"{given} must be given as a variance"):
        Architecture(3, 4, "tanh", **{given: 1.5})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword argument 'weights'"):
        Architecture(3, 4, "tanh", weights=1.5)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["fixed_point", "variance_map", "propagate"])
@pytest.mark.usefixtures("as_users_call")
def test_numbers_that_do_not_broadcast(name):
    more = {"variance_map": {"variance": 1.0}, "propagate": {"depth": 2}}.get(name, {})
    both = {"weight_var": np.ones(3), "bias_var": np.ones(4)}
    message = r"weight_var and bias_var must broadcast, got shapes \(3,\) and \(4,\)"
    with pytest.raises(ValueError, match=message):
        getattr(theory, name)("tanh", **more, **both)
