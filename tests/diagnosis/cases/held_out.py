"""Models that were made after the doctor's rules were set, to see how often these are wrong."""

import functools
import math
from itertools import pairwise

import jax
import jax.numpy as jnp

from tests.diagnosis.cases.case import Case, normal
from tests.diagnosis.cases.taps import tap

WIDTH = 24


def keyed(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def squared(model, batch):
    x, y = batch
    return jnp.mean((model(x) - y) ** 2)


def at_the_end(model, batch):
    x, y = batch
    return jnp.mean((model(tap("time:steps", x)) - y) ** 2)


def vectors():
    x = keyed(0, 24, 8)
    return x, jnp.stack([jnp.sin(x.sum(-1)), x[:, 0] * x[:, 1]], -1)


def sequences(length):
    def batch():
        x = keyed(1, 8, length, 6)
        return x, jnp.tanh(x[:, -1, :1] + x[:, -2, 1:2])

    return batch


def stack(seed, sizes, gain):
    """Kernels of a chain."""
    return [normal(seed + i, m, n, gain=gain) for i, (m, n) in enumerate(pairwise(sizes))]


def chain(kernels, x, act):
    for kernel in kernels:
        x = act(x @ kernel)
    return x


def norm(x):
    x = x - jnp.mean(x, -1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)


# ------------------------------------------------------------------ text


def text():
    return jax.random.randint(jax.random.key(2), (6, 12), 0, 30)


def next_token(model, tokens):
    logits = jax.nn.log_softmax(model(tokens)[:, :-1])
    return -jnp.mean(jnp.take_along_axis(logits, tokens[:, 1:, None], -1))


def tied(params, tokens):
    """Words are read out by the table they were looked up in."""
    x = tap("depth:first", params["table"][tokens])
    for kernel in params["hidden"]:
        x = x + jax.nn.gelu(norm(x) @ kernel) if params["skips"] else jnp.tanh(x @ kernel)
    return tap("depth:last", x) @ params["table"].T / math.sqrt(WIDTH)


def tied_model(gain, skips, depth=6):
    def build():
        hidden = stack(10, [WIDTH] * (depth + 1), gain)
        return {"table": keyed(3, 30, WIDTH), "hidden": hidden, "skips": skips}

    return build


def mixture(params, tokens):
    """Every expert is used, as much as a softmax says."""
    x = tap("depth:first", params["table"][tokens])
    for gate, experts in zip(params["gates"], params["experts"]):
        h = norm(x) if params["skips"] else x
        outputs = jnp.einsum("btd,edf->btef", h, experts)
        y = jnp.einsum("bte,btef->btf", jax.nn.softmax(h @ gate), jax.nn.gelu(outputs))
        x = x + y if params["skips"] else y
    return tap("depth:last", x) @ params["head"]


def mixture_model(gain, skips, depth=5):
    def build():
        experts = [
            jnp.stack([normal(100 + 10 * i + e, WIDTH, WIDTH, gain=gain) for e in range(4)])
            for i in range(depth)
        ]
        return {
            "table": keyed(4, 30, WIDTH),
            "gates": [normal(50 + i, WIDTH, 4) for i in range(depth)],
            "experts": experts,
            "head": normal(60, WIDTH, 30),
            "skips": skips,
        }

    return build


def linear_attention(params, tokens):
    """Causal sums of keys and values in the place of a softmax."""
    x = tap("depth:first", params["table"][tokens])
    for qkv, out in zip(params["qkv"], params["out"]):
        q, k, v = jnp.split((norm(x) if params["norms"] else x) @ qkv, 3, -1)
        mask = jnp.tril(jnp.ones((x.shape[1], x.shape[1])))
        scores = jax.nn.elu(q) @ jnp.swapaxes(jax.nn.elu(k), 1, 2) * mask / x.shape[1]
        y = scores @ v @ out
        x = x + y if params["norms"] else y
    return tap("depth:last", x) @ params["head"]


def linear_attention_model(gain, norms, depth=4):
    def build():
        return {
            "table": keyed(5, 30, WIDTH),
            "qkv": [normal(200 + i, WIDTH, 3 * WIDTH, gain=gain) for i in range(depth)],
            "out": [normal(250 + i, WIDTH, WIDTH, gain=gain) for i in range(depth)],
            "head": normal(260, WIDTH, 30),
            "norms": norms,
        }

    return build


# ------------------------------------------------------------------ time


def identity_rnn(params, x):
    """h ← relu(W h + U x), W near the identity; the last state is read."""

    def step(h, x):
        return jax.nn.relu(h @ params["recurrent"] + x @ params["entering"]), None

    h, _ = jax.lax.scan(step, jnp.zeros((x.shape[0], WIDTH)), jnp.swapaxes(x, 0, 1))
    return h @ params["head"]


def identity_model(scale):
    def build():
        return {
            "recurrent": scale * jnp.eye(WIDTH),
            "entering": 0.2 * normal(300, 6, WIDTH),
            "head": normal(301, WIDTH, 1),
        }

    return build


def gated(params, x):
    """A minimal gated unit, one sequence at a time."""

    def run(x):
        def step(h, x):
            both = jnp.concatenate([h, x])
            forget = jax.nn.sigmoid(both @ params["forget"] + params["bias"])
            new = jnp.tanh(jnp.concatenate([forget * h, x]) @ params["new"])
            return (1 - forget) * h + forget * new, None

        return jax.lax.scan(step, jnp.zeros(WIDTH), x)[0] @ params["head"]

    return jax.vmap(run)(x)


def gated_model(bias):
    def build():
        return {
            "forget": normal(310, WIDTH + 6, WIDTH),
            "bias": jnp.full(WIDTH, bias),
            "new": normal(311, WIDTH + 6, WIDTH),
            "head": normal(312, WIDTH, 1),
        }

    return build


def unitary(params, x):
    """Complex states that turn and shrink, one rate an entry."""
    turn = jnp.exp(jax.lax.complex(-jnp.exp(params["log_decay"]), params["phase"]))

    def step(h, x):
        return turn * h + x.astype(jnp.complex64) @ params["entering"], None

    start = jnp.zeros((x.shape[0], WIDTH), jnp.complex64)
    h, _ = jax.lax.scan(step, start, jnp.swapaxes(x, 0, 1))
    return jnp.real(h @ params["leaving"])


def unitary_model(rate):
    def build():
        turned = lambda s, *mn: jax.lax.complex(normal(s, *mn), normal(s + 1, *mn))  # noqa: E731
        return {
            "log_decay": jnp.log(jnp.full(WIDTH, rate)),
            "phase": jnp.linspace(0.0, 3.0, WIDTH),
            "entering": turned(320, 6, WIDTH),
            "leaving": turned(322, WIDTH, 1),
        }

    return build


def long_convolution(params, x):
    """A state space as the convolution with its impulse response, by the Fourier transform."""
    length = x.shape[1]
    for rate, phase, entering, leaving in zip(*(params[k] for k in ("rate", "phase", "b", "c"))):
        times = jnp.arange(length, dtype=jnp.float32)[:, None]
        response = jnp.exp(-jnp.exp(rate) * times) * jnp.cos(phase * times)
        spectrum = jnp.fft.rfft(x @ entering, 2 * length, axis=1)
        spectrum = spectrum * jnp.fft.rfft(response, 2 * length, axis=0)
        y = jnp.fft.irfft(spectrum, 2 * length, axis=1)[:, :length]
        x = jax.nn.gelu(y @ leaving)
    return x[:, -1] @ params["head"]


def long_convolution_model(rate, layers=2):
    def build():
        sizes = [6, *[WIDTH] * layers]
        return {
            "rate": [jnp.log(jnp.full(WIDTH, rate)) for _ in range(layers)],
            "phase": [jnp.linspace(0.0, 0.5, WIDTH) for _ in range(layers)],
            "b": [normal(330 + i, m, WIDTH) for i, m in enumerate(sizes[:-1])],
            "c": [normal(340 + i, WIDTH, n) for i, n in enumerate(sizes[1:])],
            "head": normal(350, WIDTH, 1),
        }

    return build


def controlled(params, x, *, plant, steps):
    """A policy pushes a plant from step to step; what counts is where it ends."""

    def step(state, _):
        push = jnp.tanh(state @ params["inner"]) @ params["outer"]
        return plant(state, push), None

    state, _ = jax.lax.scan(step, tap("time:first", x[:, :2]), None, length=steps)
    return tap("time:last", state)


def pendulum(state, push):
    angle, speed = state[:, :1], state[:, 1:]
    speed = speed + 0.05 * (jnp.sin(angle) + push)
    return jnp.concatenate([angle + 0.05 * speed, speed], -1)


def unstable(state, push):
    return 1.4 * state + push


def policy(scale):
    def build():
        return {"inner": normal(360, 2, WIDTH), "outer": scale * normal(361, WIDTH, 1)}

    return build


# ------------------------------------------------------------------ images and sets


def pictures():
    x = keyed(6, 6, 16, 16, 3)
    return x, jnp.tanh(x[..., :1] + jnp.roll(x[..., 1:2], 1, 1))


def convolved(x, kernel, stride=1):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def hourglass(params, x):
    """Three levels down and up again; skips hand on what was before, or not."""
    x = jax.nn.relu(tap("depth:first", convolved(x, params["first"])))
    kept = []
    for kernel in params["down"]:
        kept.append(x)
        x = jax.nn.relu(convolved(x, kernel, 2))
    for kernel in params["up"]:
        x = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
        before = kept.pop()
        x = jax.nn.relu(convolved(x + before if params["skips"] else x, kernel))
    return tap("depth:last", x) @ params["head"]


def hourglass_model(gain, skips):
    def build():
        make = lambda s, m, n: normal(s, 3, 3, m, n, gain=gain)  # noqa: E731
        return {
            "first": make(400, 3, 12),
            "down": [make(401 + i, 12, 12) for i in range(3)],
            "up": [make(410 + i, 12, 12) for i in range(3)],
            "head": normal(420, 12, 1),
            "skips": skips,
        }

    return build


def mixed(params, x):
    """Tokens are mixed, then channels."""
    x = tap("depth:first", x.reshape(x.shape[0], 16, 48) @ params["patches"])
    for tokens, channels in zip(params["tokens"], params["channels"]):
        own = norm if params["norms"] else lambda x: x
        y = jnp.swapaxes(jax.nn.gelu(jnp.swapaxes(own(x), 1, 2) @ tokens), 1, 2)
        x = x + y if params["norms"] else y
        y = jax.nn.gelu(own(x) @ channels)
        x = x + y if params["norms"] else y
    return (tap("depth:last", x) @ params["head"]).reshape(x.shape[0], 16, 16, 1)


def mixer_model(gain, norms, depth=5):
    def build():
        return {
            "patches": normal(430, 48, WIDTH),
            "tokens": [normal(431 + i, 16, 16, gain=gain) for i in range(depth)],
            "channels": [normal(440 + i, WIDTH, WIDTH, gain=gain) for i in range(depth)],
            "head": normal(450, WIDTH, 16),
            "norms": norms,
        }

    return build


# ------------------------------------------------------------------ other losses


def adversaries(model, batch):
    """The generator's loss and the discriminator's, in one."""
    generate, tell = model()
    noise, real = batch
    made = generate(noise)
    fooled = -jnp.mean(jax.nn.log_sigmoid(tell(made, False)))
    told = jnp.mean(jax.nn.softplus(tell(jax.lax.stop_gradient(made), True)))
    return fooled + told + jnp.mean(jax.nn.softplus(-tell(real, True)))


def two_players(params):
    def generate(z):
        first, *others, head = params["generator"]
        x = jnp.tanh(tap("generator:first", z @ first))
        return tap("generator:last", chain(others, x, jnp.tanh)) @ head

    def tell(x, own):
        held = params["discriminator"]
        held = held if own else jax.lax.stop_gradient(held)
        return chain(held[:-1], x, jax.nn.leaky_relu) @ held[-1]

    return generate, tell


def players(gain):
    def build():
        return {
            "generator": [*stack(500, [8, *[WIDTH] * 5], gain), normal(510, WIDTH, 2)],
            "discriminator": [*stack(520, [2, *[WIDTH] * 2], 2.0), normal(530, WIDTH, 1)],
        }

    return build


def noise_and_points():
    angle = 6.0 * jax.random.uniform(jax.random.key(7), (24, 1))
    return keyed(8, 24, 8), jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)


