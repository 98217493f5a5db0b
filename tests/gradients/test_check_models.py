"""Models of many kinds: a right gradient is seen to be right, a wrong one found, none left open.

Each model takes a function to put into its middle: the identity, or one whose custom derivative is
off by a factor.
"""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax

from sigprop import gradients
from sigprop.gradients import CheckStatus

KEY = jax.random.key(0)
LOW = jnp.bfloat16


def identity_with_factor(factor):
    """The identity, whose derivative is a custom one, off by a factor."""

    @jax.custom_vjp
    def planted(x):
        return x

    planted.defvjp(lambda x: (x, None), lambda _, g: ((factor * g).astype(g.dtype),))
    return planted


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape) / shape[0] ** 0.5


def norm(x):
    return jax.nn.standardize(x.astype(jnp.float32), -1, epsilon=1e-5).astype(x.dtype)


def cross_entropy(logits, labels):
    logits = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.mean(jnp.take_along_axis(logits, labels[..., None], -1))


def transformer(planted, head=1.0, width=16, places=6):
    """Float32 parameters, computing in bfloat16; biases, a causal mask, a tied embedding."""
    params = {
        "embedding": 0.1 * normal(1, 12, width),
        "qkv": {"kernel": normal(2, width, 3 * width), "bias": jnp.zeros(3 * width)},
        "wide": {"kernel": normal(3, width, 2 * width), "bias": jnp.zeros(2 * width)},
        "narrow": normal(4, 2 * width, width),
        "head": head * normal(5, width, 12),
    }
    tokens = jax.random.randint(KEY, (2, places + 1), 0, 12)

    def loss(params):
        low = jax.tree.map(lambda a: a.astype(LOW), params)
        x = low["embedding"][tokens[:, :-1]]
        q, k, v = jnp.split(norm(x) @ low["qkv"]["kernel"] + low["qkv"]["bias"], 3, -1)
        scores = (q @ k.mT).astype(jnp.float32) / jnp.float32(width**0.5)
        mask = jnp.tril(jnp.ones((places, places), bool))
        weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min))
        x = x + weights.astype(LOW) @ v
        hidden = jax.nn.gelu(norm(x) @ low["wide"]["kernel"] + low["wide"]["bias"])
        x = x + planted(hidden) @ low["narrow"]
        return cross_entropy(norm(x) @ low["head"], tokens[:, 1:])

    return loss, params


def zero_head_transformer(planted):
    return transformer(planted, head=0.0)


def resnet(planted):
    """Linen, bfloat16, batch statistics, the last gain of the branch 0."""

    class Branch(linen.Module):
        @linen.compact
        def __call__(self, x):
            y = linen.Conv(4, (3, 3), dtype=LOW)(x)
            y = linen.BatchNorm(use_running_average=False, dtype=LOW)(y)
            y = linen.Conv(4, (3, 3), dtype=LOW)(planted(linen.relu(y)))
            zeros = linen.initializers.zeros
            y = linen.BatchNorm(use_running_average=False, scale_init=zeros, dtype=LOW)(y)
            return linen.Dense(3)(linen.relu(x + y).mean((1, 2)).astype(jnp.float32))

    images, module = jax.random.normal(KEY, (3, 5, 5, 4)), Branch()
    with jax.numpy_dtype_promotion("standard"):
        variables = module.init(KEY, images)

    def loss(params):
        given = {**variables, "params": params}
        with jax.numpy_dtype_promotion("standard"):  # flax's own
            logits, _ = module.apply(given, images, mutable=["batch_stats"])
        return cross_entropy(logits, jnp.arange(3))

    return loss, variables["params"]


def mixture_of_experts(planted):
    """Top-2 routing, at a tie: the router is 0."""
    params = {
        "router": jnp.zeros((8, 4)),
        "up": normal(1, 8, 4, 8).swapaxes(0, 1),
        "down": normal(2, 8, 4, 3).swapaxes(0, 1),
    }
    x = jax.random.normal(KEY, (16, 8))

    def loss(params):
        chosen, which = lax.top_k(x @ params["router"], 2)
        hidden = jax.nn.relu(jnp.einsum("bi,bkij->bkj", x, params["up"][which]))
        out = jnp.einsum("bkj,bkjo->bko", planted(hidden), params["down"][which])
        return jnp.mean((jnp.einsum("bk,bko->bo", jax.nn.softmax(chosen), out) - 1) ** 2)

    return loss, params


def state_space(planted):
    """Complex diagonal states by an associative scan, as S5 has them."""
    params = {
        "decay": jnp.linspace(-1, -0.2, 4),
        "spin": jnp.linspace(0.3, 3, 4),
        "into": lax.complex(normal(1, 4, 3), normal(2, 4, 3)),
        "out": lax.complex(normal(3, 3, 4), normal(4, 3, 4)),
    }
    u = jax.random.normal(KEY, (9, 3))

    def loss(params):
        step = jnp.exp(0.1 * lax.complex(params["decay"], params["spin"]))
        entering = u.astype(complex) @ params["into"].T
        combine = lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1])  # noqa: E731
        _, states = lax.associative_scan(combine, (jnp.broadcast_to(step, (9, 4)), entering))
        return jnp.mean((jax.nn.gelu(planted((states @ params["out"].T).real)) - 0.5) ** 2)

    return loss, params


