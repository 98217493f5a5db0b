"""Tables of text: aligned columns for a terminal, Markdown for a notebook."""

from collections.abc import Sequence

__all__ = ["markdown_table", "number", "text_table"]

Texts = Sequence[str]


def text_table(headings: Texts, rows: Sequence[Texts]) -> str:
    """Columns aligned: the first to the left, the others as their headings fall.

    Examples
    --------
    >>> print(text_table(["layer", "norm"], [["first", "1.5"], ["second", "12"]]))
    layer   norm
    first   1.5
    second  12
    """
    lines = [list(headings), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    padded = ["  ".join(t.ljust(w) for t, w in zip(line, widths)) for line in lines]
    return "\n".join(line.rstrip() for line in padded)


def markdown_table(headings: Texts, rows: Sequence[Texts]) -> str:
    """The same, as a notebook renders it.

    Examples
    --------
    >>> print(markdown_table(["layer", "norm"], [["first", "1.5"]]))
    | layer | norm |
    |---|---|
    | first | 1.5 |
    """
    rule = "|" + "---|" * len(headings)
    lines = ["| " + " | ".join(_escaped(t) for t in line) + " |" for line in [headings, *rows]]
    return "\n".join([lines[0], rule, *lines[1:]])


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def number(value: float, digits: int = 3) -> str:
    """A number in a table: ``digits`` significant ones.

    Examples
    --------
    >>> number(0.012345), number(float("nan")), number(1.23e-12)
    ('0.0123', 'nan', '1.23e-12')
    """
    return f"{value:.{digits}g}"
