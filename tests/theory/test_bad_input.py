"""What cannot be is refused in one line: which argument, what was given, what is accepted."""

import jax.numpy as jnp
import numpy as np
import pytest

from sigprop import theory

OK = {"weight_var": 1.5, "bias_var": 0.1}
NAN = float("nan")

CASES = [
    (lambda: theory.fixed_point("tanh", weight_var=-1.0, bias_var=0.1), r"weight_var.*got -1\.0"),
    (lambda: theory.fixed_point("tanh", weight_var=NAN, bias_var=0.1), r"weight_var.*got nan"),
    (lambda: theory.fixed_point("tanh", weight_var=1.0, bias_var=-0.1), r"bias_var.*got -0\.1"),
    (lambda: theory.fixed_point("tanh", weight_var=1.0, bias_var=np.inf), r"bias_var.*got inf"),
    (
        lambda: theory.fixed_point("tanh", weight_var=np.asarray([1.0, 2.0, -3.0]), bias_var=0.1),
        r"weight_var.*got -3\.0 at index \(2,\)",
    ),
    (
        lambda: theory.fixed_point("tanh", weight_var=np.ones(3), bias_var=np.ones(2)),
        r"(weight_var|bias_var).*\(3,\)|broadcast",
    ),
    (lambda: theory.fixed_point("tanh", variance0=-1.0, **OK), r"variance0.*got -1\.0"),
    (lambda: theory.fixed_point("tanh", variance0=NAN, **OK), r"variance0.*got nan"),
    (lambda: theory.fixed_point("tahn", **OK), r"activation.*'tahn'; did you mean 'tanh'"),
    (lambda: theory.fixed_points("tanh", weight_var=-1.0, bias_var=0.0), r"weight_var.*got -1\.0"),
    (
        lambda: theory.fixed_points("tanh", weight_var=np.ones(2), bias_var=0.0),
        r"weight_var.*(scalar|one number|shape)",
    ),
    (lambda: theory.critical_points("tanh", bias_var=-1.0), r"bias_var.*got -1\.0"),
    (lambda: theory.critical_weight_var("tanh", bias_var=NAN), r"bias_var.*got nan"),
    (lambda: theory.variance_map("tanh", -2.0, **OK), r"variance.*got -2\.0"),
    (
        lambda: theory.variance_map("tanh", 1.0, weight_var=-2.0, bias_var=0.0),
        r"weight_var.*got -2",
    ),
    (lambda: theory.variance_slope("tanh", NAN, weight_var=1.0), r"variance.*got nan"),
    (lambda: theory.chi("tanh", 1.0, weight_var=-1.0), r"weight_var.*got -1\.0"),
    (
        lambda: theory.chi("tanh", 1.0, weight_var=1.0, correlation=1.5),
        r"correlation.*got 1\.5",
    ),
    (lambda: theory.correlation_map("tanh", -1.01, variance=1.0, **OK), r"correlation.*got -1\.01"),
    (lambda: theory.correlation_map("tanh", NAN, variance=1.0, **OK), r"correlation.*got nan"),
    (lambda: theory.propagate("tanh", depth=0, variance0=1.0, **OK), r"depth.*>= 1.*got 0"),
    (lambda: theory.propagate("tanh", depth=2.5, variance0=1.0, **OK), r"depth.*got 2\.5"),
    (lambda: theory.propagate("tanh", depth=3, variance0=-1.0, **OK), r"variance0.*got -1\.0"),
    (
        lambda: theory.propagate("tanh", depth=3, variance0=1.0, correlation0=2.0, **OK),
        r"correlation0.*got 2\.0",
    ),
    (lambda: theory.input_variance(-1.0, **OK), r"second_moment.*got -1\.0"),
    (
        lambda: theory.fixed_point(lambda x: x if x > 0 else -x, **OK),
        r"activation must be a JAX-traceable function",
    ),
    (
        lambda: theory.fixed_point(lambda x: jnp.stack([x, x]), **OK),
        r"one real number to one real number",
    ),
]


@pytest.mark.parametrize(("call", "message"), CASES, ids=range(len(CASES)))
def test_refused_in_one_line(call, message, as_users_call):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
