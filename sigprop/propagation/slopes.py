"""Activations that keep their slope, and nothing else, for the way back."""

from dataclasses import dataclass
from functools import partial

import jax

from sigprop.activations import Activation
from sigprop.kinds import Kind, Pointwise, rewritten

__all__ = ["keeping_slopes"]


def keeping_slopes(kind: Kind) -> Kind:
    """``kind`` with activations of which one array is kept: φ'(z), made together with φ(z).

    Automatic differentiation keeps several, and makes the slope from them on the way back.
    """
    swap = lambda k: _Sloped(k.activation) if type(k) is Pointwise else k  # noqa: E731
    return rewritten(kind, swap)


@dataclass(frozen=True)
class _Sloped(Pointwise):
    def apply(self, mix, trained, x, *, numbers, key=None):
        return _value(self._own, x)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _value(activation: Activation, x):
    return activation.fn(x)


@_value.defjvp
def _value_jvp(activation, primals, tangents):
    value, slope = activation.value_and_derivative(primals[0])
    return value, slope * tangents[0]
