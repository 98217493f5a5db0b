"""What a gradient check found: a row for each comparison, printable and assertable."""

import enum
from dataclasses import dataclass

from sigprop._tables import markdown_table, number, text_table

__all__ = ["CheckStatus", "GradientReport", "Row"]

_HEADINGS = ("parameter", "along", "gradient", "differences", "±", "status", "remark")
_SHOWN = 40


class CheckStatus(enum.IntEnum):
    """What a comparison says."""

    OK = 0
    WRONG = 1
    KINK = 2  # the function has a corner here: any slope between its two sides is right
    CANCELLATION = 3  # rounding of the function's values hides the slope
    NONFINITE = 4
    UNAVAILABLE = 5  # the function cannot be differentiated in this way


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes
    ----------
    parameter
        Path of the array; "" for all of them together.
    along
        "random direction", "entry (3, 4)" or "adjoint".
    gradient, difference, error
        The slope by the gradient, by differences of the function's values, and the error bar of
        their difference. For "adjoint": ⟨Jᵀu, v⟩ and ⟨u, J v⟩.
    status, remark
        `CheckStatus`, and what it suggests.
    """

    parameter: str
    along: str
    gradient: float
    difference: float
    error: float
    status: CheckStatus
    remark: str = ""

    def texts(self) -> tuple[str, ...]:
        """The row's cells."""
        numbers = (number(self.gradient, 5), number(self.difference, 5), number(self.error, 2))
        status = self.status.name.lower()
        return (self.parameter or "(all)", self.along, *numbers, status, self.remark)


@dataclass(frozen=True)
class GradientReport:
    """What `sigprop.gradients.check` found; prints as a table.

    Attributes
    ----------
    rows
        Every comparison.
    """

    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """No row is wrong or not finite, and at least one could be decided."""
        bad = (CheckStatus.WRONG, CheckStatus.NONFINITE)
        decided = any(row.status in (CheckStatus.OK, CheckStatus.KINK) for row in self.rows)
        return decided and not any(row.status in bad for row in self.rows)

    @property
    def wrong(self) -> tuple[str, ...]:
        """Paths of the arrays whose gradient is wrong or not finite."""
        return self._parameters(CheckStatus.WRONG, CheckStatus.NONFINITE)

    @property
    def undecided(self) -> tuple[str, ...]:
        """Paths of the arrays whose every comparison drowns in rounding."""
        decided = {row.parameter for row in self.rows if row.status != CheckStatus.CANCELLATION}
        lost = self._parameters(CheckStatus.CANCELLATION)
        return tuple(name for name in lost if name not in decided)

    @property
    def table(self) -> str:
        """Every row as text."""
        return text_table(_HEADINGS, [row.texts() for row in self.rows])

    def assert_ok(self) -> None:
        """Raise an AssertionError that shows the rows at fault, unless the report is `ok`.

        Raises
        ------
        AssertionError
            If a gradient is wrong or not finite, or nothing could be decided.
        """
        if not self.ok:
            raise AssertionError(f"{self.summary()}\n{_table(self._at_fault())}")

    def summary(self) -> str:
        """One line: how many comparisons, which arrays are wrong."""
        if self.wrong:
            verdict = f"gradient is wrong in {', '.join(self.wrong)}"
        elif self.ok:
            verdict = "gradient agrees with differences"
        elif any(row.status in (CheckStatus.WRONG, CheckStatus.NONFINITE) for row in self.rows):
            verdict = "gradient is wrong along a direction through all parameters"
        else:
            verdict = "nothing could be decided: rounding hides every slope"
        lost = f"; undecided: {', '.join(self.undecided)}" if self.undecided else ""
        return f"{verdict} ({len(self.rows)} comparisons{lost})"

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

    def _parameters(self, *statuses: CheckStatus) -> tuple[str, ...]:
        named = [row.parameter for row in self.rows if row.status in statuses and row.parameter]
        return tuple(dict.fromkeys(named))

    def _at_fault(self) -> list[Row]:
        fine = (CheckStatus.OK, CheckStatus.KINK, CheckStatus.UNAVAILABLE)
        wrong = [r for r in self.rows if r.status in (CheckStatus.WRONG, CheckStatus.NONFINITE)]
        return wrong or [row for row in self.rows if row.status not in fine]


def _table(rows: list[Row]) -> str:
    return text_table(_HEADINGS, [row.texts() for row in rows])
