"""Networks of finite width drawn by the same laws: what the predictions are held to."""

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.limit.interpreting import read


def measured(model, inputs, *, apply=None, loss=None, laws=None, seeds=200, key=0):
    """By row: mean over seeds of z² (all places) and of ‖g‖², each with its standard error."""
    reading = read(model, inputs, apply, loss, laws)
    both = reading.joint
    count = len(both.multiplies)
    data = [each.array for each in reading.data]

    def one(key):
        keys = jax.random.split(key, 2)
        leaf_keys = jax.random.split(keys[0], len(reading.laws))
        leaves = [
            law.mean + jnp.sqrt(law.variance) * jax.random.normal(k, v.shape)
            if law.variance else jnp.asarray(v if np.ptp(v) == 0 else 0 * v)
            for k, v, law in zip(leaf_keys, reading.opened.values, reading.laws)
        ]  # fmt: skip
        shifts = [jnp.zeros(s.shape) for s in both.shifts]
        ends = [
            jnp.ones(s.shape) if loss else jax.random.normal(keys[1], s.shape)
            for s in both.cotangents
        ]
        flat = [*leaves, *data, *shifts, *ends]
        given = [jnp.asarray(x, v.aval.dtype) for x, v in zip(flat, both.program.jaxpr.invars)]
        out = jax.extend.core.jaxpr_as_fun(both.program)(*given)
        z = [jnp.mean(x**2) for x in out[:count]]
        g = [jnp.sum(x**2) for x in out[count : 2 * count]]
        return jnp.stack(z), jnp.stack(g)

    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(key), seeds)
        found = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=20))(keys)
    z, g = (np.asarray(x) for x in found)
    error = lambda x: x.std(0, ddof=1) / np.sqrt(seeds)  # noqa: E731
    return (z.mean(0), error(z)), (g.mean(0), error(g))
