"""Loops that keep derivative rules, whatever is differentiated how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigprop._loops import map_one_by_one, scan


@jax.custom_jvp
def bent(x):
    return jnp.sin(x)


@jax.custom_jvp
def slope(x):
    return 2 * jnp.cos(x)


bent.defjvp(lambda x, dot: (bent(*x), slope(*x) * dot[0]))
slope.defjvp(lambda x, dot: (slope(*x), 5 * x[0] * dot[0]))


def scanned(x):
    return scan(lambda state, _: (bent(x * state), None), x, length=2)[0]


def mapped(x):
    return map_one_by_one(lambda y: bent(x * y), jnp.asarray([1.0, 2.0])).sum()


@pytest.mark.parametrize(
    ("looped", "unrolled"),
    [(scanned, lambda x: bent(x * bent(x * x))), (mapped, lambda x: bent(x) + bent(2 * x))],
)
@pytest.mark.parametrize("outer", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("inner", [jax.jacfwd, jax.jacrev])
def test_second_derivatives_by_rule(looped, unrolled, inner, outer):
    x = jnp.asarray(0.3)
    np.testing.assert_allclose(outer(inner(looped))(x), outer(inner(unrolled))(x), rtol=1e-5)
