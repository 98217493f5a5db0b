"""E[φ(u) φ(v)] and E[φ'(u) φ'(v)] in closed form in any number of digits, and derivatives of what
is made of them.
"""

import functools

import mpmath
import numpy as np

__all__ = ["KINKED", "KNOWN", "derivatives"]


def _erf(a, b, c):
    size = (1 + 2 * a) * (1 + 2 * b)
    product = 2 / mpmath.pi * mpmath.asin(2 * c / mpmath.sqrt(size))
    return product, 4 / mpmath.pi / mpmath.sqrt(size - 4 * c * c)


def _sin(a, b, c):
    mean = mpmath.exp(-(a + b) / 2)
    return mean * mpmath.sinh(c), mean * mpmath.cosh(c)


def _linear(a, b, c):
    return c, mpmath.mpf(1)


def _leaky(slope, a, b, c):
    odd, even = (1 + slope) / mpmath.mpf(2), (1 - slope) / mpmath.mpf(2)
    angle = mpmath.atan2(mpmath.sqrt(abs(a * b - c * c)), c)
    size = mpmath.sqrt(abs(a * b - c * c)) + (mpmath.pi / 2 - angle) * c
    sides = 2 / mpmath.pi * size  # E|u||v|
    return odd**2 * c + even**2 * sides, odd**2 + even**2 * (1 - 2 * angle / mpmath.pi)


KNOWN = {
    "linear": _linear,
    "erf": _erf,
    "sin": _sin,
    "relu": functools.partial(_leaky, mpmath.mpf(0)),
    "leaky_relu(0.2)": functools.partial(_leaky, mpmath.mpf("0.2")),
}
KINKED = ("relu", "leaky_relu(0.2)")


def derivatives(function, point, order):
    """Of a function of numbers that gives several: by differences in 90 digits, (values, ...)."""
    step, slots = mpmath.mpf(10) ** -30, range(len(point))

    def at(*moves):
        moved = [mpmath.mpf(float(v)) for v in point]
        for place, k in moves:
            moved[place] += k * step
        return function(*moved)

    def difference(plus, minus, size):
        return [(p - m) / size for p, m in zip(plus, minus)]

    def first(i, *moves):
        return difference(at((i, 1), *moves), at((i, -1), *moves), 2 * step)

    with mpmath.workdps(90):
        if order == 0:
            return np.asarray(at(), float)
        if order == 1:
            return np.moveaxis(np.asarray([first(i) for i in slots], float), -1, 0)
        found = [
            [difference(first(i, (j, 1)), first(i, (j, -1)), 2 * step) for j in slots]
            for i in slots
        ]
        return np.moveaxis(np.asarray(found, float), -1, 0)
