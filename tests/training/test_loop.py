"""The loop: steps by hand, optimisers against Optax, divergence, early stopping, grids."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sigprop import training
from sigprop.architecture import Architecture
from sigprop.networks import MLP
from sigprop.training import Optimiser, Readings
from sigprop.training.batches import shuffled

KEY = jax.random.key(3)
TANH = Architecture(depth=2, width=8, activation="tanh", weight_var=1.5, bias_var=0.1)
QUIET = Readings(gradient_norms=False, activations=False)


def line(key):
    """y = a x + b from a = b = 0."""
    return {"a": jnp.zeros((1, 1)), "b": jnp.zeros(1)}


def on_line(model, inputs, key):
    return inputs @ model["a"].T + model["b"]


@functools.cache
def digits():
    return training.standardised(training.digits())


@functools.cache
def few():
    """Forty training examples: a step of all of them is cheap."""
    whole = digits()
    return training.Splits(whole.train.take(slice(0, 40)), whole.validation, whole.test)


def test_a_drawn_network_is_trained_as_it_is_alone_and_stacked():
    """As a function that draws the same, whatever the run's own key."""
    options = {"steps": 3, "batch_size": 8, "readings": QUIET}
    keys, rule = jax.random.split(KEY, 2), Optimiser("sgd", 0.1)
    draw = lambda key: MLP(TANH, 64, 10, rngs=key)  # noqa: E731
    stacked = jax.vmap(draw)(keys)
    one = lambda network, key: training.train(network, few(), rule, key=key, **options)  # noqa: E731
    losses = jax.vmap(lambda network, key: one(network, key).loss)(stacked, keys)
    for i in range(2):
        made = training.train(lambda _, i=i: draw(keys[i]), few(), rule, key=keys[i], **options)
        np.testing.assert_allclose(losses[i], made.loss, rtol=1e-5)
        alone = one(draw(keys[i]), keys[i])
        np.testing.assert_allclose(alone.loss, made.loss, rtol=1e-5)


def test_what_people_have_is_taken_as_it_is():
    """An Optax transformation, and arrays as data."""
    data = training.linear_regression(20, noise=0.3)
    options = {"steps": 5, "key": KEY, "predict": on_line}
    own = training.train(line, data, Optimiser("adam", 0.1), **options)
    for pair in ((data.inputs, data.targets), (data.inputs, jnp.asarray(data.targets))):
        run = training.train(line, pair, optax.adam(0.1), **options)
        np.testing.assert_allclose(run.loss, own.loss, rtol=1e-5)
    keys = jax.random.split(KEY, 2)
    grid = training.train_grid(line, data, optax.adam(0.1), **{**options, "key": keys})
    assert grid.loss.shape == (2, 5)
    labels = few().train.targets
    run = training.train(TANH, (few().train.inputs, labels), optax.sgd(0.1), steps=2, key=KEY)
    assert run.accuracy is not None


@pytest.mark.usefixtures("as_users_call")
def test_what_is_neither_is_told_in_one_line():
    data = training.linear_regression(20)
    with pytest.raises(ValueError, match="optimiser must be a training"):
        training.train(line, data, 0.1, steps=1, key=KEY)
    with pytest.raises(ValueError, match=r"data must be a .* got ndarray"):
        training.train(line, data.inputs, Optimiser(), steps=1, key=KEY)
    with pytest.raises(ValueError, match="must have a target for each"):
        training.train(line, (data.inputs, data.targets[:3]), Optimiser(), steps=1, key=KEY)


def test_full_batch_gradient_descent_is_the_textbook_rule_step_for_step():
    data, rate, steps = training.linear_regression(20, noise=0.3), 0.2, 40
    run = training.train(line, data, Optimiser("sgd", rate), steps=steps, key=KEY, predict=on_line)
    x, y = (np.asarray(v, np.float64)[:, 0] for v in (data.inputs, data.targets))
    a = b = 0.0
    losses = []
    for _ in range(steps):
        error = a * x + b - y
        losses.append(np.mean(error**2))
        a, b = a - rate * 2 * np.mean(error * x), b - rate * 2 * np.mean(error)
    np.testing.assert_allclose(run.loss, losses, rtol=1e-5)
    np.testing.assert_allclose(run.model["a"], [[a]], rtol=1e-5)
    np.testing.assert_allclose(run.model["b"], [b], rtol=1e-5)