def tree_lstm(planted):
    params = {"leaf": normal(1, 5, 6), "gates": normal(2, 12, 30), "bias": jnp.zeros(30)}

    def state(params, tree):
        if isinstance(tree, int):
            return params["leaf"][tree], params["leaf"][tree]
        (h1, c1), (h2, c2) = (state(params, child) for child in tree)
        total = jnp.concatenate([h1, h2]) @ params["gates"] + params["bias"]
        i, f1, f2, o, u = jnp.split(total, 5)
        cell = jax.nn.sigmoid(i) * jnp.tanh(u)
        cell += jax.nn.sigmoid(f1) * c1 + jax.nn.sigmoid(f2) * c2
        return planted(jax.nn.sigmoid(o) * jnp.tanh(cell)), cell

    return lambda params: jnp.sum(state(params, (((0, 1), (2, 3)), (4, 0)))[0] ** 2), params


def equinox_network(planted):
    """A pooling layer with its function and start value, dropout with its rate, attention."""
    keys = jax.random.split(KEY, 3)
    model = {
        "convolution": eqx.nn.Conv2d(1, 2, 3, key=keys[0]),
        "pool": eqx.nn.MaxPool2d(2, 2),
        "attention": eqx.nn.MultiheadAttention(2, 4, dropout_p=0.1, key=keys[1]),
        "dropout": eqx.nn.Dropout(0.2),
        "start": -jnp.inf * jnp.ones(()),
        "activation": jax.nn.relu,
        "steps": jnp.arange(3),
        "name": "network",
    }
    image = jax.random.normal(KEY, (1, 6, 6))

    def loss(model):
        pooled = model["pool"](model["activation"](model["convolution"](image))).reshape(2, 4)
        pooled = planted(jnp.maximum(pooled, model["start"]))
        attended = model["attention"](pooled, pooled, pooled, key=keys[2])
        return jnp.sum(model["dropout"](attended, key=keys[2]) ** 2), {"steps": model["steps"]}

    return loss, model


def haiku_network(planted):
    def forward(x):
        return hk.Linear(2, w_init=jnp.zeros)(planted(jnp.tanh(hk.Linear(6)(x))))

    network = hk.without_apply_rng(hk.transform(forward))
    x = jax.random.normal(KEY, (5, 3))
    return lambda p: jnp.mean((network.apply(p, x) - 1) ** 2), network.init(KEY, x)


