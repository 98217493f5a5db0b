"""One BLAS thread where many small matrices are decomposed, and the user's setting afterwards."""

import jax
import jax.numpy as jnp
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from sigprop import _blas_threads
from sigprop.architecture import Architecture
from sigprop.networks import MLP, mlp

KEY = jax.random.key(3)
ORTHOGONAL = Architecture(4, 8, "tanh", 1.5, 0.1, initialiser="orthogonal")


def _blas():
    return [
        library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    ]


@pytest.fixture
def two_threads():
    """What the user has set."""
    with threadpool_limits(limits=2, user_api="blas"):
        yield [2] * len(_blas())


@pytest.fixture
def during(monkeypatch):
    """The threads that draws of hidden layers have been made on."""
    seen, draws = [], mlp._stacked_draws

    def watched(*arguments):
        seen.extend(_blas())
        return draws(*arguments)

    monkeypatch.setattr(mlp, "_stacked_draws", watched)
    return seen


def test_orthogonal_networks_are_drawn_on_one_thread(two_threads, during):
    MLP(ORTHOGONAL, 8, rngs=KEY)
    assert during
    assert set(during) == {1}
    assert _blas() == two_threads


def test_other_networks_leave_the_threads_alone(two_threads, during):
    MLP(Architecture(4, 8, "tanh", 1.5, 0.1), 8, rngs=KEY)
    assert during == two_threads == _blas()


def test_the_setting_comes_back_after_an_error(two_threads):
    def fail():
        assert set(_blas()) == {1}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        _blas_threads.on_one_blas_thread(fail)
    assert _blas() == two_threads


def test_what_is_only_traced_can_be_drawn(two_threads):
    def weights(key):
        return MLP(ORTHOGONAL, 8, rngs=key).hidden.effective()[0]

    drawn = jax.jit(jax.vmap(weights))(KEY[None])[0]
    assert jnp.allclose(drawn, weights(KEY), atol=1e-6)
    assert _blas() == two_threads
