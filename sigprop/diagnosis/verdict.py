"""From readings to a verdict, by rules that are written down, and the evidence for it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sigprop.diagnosis import sentences
from sigprop.diagnosis.causes import Operation, stops
from sigprop.diagnosis.nonfinite import nonfinite
from sigprop.diagnosis.profiles import Ends, Profile, Spot, profiles, spots, stderr_of_change
from sigprop.diagnosis.reading import Reading
from sigprop.diagnosis.statistics import LayerReading

__all__ = ["READ_SHARE", "STABLE_FACTOR", "VERDICTS", "Finding", "judge", "share_read"]

VERDICTS = ("healthy", "vanishing", "exploding", "nonfinite", "undecided", "unread")

STABLE_FACTOR = 10.0
"""Gradient norms may change by this much between the first and the last place of a way."""

READ_SHARE = 0.8
"""Of the model's numbers, below which nothing is said of its health."""

LOSS_FACTOR = 1e4
"""How far the loss may lie above that of the same model with outputs of 0."""

_REMARKABLE = 30.0

_ALLOWED = 2 * math.log(STABLE_FACTOR)
_NO_ENDS = Ends(0, 0, 0.0, counts=False)


@dataclass(frozen=True)
class Finding:
    """The verdict and what it rests on.

    Attributes
    ----------
    verdict, evidence
        As `Diagnosis` has them.
    main, ends
        The longest way through layers, and its two ends.
    cause
        What a suggestion starts from: "dead", "saturated", "zero", "flat", "underflow", "rate",
        "loss", "nan", "batch", "domain", "overflow", "unread", "none", "examples" or "".
    spots
        Places at fault.
    change
        Growth of ln ‖gradient‖² along the worst way.
    held
        Places whose gradient is stopped on purpose.
    """

    verdict: str
    evidence: tuple[str, ...]
    main: Profile | None = None
    ends: Ends = _NO_ENDS
    cause: str = ""
    spots: tuple[Spot, ...] = ()
    change: float = 0.0
    held: frozenset[str] = frozenset()


def judge(
    reading: Reading,
    layers: Sequence[LayerReading],
    batch_finite: bool,
    trial_of: Finding | None = None,
) -> Finding:
    """The verdict. ``trial_of`` is that on the model with other numbers, to be bettered: what does
    not better it is not explained, since that takes another compile.

    In this order:

    1. *nonfinite*: a parameter, the loss or a gradient is not finite.
    2. *unread*: less than 80% of the model's numbers could be read.
    3. *vanishing*: a layer receives no gradient at all, or a factor is 0 and stays so.
    4. *vanishing*, *exploding*: along a way through layers or through time the gradient norm
       changes by more than a factor of 10 from the last place to the first (and, through layers,
       so does what enters the layers, or the effect of noise in proportion to the signal: a
       change of scale between two layers, of which neither feels anything, does not count); or the
       loss is 10^4 times that of the same model with outputs of 0 and the outputs are large.
    5. *undecided*: two standard errors of such a change, over the batch's examples, reach to the
       other side of the factor; or there is no layer to judge by.
    6. *healthy*.
    """
    found = spots(reading)
    ways = profiles(reading, found)
    main = next((way for way in ways if way.through == "layers"), None)
    ends = _compared(main) if main is not None else _NO_ENDS
    absurd = _absurd(reading, found, LOSS_FACTOR)
    remarks = (
        *(sentences.absurd(reading) if _absurd(reading, found, _REMARKABLE) else ()),
        *sentences.opened(reading.opened),
        *sentences.replaced(reading.structure.graph.replaced),
        *(sentences.way(main, ends) if main is not None else ()),
        *sentences.units(layers),
        *sentences.unread(unread(reading), reading.structure.unused),
    )

    def finding(verdict, evidence=(), cause="", at=(), change=0.0):
        said = "\n".join(evidence)
        more = [each for each in remarks if each not in said]
        evidence = tuple(sentences.short(each) for each in (*evidence, *more))
        return Finding(verdict, evidence, main, ends, cause, tuple(at), change, held)

    held: frozenset[str] = frozenset()
    broken, cause = nonfinite(reading, found, batch_finite, trial_of is None)
    if broken:
        return finding("nonfinite", broken, cause, change=math.inf)
    share = share_read(reading)
    if share < READ_SHARE:
        return finding("unread", sentences.share(share, reading), "unread", change=math.nan)
    known = trial_of.held if trial_of is not None else None
    cut, cause, at, held = _cut_off(reading, found, layers, known)
    bad, unsure = _judged(ways)
    # What has grown so far that a side branch saturates is not mended where it saturates.
    large = _absurd(reading, found, _REMARKABLE)
    grown = absurd or (large and bool(bad) and _worst(bad, layers)[2] > 0)
    if cut and not grown:
        return finding("vanishing", cut, cause, at, -math.inf)
    if cut:
        return finding("exploding", (*sentences.absurd(reading), *cut), "loss", at, math.inf)
    if bad:
        evidence, at, change = _worst(bad, layers)
        change = math.inf if absurd else change
        return finding("exploding" if change > 0 else "vanishing", evidence, "rate", at, change)
    if absurd:
        return finding("exploding", cause="loss", change=math.inf)
    if unsure:
        way, worst = max(unsure, key=lambda each: abs(each[1].change))
        return finding(
            "undecided", sentences.unsure(way, worst), "examples", way.spots, worst.change
        )
    if not found:
        return finding("undecided", ("no layer was found to judge by",), "none")
    return finding("healthy")


