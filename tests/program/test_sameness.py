"""Programs that differ in nothing but numbers are compiled once; others are told apart."""

import contextlib
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sigprop
from sigprop.diagnosis import structure
from sigprop.program import same_program_key

X = jnp.ones((3, 3))


@contextlib.contextmanager
def counted():
    """How many programs are compiled meanwhile."""
    found = Counter()

    def note(name, seconds, **_):
        found[name.rpartition("/")[2]] += 1

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def key(function, *given):
    return same_program_key(jax.make_jaxpr(lambda *given: function(*given))(*given))


def times(number, by_a_rule):
    """x², with a derivative that is ``number`` times x, whether a jvp's or a vjp's."""
    if by_a_rule == "jvp":
        square = jax.custom_jvp(lambda x: x**2)
        square.defjvp(lambda x, t: (x[0] ** 2, np.float32(number) * x[0] * t[0]))
        return square
    square = jax.custom_vjp(lambda x: x**2)
    square.defvjp(lambda x: (x**2, x), lambda x, g: (np.float32(number) * x * g,))
    return square


@pytest.mark.parametrize(
    "function",
    [
        jax.nn.relu, jax.nn.silu, jax.nn.gelu, jax.nn.softmax, jax.nn.logsumexp, jnp.linalg.norm,
        jax.checkpoint(jnp.tanh), times(2.0, "jvp"), times(2.0, "vjp"),
        lambda x: jax.lax.scan(lambda h, _: (jax.nn.relu(h @ h), None), x, None, length=3)[0],
    ],
)  # fmt: skip
def test_a_function_traced_twice_is_the_same(function):
    assert key(function, X) == key(function, X)
    assert hash(key(function, X)) == hash(key(function, X))


@pytest.mark.parametrize("rule", ["jvp", "vjp"])
def test_rules_that_differ_in_what_they_close_over_are_told_apart(rule):
    assert key(times(2.0, rule), X) == key(times(2.0, rule), X)
    assert key(times(2.0, rule), X) != key(times(3.0, rule), X)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x + 0.0, lambda x: x + -0.0),
        (lambda x: x * 2, lambda x: x * 3),
        (lambda x: jnp.sum(x, 0), lambda x: jnp.sum(x, 1)),
        (lambda x: jax.lax.stop_gradient(x), lambda x: x),
        (jax.nn.relu, lambda x: jnp.maximum(x, 0)),
        (jax.checkpoint(lambda x: x * 2), jax.checkpoint(lambda x: x * 3)),
    ],
)
def test_different_programs_are_told_apart(one, other):
    assert key(one, X) != key(other, X)


class Net(nnx.Module):
    def __init__(self, seed):
        start = jax.nn.initializers.he_normal()
        make = lambda: nnx.Linear(8, 8, kernel_init=start, rngs=nnx.Rngs(seed))  # noqa: E731
        self.layers = nnx.List([make() for _ in range(30)])

    def __call__(self, x):
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return x


def converging(weights, x):
    """A loop that ends when numbers say so."""
    going = lambda state: (state[0] < 9) & (jnp.sum(state[1] ** 2) > 1e-9)  # noqa: E731
    step = lambda state: (state[0] + 1, jnp.tanh(state[1] @ weights[0]()))  # noqa: E731
    return jnp.sum(jax.lax.while_loop(going, step, (0, x))[1])


@pytest.mark.parametrize(
    ("build", "loss"),
    [
        (Net, lambda model, x: jnp.mean((model(x) - 1) ** 2)),
        (lambda seed: [jax.tree_util.Partial(lambda w: w, 0.5 * jnp.eye(8))], converging),
    ],
    ids=["relu", "while"],
)
def test_a_second_call_compiles_nothing(build, loss):
    x = jax.random.normal(jax.random.key(0), (4, 8))
    models = [build(0), build(1)]
    first = sigprop.diagnose(models[0], loss, x)
    with counted() as found:
        second = sigprop.diagnose(models[1], lambda model, x: loss(model, x), x)
    assert found["backend_compile_duration"] == 0
    assert found["jaxpr_trace_duration"] > 0, "the events have other names now"
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]


def test_numbers_that_a_derivative_closes_over_are_not_those_of_an_earlier_call():
    weights = [jnp.eye(3), jnp.eye(3)]

    def gradient(number):
        def loss(weights, x):
            return jnp.sum(times(number, "vjp")(x @ weights[0]()) @ weights[1]())

        layers = [jax.tree_util.Partial(lambda w: w, w) for w in weights]
        return np.exp(sigprop.diagnose(layers, loss, X).layers[0].log_gradient / 2)

    assert gradient(6.0) == pytest.approx(3 * gradient(2.0))


def test_lines_are_those_of_the_program_at_hand():
    def loss(model, x):
        return jnp.mean(jnp.sign(model[0](x)))

    model = [jax.tree_util.Partial(lambda w, x: x @ w, jnp.eye(3))]

    def said(loss):
        return sigprop.diagnose(model, loss, X).evidence[0]

    def other(model, x):
        return jnp.mean(jnp.sign(model[0](x)))

    first, second = said(loss), said(other)
    assert "sign at test_sameness.py" in first
    assert first != second
    assert first.partition("sign at")[0] == second.partition("sign at")[0]


def test_trials_of_a_number_compile_nothing_more():
    """A stack that overflows is explained once; what is tried on it, and underflows, is not."""

    def loss(model, x):
        for layer in model:
            x = layer(x) ** 2
        return jnp.mean((x - 0.3) ** 2)

    layers = [jax.tree_util.Partial(lambda w, x: x @ w, 30 * jnp.eye(8)) for _ in range(12)]
    x = jax.random.normal(jax.random.key(0), (4, 8))
    report = sigprop.diagnose(layers, loss, x)  # theory's own programs are compiled now
    assert report.verdict == "nonfinite"
    structure._known.clear()
    with counted() as found:
        sigprop.diagnose(layers, loss, x)
    assert found["backend_compile_duration"] <= 3