def nnx_network(planted):
    """Dropout with a stream of keys, batch statistics."""

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(3, 8, rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.dropout = nnx.Dropout(0.3, rngs=rngs)
            self.last = nnx.Linear(8, 2, kernel_init=nnx.initializers.zeros, rngs=rngs)

        def __call__(self, x):
            return self.last(planted(self.dropout(jnp.tanh(self.norm(self.first(x))))))

    x = jax.random.normal(KEY, (6, 3))
    return lambda m: jnp.mean((m(x) - 0.5) ** 2), Network(nnx.Rngs(0))


def low_rank_adapter(planted):
    frozen, x = normal(1, 6, 6), jax.random.normal(KEY, (4, 6))
    params = {"a": normal(2, 6, 2), "b": jnp.zeros((2, 6))}
    return lambda p: jnp.sum(jnp.tanh(x @ frozen + planted(x @ p["a"]) @ p["b"]) ** 2), params


def rezero(planted):
    params = [{"kernel": normal(i, 6, 6), "gain": jnp.zeros(())} for i in range(3)]
    x = jax.random.normal(KEY, (4, 6))

    def loss(params):
        h = x
        for number, layer in enumerate(params):
            branch = jax.nn.relu(h @ layer["kernel"])
            h = h + layer["gain"] * (planted(branch) if number == 1 else branch)
        return jnp.mean(jnp.sin(h))

    return loss, params


def recurrent(planted):
    params = {"in": normal(1, 3, 6), "again": normal(2, 6, 6), "bias": jnp.zeros(6)}
    x = jax.random.normal(KEY, (12, 3)).astype(LOW)

    def loss(params):
        low = jax.tree.map(lambda a: a.astype(LOW), params)

        def step(h, u):
            h = planted(jnp.tanh(u @ low["in"] + h @ low["again"] + low["bias"]))
            return h, None

        return jnp.sum(jnp.square(lax.scan(step, jnp.zeros(6, LOW), x)[0].astype(jnp.float32)))

    return loss, params


MODELS = {
    "transformer": (transformer, 2.0),
    "zero head": (zero_head_transformer, -7.0),
    "resnet": (resnet, -7.0),
    "experts": (mixture_of_experts, -1.0),
    "state space": (state_space, 10.0),
    "tree lstm": (tree_lstm, 2.0),
    "equinox": (equinox_network, -1.0),
    "haiku": (haiku_network, -7.0),
    "nnx": (nnx_network, 2.0),
    "low rank": (low_rank_adapter, -7.0),
    "rezero": (rezero, -7.0),
    "recurrent": (recurrent, 1.5),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_right_gradient_is_seen_to_be_right(name):
    model, _ = MODELS[name]
    loss, params = model(lambda x: x)
    report = gradients.check(loss, params, key=KEY, entries=1, has_aux=name == "equinox")
    report.assert_ok()
    assert report.verdicts


@pytest.mark.parametrize("name", MODELS)
def test_a_wrong_custom_derivative_is_found(name):
    model, factor = MODELS[name]
    loss, params = model(identity_with_factor(factor))
    report = gradients.check(loss, params, key=KEY, entries=1, has_aux=name == "equinox")
    assert report.wrong
    assert not report.ok


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("fn", [jnp.tanh, jnp.exp, lambda x: x**3])
@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_low_precision_does_not_hide_an_error(factor, fn, dtype):
    planted = identity_with_factor(factor)
    loss = lambda x: jnp.sum(planted(fn(x)))  # noqa: E731
    report = gradients.check(loss, jnp.linspace(-1, 1, 8, dtype=dtype), key=KEY)
    assert report.ok == (factor == 1)
    assert bool(report.wrong) == (factor != 1)


def test_a_given_gradient_by_a_complex_array_is_held_to_the_convention_of_jax():
    z = jnp.asarray([1 + 2j, -0.5 + 0.3j])
    loss = lambda z: jnp.sum(jnp.abs(z) ** 4)  # noqa: E731
    assert gradients.check(loss, z, key=KEY).ok
    assert gradients.check(loss, z, key=KEY, grad=jax.grad(loss)).ok
    conjugate = gradients.check(loss, z, key=KEY, grad=lambda z: jax.grad(loss)(z).conj())
    assert conjugate.wrong == ("",)
    assert "complex conjugate of what JAX returns" in str(conjugate)
    assert gradients.check(loss, z, key=KEY, grad=lambda z: 10 * jax.grad(loss)(z)).wrong == ("",)


def test_what_a_function_does_not_change_with_is_told_from_what_is_cut_off():
    params = {"shift": jnp.ones(3), "scale": jnp.full((3,), 2.0), "off": jnp.ones(())}
    x = jax.random.normal(KEY, (5, 3))

    def loss(p):
        masked = jnp.where(x[:, 0] > 100, p["off"], 0.0)
        return jnp.sum(jax.nn.softmax(x * p["scale"] + jnp.sum(p["shift"])) ** 2) + masked.sum()

    report = gradients.check(loss, params, key=KEY)
    assert report.undecided == ("off",)
    assert set(report.agrees) == {"shift", "scale"}
    assert "inputs or parameters at which" in report.summary()


def test_a_gradient_lost_in_its_own_precision_is_not_ok():
    loss = lambda p: jnp.sum(p.astype(jnp.float16) * 1e-5) * jnp.float16(1e-4)  # noqa: E731
    report = gradients.check(loss, jnp.ones(4), key=KEY)
    assert report.undecided == ("",)
    assert CheckStatus.ROUNDED in {row.status for row in report.rows}
    assert "the loss scaled" in report.summary()


def test_a_callback_is_checked_in_the_precision_it_takes():
    def outside(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(lambda v: np.sin(v), shape, x, vmap_method="sequential")

    def planted(factor):
        fn = jax.custom_vjp(outside)
        fn.defvjp(lambda x: (outside(x), x), lambda x, g: (factor * g * jnp.cos(x),))
        return lambda p: jnp.sum(fn(p) ** 2)

    x = jnp.linspace(-1, 2, 5)
    right = gradients.check(planted(1.0), x, key=KEY)
    right.assert_ok()
    assert right.epsilon == jnp.finfo(jnp.float32).eps
    assert gradients.check(planted(2.0), x, key=KEY).wrong == ("",)


def test_a_gradient_computed_outside_jax():
    by_hand = lambda p: {"x": np.cos(np.asarray(p["x"]))}  # noqa: E731
    fn, params = lambda p: jnp.sum(jnp.sin(p["x"])), {"x": jnp.linspace(0, 1, 4)}
    gradients.check(fn, params, key=KEY, grad=by_hand).assert_ok()
    twice = lambda p: {"x": 2 * by_hand(p)["x"]}  # noqa: E731
    assert gradients.check(fn, params, key=KEY, grad=twice).wrong == ("x",)


def test_loops_that_end_where_numbers_say_have_a_tolerance():
    def root(a):
        """Newton's iteration, left early; its derivative is that of the exact root."""
        solve = jax.custom_jvp(
            lambda a: lax.while_loop(
                lambda x: jnp.abs(x * x - a) > 1e-2 * a, lambda x: (x + a / x) / 2, a
            )
        )
        solve.defjvp(lambda p, t: (solve(p[0]), t[0] / (2 * solve(p[0]))))
        return solve(a)

    loss = lambda p: jnp.sum(jax.vmap(root)(p))  # noqa: E731
    params = jnp.asarray([1.5, 2.0, 3.0])
    gradients.check(loss, params, key=KEY, tolerance=0.05).assert_ok()
    assert gradients.check(loss, params, key=KEY, tolerance=0.0).wrong == ("",)
