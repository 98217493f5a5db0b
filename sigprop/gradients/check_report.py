"""What a gradient check found: a row for each comparison, a verdict for each array."""

import enum
from collections.abc import Collection
from dataclasses import dataclass

from sigprop._tables import markdown_table, number, text_table

__all__ = ["CheckStatus", "GradientReport", "Row", "Verdict"]

_HEADINGS = ("parameter", "along", "at", "gradient", "differences", "±", "status", "remark")
_SHOWN = 40
_NAMED = 6
_ALONE = "params"


class CheckStatus(enum.IntEnum):
    """What a comparison says."""

    OK = 0
    WRONG = 1
    KINK = 2  # the function has a corner here: any slope between its two sides is right
    CANCELLATION = 3  # rounding of the function's values hides the slope
    NONFINITE = 4
    UNAVAILABLE = 5  # the function cannot be differentiated in this way
    ZERO = 6  # 0 against 0: any factor passes
    JUMP = 7  # the function is not continuous here
    ROUNDED = 8  # right as written, lost in the precision it is computed in


class Verdict(enum.IntEnum):
    """What the comparisons of one array say together."""

    AGREES = 0  # one of them would have told a factor of 2 and a wrong sign
    WRONG = 1
    UNDECIDED = 2


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes
    ----------
    parameter
        Path of the array, "" if it is alone; None for all of them together.
    along
        "random direction", "entry (3, 4)", "along the gradient" or "adjoint".
    at
        "" for the parameters that were given; "opened" with their zeros replaced by random
        numbers, "moved" with every entry changed, "redrawn" with random numbers of their sizes.
    gradient, difference, error
        The slope by the gradient, by differences of the function's values, and the error bar of
        their difference. For "adjoint": ⟨Jᵀu, v⟩ and ⟨u, J v⟩.
    status, remark
        `CheckStatus`, and what it suggests.
    """

    parameter: str | None
    along: str
    at: str
    gradient: float
    difference: float
    error: float
    status: CheckStatus
    remark: str = ""

    def texts(self) -> tuple[str, ...]:
        """The row's cells."""
        numbers = (number(self.gradient, 5), number(self.difference, 5), number(self.error, 2))
        status = self.status.name.lower()
        name = "(all)" if self.parameter is None else self.parameter or _ALONE
        return (name, self.along, self.at, *numbers, status, self.remark)


_BAD = (CheckStatus.WRONG, CheckStatus.NONFINITE)