def test_linear_regression_recovers_the_line():
    data = training.linear_regression(400, noise=0.1)
    run = training.train(
        line, data, Optimiser("adam", 0.05), steps=600, batch_size=50, key=KEY, predict=on_line
    )
    x = np.asarray(data.inputs)[:, 0]
    slope_error = 0.1 / np.sqrt(len(x)) / x.std()
    assert abs(float(run.model["a"][0, 0]) - 3.0) < 4 * slope_error
    assert abs(float(run.model["b"][0]) - 2.0) < 4 * 0.1 / np.sqrt(len(x))


BY_OPTAX = {
    "sgd": optax.sgd(0.05),
    "momentum": optax.sgd(0.05, momentum=0.9),
    "nesterov": optax.sgd(0.05, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.05),
    "adamw": optax.adamw(0.05, weight_decay=1e-2),
    "rmsprop": optax.rmsprop(0.05),
    "adagrad": optax.adagrad(0.05),
}


def small(key):
    """A tanh network of one hidden layer, as a dict: it compiles fast."""
    grid = jnp.arange(512.0).reshape(8, 64)
    return {"a": jnp.sin(grid) / 4, "b": jnp.zeros(8), "c": jnp.cos(grid[:, :10].T)}


def of_small(model, inputs, key):
    return jnp.tanh(inputs @ model["a"].T + model["b"]) @ model["c"].T


def trained(optimiser, steps=8):
    """Losses of `small` on all of `few`."""
    return training.train(
        small, few().train, optimiser, steps=steps, key=KEY, predict=of_small, readings=QUIET
    ).loss


def by_plain_optax(chain, steps=8):
    """The same by a loop as Optax's manual has it."""
    data, params, losses = few().train, small(KEY), []

    def loss(params):
        logits = of_small(params, data.inputs, None)
        return optax.softmax_cross_entropy_with_integer_labels(logits, data.targets).mean()

    state = chain.init(params)
    for _ in range(steps):
        value, gradient = jax.value_and_grad(loss)(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = chain.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(value))
    return losses


@pytest.mark.parametrize("name", training.OPTIMISERS)
def test_an_optimiser_takes_the_steps_of_optax(name):
    mine = trained(Optimiser(name, 0.05, weight_decay=1e-2))
    np.testing.assert_allclose(mine, by_plain_optax(BY_OPTAX[name]), rtol=2e-5)