def denoising(model, batch):
    """The score is the slope of an energy: a gradient inside the loss."""
    noise, points = batch
    noise = noise[:, :2]
    slopes = jax.vmap(jax.grad(model), axis_name="examples")(points + 0.3 * noise)
    return jnp.mean((slopes - noise) ** 2)


def energy(params, x):
    *kernels, head = params["kernels"]
    for number, kernel in enumerate(kernels):
        x = x @ kernel
        x = tap("depth:first", x, "examples") if number == 0 else x
        x = tap("depth:last", x, "examples") if number == len(kernels) - 1 else x
        x = params["act"](x)
    return (x @ head)[0]


def energy_model(gain, act=jnp.tanh, depth=4):
    def build():
        kernels = [*stack(540, [2, *[WIDTH] * depth], gain), normal(550, WIDTH, 1)]
        return {"kernels": kernels, "act": jax.tree_util.Partial(act)}

    return build


# ------------------------------------------------------------------ chains


def highway(params, x):
    """Gates that start nearly closed carry the signal past every layer."""
    x = tap("depth:first", x @ params["first"])
    for kernel, gate, bias in zip(params["kernels"], params["gates"], params["biases"]):
        open_ = jax.nn.sigmoid(x @ gate + bias)
        x = open_ * jnp.tanh(x @ kernel) + (1 - open_) * x
    return tap("depth:last", x) @ params["head"]


