"""Profiles of a model: its branches through layers, and its loops through time, each on its own.

Of the sites of a model that lie on one way from the input to the loss, a profile has the gradient
norms, from the first to the last. Where the way splits (gates, query and key, towers, heads) it
goes on where the loss feels most; what is left makes profiles of its own.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from sigprop.diagnosis.reading import Reading
from sigprop.diagnosis.statistics import log_sum
from sigprop.program import Line, Place, Size, is_floating, log_mean_square, places

__all__ = ["Ends", "Profile", "Spot", "profiles", "spots", "stderr_of_change"]

_SAME_WEIGHT = 3  # uses of one weight on one way make time


@dataclass(frozen=True, eq=False)
class Spot:
    """A place on a way, all steps in time together.

    Attributes
    ----------
    name, place
        What it is called, and where it is in the program.
    log_gradient
        ln ‖∂loss/∂z‖², z its output.
    log_signal, log_entering
        ln of the mean square of z, and of what enters.
    log_gradient_entering
        ln ‖∂loss/∂x‖², x what enters, of the layers that nothing comes after; else nan.
    opened
        Whether its gradient is 0 as long as factors of 0 are not opened.
    shares
        Of ‖∂loss/∂z‖², by example of the batch; empty where there are no examples.
    """

    name: str
    place: Place
    log_gradient: float
    log_signal: float
    log_entering: float
    log_gradient_entering: float
    opened: bool
    shares: np.ndarray

    @property
    def log_effect(self) -> float:
        """Ln of (‖∂loss/∂z‖ rms z)²: what noise in proportion to z does to the loss."""
        return self.log_gradient + self.log_signal


@dataclass(frozen=True, eq=False)
class Profile:
    """Gradients along one way, from the input to the loss.

    Attributes
    ----------
    through
        "layers" or "time".
    name
        Of the branch or the loop: its first and its last place.
    names, log_gradient
        Of every place.
    log_effect, log_entering
        As `Spot` has them; empty through time, where all places are alike.
    spots
        The places, through layers.
    shares
        Of every place: as `Spot` has it.
    losses
        How many steps of a loop through time may enter the loss by themselves.
    """

    through: str
    names: tuple[str, ...]
    log_gradient: np.ndarray
    log_effect: np.ndarray
    log_entering: np.ndarray
    shares: tuple[np.ndarray, ...]
    spots: tuple[Spot, ...] = ()
    losses: int = 1

    @property
    def recurs(self) -> bool:
        """Whether it meets weights again: in a tied decoder, in the model's own derivative."""
        weights = [(s.place.site.largest, s.place.site.slices) for s in self.spots]
        steps = [tuple(s.place.steps.values()) for s in self.spots]
        return len(set(zip(weights, steps))) < len(weights)

    @property
    def name(self) -> str:
        return f"{self.names[0]} to {self.names[-1]}"


@dataclass(frozen=True)
class Ends:
    """Two places of a way held against each other.

    Attributes
    ----------
    first, last
        Their numbers along the way.
    change
        Growth of ln ‖gradient‖² from the last to the first.
    counts
        Whether it is more than a change of scale: whether the signal that enters the layers, or the
        effect of noise in proportion to it, changes by as much.
    stderr
        Of the change, over the batch's examples; 0 where these are not told apart.
    """

    first: int
    last: int
    change: float
    counts: bool
    stderr: float = 0.0

    @property
    def rate(self) -> float:
        """Growth of ln ‖gradient‖² from a place to the one before it; nan for a single place."""
        return self.change / (self.last - self.first) if self.last > self.first else math.nan

    @property
    def rate_stderr(self) -> float:
        return self.stderr / (self.last - self.first) if self.last > self.first else math.nan


