"""Activations of the user's own on the axes of grids: by what name, and by what content.

A coordinate is a string. A function that can be imported has the name ``module:function``, by which
other processes find it too; any other is known by its own name to this process alone. A name says
nothing of what stands behind it, so stores compare a fingerprint of the traced program as well.
"""

import hashlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop import activations
from sigprop._precision import exact_float64
from sigprop.activations import Activation
from sigprop.importing import imported

__all__ = ["fingerprint", "named"]

_PUBLIC = ("jax.nn", "jax.numpy", "jax.lax")


def named(activation: Any) -> str:
    """A string that `activations.get` takes for this activation (a string for itself).

    Raises
    ------
    ValueError
        For what is no activation, or for one of another's name.

    Examples
    --------
    >>> named(jax.nn.relu), named(jnp.sign), named(activations.leaky_relu(0.25))
    ('relu', 'jax.numpy:sign', 'leaky_relu(0.25)')
    """
    if isinstance(activation, str):
        return activation
    kind = activations.get(activation)
    if activations.is_named(kind):
        known = [name for name, fn in activations.functions().items() if fn is kind.fn]
        return known[0] if known else f"leaky_relu({kind.homogeneous_slopes[0]!r})"  # type: ignore[index]
    place = _place(activation)
    if place is not None:
        return place
    if kind.name in activations.names() or ":" in kind.name:
        raise ValueError(
            f"activation must have a name of its own, got {kind.name} for another function than "
            'the one of that name: Activation(fn, name="...")'
        )
    activations.register(kind)
    return kind.name


def _place(fn: Any) -> str | None:
    """``module:function``, if that is where others find this very function."""
    inside = getattr(fn, "__qualname__", getattr(fn, "__name__", ""))
    own = getattr(fn, "__module__", None)
    for module in (*_PUBLIC, *([own] if own and own != "__main__" else [])):
        try:
            if inside and imported(f"{module}:{inside}") is fn:
                return f"{module}:{inside}"
        except ValueError:
            continue
    return None


def fingerprint(name: str) -> str | None:
    """Of the program behind a name, to float64; None for those of the table, which do not change.

    Examples
    --------
    >>> fingerprint("tanh") is None, fingerprint("jax.numpy:sign") == fingerprint("jax.numpy:cbrt")
    (True, False)
    """
    kind = activations.get(name)
    return None if activations.is_named(kind) else _fingerprint(kind)


@exact_float64
def _fingerprint(kind: Activation) -> str:
    digest = hashlib.sha256(repr(kind.kinks).encode())
    for fn in (kind.fn, kind.derivative):
        program = jax.make_jaxpr(fn)(jnp.zeros(()))
        text = re.sub(r" at 0x[0-9a-f]+", "", program.pretty_print(use_color=False))
        digest.update(text.encode())
        for constant in program.consts:
            digest.update(np.asarray(constant).tobytes())
    return digest.hexdigest()[:16]
