"""What the doctor found: a record that prints, and that a test-suite can assert."""

import html
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from sigprop._tables import number, text_table
from sigprop.diagnosis.statistics import LayerReading

__all__ = ["Diagnosis"]

_SHOWN = 60
_HEADINGS = (
    "layer",
    "kind",
    "mean",
    "rms",
    "kurtosis",
    "|gradient|",
    "grad/param",
    "dead",
    "saturated",
    "σw²",
    "activation",
)


@dataclass(frozen=True)
class Diagnosis:
    """What `sigprop.diagnose` found. Prints as text, and as HTML in a notebook.

    Attributes
    ----------
    verdict
        "healthy", "vanishing", "exploding", "nonfinite", "undecided" or "unread".
    evidence
        What it rests on, a sentence each.
    suggestion
        What would repair it.
    loss
        The loss on the batch.
    gradient_rate, gradient_rate_stderr
        Growth of ln ‖∂loss/∂z‖² a layer along the longest way, towards the input, from its one end
        to the other, and its standard error over the batch's examples; nan with a single layer.
    layers
        A `LayerReading` for every use of a layer, in the order in which they were passed.
    unread
        Paths of parameters that were not seen to act on any signal.
    opened
        Paths of factors that are exactly 0 and that training opens: what lies below them is judged
        with a random factor in their place.
    share_read
        Of the model's numbers, those that were read.
    repaired
        The model with the suggested numbers in it, if numbers are suggested.
    """

    verdict: str
    evidence: tuple[str, ...]
    suggestion: str
    loss: float
    gradient_rate: float
    gradient_rate_stderr: float
    layers: tuple[LayerReading, ...]
    unread: tuple[str, ...]
    opened: tuple[str, ...] = ()
    share_read: float = 1.0
    repaired: Any = field(default=None, repr=False, compare=False)

    @property
    def healthy(self) -> bool:
        """Whether the verdict is that."""
        return self.verdict == "healthy"

    def assert_healthy(self) -> None:
        """Raise an AssertionError that says what is wrong, unless the model is healthy.

        Raises
        ------
        AssertionError
            With the whole report as its message.
        """
        if not self.healthy:
            raise AssertionError(str(self))

    @property
    def table(self) -> str:
        """Every layer as text."""
        return text_table(_HEADINGS, [_texts(layer) for layer in self.layers])

    def to_dataset(self) -> xr.Dataset:
        """Numbers of every layer along ``layer``, for `sigprop.plots.diagnosis`."""
        columns = {
            "rms": "root mean square of the output",
            "log_gradient": "natural log of the squared gradient norm by the output",
            "log_ratio": "natural log of squared gradient over squared parameter norm",
            "dead": "fraction of units without gradient",
            "saturated": "fraction of units on a flat part of the activation",
            "weighs": "whether growth is judged by this layer",
        }
        names = [layer.name for layer in self.layers]
        data = {
            column: ("layer", np.asarray([getattr(x, column) for x in self.layers]), _unit(name))
            for column, name in columns.items()
        }
        fields = ("verdict", "suggestion", "loss", "gradient_rate", "gradient_rate_stderr")
        attributes = {field: getattr(self, field) for field in fields}
        return xr.Dataset(data, {"layer": names}, attributes)

    def __str__(self) -> str:
        """Verdict, evidence, suggestion and table."""
        lines = [f"{self.verdict} (loss {number(self.loss, 4)})"]
        lines += [f"  - {sentence}" for sentence in self.evidence]
        lines.append(f"  suggestion: {self.suggestion}")
        shown = _abridged(self.layers)
        rows = [_texts(x) if isinstance(x, LayerReading) else _gap(x) for x in shown]
        return "\n".join([*lines, text_table(_HEADINGS, rows)])

    def _repr_html_(self) -> str:
        colour = "#228833" if self.healthy else "#CC3311"
        evidence = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.evidence)
        heads = "".join(f"<th>{html.escape(head)}</th>" for head in _HEADINGS)
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(t)}</td>" for t in _texts(layer)) + "</tr>"
            for layer in self.layers
        )
        return (
            f'<p><b style="color:{colour}">{self.verdict}</b> (loss {number(self.loss, 4)})</p>'
            f"<ul>{evidence}</ul><p>Suggestion: {html.escape(self.suggestion)}</p>"
            f"<table><tr>{heads}</tr>{rows}</table>"
        )


def without_slope(loss: float) -> Diagnosis:
    """Of a loss that nothing of the model reaches, although the model is called."""
    return Diagnosis(
        verdict="vanishing",
        evidence=(
            "the model is called, but what the loss takes of it has no slope by any parameter: it "
            "is the same whatever the weights, as second derivatives of relu are",
        ),
        suggestion="use an activation that has as many derivatives as the loss takes (tanh, gelu)",
        loss=loss,
        gradient_rate=math.nan,
        gradient_rate_stderr=math.nan,
        layers=(),
        unread=(),
    )


def _unit(name: str) -> dict[str, str]:
    return {"long_name": name, "units": "1"}


def _abridged(layers: tuple[LayerReading, ...]) -> list[LayerReading | int]:
    """The ends of a long list, and how many were left out between them."""
    if len(layers) <= _SHOWN:
        return list(layers)
    half = _SHOWN // 2
    return [*layers[:half], len(layers) - 2 * half, *layers[-half:]]


def _gap(left_out: int) -> list[str]:
    return [f"... {left_out} more", *[""] * (len(_HEADINGS) - 1)]


def _texts(layer: LayerReading) -> list[str]:
    gradient, ratio = (_norm(log) for log in (layer.log_gradient, layer.log_ratio))
    return [
        layer.name,
        layer.kind,
        number(layer.mean, 2),
        number(layer.rms),
        number(layer.kurtosis, 2),
        gradient,
        ratio,
        f"{layer.dead:.0%}",
        "-" if math.isnan(layer.saturated) else f"{layer.saturated:.0%}",
        "-" if math.isnan(layer.weight_var) else number(layer.weight_var),
        layer.activation or "-",
    ]


def _norm(log_square: float) -> str:
    """The norm, from the log of its square."""
    if math.isnan(log_square):
        return "-"
    return number(float(np.exp(min(log_square / 2, 700.0))))
