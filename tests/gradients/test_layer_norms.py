"""Norms by layer against norms of the frameworks' own gradients, for every kind of model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from sigprop import gradients
from sigprop.architecture import Architecture
from sigprop.gradients.parameters import take_apart
from sigprop.networks import MLP

INPUTS = jax.random.normal(jax.random.key(7), (6, 5))


def mean_square(model, inputs):
    return jnp.mean(model(inputs) ** 2)


class Block(nnx.Module):
    """Everything that a module may hold beside parameters: statistics, random streams, sharing."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(5, 5, rngs=rngs) for _ in range(11)])
        self.norm = nnx.BatchNorm(5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.again = self.layers[0]
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, x):
        for layer in [*self.layers, self.again]:
            x = jnp.sin(layer(x))
        return self.scale[...] * self.dropout(self.norm(x))


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.BatchNorm(use_running_average=False)(linen.Dense(5)(x))
        x = linen.Dropout(0.5, deterministic=False)(jnp.tanh(x))
        return linen.MultiHeadDotProductAttention(num_heads=1)(x[None])[0]


class ScannedStep(linen.Module):
    @linen.compact
    def __call__(self, x, _):
        return jnp.tanh(linen.Dense(5)(x)), None


class LinenScanned(linen.Module):
    @linen.compact
    def __call__(self, x):
        scan = linen.scan(
            ScannedStep, variable_axes={"params": 0}, split_rngs={"params": True}, length=4
        )
        return scan(name="steps")(x, None)[0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Affine:
    weight: jax.Array
    bias: jax.Array

    def __call__(self, x):
        return x @ self.weight + self.bias


def affine(seed):
    key = jax.random.key(seed)
    return Affine(jax.random.normal(key, (5, 5)), jax.random.normal(key, (5,)))


@functools.cache
def bound_block():
    module = LinenBlock()
    variables = module.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, INPUTS)
    return module.bind(variables, rngs={"dropout": jax.random.key(2)}, mutable=["batch_stats"])


def norm(*arrays):
    return np.sqrt(sum(np.sum(np.asarray(a, np.float64) ** 2) for a in arrays))


def test_an_nnx_module_counts_its_parameters_and_nothing_else():
    model = Block(nnx.Rngs(0))
    every = nnx.Not(nnx.RngKey)
    before = jax.tree.leaves(nnx.state(model, every))
    found = gradients.layer_norms(model, mean_square, INPUTS)
    for held, now in zip(before, jax.tree.leaves(nnx.state(model, every))):
        np.testing.assert_array_equal(held, now, "the model was changed")
    expected = nnx.grad(lambda model: mean_square(model, INPUTS))(Block(nnx.Rngs(0)))
    # The layer used twice comes once, under the name it has first in NNX's own order.
    assert found.layers == ("again", *(f"layers/{i}" for i in range(1, 11)), "norm", "scale")
    own = dict(zip(found.layers, found.gradient))
    np.testing.assert_allclose(
        own["layers/10"],
        norm(*jax.tree.leaves(expected["layers"][10])),
        rtol=1e-5,
    )
    np.testing.assert_allclose(own["norm"], norm(*jax.tree.leaves(expected["norm"])), rtol=1e-5)
    np.testing.assert_allclose(own["again"], norm(*jax.tree.leaves(expected["again"])), rtol=1e-5)
    assert dict(zip(found.layers, found.counts))["norm"] == 10


def test_a_linen_module_bound_or_beside_its_variables():
    bound = bound_block()
    module, variables = bound.unbind()

    def apply(pair, inputs):
        model, variables = pair
        rngs = {"dropout": jax.random.key(2)}
        after, _ = model.apply(variables, inputs, rngs=rngs, mutable=["batch_stats"])
        return jnp.mean(after**2)

    as_bound = gradients.layer_norms(bound, mean_square, INPUTS)
    as_pair = gradients.layer_norms((module, variables), apply, INPUTS)
    assert as_bound.layers == as_pair.layers
    assert "BatchNorm_0" in as_bound.layers
    assert "MultiHeadDotProductAttention_0/query" in as_bound.layers
    np.testing.assert_allclose(as_bound.gradient, as_pair.gradient, rtol=1e-6)
    expected = jax.grad(lambda p: apply((module, {**variables, "params": p}), INPUTS))(
        variables["params"]
    )
    own = dict(zip(as_bound.layers, as_bound.gradient))
    np.testing.assert_allclose(
        own["Dense_0"], norm(*jax.tree.leaves(expected["Dense_0"])), rtol=1e-5
    )


