"""Activations of the table, recognised in a user's program by its operations.

A program that computes ``jax.nn.gelu`` holds the operations of ``jax.nn.gelu``; its gradient holds
those of the derivative. Both are read once by the same rules as the user's, and what comes out the
same is integrated as what it is: by closed forms where they exist, and with cuts known beforehand.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sigprop import activations
from sigprop._precision import exact_float64
from sigprop.limit.atoms import Atom, Form
from sigprop.limit.axes import labelled
from sigprop.limit.exact import Interpreter
from sigprop.limit.expressions import IDENTITY, derivative_known_as, known_as
from sigprop.limit.signals import Signal, of_form
from sigprop.limit.tracing import straight

__all__ = ["learn"]


@functools.cache
def learn() -> None:
    """Read the table of activations, once."""
    for name, fn in activations.functions().items():
        _learn_one(name, fn)


@exact_float64
def _learn_one(name: str, fn: Callable) -> None:
    def both(x, g):
        value, pull = jax.vjp(fn, x)
        return value, pull(g)[0]

    x = jnp.zeros((1, 2))
    for program in (straight(fn, x)[0], straight(both, x, x)[0]):
        (z, of_z), (g, of_g) = _gaussian("z"), _gaussian("g")
        out = Interpreter({}, {}).run(program.jaxpr, program.consts, [z, g][: _size(program)])
        if isinstance(out[0], Signal) and out[0].form is not of_z:
            known_as(out[0].argument(name)[1], name)
        if len(out) == 2 and isinstance(out[1], Signal) and len(out[1].terms) == 1:
            (term,) = out[1].terms
            pair = set(term.factors) == {of_z, of_g} and term.factors[of_g] == IDENTITY
            if pair and term.map is None:
                derivative_known_as(term.factors[of_z], name, 1 / term.c)


def _size(program) -> int:
    """How many arguments a closed program takes."""
    return len(program.jaxpr.invars)


def _gaussian(name: str) -> tuple[Signal, Form]:
    form = Form({(Atom(name, np.ones(1), np.zeros((1, 1))), ()): np.eye(1)}, 1)
    return of_form(labelled((1, 2), (1,)), form), form