def unread(reading: Reading) -> tuple[str, ...]:
    """Parameters that were not seen to meet a signal."""
    names, seen = reading.structure.parameters, reading.structure.flow.seen
    return tuple(name for place, name in enumerate(names) if place not in seen)


def share_read(reading: Reading) -> float:
    """Of the numbers that the loss uses, those that were."""
    structure = reading.structure
    sizes = dict(zip(structure.parameters, map(np.size, reading.values)))
    for name in structure.unused:
        sizes.pop(name)
    seen = sum(sizes.get(structure.parameters[place], 0) for place in structure.flow.seen)
    return seen / max(sum(sizes.values()), 1)


def _absurd(reading: Reading, found: Sequence[Spot], times: float) -> bool:
    """Whether the loss is so many times that of outputs of 0, and outputs are large."""
    loss, silent = reading.measured.loss, reading.silent_loss
    ends = [s.log_signal for s in found if s.place.site.output in reading.structure.ran.ends]
    large = max(ends, default=-math.inf) > 2 * math.log(_REMARKABLE)
    return silent > 0 and math.isfinite(silent) and loss > times * silent and large


# ---------------------------------------------------------------------------- no gradient at all


def _cut_off(reading: Reading, found: Sequence[Spot], layers, held: frozenset[str] | None):
    """Layers without any gradient: what stops it, the first in the order of the forward pass.

    ``held`` are places that are known to be stopped on purpose; nothing is then looked for.
    """
    silent = [s for s in found if s.log_gradient == -math.inf]
    if held is not None:
        cut = tuple(s.name for s in silent if s.name not in held)
        return cut or (() if silent else reading.stuck), "", (), held
    if not silent:
        if reading.stuck:
            return sentences.stuck(reading.stuck), "zero", (), frozenset()
        return (), "", (), frozenset()
    alive = [s.place.site.output for s in found if s.log_gradient > -math.inf]
    found_stops = stops(reading, silent, alive)
    if not found_stops:
        said = f"no gradient arrives at {silent[0].name}: it is exactly 0"
        return (said,), "", silent[:1], frozenset()
    chosen = all(_chosen(operations) for _, operations in found_stops)
    if chosen and any(not s.place.before and s.log_gradient > -math.inf for s in found):
        return (), "", (), frozenset(s.name for s in silent)
    spot, operations = next((p for p in found_stops if not _chosen(p[1])), found_stops[0])
    evidence, cause = sentences.stop(reading, spot, operations, _row(spot, layers), len(silent))
    return evidence, cause, (spot, *(s for s in silent if s is not spot)), frozenset()


def _chosen(operations: Sequence[Operation]) -> bool:
    return all(operation.node.name == "stop_gradient" for operation in operations)


