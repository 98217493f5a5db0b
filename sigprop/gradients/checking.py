"""Gradient checking: is the gradient of a function what its values say?"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, UInt32

from sigprop._checks import check_finite, check_non_negative, check_whole_number
from sigprop.gradients.check_report import CheckStatus, GradientReport, Row
from sigprop.gradients.comparing import compare, product, rounding_of
from sigprop.gradients.directions import Line, along_gradient, entry_lines, random_line, through_all
from sigprop.gradients.objective import first_line
from sigprop.gradients.points import Point, elsewhere, has_zeros, opened
from sigprop.gradients.promotion import DOUBLE
from sigprop.gradients.target import Target, target

__all__ = ["check"]

# Relative errors that are no fault: of double precision, and of loops that end where their own
# numbers say (a solver's tolerance, an integrator's choice of steps).
_TOLERANCE, _LOOSE = 1e-6, 1e-2
# A gradient whose error by rounding is nearly as large as itself is lost.
_LOST = 0.9
# A slope below this part of the others' that is also nothing but rounding is 0.
_FLAT = 1e-6
_HAIR = 1e-9


def check(
    fn: Callable[[Any], Any],
    params: Any,
    *,
    key: Key[Array, ""] | UInt32[Array, "2"],
    grad: Callable[[Any], Any] | None = None,
    has_aux: bool = False,
    directions: int = 2,
    entries: int = 3,
    tolerance: float | None = None,
) -> GradientReport:
    """Compare a gradient with differences of the function's values, array by array.

    Slopes along random directions through all parameters and through each array alone, and along
    single entries of each array. Function and gradient are traced, and both programs run in double
    precision, casts to bfloat16 and all; step sizes, and error bars that hold both truncation and
    rounding, come from the values (`sigprop.gradients.differences`). Below a factor that is 0
    every gradient is 0: the comparison is made again with each 0 in the parameters replaced by a
    random number, and for arrays that are still undecided at other generic points. Last, ⟨u, J v⟩
    by forward mode is compared with ⟨Jᵀu, v⟩ by reverse mode.

    Parameters
    ----------
    fn
        ``fn(params)`` returns one real number or any pytree of them (of which a random
        combination is checked). Deterministic and JAX-traceable.
    params
        Any pytree with real or complex arrays, a Flax NNX module, or a bound Linen module. Other
        leaves (integers, functions, Python floats beside arrays) and infinite entries stay as
        they are.
    key
        Where the directions come from.
    grad
        ``grad(params)`` is the gradient to check, of the structure of ``params``; reverse mode of
        ``fn`` if None. Only for an ``fn`` that returns one number. By a complex z = x + iy it is
        ∂f/∂x − i ∂f/∂y, as `jax.grad` has it, not the conjugate of other libraries.
    has_aux
        Whether ``fn`` returns a pair, of which the second is not looked at.
    directions
        Directions through all parameters, >= 1.
    entries
        Entries of each array that are checked one by one, >= 0: the one with the largest
        gradient and random others; all of them if the array has no more.
    tolerance
        Relative error of a gradient that still counts as right, >= 0: by default 1e-6, and 0.01
        where a loop ends when computed numbers say (a solver's tolerance, an integrator's steps),
        which no gradient takes account of.

    Returns
    -------
    GradientReport
        ``.verdicts`` (agrees, wrong or undecided, by the array's path), ``.ok``, ``.table``,
        ``.wrong``, ``.undecided``, ``.assert_ok()``.

    Raises
    ------
    ValueError
        If there is nothing to differentiate by, a parameter is nan, ``fn`` fails or returns
        anything but real numbers, or the gradient given does not have the shapes of the parameters.

    Notes
    -----
    A row is *wrong* if gradient and differences are further apart than the error bar; *kink* if
    the slopes to the left and right differ at any step and the gradient lies between them; *jump*
    if the function does; *zero* if both slopes are 0, so that any factor passes; *cancellation* if
    the error bar exceeds half of the slope; *rounded* if the gradient agrees in double precision
    but what the program computes in its own is nothing like it. Where the function has corners all
    around (relu networks), the difference over a step is held against the mean of the gradient
    over that step, which are equal whatever the corners.

    An array *agrees* if a row of it would have told a factor of 2 and a wrong sign, or if the
    function is not computed from it; it is *undecided* if no row would. ``.ok`` is True only if
    every array agrees.

    Examples
    --------
    >>> params = {"w": jnp.array([0.5, -1.0]), "b": jnp.array(0.1)}
    >>> model = lambda p: jnp.tanh(jnp.sum(p["w"] ** 2) + p["b"])
    >>> check(model, params, key=jax.random.key(0)).ok
    True
    >>> detached = lambda p: jnp.tanh(jnp.sum(jax.lax.stop_gradient(p["w"]) ** 2) + p["b"])
    >>> check(detached, params, key=jax.random.key(0)).wrong
    ('w',)
    """
    directions = check_whole_number("directions", directions)
    entries = check_whole_number("entries", entries, minimum=0)
    if tolerance is not None:
        check_non_negative("tolerance", tolerance)
    key_output, key_rows = jax.random.split(key)
    rng = np.random.default_rng(int(jax.random.randint(key_rows, (), 0, 2**31 - 1)))
    checked = target(fn, params, grad, key_output, has_aux=has_aux)
    with np.errstate(all="ignore"):  # what is not finite is a finding
        rows = _Comparison(checked, rng, tolerance).rows(directions, entries)
    return GradientReport(tuple(rows), checked.epsilon)


@dataclass(frozen=True)
class _Comparison:
    """Which comparisons are made, and in which order."""

    checked: Target
    rng: np.random.Generator
    told: float | None

    def rows(self, directions: int, entries: int) -> list[Row]:
        given = self.checked.point("", [np.asarray(v) for v in self.checked.parameters.values])
        _check_finite_where_infinite(self.checked, given)
        own = [through_all(given, self.rng) for _ in range(directions)]
        rows = [self._compared(given, line) for line in own]
        for member in self._members():
            rows += self._of_array(given, member, entries)
            rows += self._as_computed(given, member)
        rows += self._elsewhere(given, rows)
        return [*rows, self._adjoint(given)]

    def _members(self) -> list[int]:
        """Places of the arrays that have an entry to move."""
        arrays = self.checked.parameters.values
        return [i for i, a in enumerate(arrays) if bool(jnp.isfinite(a).any())]

    def _compared(self, at: Point, line: Line) -> Row:
        tolerance = _LOOSE if self.checked.adaptive else _TOLERANCE
        return compare(self.checked, at, line, tolerance if self.told is None else self.told)

    def _of_array(self, at: Point, member: int, entries: int) -> list[Row]:
        """Along a random direction and single entries; along its gradient if those say nothing."""
        name = self.checked.parameters.names[member]
        if not self.checked.used[member] and not at.gradient[member].any():
            return [Row(name, "(anything)", at.name, 0.0, 0.0, 0.0, CheckStatus.OK, "not used")]
        rows = [self._compared(at, random_line(at, member, self.rng))]
        if rows[0].status == CheckStatus.ZERO:  # entry by entry it is no other
            return rows
        lines = entry_lines(at, member, self.rng, entries) if entries else ()
        rows += [self._compared(at, line) for line in lines]
        if not _decided(rows) and at.gradient[member].any():
            rows.append(self._compared(at, along_gradient(at, member)))
        return rows

    def _as_computed(self, at: Point, member: int) -> list[Row]:
        """Whether the gradient survives the precision that the user's program computes it in."""
        found, exact = self.checked.native_gradient[member], at.gradient[member]
        name, size = self.checked.parameters.names[member], float(np.linalg.norm(exact))
        norm, error = float(np.linalg.norm(found)), float(np.linalg.norm(found - exact))
        row = (name, "norm, as computed", at.name, norm, size, error)
        if not math.isfinite(norm):
            return [Row(*row, CheckStatus.NONFINITE, "the gradient is not finite here")]
        if size > 0 and error > _LOST * size and not self._is_rounding(at, member):
            return [Row(*row, CheckStatus.ROUNDED, "rounding in its own precision moves it so far")]
        return []

    def _elsewhere(self, given: Point, rows: list[Row]) -> list[Row]:
        """What other points tell: with zeros opened of all arrays, then of those undecided."""
        found: list[Row] = []
        if has_zeros(given.values):
            at = self.checked.point("opened", opened(given.values, self.rng))
            found += self._at(at, self._members())
        for name, values in elsewhere(given.values, self.rng):
            open_names = GradientReport((*rows, *found), 0.0).undecided
            pending = [i for i in self._members() if self.checked.parameters.names[i] in open_names]
            if not pending:
                break
            found += self._at(self.checked.point(name, values), pending)
        return found

    def _at(self, at: Point, members: list[int]) -> list[Row]:
        if not math.isfinite(at.center):
            return []
        used = [member for member in members if self.checked.used[member]]
        rows = [
            self._generic(at, row, member)
            for member in used
            for row in self._of_array(at, member, 0)
        ]
        return [row for row in rows if row.status != CheckStatus.NONFINITE]

    def _generic(self, at: Point, row: Row, member: int) -> Row:
        """At a generic point, a slope and a gradient of nothing but rounding are an invariance."""
        flat = row.status == CheckStatus.CANCELLATION and row.error <= _FLAT * max(at.slopes)
        if flat and self._is_rounding(at, member):
            remark = "the function does not change with it"
            return replace(row, status=CheckStatus.OK, remark=remark)
        return row

    def _is_rounding(self, at: Point, member: int) -> bool:
        """Whether the gradient of an array is as different a hair's breadth away."""
        if self.checked.gradient_epsilon > DOUBLE:
            return False
        near = self._gradient_near(at)[member]
        own = at.gradient[member]
        return float(np.linalg.norm(near - own)) > 0.1 * float(np.linalg.norm(own))

    def _gradient_near(self, at: Point) -> list[np.ndarray]:
        generator = np.random.default_rng(0)
        return self.checked.gradient_at(
            [np.asarray(v + v * _HAIR * generator.standard_normal(v.shape)) for v in at.values]
        )

    def _adjoint(self, at: Point) -> Row:
        """⟨u, J v⟩ by forward mode against ⟨Jᵀu, v⟩."""
        line = through_all(at, self.rng, along="adjoint")
        backward, size = product(at.gradient, line)
        bar = 2 * rounding_of(self.checked.gradient_epsilon) * size
        try:
            forward = self.checked.pushed_forward(at.values, line.direction)
        except Exception as error:  # a custom rule for reverse mode alone
            remark = f"no forward mode: {first_line(error)}"
            unavailable = CheckStatus.UNAVAILABLE
            return Row(None, "adjoint", at.name, backward, math.nan, math.nan, unavailable, remark)
        row = (None, "adjoint", at.name, backward, forward, bar)
        if not (math.isfinite(forward) and math.isfinite(backward)):
            return Row(*row, CheckStatus.NONFINITE)
        if abs(forward - backward) <= bar:
            return Row(*row, CheckStatus.OK)
        return Row(*row, CheckStatus.WRONG, "forward and reverse mode differ")


def _decided(rows: list[Row]) -> bool:
    return any(row.status == CheckStatus.OK for row in rows)


def _check_finite_where_infinite(checked: Target, given: Point) -> None:
    """An infinite entry (a mask, the start of a maximum) is held still where that is no harm."""
    if math.isfinite(given.center):
        return
    for name, value in zip(checked.parameters.names, given.values):
        check_finite(f"params at {name!r}" if name else "params", value)
