"""Jacobians of what people have: lists of numbers, stateful modules, reverse mode alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sigprop import jacobian

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (4,))


def test_a_list_of_numbers_is_an_array():
    np.testing.assert_allclose(jacobian.singular_values(lambda v: v * 2, [1.0, 2.0]), [2.0, 2.0])
    matrix = [[1.0, 2.0], (3.0, 4)]
    assert jacobian.singular_values(lambda m: 3 * m, matrix).tolist() == [3.0] * 4
    found = jacobian.extreme_singular_values(lambda v: v * 2, (1.0, 2.0), key=KEY)
    np.testing.assert_allclose(found.singular_values, [2.0], rtol=1e-6)


class Stateful(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(4, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(jnp.tanh(self.norm(self.first(x)[None])))[0] + self.first(x)

    def features(self, x):
        return self.dropout(self.first(x))


def test_a_module_that_draws_and_counts_is_left_as_it_was():
    model = Stateful()
    before = jax.tree.leaves(nnx.state(model, (nnx.RngCount, nnx.BatchStat)))
    values = jacobian.singular_values(model, X)
    np.testing.assert_array_equal(values, jacobian.singular_values(model, X))
    after = jax.tree.leaves(nnx.state(model, (nnx.RngCount, nnx.BatchStat)))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    kernel = np.asarray(model.first.kernel[...])
    mask = np.asarray(model.features(X)) != 0  # the draw that comes next
    assert 0 < mask.sum() < 6
    model = Stateful()
    found = jacobian.singular_values(model.features, X)
    expected = np.linalg.svd(2 * kernel * mask, compute_uv=False)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("ask", [jacobian.extreme_singular_values, jacobian.moments])
def test_a_stateful_module_without_the_matrix(ask):
    values = np.asarray(jacobian.singular_values(Stateful(), X))
    found = ask(Stateful(), X, key=KEY)
    if ask is jacobian.extreme_singular_values:
        np.testing.assert_allclose(found.singular_values[0], values[0], rtol=1e-4)
    assert np.isfinite(jax.tree.leaves(found)[0]).all()


def test_layers_that_draw_masks():
    layers = jacobian.Layers([nnx.Dropout(0.5, rngs=nnx.Rngs(0)), jnp.tanh])
    (found,) = jacobian.layer_jacobians(layers, jnp.ones(8))[:1]
    assert set(np.unique(np.diag(np.asarray(found[0])))) <= {0.0, 2.0}


def test_a_closure_over_such_a_module_says_what_to_do():
    model = Stateful()
    with pytest.raises(
        ValueError, match=r"give the module itself, or put it in eval mode"
    ) as error:
        jacobian.singular_values(lambda x: model(x), X)
    assert "\n" not in str(error.value)
    model.eval()
    assert jacobian.singular_values(lambda x: model(x), X).shape == (4,)


def test_a_module_that_scans_inside():
    class Deep(nnx.Module):
        def __init__(self):
            make = nnx.vmap(lambda rngs: nnx.Linear(4, 4, rngs=rngs), in_axes=(0,))
            self.layers = make(nnx.Rngs(0).split(3))

        def __call__(self, x):
            return nnx.scan(
                lambda x, layer: jnp.tanh(layer(x)),
                in_axes=(nnx.Carry, 0),
                out_axes=nnx.Carry,
            )(x, self.layers)

    model = Deep()
    kernels, biases = model.layers.kernel[...], model.layers.bias[...]

    def plain(x):
        for kernel, bias in zip(kernels, biases):
            x = jnp.tanh(x @ kernel + bias)
        return x

    expected = jacobian.singular_values(plain, X)
    np.testing.assert_allclose(jacobian.singular_values(model, X), expected, rtol=1e-4)


@jax.custom_vjp
def reverse_only(x):
    return jnp.sin(x)


reverse_only.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))


def test_a_rule_for_reverse_mode_alone():
    fn = lambda x: reverse_only(jnp.concatenate([x, 2 * x]))  # noqa: E731
    expected = jacobian.singular_values(lambda x: jnp.sin(jnp.concatenate([x, 2 * x])), X)
    np.testing.assert_allclose(jacobian.singular_values(fn, X), expected, rtol=1e-5)
    found = jacobian.extreme_singular_values(fn, X, key=KEY)
    np.testing.assert_allclose(found.singular_values, expected[:1], rtol=1e-4)
    layers = jacobian.Layers([reverse_only])
    np.testing.assert_allclose(
        jacobian.layer_jacobians(layers, X)[0], np.diag(np.cos(X)), rtol=1e-6
    )


def test_a_rule_that_cannot_be_turned_round_says_so():
    def backward(_, g):
        shape = jax.ShapeDtypeStruct(g.shape, g.dtype)
        return (jax.pure_callback(np.asarray, shape, g, vmap_method="sequential"),)

    fn = jax.custom_vjp(lambda x: 1.0 * x)
    fn.defvjp(lambda x: (1.0 * x, None), backward)
    np.testing.assert_allclose(jacobian.singular_values(fn, X), np.ones(4))
    with pytest.raises(ValueError, match="fn must have a forward mode for this"):
        jacobian.extreme_singular_values(fn, X, key=KEY)