CLIPPED = [
    (Optimiser("sgd", 0.5, clip_by_norm=0.3), (optax.clip_by_global_norm(0.3), optax.sgd(0.5))),
    (Optimiser("adam", 0.02, clip_by_value=0.01), (optax.clip(0.01), optax.adam(0.02))),
    (Optimiser("sgd", 0.5, adaptive_clip=0.05), (optax.adaptive_grad_clip(0.05), optax.sgd(0.5))),
    (
        Optimiser("sgd", 0.5, warmup_steps=3, schedule="cosine", schedule_steps=4),
        (optax.sgd(lambda t: jnp.array([1 / 6, 1 / 3, 0.5, 0.5, *(
            0.25 * (1 + np.cos(np.pi * s / 4)) for s in (1, 2, 3, 4))])[t]),),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("mine", "theirs"), CLIPPED, ids=["norm", "value", "adaptive", "warmup"])
def test_clipping_and_schedules_are_those_of_optax(mine, theirs):
    np.testing.assert_allclose(trained(mine), by_plain_optax(optax.chain(*theirs)), rtol=2e-5)


def test_clipping_changes_something():
    plain = trained(Optimiser("sgd", 0.5))
    for mine, _ in CLIPPED:
        assert not np.allclose(trained(mine), plain, rtol=1e-2)


def test_l2_is_the_gradient_of_half_the_squares_of_the_weights():
    def start(key):
        return {"a": jnp.full((1, 1), 2.0), "b": jnp.full(1, 2.0)}

    data = training.regression(np.zeros((4, 1)), np.full((4, 1), 2.0))  # no gradient but L2's
    run = training.train(
        start, data, Optimiser("sgd", 0.1, l2=0.5), steps=3, key=KEY, predict=on_line
    )
    np.testing.assert_allclose(run.model["a"], 2.0 * (1 - 0.1 * 0.5) ** 3, rtol=1e-6)
    np.testing.assert_array_equal(run.model["b"], 2.0)  # a bias is not penalised


def test_a_grid_is_its_cells_one_by_one():
    # (Adam divides by gradients near 0, and so would magnify what the programs round apart.)
    weight_var, rate = np.array([0.5, 1.5, 3.0]), np.array([[0.02], [0.2]])
    keys = jax.random.split(KEY, 3)
    each = {"steps": 12, "batch_size": 16, "readings": Readings(every=5)}
    together = training.train_grid(
        Architecture(2, 8, "tanh", weight_var, 0.1),
        few(),
        Optimiser("momentum", rate),
        key=keys,
        **each,
    )
    assert together.loss.shape == (2, 3, 12)
    one = lambda w, r, k: training.train(  # noqa: E731
        Architecture(2, 8, "tanh", w, 0.1), few(), Optimiser("momentum", r), key=k, **each
    )
    np.testing.assert_array_equal(together.reading_steps[0, 0], [0, 5, 10, 12])
    for cell in [(0, 0), (1, 1), (0, 2)]:
        i, j = cell
        alone = one(float(weight_var[j]), float(rate[i, 0]), keys[j])
        mine = [leaf[cell] for leaf in jax.tree.leaves(together)]
        theirs = jax.tree.leaves(dataclasses.replace(alone, final=None))
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_grid_does_not_depend_on_the_order_and_number_of_its_cells():
    rates = np.geomspace(1e-3, 0.3, 9)
    go = lambda rate: training.train_grid(  # noqa: E731
        small, few().train, Optimiser("sgd", rate), key=KEY, steps=5, batch_size=8,
        readings=QUIET, predict=of_small,
    ).loss  # fmt: skip
    whole = go(rates)
    np.testing.assert_array_equal(go(rates[::-1])[::-1], whole)
    np.testing.assert_array_equal(go(rates[:3]), whole[:3])


def test_a_run_that_overflows_freezes_and_says_when():
    raw = training.parabola(100)
    run = training.train(
        line, raw, Optimiser("sgd", 0.01), steps=60, key=KEY, predict=on_line,
        readings=Readings(every=20),
    )  # fmt: skip
    at = int(run.diverged_at)
    assert 0 < at < 60
    assert np.isfinite(run.loss[:at]).all()
    assert np.isnan(run.loss[at + 1 :]).all()
    assert np.isfinite(run.model["a"]).all()  # the last ones that were numbers
    healthy = training.train(line, raw, Optimiser("sgd", 1e-4), steps=60, key=KEY, predict=on_line)
    assert int(healthy.diverged_at) == -1
    assert np.isfinite(healthy.loss).all()


def test_the_parameters_of_a_diverged_run_stand_still():
    raw, rate = training.parabola(100), Optimiser("sgd", 0.01)
    until = lambda steps: training.train(  # noqa: E731
        line, raw, rate, steps=steps, key=KEY, predict=on_line, readings=QUIET
    )
    at = int(until(60).diverged_at)
    for name in ("a", "b"):
        np.testing.assert_array_equal(until(60).model[name], until(at).model[name])


def test_early_stopping_goes_back_to_the_best_reading():
    """The training targets lie beyond the validation targets: on the way there it overshoots."""
    ones = np.ones((4, 1))
    data = training.Splits(training.regression(ones, ones), training.regression(ones, 0.5 * ones))
    go = lambda patience: training.train(  # noqa: E731
        line, data, Optimiser("sgd", 0.01), steps=100, key=KEY, predict=on_line,
        readings=Readings(every=4), patience=patience,
    )  # fmt: skip
    free, stopped = go(None), go(2)
    best = int(np.argmin(free.readings.validation_loss))
    assert 0 < best < 20
    assert int(stopped.stopped_at) == int(free.reading_steps[best + 2])
    reached = float(stopped.model["a"][0, 0] + stopped.model["b"][0])
    np.testing.assert_allclose(
        (reached - 0.5) ** 2, free.readings.validation_loss[best], rtol=1e-4, atol=1e-9
    )
    assert np.isnan(stopped.loss[int(stopped.stopped_at) :]).all()
    assert int(free.stopped_at) == -1


def test_digits_are_learnt_by_a_users_own_module_with_batch_norm_and_dropout():
    class Mine(nnx.Module):
        def __init__(self, rngs):
            self.a, self.b = nnx.Linear(64, 64, rngs=rngs), nnx.Linear(64, 10, rngs=rngs)
            self.norm, self.drop = nnx.BatchNorm(64, rngs=rngs), nnx.Dropout(0.2, rngs=rngs)

        def __call__(self, x):
            return self.b(self.drop(nnx.relu(self.norm(self.a(x)))))

    run = training.train(
        lambda key: Mine(nnx.Rngs(key)), digits(), Optimiser("adam", 1e-2), steps=150,
        batch_size=64, key=KEY,
    )  # fmt: skip
    assert float(run.test_accuracy) > 0.9
    assert list(run.layer_gradient_norms) == ["a", "b"]
    assert run.readings.activation_variance is None
    assert np.abs(run.model.norm.mean[...]).max() > 0.01  # running statistics moved
    assert int(run.model.drop.rngs.count[...]) > 100  # and so did the random stream


def test_readings_are_those_of_the_network_itself():
    run = training.train(
        TANH, few(), Optimiser("sgd", 0.1), steps=3, key=KEY, readings=Readings(jacobian=True)
    )
    network = MLP(TANH, 64, 10, rngs=jax.random.fold_in(KEY, 0))
    inputs, labels = few().train.inputs, few().train.targets
    z = network.preactivations(inputs)
    np.testing.assert_allclose(
        run.readings.activation_variance[0], np.var(z, axis=(1, 2)), rtol=1e-4
    )
    gradient = jax.grad(lambda n: training.cross_entropy(n(inputs), jnp.asarray(labels)))(network)
    np.testing.assert_allclose(
        run.layer_gradient_norms["hidden[0]"][0],
        np.linalg.norm(gradient.hidden.weight[...]),
        rtol=1e-4,
    )
    chi = np.mean([
        np.linalg.norm(network.hidden.weight[0] * (1 - np.tanh(z[0, i]) ** 2)) ** 2 / 8
        for i in range(4)
    ])  # fmt: skip
    np.testing.assert_allclose(run.readings.conditioning.layer_mean_square[0, 0], chi, rtol=1e-4)


def test_orthogonal_networks_and_their_jacobians_in_a_grid_on_two_devices():
    # Batched decompositions inside a program of several devices would wait for ever.
    assert jax.local_device_count() == 2
    initial = Architecture(3, 32, "tanh", [1.0, 1.1, 1.2, 1.3], initialiser="orthogonal")
    each = {"steps": 2, "key": KEY, "readings": Readings(jacobian=True)}
    grid = training.train_grid(initial, few(), Optimiser("sgd", 0.1), **each)
    second = dataclasses.replace(initial, weight_var=1.1)
    alone = training.train(second, few(), Optimiser("sgd", 0.1), **each)
    for a, b in zip(jax.tree.leaves(grid.readings), jax.tree.leaves(alone.readings), strict=True):
        np.testing.assert_allclose(a[1], b, rtol=2e-4, atol=1e-6)


def test_progress_does_not_change_the_answer():
    each = {"steps": 7, "key": KEY, "readings": Readings(every=3), "batch_size": 16}
    run = functools.partial(training.train, small, few(), Optimiser("adam", 0.01), **each)
    plain, shown = run(predict=of_small), run(predict=of_small, progress=True)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(shown), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("examples", [1, 2, 5, 16, 17, 1257])
def test_a_shuffle_is_a_permutation_that_depends_on_its_key(examples):
    orders = [
        np.asarray(shuffled(jax.random.key(seed), jnp.arange(examples), examples))
        for seed in range(2)
    ]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(examples))
    assert examples < 10 or (orders[0] != orders[1]).mean() > 0.8


