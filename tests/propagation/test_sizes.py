"""What must not change a result: chunks, devices, memory, compiled programs; and great depth."""

import jax
import numpy as np
import pytest

from sigprop.architecture import Architecture
from sigprop.kinds import compose
from sigprop.propagation import measure, passes, plan
from sigprop.propagation.draws import draw_on_devices
from sigprop.propagation.forward import Cell

KEY = jax.random.key(8)
# Chaotic, so that a difference in the last bit would grow to order 1 over the depth.
CHAOTIC = np.linspace(6.0, 9.0, 300)


def _architecture(weight_var=CHAOTIC, **change):
    given = {"depth": 60, "width": 32, "activation": "tanh", "bias_var": 0.05}
    return Architecture(weight_var=weight_var, **(given | change))


def _inputs(features=32):
    return np.random.default_rng(0).standard_normal((2, features)).astype(np.float32)


def _assert_same(first, second, where=slice(None)):
    for name, value in vars(first).items():
        np.testing.assert_array_equal(value[where], getattr(second, name), err_msg=name)


@pytest.mark.every_run("shared-tanh", "independent-tanh")
@pytest.mark.parametrize(
    ("draws", "activation"), [("shared", "tanh"), ("shared", "relu"), ("independent", "tanh")]
)
def test_bits_do_not_depend_on_how_the_grid_is_cut(draws, activation):
    weight_var = CHAOTIC if draws == "shared" else CHAOTIC[:4]
    whole = measure(
        _architecture(weight_var, activation=activation), _inputs(), key=KEY, seeds=1, draws=draws
    )
    for where in (slice(2, 3), slice(1, 4), slice(-150, None)):
        part = _architecture(weight_var[where], activation=activation)
        _assert_same(whole, measure(part, _inputs(), key=KEY, seeds=1, draws=draws), where)


@pytest.mark.every_run("268435456-shared", "0-independent")
@pytest.mark.parametrize("draws", ["shared", "independent"])
@pytest.mark.parametrize("memory_budget", [2**28, 0])
def test_bits_do_not_depend_on_the_number_of_devices(monkeypatch, draws, memory_budget):
    assert jax.local_device_count() == 2
    weight_var = CHAOTIC if draws == "shared" else CHAOTIC[:3]
    architecture = _architecture(weight_var)
    run = lambda: measure(  # noqa: E731
        architecture, _inputs(), key=KEY, seeds=1, draws=draws, memory_budget=memory_budget
    )
    on_two, one = run(), jax.local_devices()[:1]
    monkeypatch.setattr(plan.jax, "local_devices", lambda: one)
    _assert_same(on_two, run())


WAYS = [
    ("shared", "tanh", 61),
    ("shared", "relu", 10),
    ("shared", "tanh", 2),
    ("independent", "relu", 11),
]


@pytest.mark.every_run("shared-tanh-61", "independent-relu-11")
@pytest.mark.parametrize(("draws", "activation", "depth"), WAYS)
def test_a_small_memory_budget_changes_the_way_and_not_the_result(draws, activation, depth):
    architecture = _architecture([0.5, 2.0], depth=depth, activation=activation)
    run = lambda budget: measure(  # noqa: E731
        architecture, _inputs(), key=KEY, seeds=1, draws=draws, memory_budget=budget
    )
    stored = run(2**28)
    for budget in (0, 8 * 32 * 32 * 4):  # nothing fits; the weights of a segment do
        for name, value in vars(run(budget)).items():
            np.testing.assert_allclose(value, getattr(stored, name), rtol=1e-4, atol=1e-4)


def test_one_compile_serves_other_variances_and_seeds():
    def run(low, seed):
        architecture = _architecture(np.linspace(low, 3.0, 7), width=24)
        measure(architecture, _inputs(), key=jax.random.key(seed), seeds=2)

    run(0.1, 0)
    before = passes.run_shared._cache_size(), draw_on_devices._cache_size()
    run(0.2, 1)
    assert before == (passes.run_shared._cache_size(), draw_on_devices._cache_size())


def _plan(depth, width, activation="relu"):
    return plan.make_plan(
        compose(Architecture(depth, width, activation, 1.0)),
        depth=depth,
        width=width,
        in_features=width,
        inputs=2,
        distribution="gaussian",
        independent=False,
        dtype="float32",
        precision=jax.lax.Precision.HIGHEST,
        memory_budget=2**28,
    )


def _compiled(chosen):
    shape = jax.ShapeDtypeStruct
    column = shape((chosen.padded(3),), np.float32)
    draws = jax.eval_shape(lambda key: draw_on_devices(chosen.drawing, key), KEY)
    inputs = shape((2, chosen.drawing.shape[1]), np.float32)
    scales = {"weight": column, "bias": column}
    return passes.run_shared.lower(chosen, draws, Cell(scales, scales, {}), inputs)


def test_depth_10000_at_width_256_needs_a_fraction_of_its_weights_in_memory():
    chosen = _plan(10_000, 256)
    memory = _compiled(chosen).compile().memory_analysis()
    weights = 10_000 * 256 * 256 * 4
    assert memory.temp_size_in_bytes + memory.argument_size_in_bytes < weights / 10


def test_the_program_does_not_grow_with_depth():
    texts = [_compiled(_plan(depth, 8)).as_text() for depth in (10, 1000)]
    assert len(texts[1]) < 1.05 * len(texts[0])


def test_depth_10000_has_exact_logs_where_signals_vanish_or_explode():
    """Relu without bias: scaling the weights shifts every log by a known amount, and only that."""
    depth, weight_var = 10_000, np.asarray([1.0, 0.5, 2.0, 5.0])
    architecture = Architecture(depth, 32, "relu", weight_var=weight_var)
    measured = measure(architecture, _inputs(), key=KEY, seeds=1)
    layers, shift = np.arange(1, depth + 1), np.log(weight_var)[:, None]
    # A log of thousands in float32 has an absolute error of a few 1e-4; it must not add up.
    close = {"rtol": 2e-6, "atol": 2e-3}
    np.testing.assert_allclose(
        measured.log_variance, measured.log_variance[0] + layers * shift, **close
    )
    np.testing.assert_allclose(
        measured.log_gradient_z, measured.log_gradient_z[0] + (depth - layers) * shift, **close
    )
    assert not measured.diverged_at_layer.any()
    assert np.isfinite(measured.log_gradient_w).all()