def stderr_of_change(first: np.ndarray, last: np.ndarray) -> float:
    """Standard error of ln (Σ a / Σ b) over examples, from their shares of either sum.

    Var ln (Σ a / Σ b) = n/(n - 1) Σ (a_i/Σ a - b_i/Σ b)² where a and b are of the same n examples
    (the delta method); where they are not, the variances of both are added.
    """

    def variance(shares):
        return np.sum(shares**2) * shares.size / (shares.size - 1) if shares.size > 1 else 0.0

    if first.size == last.size:
        return float(np.sqrt(variance(first - last)))
    return float(np.sqrt(sum(variance(s - 1 / max(s.size, 1)) for s in (first, last))))


def spots(reading: Reading) -> tuple[Spot, ...]:
    """All places that were run."""
    structure, found, called = reading.structure, [], Counter()
    often = Counter(structure.names.path(place.site) for place in structure.places)
    around = places(structure.graph)
    for place in structure.places:
        path = structure.names.path(place.site)
        name = f"{path}[{called[path]}]" if often[path] > 1 else path
        called[path] += 1
        loops = around.loops[place.site.output]
        at = tuple(place.steps.get(loop, slice(None)) for loop in loops)
        tables = (reading.measured.noted, reading.measured.slopes)
        noted, slope = (_cut(table[place.site.output], at) for table in tables)
        if np.any(noted["ran"]):
            own = _cut(reading.closed.slopes[place.site.output], at)
            opened = not np.any(own["largest"]) and bool(np.any(slope["largest"]))
            entries = structure.graph.avals[place.site.output].size
            above = _at_entrance(reading, place, at)
            found.append(_spot(name, place, noted, slope, entries, above, opened))
    return tuple(found)


def _at_entrance(reading: Reading, place: Place, at) -> float:
    value = place.site.entering.value
    if value not in reading.measured.slopes:
        return math.nan
    entries = reading.structure.graph.avals[value].size
    around = places(reading.structure.graph).loops
    same = around[value] == around[place.site.output]
    found = _cut(reading.measured.slopes[value], at) if same else reading.measured.slopes[value]
    return _total(found) + math.log(max(entries, 1))


def _cut(found, at):
    return jax.tree.map(lambda array: array[at], found)


def _spot(name: str, place: Place, noted, slope, entries: int, at_entrance: float, opened: bool):
    entering = noted.get("entering")
    return Spot(
        name,
        place,
        _total(slope) + math.log(max(entries, 1)),
        _mean(noted["output"]),
        math.nan if entering is None or place.site.kind == "lookup" else _mean(entering),
        at_entrance,
        opened,
        _shares(slope["examples"]) if "examples" in slope else np.zeros(0),
    )


def _shares(found: Size) -> np.ndarray:
    """Of the sum over all, by the last axis."""
    logs = log_mean_square(found)
    with np.errstate(invalid="ignore"):  # of what is not finite
        logs = np.logaddexp.reduce(logs.reshape(-1, logs.shape[-1]), axis=0)
    total = log_sum(logs)
    return np.exp(logs - total) if math.isfinite(total) else np.zeros(0)


def _total(found: Size) -> float:
    return log_sum(log_mean_square(found))


def _mean(found: Size) -> float:
    return _total(found) - math.log(max(np.size(found["largest"]), 1))


def profiles(reading: Reading, found: Sequence[Spot]) -> tuple[Profile, ...]:
    """Through layers, the longest way first, then through time."""
    ways = [_split_in_time(way) for way in _ways(found)]
    layers = [_through_layers(way) for way, _ in ways if way]
    repeated = [_repeated(uses) for _, times in ways for uses in times]
    loops = [p for line in reading.structure.lines for p in _through_time(reading, line)]
    return (*layers, *repeated, *loops)


def _ways(found: Sequence[Spot]) -> list[list[Spot]]:
    """A cover of all places by ways, each going back from the loss where it feels most."""
    by_place = {spot.place: spot for spot in found}
    free, ways = dict.fromkeys(found), []
    for end in sorted(found, key=lambda s: (s.place.depth, s.log_effect), reverse=True):
        if end not in free:
            continue
        way, spot = [], end
        while spot is not None:
            way.append(spot)
            del free[spot]
            before = [by_place[p] for p in spot.place.before if p in by_place]
            left = [other for other in before if other in free]
            deepest = max((b.place.depth for b in left), default=0)
            near = [b for b in left if b.place.depth == deepest]
            spot = max(near, key=lambda b: (b.log_effect, b.log_gradient), default=None)
        ways.append(way[::-1])
    return ways