def highway_model(bias, depth=16):
    def build():
        return {
            "first": normal(600, 8, WIDTH),
            "kernels": stack(601, [WIDTH] * (depth + 1), 0.3),
            "gates": stack(630, [WIDTH] * (depth + 1), 1.0),
            "biases": [jnp.full(WIDTH, bias) for _ in range(depth)],
            "head": normal(660, WIDTH, 2),
        }

    return build


def normalised_weights(params, x):
    """Every column of a kernel has the length that a gain says."""
    for number, (direction, gain) in enumerate(zip(params["directions"], params["gains"])):
        kernel = gain * direction / jnp.linalg.norm(direction, axis=0)
        x = jax.nn.relu(tap("depth:first", x @ kernel) if number == 0 else x @ kernel)
    return tap("depth:last", x) @ params["head"]


def normalised_model(gain, depth=8):
    def build():
        return {
            "directions": stack(700, [8, *[WIDTH] * depth], 1.0),
            "gains": [jnp.full(WIDTH, gain) for _ in range(depth)],
            "head": normal(720, WIDTH, 2),
        }

    return build


def _case(build, apply, loss, batch, *verdict, **options):
    return Case(build, loss, batch, *verdict, options=(("apply", apply),), **options)


_control = functools.partial(controlled, plant=pendulum, steps=40)
_unstable = functools.partial(controlled, plant=unstable, steps=30)