def test_every_example_is_as_often_at_every_place():
    """Counts over 4000 keys of 10 places; chi-squared of 81 degrees of freedom, 6 sigma."""
    keys = jax.random.split(KEY, 4000)
    orders = np.asarray(jax.vmap(lambda k: shuffled(k, jnp.arange(10), 10))(keys))
    counts = np.stack([np.bincount(orders[:, place], minlength=10) for place in range(10)])
    assert ((counts - 400.0) ** 2 / 400).sum() < 81 + 6 * np.sqrt(2 * 81)


def test_an_epoch_shows_every_example_once():
    run = training.train(
        line, training.regression(np.arange(6.0), np.arange(6.0)), Optimiser("sgd", 1e-9),
        steps=6, batch_size=1, key=KEY, predict=on_line, readings=QUIET,
    )  # fmt: skip
    np.testing.assert_allclose(np.sort(run.loss), np.arange(6.0) ** 2, rtol=1e-5, atol=1e-6)


BAD = [
    ({"steps": 0}, "steps must be an integer >= 1, got 0"),
    ({"batch_size": 41}, "batch_size must be at most the 40 examples to train on, got 41"),
    ({"patience": 2, "data": "no validation"}, "data must have validation examples to stop early"),
    ({"loss": "hinge"}, "loss must be one of 'cross_entropy', 'mean_squared_error', got 'hinge'"),
    ({"loss": lambda model, batch: model(batch.inputs)}, "loss must return one real number, got"),
    ({"predict": lambda m, x, key: m(x[:, :9])}, "the model must accept a batch with inputs of"),
    ({"predict": lambda m, x, key: m(x)[:, :9]}, "outputs for a batch must have shape (40, 10)"),
    ({"model": "a string"}, "architecture_or_init must be an Architecture or a function"),
    ({"model": lambda key: {"f": 3}}, "must make a model with floating-point parameters"),
    ({"optimiser": [0.1, 0.2]}, "optimiser must have scalar numbers to train one network"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[str(next(iter(c))) for c, _ in BAD])
def test_bad_input_is_one_clear_line(change, message):
    change = dict(change)
    model = change.pop("model", TANH)
    data = few().train if change.pop("data", None) else few()
    optimiser = Optimiser("sgd", change.pop("optimiser", 0.1))
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is looked at below
        training.train(model, data, optimiser, **{"steps": 2, "key": KEY} | change)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Optimiser("sdg"), "did you mean 'sgd'"),
        (lambda: Optimiser("sgd", 0.0), "learning_rate must be finite and > 0, got 0.0"),
        (lambda: Optimiser("sgd", [0.1, np.nan]), "got nan at index (1,)"),
        (lambda: Optimiser("sgd", 0.1, clip_by_norm=-1), "clip_by_norm must be finite and > 0"),
        (lambda: Optimiser("sgd", 0.1, l2=-1), "l2 must be finite and >= 0, got -1"),
        (lambda: Optimiser("sgd", 0.1, schedule="cosine"), "schedule_steps must be an integer"),
    ],
)
def test_bad_optimisers_are_refused(make, message):
    with pytest.raises(ValueError, match="must be") as caught:
        make()
    assert message in str(caught.value)
