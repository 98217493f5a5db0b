"""The architecture record: what it accepts, what it refuses, how it passes through JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigprop import _checks, kinds
from sigprop.activations import get
from sigprop.architecture import Architecture, recipe, recipe_names

GIVEN = {"depth": 3, "width": 4, "activation": "tanh", "weight_var": 1.5}
BAD = [
    ({"depth": 0}, "depth must be an integer >= 1, got 0"),
    ({"depth": True}, "depth must be an integer >= 1, got True"),
    ({"width": -3}, "width must be an integer >= 1, got -3"),
    ({"weight_var": -1.0}, "weight_var must be finite and >= 0, got -1.0"),
    ({"weight_var": float("nan")}, "weight_var must be finite and >= 0, got nan"),
    ({"weight_var": float("inf")}, "weight_var must be finite and >= 0, got inf"),
    ({"weight_var": [1.0, 2.0, -0.5]}, "weight_var must be .* got -0.5 at index \\(2,\\)"),
    ({"weight_var": ["a"]}, "weight_var must be a real number or an array of them, got a list"),
    ({"weight_var": [[1.0], [1.0, 2.0]]}, "weight_var must be a real number or an array"),
    ({"bias_var": np.asarray([[0.0, np.nan]])}, "bias_var .* got nan at index \\(0, 1\\)"),
    ({"weight_var": [1.0, 2.0], "bias_var": [0.0] * 3}, r"must broadcast, got shapes \(2,\)"),
    ({"weight_var": None}, "weight_var must be given: initialiser 'gaussian' has none"),
    ({"activation": "tahn"}, "did you mean 'tanh'"),
    ({"block": "residaul"}, "block must be .* got 'residaul'; did you mean 'residual'"),
    ({"block": "dense"}, "block must be one of 'plain', 'residual', got 'dense'$"),
    ({"norm": "layernorm"}, "norm must be .* got 'layernorm'; did you mean 'layer_norm'"),
    ({"norm": "batch"}, "did you mean 'batch_norm'"),
    ({"norm": "zzz"}, "norm must be one of None, 'layer_norm', .* 'weight_norm', got 'zzz'$"),
    ({"dropout": 1.0}, "dropout must be >= 0 and < 1, got 1.0"),
    ({"dropout": [0.0, -0.1]}, "dropout must be >= 0 and < 1, got -0.1 at index \\(1,\\)"),
    ({"dropout": float("nan")}, "dropout must be >= 0 and < 1, got nan"),
    ({"dropout": "a lot"}, "dropout must be a real number or an array of them, got 'a lot'"),
    ({"dropout": [0.0, 0.1], "bias_var": [0.0] * 3}, r"must broadcast, got shapes \(3,\) and \(2,"),
    ({"branch_scale": 0.5}, "branch_scale must be 1 in a plain block .* got 0.5"),
    ({"branch_scale": "1/sqrt(depth)"}, "branch_scale must be 1 in a plain block .* got 0.57735"),
    ({"branch_scale": -1.0}, "branch_scale must be finite and >= 0, got -1.0"),
    ({"branch_scale": [[1.0], [1.0, 2.0]]}, "branch_scale must be a real number or an array"),
    ({"block": "residual", "branch_scale": -1}, "branch_scale must be finite and >= 0, got -1"),
    ({"block": "residual", "branch_scale": "sqrt"}, "or '1/sqrt\\(depth\\)', got 'sqrt'"),
    ({"initialiser": "hee"}, "initialiser must be one of 'gaussian', .* got 'hee'"),
    ({"parameterisation": "mup"}, "parameterisation must be one of 'standard', 'ntk', got 'mup'"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[str(next(iter(c))) for c, _ in BAD])
def test_bad_input_is_one_clear_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        Architecture(**(GIVEN | change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [2.0, "2", None, [2], float("nan")])
def test_only_integers_count(value):
    with pytest.raises(ValueError, match="depth must be an integer >= 1"):
        _checks.check_whole_number("depth", value)


def test_numpy_integers_are_integers():
    assert _checks.check_whole_number("depth", np.int64(7)) == 7


RECIPES = {
    "xavier": ("uniform", lambda i, o: 2 * i / (i + o)),
    "xavier_normal": ("gaussian", lambda i, o: 2 * i / (i + o)),
    "xavier_uniform": ("uniform", lambda i, o: 2 * i / (i + o)),
    "he": ("gaussian", lambda i, o: 2),
    "he_normal": ("gaussian", lambda i, o: 2),
    "he_uniform": ("uniform", lambda i, o: 2),
    "lecun": ("gaussian", lambda i, o: 1),
    "lecun_normal": ("gaussian", lambda i, o: 1),
    "lecun_uniform": ("uniform", lambda i, o: 1),
}
ALIASES = {"glorot": "xavier", "kaiming": "he"}


def test_every_recipe_is_one_of_the_papers():
    aliased = {name.replace(family, alias) for alias, family in ALIASES.items() for name in RECIPES}
    assert set(recipe_names()) == set(RECIPES) | aliased


@pytest.mark.parametrize("name", recipe_names())
@given(fan_in=st.integers(1, 5000), fan_out=st.integers(1, 5000))
def test_recipes_have_their_papers_variances(name, fan_in, fan_out):
    plain = name
    for alias, family in ALIASES.items():
        plain = plain.replace(alias, family)
    distribution, weight_var = RECIPES[plain]
    assert recipe(name).distribution == distribution
    assert recipe(name).weight_var(fan_in, fan_out) == pytest.approx(weight_var(fan_in, fan_out))


@pytest.mark.parametrize(("name", "value"), [("he", 2.0), ("xavier", 1.0), ("lecun", 1.0)])
def test_a_recipe_lends_its_weight_var_and_a_given_one_wins(name, value):
    without = GIVEN | {"weight_var": None, "initialiser": name}
    assert Architecture(**without).weight_var == value
    chosen = Architecture(**(without | {"weight_var": 0.3}))
    assert (chosen.weight_var, chosen.distribution) == (0.3, recipe(name).distribution)


@given(st.lists(st.integers(1, 3), max_size=3), st.lists(st.integers(1, 3), max_size=3))
def test_grid_shape_is_the_broadcast_shape(first, second):
    try:
        expected = np.broadcast_shapes(tuple(first), tuple(second))
    except ValueError:
        with pytest.raises(ValueError, match="must broadcast"):
            Architecture(3, 4, "relu", np.ones(first), np.ones(second))
    else:
        assert Architecture(3, 4, "relu", np.ones(first), np.ones(second)).grid_shape == expected


def test_leaves_are_the_numbers_and_the_rest_is_static():
    architecture = Architecture(3, 4, "relu", weight_var=jnp.ones(2), bias_var=0.5)
    names = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(architecture)]
    assert names == [".weight_var", ".bias_var", ".dropout", ".branch_scale"]
    doubled = jax.jit(lambda a: jax.tree.map(lambda v: 2 * v, a))(architecture)
    assert isinstance(doubled, Architecture)
    assert (doubled.depth, doubled.activation) == (3, get("relu"))
    np.testing.assert_array_equal(doubled.weight_var, [2.0, 2.0])


def test_all_four_numbers_make_the_grid():
    numbers = {"weight_var": np.ones((4, 1, 1)), "dropout": [0.0, 0.5], "branch_scale": [[1.0]] * 3}
    architecture = Architecture(**(GIVEN | numbers), block="residual")
    assert architecture.grid_shape == (4, 3, 2)
    assert architecture.branch_scale.shape == (3, 1)


def test_a_branch_scale_by_depth_is_kept_as_a_number():
    deep = Architecture(16, 4, "relu", 2.0, block="residual", branch_scale="1/sqrt(depth)")
    assert deep.branch_scale == 0.25


PLAIN = [
    ({}, True),
    ({"dropout": 0.0, "initialiser": "orthogonal"}, True),
    ({"dropout": [0.0, 0.1]}, False),
    ({"block": "residual"}, False),
    ({"norm": "weight_norm"}, False),
]


@pytest.mark.parametrize(("change", "plain"), PLAIN, ids=str)
def test_plain_is_the_affine_layer_alone(change, plain):
    assert Architecture(**(GIVEN | change)).is_plain is plain


def test_a_traced_dropout_may_be_anything_and_a_traced_branch_scale_needs_a_residual_block():
    def plain(dropout):
        return jnp.asarray(Architecture(3, 4, "tanh", 1.0, dropout=dropout).is_plain)

    assert not jax.jit(plain)(0.0)
    scale = lambda a, block: Architecture(3, 4, "tanh", 1.0, block=block, branch_scale=a)  # noqa: E731
    assert jax.grad(lambda a: 2 * scale(a, "residual").branch_scale)(0.5) == 2.0
    with pytest.raises(ValueError, match=r"1 in a plain block .* got a traced value"):
        jax.jit(lambda a: scale(a, "plain").branch_scale)(1.0)


def test_placeholders_of_transforms_are_let_through():
    architecture = Architecture(3, 4, "relu", weight_var=jnp.ones(2))
    assert jax.tree.map(lambda _: None, architecture).weight_var is None
    shapes = jax.eval_shape(lambda a: a, architecture)
    assert shapes.weight_var.shape == (2,)


def test_traced_variances_are_not_checked_but_used():
    def variance(weight_var):
        return Architecture(3, 4, "tanh", weight_var=weight_var).weight_var

    np.testing.assert_array_equal(jax.vmap(variance)(jnp.arange(3.0)), [0.0, 1.0, 2.0])
    assert jax.grad(lambda w: 3 * variance(w))(1.0) == 3.0


OWN = kinds.Sequence(kinds.Pointwise(), kinds.Dense("query_var"), kinds.Skip(kinds.Dense()))


def test_a_layer_of_ones_own_reads_its_numbers_by_name():
    given = {**GIVEN, "branch_scale": 0.5, "layer": OWN, "numbers": {"query_var": [1.0, 2.0]}}
    own = Architecture(**given)
    assert not own.is_plain
    assert own.grid_shape == (2,)
    names = [str(path[-1]) for path, _ in jax.tree_util.tree_leaves_with_path(own)]
    assert names == [".weight_var", ".bias_var", ".dropout", ".branch_scale", "['query_var']"]
    changed = own.with_numbers(query_var=3.0, bias_var=0.2)
    assert changed.all_numbers == {**own.all_numbers, "query_var": 3.0, "bias_var": 0.2}
    assert jax.grad(lambda v: own.with_numbers(query_var=v).all_numbers["query_var"])(1.0) == 1.0
    with pytest.raises(ValueError, match=r"numbers must be those of the architecture, got key_var"):
        own.with_numbers(key_var=1.0)
    alike = Architecture(**GIVEN, layer=kinds.Sequence(kinds.Pointwise(), kinds.Dense()))
    assert alike.is_plain


BAD_LAYERS = [
    ({"layer": 3}, r"layer must be a composition of sigprop.kinds, got 3"),
    ({"layer": OWN}, r"numbers must have query_var, which the layer reads"),
    ({"layer": OWN, "numbers": {"query_var": -1.0}}, r"query_var must be .*>= 0.*got -1"),
    ({"layer": OWN, "numbers": {"query_var": 1.0, "x": 1.0}}, r"x: given, but the layer does not"),
    ({"layer": kinds.Dense(), "dropout": 0.1}, r"dropout: given, but the layer does not read it"),
    ({"layer": kinds.Dense(), "branch_scale": 0.1}, r"branch_scale must be 1 in a plain block"),
    ({"layer": kinds.Dense(), "norm": "rms_norm"}, r"block and norm .* must be left out"),
    ({"layer": kinds.Dense(units=7)}, r"layer must keep \(places, width\) = .* gives \(1, 7\)"),
    ({"numbers": {"query_var": 1.0}}, r"numbers are for a layer of your own, got query_var"),
]


@pytest.mark.parametrize(("change", "message"), BAD_LAYERS, ids=str)
def test_what_cannot_be_a_layer_is_one_clear_line(change, message, as_users_call):
    with pytest.raises(ValueError, match=message):
        Architecture(**(GIVEN | change))