def towards(model, batch):
    return jnp.mean((model(batch[0]) - 0.5) ** 2)


CASES = {
    "held out: tied, residual": _case(tied_model(1.0, True), tied, next_token, text),
    "held out: tied, small": _case(tied_model(0.1, False), tied, next_token, text, "vanishing"),
    "held out: soft mixture": _case(mixture_model(1.0, True), mixture, next_token, text),
    "held out: soft mixture, small": _case(
        mixture_model(0.3, False), mixture, next_token, text, "vanishing"
    ),
    "held out: linear attention": _case(
        linear_attention_model(1.0, True), linear_attention, next_token, text
    ),
    "held out: linear attention, large": _case(
        linear_attention_model(2.0, False), linear_attention, next_token, text, "exploding"
    ),
    "held out: identity rnn": _case(identity_model(1.0), identity_rnn, at_the_end, sequences(100)),
    "held out: identity rnn, 0.9": _case(
        identity_model(0.9), identity_rnn, at_the_end, sequences(100), "vanishing"
    ),
    "held out: gated unit, open": _case(
        gated_model(0.0), gated, at_the_end, sequences(50), "vanishing"
    ),
    "held out: gated unit, closed": _case(gated_model(-5.0), gated, at_the_end, sequences(50)),
    "held out: complex states": _case(unitary_model(0.005), unitary, at_the_end, sequences(40)),
    "held out: complex states, damped": _case(
        unitary_model(0.3), unitary, at_the_end, sequences(40), "vanishing"
    ),
    "held out: long convolution": _case(
        long_convolution_model(0.01), long_convolution, at_the_end, sequences(32)
    ),
    "held out: long convolution that forgets": _case(
        long_convolution_model(0.7), long_convolution, at_the_end, sequences(32), "vanishing"
    ),
    "held out: pendulum": _case(policy(1.0), _control, towards, vectors),
    "held out: unstable plant": _case(policy(0.01), _unstable, towards, vectors, "exploding"),
    "held out: hourglass": _case(hourglass_model(2.0, True), hourglass, squared, pictures),
    "held out: hourglass without skips, small": _case(
        hourglass_model(0.3, False), hourglass, squared, pictures, "vanishing"
    ),
    "held out: mixer": _case(mixer_model(1.0, True), mixed, squared, pictures),
    "held out: mixer without norms": _case(
        mixer_model(1.0, False), mixed, squared, pictures, "vanishing"
    ),
    "held out: adversaries": _case(players(1.5), two_players, adversaries, noise_and_points),
    "held out: adversaries, small": _case(
        players(0.1), two_players, adversaries, noise_and_points, "vanishing"
    ),
    "held out: score matching": _case(energy_model(1.5), energy, denoising, noise_and_points),
    "held out: score matching, large": _case(
        energy_model(30.0, jax.nn.softplus), energy, denoising, noise_and_points, "exploding"
    ),
    "held out: highway": _case(highway_model(-3.0), highway, squared, vectors),
    "held out: highway, gates open": _case(
        highway_model(3.0), highway, squared, vectors, "vanishing"
    ),
    "held out: weight normalisation": _case(
        normalised_model(1.4), normalised_weights, squared, vectors
    ),
    "held out: weight normalisation, small": _case(
        normalised_model(0.5), normalised_weights, squared, vectors, "vanishing"
    ),
}  # fmt: skip
