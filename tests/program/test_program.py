"""What is read off a program: multiplies wherever they stand, fan-ins, lines, loops as loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sigprop
from sigprop import program
from sigprop.diagnosis import structure


def read(function, parameters, *data):
    graph = program.graph_of(jax.make_jaxpr(function)(*parameters, *data))
    return graph, program.flow_of(graph, len(parameters))


W = jnp.ones((4, 4))
X = jnp.ones((3, 4))


def looped(w, x):
    return jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] @ w), (0, x))[1]


@pytest.mark.parametrize(
    "function",
    [
        lambda w, x: x @ w,
        lambda w, x: x @ w.T,
        jax.jit(lambda w, x: x @ w),
        jax.checkpoint(lambda w, x: x @ w),
        lambda w, x: jax.vmap(lambda row: w @ row)(x),
        lambda w, x: jax.lax.scan(lambda h, _: (h @ w, None), x, None, length=3)[0],
        lambda w, x: jax.lax.cond(jnp.sum(x) > 0, lambda: x @ w, lambda: x),
        lambda w, x: jax.vmap(jax.grad(lambda row: jnp.sum(jnp.tanh(w @ row))))(x),
        looped,
    ],
)
def test_a_multiply_is_seen_wherever_it_stands(function):
    _, flow = read(function, [W], X)
    assert {site.kind for site in flow.sites} == {"matrix multiply"}
    assert {site.fan_in for site in flow.sites} == {4}
    assert flow.seen == {0}


def test_what_penalises_an_array_does_not_read_it():
    _, flow = read(lambda w, v, x: jnp.sum(x @ w) + jnp.sum(v**2), [W, W], X)
    assert flow.seen == {0}


def test_fan_in_is_what_the_multiply_contracts():
    kernel = jnp.ones((4, 2, 5))
    _, flow = read(lambda w, x: jnp.einsum("bi,ihd->bhd", x, w), [kernel], X)
    assert [site.fan_in for site in flow.sites] == [4]
    _, flow = read(lambda w, x: jnp.einsum("bhd,ihd->bi", x, w), [kernel], jnp.ones((3, 2, 5)))
    assert [site.fan_in for site in flow.sites] == [10]


@pytest.mark.parametrize("heads", [2, 8])
def test_the_weight_variance_of_attention_is_that_of_its_entries(heads):
    model = nnx.MultiHeadAttention(heads, 64, decode=False, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 5, 64))
    report = sigprop.diagnose(model, lambda model, x: jnp.mean((model(x) - x) ** 2), x)
    found = {layer.name: layer.weight_var for layer in report.layers}
    for name in ("query", "key", "value", "out"):
        kernel = np.asarray(getattr(model, name).kernel[...])
        fan_in = kernel.size // 64
        assert found[name] == pytest.approx(fan_in * np.mean(kernel**2), rel=1e-4)
        assert 0.8 < found[name] < 1.2


def test_layers_are_told_from_time():
    stack, shared = jnp.ones((3, 4, 4)), jnp.ones((4, 4))

    def through_layers(w, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0]

    def through_time(w, x):
        return jax.lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, None, length=3)[0]

    layers, time = read(through_layers, [stack], X), read(through_time, [shared], X)
    assert [place.depth for place in program.places_in_order(*layers, {})] == [0, 1, 2]
    assert not program.timelines(*layers, {})
    assert [place.depth for place in program.places_in_order(*time, {})] == [0]
    assert len(program.timelines(*time, {})) == 1


def test_operations_know_the_line_of_the_user():
    graph, _ = read(lambda w, x: jnp.log(x @ w), [W], X)
    assert all(node.line.startswith("test_program.py:") for node in graph.nodes())


def test_a_program_seen_before_is_not_compiled_again():
    def loss(layers, x):
        for w in layers["w"]:
            x = jnp.tanh(x @ w)
        return jnp.mean((x - 0.3) ** 2)

    def report(seed):
        keys = jax.random.split(jax.random.key(seed), 3)
        return sigprop.diagnose(
            {"w": [jax.random.normal(k, (4, 4)) for k in keys]},
            lambda layers, x: loss(layers, x),
            X * seed,
        )

    first = report(1)
    kept = len(structure._known)
    second = report(2)
    assert len(structure._known) == kept
    assert second.loss != first.loss
    structure._known.clear()
    again = report(2)
    assert again.layers[0].log_gradient == pytest.approx(second.layers[0].log_gradient, rel=1e-5)
    assert again.loss == pytest.approx(second.loss, rel=1e-6)