@pytest.mark.parametrize("parameterisation", ["standard", "ntk"])
def test_a_stack_gives_a_row_for_each_layer(parameterisation):
    architecture = Architecture(
        6, 8, "tanh", weight_var=1.5, bias_var=0.1, parameterisation=parameterisation
    )
    network = MLP(architecture, 5, 2, rngs=jax.random.key(0))
    found = gradients.layer_norms(network, mean_square, INPUTS)
    assert found.layers == ("first", *(f"hidden[{i}]" for i in range(5)), "readout")
    assert sum(found.counts) == 5 * 8 + 8 + 5 * (64 + 8) + 18
    wanted = nnx.DiffState(0, nnx.Param)
    expected = nnx.grad(lambda network: mean_square(network, INPUTS), argnums=wanted)(network)
    weight, bias = (expected["hidden"][name][...] for name in ("weight", "bias"))
    for layer in range(5):
        np.testing.assert_allclose(
            found.gradient[1 + layer], norm(weight[layer], bias[layer]), rtol=1e-5
        )


def test_scanned_linen_layers_are_rows_too():
    module = LinenScanned()
    bound = module.bind(module.init(jax.random.key(0), INPUTS))
    found = gradients.layer_norms(bound, mean_square, INPUTS)
    assert found.layers == tuple(f"steps/Dense_0[{i}]" for i in range(4))


def test_a_stack_that_is_not_recognised_can_be_named():
    tree = {"body": {"matrix": jnp.ones((3, 5, 5))}}

    def loss(tree, inputs):
        for matrix in tree["body"]["matrix"]:
            inputs = jnp.tanh(inputs @ matrix)
        return jnp.sum(inputs)

    assert gradients.layer_norms(tree, loss, INPUTS).layers == ("body",)
    named = gradients.layer_norms(tree, loss, INPUTS, stacked=["body"])
    assert named.layers == ("body[0]", "body[1]", "body[2]")
    with pytest.raises(ValueError, match=r"stacked must name modules among body, got 'boddy'"):
        gradients.layer_norms(tree, loss, INPUTS, stacked=["boddy"])


def test_a_list_of_layers_and_functions():
    layers = [affine(0), jnp.tanh, nnx.Linear(5, 5, rngs=nnx.Rngs(0)), affine(1)]

    def loss(layers, x):
        for layer in layers:
            x = layer(x)
        return jnp.mean(x**2)

    found = gradients.layer_norms(layers, loss, INPUTS)
    assert found.layers == ("0", "2", "3")
    expected = jax.grad(lambda last: loss([*layers[:3], last], INPUTS))(layers[3])
    np.testing.assert_allclose(found.gradient[2], norm(expected.weight, expected.bias), rtol=1e-5)
    np.testing.assert_allclose(found.parameter[0], norm(layers[0].weight, layers[0].bias))


def test_norms_beyond_the_range_of_squares():
    tree = {"large": np.full(3, 1e30, np.float32), "small": np.zeros(2, np.float32)}
    factor = jnp.asarray(1e-30)
    found = gradients.layer_norms(
        tree, lambda p, _: jnp.sum(p["large"] * factor) + 0 * jnp.sum(p["small"]), None
    )
    np.testing.assert_allclose(found.log_parameter, [np.log(3) + 60 * np.log(10), -np.inf])
    np.testing.assert_allclose(found.gradient, [3**0.5 * 1e-30, 0], rtol=1e-6)
    np.testing.assert_allclose(found.ratio[0], 1e-60, rtol=1e-5)
    assert np.isnan(found.ratio[1])


def test_it_works_under_transformations():
    network = MLP(Architecture(4, 8, "tanh", 1.5, 0.1), 5, 2, rngs=jax.random.key(0))
    eager = gradients.layer_norms(network, mean_square, INPUTS)
    compiled = jax.jit(lambda model, x: gradients.layer_norms(model, mean_square, x))
    np.testing.assert_allclose(compiled(network, INPUTS).gradient, eager.gradient, rtol=1e-5)
    mapped = jax.vmap(lambda t: gradients.layer_norms(network, mean_square, t * INPUTS))
    several = mapped(jnp.asarray([0.5, 1.0]))
    np.testing.assert_allclose(several.gradient[1], eager.gradient, rtol=1e-5)
    assert several.loss.shape == (2,)