@dataclass(frozen=True)
class GradientReport:
    """What `sigprop.gradients.check` found; prints as a table.

    Attributes
    ----------
    rows
        Every comparison.
    epsilon
        Precision of the values that differences were taken of.
    """

    rows: tuple[Row, ...]
    epsilon: float

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """`Verdict` by the array's path: it agrees if a factor of 2 would have been seen."""
        statuses: dict[str, set[CheckStatus]] = {}
        for row in self.rows:
            if row.parameter is not None:
                statuses.setdefault(row.parameter, set()).add(row.status)
        return {name: _verdict(found) for name, found in statuses.items()}

    @property
    def ok(self) -> bool:
        """The gradient of every array agrees, and so do directions through all of them."""
        agree = all(verdict == Verdict.AGREES for verdict in self.verdicts.values())
        return agree and not any(row.status in _BAD for row in self.rows)

    @property
    def agrees(self) -> tuple[str, ...]:
        """Paths of the arrays whose gradient was seen to be right."""
        return self._named(Verdict.AGREES)

    @property
    def wrong(self) -> tuple[str, ...]:
        """Paths of the arrays whose gradient is wrong or not finite."""
        return self._named(Verdict.WRONG)

    @property
    def undecided(self) -> tuple[str, ...]:
        """Paths of the arrays of which no comparison would have told a factor of 2."""
        return self._named(Verdict.UNDECIDED)

    @property
    def table(self) -> str:
        """Every row as text."""
        return text_table(_HEADINGS, [row.texts() for row in self.rows])

    def assert_ok(self, *, undecided: Collection[str] | bool = ()) -> None:
        """Raise an AssertionError that shows the rows at fault, unless the report is `ok`.

        Parameters
        ----------
        undecided
            Paths of arrays that may stay undecided; True for any.

        Raises
        ------
        AssertionError
            If a gradient is wrong or not finite, or that of an array could not be decided.
        """
        bad = any(row.status in _BAD for row in self.rows)
        allowed = self.undecided if undecided is True else tuple(undecided or ())
        open_ones = [name for name in self.undecided if name not in allowed]
        if bad or open_ones:
            raise AssertionError(f"{self.summary()}\n{_table(self._at_fault(bad))}")

    def summary(self) -> str:
        """What was found, and for undecided arrays what would decide them, in a line or two."""
        if self.wrong:
            verdict = f"gradient is wrong in {_list(self.wrong)}"
        elif any(row.status in _BAD for row in self.rows):
            verdict = "gradient is wrong along a direction through all parameters"
        elif self.ok:
            verdict = "gradient agrees with differences"
        elif self.agrees:
            verdict = "gradient agrees with differences where they tell"
        else:
            verdict = "nothing could be decided"
        count = f"({len(self.rows)} comparisons)"
        if not self.undecided:
            return f"{verdict} {count}"
        return f"{verdict} {count}; undecided: {_list(self.undecided)}\n{self._what_decides()}"

    def __str__(self) -> str:
        """The summary and the table; of a long one, the rows that are not ok."""
        if len(self.rows) <= _SHOWN:
            return f"{self.summary()}\n{self.table}"
        rest = [row for row in self.rows if row.status != CheckStatus.OK]
        note = f"{len(self.rows) - len(rest)} rows that are ok are left out (.table has them)"
        return "\n".join([self.summary(), *([_table(rest)] if rest else []), note])

    def _repr_markdown_(self) -> str:
        cells = [row.texts() for row in self.rows]
        return f"{self.summary()}\n\n{markdown_table(_HEADINGS, cells)}"

    def _named(self, verdict: Verdict) -> tuple[str, ...]:
        return tuple(name for name, own in self.verdicts.items() if own == verdict)

    def _what_decides(self) -> str:
        """By how the comparisons of the undecided arrays failed."""
        statuses = {row.status for row in self.rows if row.parameter in self.undecided}
        chosen = next(status for status in _DECIDES if status in statuses)
        return _DECIDES[chosen]

    def _at_fault(self, bad: bool) -> list[Row]:
        if bad:
            return [row for row in self.rows if row.status in _BAD]
        return [row for row in self.rows if row.parameter in self.undecided]


_DECIDES = {
    CheckStatus.ROUNDED: "what would decide: the loss scaled, or computed in float32",
    CheckStatus.CANCELLATION: (
        "what would decide: an fn that returns what depends on these arrays (any arrays will do), "
        "not a sum in which it drowns"
    ),
    CheckStatus.ZERO: (
        "what would decide: inputs or parameters at which these arrays change what fn returns"
    ),
    CheckStatus.JUMP: "what would decide: parameters away from the jump",
    CheckStatus.KINK: "what would decide: parameters away from the corner",
    CheckStatus.NONFINITE: "what would decide: parameters around which fn is finite",
}


def _verdict(statuses: set[CheckStatus]) -> Verdict:
    """Wrong once is wrong; right once, where it can be told, is right."""
    if statuses & set(_BAD):
        return Verdict.WRONG
    told = CheckStatus.OK in statuses and CheckStatus.ROUNDED not in statuses
    return Verdict.AGREES if told else Verdict.UNDECIDED


def _list(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(name or _ALONE for name in names[:_NAMED]) + more


def _table(rows: list[Row]) -> str:
    return text_table(_HEADINGS, [row.texts() for row in rows])