def _split_in_time(way: list[Spot]) -> tuple[list[Spot], list[list[Spot]]]:
    """Uses of one weight, one after the other, are steps in time: one of them stays in the way."""
    uses: dict = {}
    for spot in way:
        site = spot.place.site
        steps = tuple(sorted((id(loop), step) for loop, step in spot.place.steps.items()))
        uses.setdefault((site.largest, site.slices, steps), []).append(spot)
    repeated = [each for each in uses.values() if len(each) >= _SAME_WEIGHT]
    kept = {max(each, key=lambda s: s.log_gradient) for each in repeated}
    dropped = {spot for each in repeated for spot in each} - kept
    return [spot for spot in way if spot not in dropped], repeated


def _through_layers(way: Sequence[Spot]) -> Profile:
    return _profile("layers", way)


def _repeated(uses: Sequence[Spot]) -> Profile:
    return _profile("time", uses)


def _profile(through: str, way: Sequence[Spot]) -> Profile:
    column = lambda name: np.asarray([getattr(spot, name) for spot in way])  # noqa: E731
    return Profile(
        through,
        tuple(spot.name for spot in way),
        column("log_gradient"),
        column("log_effect"),
        column("log_entering"),
        tuple(spot.shares for spot in way),
        tuple(way),
    )


def _through_time(reading: Reading, line: Line) -> list[Profile]:
    """Gradients at what goes through time, in the order it is run.

    Of a loop: at what it carries, at the start of every step but the first. Of an associative scan:
    at what enters at every step.
    """
    logs = [_by_step(reading, value) for value in line.values]
    total = np.logaddexp.reduce(np.stack(logs), axis=0)
    by_example = [reading.measured.slopes[value]["steps_by_example"] for value in line.values]
    shares = [_shares_by_step(found) for found in by_example]
    largest = shares[int(np.argmax([log_sum(x) for x in logs]))]
    order = slice(None)
    if line.node.name == "scan" and line.node.equation.params["reverse"]:
        order = slice(None, None, -1)
    total, largest = total[order], largest[order]
    what = "loop" if line.axis is None else "associative scan"
    where = reading.structure.line(line.node) or line.node.name
    names = tuple(f"step {step} of the {what} at {where}" for step in range(total.size))
    start = 0 if line.axis is not None else 1
    losses = total.size if _reads_every_step(reading, line) else 1
    nothing = np.zeros(0)
    return [
        Profile(
            "time", names[start:], total[start:], nothing, nothing, tuple(largest[start:]),
            losses=losses,
        )
    ]  # fmt: skip


def _shares_by_step(found: Size) -> list[np.ndarray]:
    """Of every step, by example."""
    logs = log_mean_square(found)
    if logs.ndim < 2:
        return [np.zeros(0)] * logs.size
    return [_shares({k: v[step] for k, v in found.items()}) for step in range(len(logs))]


def _reads_every_step(reading: Reading, line: Line) -> bool:
    """Whether something of the signal is given out at every step."""
    if line.axis is not None:
        return True
    graph, flow = reading.structure.graph, reading.structure.flow
    if line.node.name != "scan":
        return False
    rows = line.node.outputs[line.node.equation.params["num_carry"] :]
    return any(flow.origins[v].signal and is_floating(graph.avals[v]) for v in rows)


def _by_step(reading: Reading, value: int) -> np.ndarray:
    """Ln of the squared norm of the gradient at every step, outer loops together."""
    logs = log_mean_square(reading.measured.slopes[value]["steps"])
    loops = places(reading.structure.graph)
    entries = reading.structure.graph.avals[value].size
    entries *= math.prod(loops.lengths(value, reading.structure.ran.counts))
    return logs + math.log(max(entries // logs.size, 1))
