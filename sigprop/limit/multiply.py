r"""What a drawn weight makes of a signal: Gaussian, plus what it has met of its own transpose.

Uses of one weight W in one orientation are jointly Gaussian, with the second moments of what came
in times σ² (Yang 2019, Netsor). Where the operand g depends on earlier products z_t = W x_t with
the transposed weight,

    Wᵀ g = ζ + σ² n Σ_t x_t E[∂g/∂z_t],

n the units summed over (Yang 2020, Netsor⊤). The second part is 0 for gradients of a readout that
is independent of the forward pass, and not for tied weights or for losses of the output's size.
"""

from dataclasses import dataclass, field

import numpy as np

from sigprop.limit import second_moments
from sigprop.limit.atoms import Atom, Form
from sigprop.limit.axes import Axes
from sigprop.limit.refusals import NotClosed
from sigprop.limit.signals import Signal, of_form
from sigprop.limit.weights import Weight

__all__ = ["Multiplier", "Operand"]


@dataclass(frozen=True, eq=False)
class Operand:
    """What a weight sums over.

    Attributes
    ----------
    signal
        What comes in.
    index
        (places out, taps): which places every place out sums over; -1 for none (padding).
    units
        Units summed over at each of them.
    spread
        How many independent rows of the weight every place out is spread over.
    """

    signal: Signal
    index: np.ndarray
    units: int
    spread: int = 1

    @property
    def places(self) -> int:
        """Places out."""
        return len(self.index) * self.spread

    def variance(self) -> np.ndarray:
        """Σ E[x²] over what is summed."""
        found = np.append(second_moments.variance(self.signal), 0.0)[self.index].sum(1)
        return np.repeat(self.units * found, self.spread)

    def lacking(self, other: "Operand") -> np.ndarray:
        """What places out of two operands lack."""
        field_ = second_moments.lacking(self.signal, other.signal)
        v, w = second_moments.variance(self.signal), second_moments.variance(other.signal)
        full = np.block([[field_, v[:, None] / 2], [w[None] / 2, np.zeros((1, 1))]])
        pairs = [full[i[:, None], j] for i, j in zip(self.index.T, other.index.T)]
        lack = self.units * np.sum(pairs, axis=0)
        if self.spread == 1:
            return lack
        rows = self.units * np.append(v, 0.0)[self.index].sum(1)
        columns = self.units * np.append(w, 0.0)[other.index].sum(1)
        apart = (rows[:, None] + columns) / 2
        one = np.eye(self.spread, dtype=bool)
        found = np.where(one[None, :, None], lack[:, None, :, None], apart[:, None, :, None])
        return found.reshape(self.places, other.places)


@dataclass
class _Used:
    """A weight in one orientation: its atom, and all that it was multiplied by."""

    weight: Weight
    atom: Atom
    operands: list[tuple[int, Operand]] = field(default_factory=list)


@dataclass
class Multiplier:
    """All weights met so far.

    Attributes
    ----------
    shares
        By array: the largest part of a second moment that a weight's own transpose made.
    """

    shares: dict[int, float] = field(default_factory=dict)
    _used: dict[tuple, _Used] = field(default_factory=dict)

    def __call__(
        self, weight: Weight, contracted: frozenset[int], operand: Operand, axes: Axes, conv: bool
    ) -> Signal:
        """The product, at the places of ``axes``."""
        used = self._use(weight, contracted, operand)
        start = len(used.atom.variance)
        self._grow(used, operand)
        pick = np.eye(operand.places, start + operand.places, start)
        form = Form({(used.atom, ()): weight.scale * pick}, operand.places)
        gaussian = of_form(axes, form)
        found = self._met_transposed(weight, contracted, operand, gaussian, conv)
        if found is not gaussian:
            whole, part = second_moments.variance(found), form.moments[0]
            share = float(np.max(1 - part / np.where(whole > 0, whole, 1.0), initial=0.0))
            self.shares[weight.leaf] = max(self.shares.get(weight.leaf, 0.0), share)
        return found

    def _use(self, weight: Weight, contracted: frozenset[int], operand: Operand) -> _Used:
        key = (*weight.part, contracted, weight.flipped)
        if key in self._used:
            used = self._used[key]
            if used.operands[0][1].index.shape[1] != operand.index.shape[1]:
                raise NotClosed("one weight summed over different numbers of places")
            if used.operands[0][1].spread != operand.spread:
                raise NotClosed("one weight spread over different numbers of places")
            return used
        for leaf, ranges, axes, flipped in self._used:
            same = leaf == weight.leaf and weight.meets(ranges)
            if same and (ranges != weight.ranges or (axes != contracted and axes & contracted)):
                raise NotClosed("one weight used in parts that overlap")
            if same and axes == contracted and flipped != weight.flipped:
                raise NotClosed("one weight used forwards and backwards along an axis")
        nothing = np.zeros(0)
        name = (weight.leaf, weight.ranges, tuple(sorted(contracted)))
        self._used[key] = _Used(weight, Atom(name, nothing, np.zeros((0, 0))))
        return self._used[key]

    def _grow(self, used: _Used, operand: Operand) -> None:
        """The atom at the places of one operand more."""
        var, start = used.weight.variance, len(used.atom.variance)
        former = [operand.lacking(other) for _, other in used.operands]
        across = np.concatenate([np.zeros((operand.places, 0)), *former], axis=1)
        own = operand.lacking(operand)
        used.atom.grown(var * operand.variance(), var * own, var * across)
        used.operands.append((start, operand))

    def _met_transposed(self, weight, contracted, operand: Operand, found: Signal, conv: bool):
        for (leaf, ranges, axes, _), other in list(self._used.items()):
            if leaf != weight.leaf or ranges != weight.ranges or axes & contracted:
                continue
            slope = second_moments.slope_by(operand.signal, (other.atom, ()))
            if slope is None:
                continue
            if conv or operand.index.shape[1] > 1 or np.any(operand.index < 0):
                raise NotClosed("convolution with a weight that has met its own transpose")
            factor = weight.variance * weight.scale * operand.units
            for start, former in other.operands:
                stop = start + former.places
                part = slope[operand.index[:, 0], start:stop]
                if np.any(part):
                    found = found.plus(_returned(factor * part, former, operand, found.axes))
        return found


def _returned(slope: np.ndarray, former: Operand, operand: Operand, axes: Axes) -> Signal:
    """Σ_t x_t E[∂g/∂ζ_t], at every place out and, of each, every place that x_t was summed over."""
    taps = former.index.shape[1]
    if former.spread != 1 or operand.spread != taps or np.any(former.index < 0):
        raise NotClosed("weight that has met its own transpose over other places")
    matrix = np.zeros((len(operand.index), taps, former.signal.places))
    for t, row in enumerate(former.index):
        for tap, place in enumerate(row):
            matrix[:, tap, place] += slope[:, t]
    return former.signal.mapped(matrix.reshape(-1, former.signal.places), axes)