def test_the_pure_part_takes_any_tree_of_gradients():
    network = MLP(Architecture(4, 8, "tanh", 1.5, 0.1), 5, 2, rngs=jax.random.key(0))
    eager = gradients.layer_norms(network, mean_square, INPUTS)
    graph, params = nnx.split(network)
    loss = lambda params: mean_square(nnx.merge(graph, params), INPUTS)  # noqa: E731
    rows = jax.jit(lambda params: gradients.log_square_norms(jax.grad(loss)(params)))(params)
    assert tuple(sorted(rows)) == eager.layers
    for name, value in zip(eager.layers, eager.log_gradient):
        np.testing.assert_allclose(rows[name], value, rtol=1e-5)


def test_float64_models_are_read_in_float64(float64):
    tree = {"w": jnp.asarray([1e-200, 2e-200])}
    found = gradients.layer_norms(tree, lambda p, _: jnp.sum(p["w"] * 1e-180), None)
    np.testing.assert_allclose(found.gradient, [2**0.5 * 1e-180], rtol=1e-12)
    np.testing.assert_allclose(found.ratio, [2**0.5 * 1e-180 / (5**0.5 * 1e-200)], rtol=1e-12)


def test_it_prints_as_a_table():
    network = MLP(Architecture(2, 8, "tanh", 1.5, 0.1), 5, 2, rngs=jax.random.key(0))
    found = gradients.layer_norms(network, mean_square, INPUTS)
    lines = str(found).splitlines()
    assert lines[0].split() == ["layer", "parameters", "|gradient|", "|parameter|", "ratio"]
    assert [line.split()[0] for line in lines[1:]] == ["first", "hidden[0]", "readout"]
    assert float(lines[1].split()[2]) == pytest.approx(found.gradient[0], rel=6e-3)
    assert found._repr_markdown_().count("\n") == 4


MODEL = affine(0)


@pytest.mark.parametrize(
    ("model", "loss", "message"),
    [
        (MODEL, lambda m, x: m(x), r"must return one real number, got float32\[6, 5\]"),
        (MODEL, lambda m, x: {"loss": jnp.sum(m(x))}, "must return one real number, got dict"),
        (MODEL, lambda m, x: jnp.argmax(m(x)), r"must return one real number, got int32\[\]"),
        (MODEL, lambda m, x: jnp.sum(m(x[:, :2])), "could not be computed: TypeError: dot_general"),
        (MODEL, lambda m, x: jnp.sum(x), "must depend on the model it is given"),
        (MODEL, lambda m, x: 1.0, "must depend on the model it is given"),
        (MODEL, 3, "loss must be a function"),
        ({"w": np.arange(3)}, lambda m, x: 0, "must hold floating-point arrays .* got only int64"),
        (jnp.tanh, lambda m, x: jnp.sum(m(x)), "must hold floating-point arrays"),
        ([], lambda m, x: jnp.sum(x), "got a list with no arrays"),
        (linen.Dense(3), lambda m, x: jnp.sum(m(x)), r"must be a bound Linen module, got Dense"),
    ],
)
@pytest.mark.usefixtures("as_users_call")
def test_bad_input_is_one_clear_line(model, loss, message):
    with pytest.raises(ValueError, match=message) as raised:
        gradients.layer_norms(model, loss, INPUTS)
    assert "\n" not in str(raised.value)


def test_rebuilding_keeps_what_is_not_a_parameter():
    found = take_apart(bound_block())
    again = found.rebuild(found.values)
    np.testing.assert_array_equal(again(INPUTS), bound_block()(INPUTS))
    shared = nnx.Linear(5, 5, rngs=nnx.Rngs(0))
    pair = take_apart({"a": shared, "b": shared, "step": 3})
    assert len(pair.names) == 2
    other = pair.rebuild([2 * value for value in pair.values])
    assert other["a"] is other["b"]
    assert other["step"] == 3
    np.testing.assert_array_equal(other["a"].kernel[...], 2 * shared.kernel[...])


def test_complex_parameters_count_with_their_size():
    model = {"spectral": {"w": jnp.asarray([3 + 4j, 1j])}, "real": {"w": jnp.asarray([2.0])}}
    loss = lambda m, _: jnp.sum(jnp.abs(m["spectral"]["w"]) ** 2) + m["real"]["w"][0] ** 2  # noqa: E731
    norms = gradients.layer_norms(model, loss, None)
    assert norms.layers == ("real", "spectral")
    np.testing.assert_allclose(norms.parameter, [2.0, 26**0.5], rtol=1e-6)
    np.testing.assert_allclose(norms.gradient, [4.0, 2 * 26**0.5], rtol=1e-6)
    logs = gradients.log_square_norms(model)
    np.testing.assert_allclose(logs["spectral"], np.log(26), rtol=1e-6)