def _row(spot: Spot, layers: Sequence[LayerReading]) -> LayerReading | None:
    return next((layer for layer in layers if layer.name in (spot.name, f"{spot.name}[0]")), None)


# ---------------------------------------------------------------------------- ways


Judged = tuple[Profile, Ends]


def _judged(ways: Sequence[Profile]) -> tuple[list[Judged], list[Judged]]:
    """Ways whose gradient changes by too much, and those of which that cannot be told."""
    bad, unsure = [], []
    for way in ways:
        ends = _compared(way)
        beyond = abs(ends.change) - _allowed(way, ends.change)
        if ends.counts and beyond > 2 * ends.stderr:
            bad.append((way, ends))
        elif ends.counts and beyond > -2 * ends.stderr:
            unsure.append((way, ends))
    return bad, unsure


def _worst(bad: Sequence[Judged], layers: Sequence[LayerReading]):
    """Evidence for the worst of these ways, where it happens, and how much it is."""
    way, ends = max(bad, key=lambda each: abs(each[1].change))
    others = [sentences.change(w, e) for w, e in bad if w is not way]
    at, local = _steepest(way, ends, layers)
    first = sentences.local(*local) if local else ()
    return (*first, sentences.change(way, ends), *others[:2]), at, ends.change


def _allowed(way: Profile, change: float) -> float:
    """How much the gradient may change along a way.

    A step in time that comes before others feels the losses of all of them. Where weights recur
    (in a tied decoder, in the model's own derivative) places are less alike.
    """
    if way.through == "time":
        return _ALLOWED + (2 * math.log(way.losses) if change > 0 else 0.0)
    return 3 * _ALLOWED if way.recurs else _ALLOWED


def _compared(way: Profile) -> Ends:
    """The first and the last place of a way held against each other.

    The last layer of all gives out something of another kind (logits): the gradient at what enters
    it, or at the layer before, is what the first is compared with; the nearer of the two, since
    one has passed an activation or a pooling and the other has not.
    """
    known = np.flatnonzero(np.isfinite(way.log_gradient))
    own = [place for place in known if not (way.spots and way.spots[place].opened)]
    known = np.asarray(own) if len(own) > 1 else known
    if known.size < 2:
        return _NO_ENDS
    first, last = int(known[0]), int(known[-1])
    change = float(way.log_gradient[first] - way.log_gradient[last])
    if way.through == "time":
        stderr = stderr_of_change(way.shares[first], way.shares[last])
        return Ends(first, last, change, True, stderr)
    entering = way.log_gradient[first] - way.spots[known[-1]].log_gradient_entering
    if known.size > 2:
        last = int(known[-2])
        change = float(way.log_gradient[first] - way.log_gradient[last])
    change = float(min((change, entering), key=abs)) if math.isfinite(entering) else change
    with np.errstate(invalid="ignore"):  # of outputs that are exactly 0
        effect = float(way.log_effect[first] - way.log_effect[last])
    entered = way.log_entering[first + 1 :]
    entered = entered[np.isfinite(entered)]
    signal = float(entered[-1] - entered[0]) if entered.size > 1 else 0.0
    felt = [abs(x) for x in (effect, signal) if math.isfinite(x)]
    stderr = stderr_of_change(way.shares[first], way.shares[last])
    return Ends(first, last, change, max(felt, default=math.inf) > _ALLOWED, stderr)


def _steepest(way: Profile, ends: Ends, layers: Sequence[LayerReading]):
    """The one step that most of the change happens at, if there is one."""
    if way.through == "time":
        return way.spots[:1], None
    change = ends.change
    between = way.log_gradient[ends.first : ends.last + 1]
    steps = -np.diff(between)
    worst = int(np.argmax(steps * np.sign(change)))
    if abs(steps[worst]) < max(0.6 * abs(change), math.log(STABLE_FACTOR)):
        return way.spots[ends.first : ends.last + 1], None
    below, above = way.spots[ends.first + worst], way.spots[ends.first + worst + 1]
    row = _row(below, layers)
    at_rest = row is not None and change < 0 and row.saturated >= 0.5
    guilty = below if at_rest else above
    return (guilty,), (guilty, float(steps[worst]), row if at_rest else None)
