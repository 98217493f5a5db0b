"""Where a function of one number is not smooth: its kinks, its jumps, where its slope is infinite.

Found once for each function, on the CPU in float64, by evaluating it: `find_kinks` looks for the
places, `rough_places` tells a corner from a jump and from an infinite slope.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from sigprop._precision import exact_float64
from sigprop.landmarks import landmarks, near

__all__ = ["Rough", "find_kinks", "rough_places", "search_grid"]

_SEARCH_RADIUS = 1e3
_SEARCH_POINTS = 2**15
_MOST_KINKS = 4096  # the nearest to 0
_ORDERS = 4  # φ, φ', φ'', φ'''


def search_grid(points: int = _SEARCH_POINTS, radius: float = _SEARCH_RADIUS) -> np.ndarray:
    """2 · points - 1 places on [-radius, radius], fine near 0 and at the square of that far out."""
    half = np.sinh(np.linspace(0.0, np.arcsinh(radius * 50), points)) / 50
    # An irrational shift keeps grid points off the kinks, which sit at round numbers.
    return np.concatenate([-half[:0:-1], half]) + np.sqrt(2) * 1e-5


@functools.lru_cache(maxsize=512)
@exact_float64
def find_kinks(fn: Callable) -> tuple[float, ...]:
    """Points where φ, φ', φ'' or φ''' jumps, |x| <= 1000; of very many, the nearest to 0.

    An interval holding a jump keeps it while it is halved; in a smooth stretch the change across
    the interval halves with it. Intervals of a grid that is fine near 0, and finer still where a
    step of the function's program crosses 0, are therefore bisected to machine precision and those
    whose change survives are reported.

    Examples
    --------
    >>> find_kinks(lambda x: jnp.clip(x, -1.0, 2.0))
    (-1.0, 2.0)
    >>> find_kinks(jnp.tanh)
    ()
    """
    edges = np.union1d(search_grid(), near(landmarks(fn)))
    found: list[float] = []
    derivatives = _derivative_tower(fn)
    values = derivatives(edges)
    for order in range(_ORDERS):
        found += _jumps(lambda x, order=order: derivatives(x)[order], edges, values[order])
        found += _ends(lambda x, order=order: derivatives(x)[order], edges, values[order])
        if len(found) >= _MOST_KINKS:
            break
    return tuple(_nearest(_real(_distinct(found), derivatives)))


def _nearest(points: list[float]) -> list[float]:
    return sorted(sorted(points, key=abs)[:_MOST_KINKS])


def _derivative_tower(fn: Callable) -> Callable[[np.ndarray], np.ndarray]:
    tower = [fn]
    for _ in range(_ORDERS - 1):
        tower.append(jax.grad(tower[-1]))

    @jax.jit
    def evaluate(x):
        return jnp.stack([jax.vmap(f)(x) for f in tower])

    def padded(x: np.ndarray) -> np.ndarray:
        """At one of few array lengths, so that it compiles seldom."""
        size = max(1024, 4 ** int(np.ceil(np.log(max(x.size, 1)) / np.log(4))))
        filled = np.concatenate([x, np.full(size - x.size, 0.123)])
        return np.asarray(evaluate(jnp.asarray(filled)))[:, : x.size]

    return padded


def _jumps(f: Callable, edges: np.ndarray, values: np.ndarray) -> list[float]:
    """Midpoints of the grid intervals across which ``f`` jumps."""
    with np.errstate(all="ignore"):
        low, high = edges[:-1], edges[1:]
        f_low, f_high = values[:-1], values[1:]
        change = np.abs(f_high - f_low)
        finite = np.isfinite(change)
        if not finite.any():
            return []
        # Far out, a saturated φ has derivatives that are rounding noise of their values nearer 0.
        noise = 1e-9 * _largest_within_radius(values, edges)[:-1]
        # A jump is at least comparable to the change seen across its interval's neighbours.
        neighbours = np.maximum(np.roll(change, 1), np.roll(change, -1))
        suspect = np.flatnonzero(finite & (change > noise) & (change > 0.25 * neighbours))
        low, high, f_low, f_high = low[suspect], high[suspect], f_low[suspect], f_high[suspect]
        noise = noise[suspect]
        first = np.abs(f_high - f_low)
        for _ in range(60):
            if not low.size:
                return []
            middle = 0.5 * (low + high)
            f_middle = f(middle)
            met = ~np.isfinite(f_middle)  # the place itself: nothing to halve
            left = np.abs(f_middle - f_low) >= np.abs(f_high - f_middle)
            up, down = ~met & left, ~met & ~left
            high, f_high = np.where(up, middle, high), np.where(up, f_middle, f_high)
            low, f_low = np.where(down, middle, low), np.where(down, f_middle, f_low)
            kept = (
                np.abs(f_high - f_low) > 0.02 * first
            )  # what is smooth is soon out of the running
            low, high, f_low, f_high = low[kept], high[kept], f_low[kept], f_high[kept]
            noise, first = noise[kept], first[kept]
        jump = np.abs(f_high - f_low)
        real = (jump > 0.02 * first) & (jump > noise + 1e-7 * (np.abs(f_low) + np.abs(f_high)))
    return [_rounded(float(a + b) / 2, float(b - a)) for a, b in zip(low[real], high[real])]


def _ends(f: Callable, edges: np.ndarray, values: np.ndarray) -> list[float]:
    """Where ``f`` ceases to be finite, as the slope of √max(x, 0) does on the left of 0."""
    finite = np.isfinite(values)
    turns = np.flatnonzero(finite[:-1] != finite[1:])[:_MOST_KINKS]
    low, high, first = edges[turns], edges[turns + 1], finite[turns]
    for _ in range(60 if turns.size else 0):
        middle = (low + high) / 2
        same = np.isfinite(f(middle)) == first
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return [_rounded(float(a + b) / 2, float(b - a)) for a, b in zip(low, high)]


def _real(points: list[float], derivatives: Callable) -> list[float]:
    """``points`` without those where only the rounding error of a derivative jumps.

    A quotient such as sin(x)/x has derivatives of order n whose error grows like 1/x^n as x -> 0.
    A jump stays as it is from nearer by, an infinite slope grows, and neither trembles.
    """
    if not points:
        return []
    at = np.asarray(points)
    gap = np.diff(at, prepend=-np.inf, append=np.inf)
    room = np.minimum(np.minimum(gap[:-1], gap[1:]) / 4, 1e-3 * np.maximum(np.abs(at), 1.0))
    kept = np.zeros(at.size, bool)
    with np.errstate(all="ignore"):
        views = [_seen_from(derivatives, at, room * share) for share in (1.0, 1e-2, 1e-4, 1e-6)]
        for (far, far_size, _), (near, size, tremor) in itertools.pairwise(views):
            stays = (
                (near > far / 2)
                & (near < 2 * far)
                & (near > 30 * tremor)
                & (near > 1e-7 * size + 1e-200)
            )
            grows = (size[1] > 1.02 * far_size[1]) & (size[1] > 30 * tremor[1])
            grows |= np.isfinite(size[0]) & ~np.isfinite(far_size[1])
            kept |= stays.any(0) | grows
    return [x for x, keep in zip(points, kept) if keep]


def _seen_from(derivatives: Callable, at: np.ndarray, distance: np.ndarray):
    """Across each place: how φ .. φ''' change, how large they are, by how much they tremble."""
    shifts = [side * share * distance for share in (1, 1.001, 1.002) for side in (-1, 1)]
    values = derivatives(np.concatenate([at + shift for shift in shifts]))
    sides = np.stack(np.split(values, 6, axis=1)).reshape(3, 2, _ORDERS, at.size)
    # A side on which a derivative is nan has nothing to say.
    tremor = np.fmax.reduce(np.fmax.reduce(sides) - np.fmin.reduce(sides))
    left, right = sides[0]
    return np.abs(right - left), np.fmax(np.abs(left), np.abs(right)), tremor


def _largest_within_radius(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """At each point, the largest finite |value| among the points nearer to 0."""
    order = np.argsort(np.abs(points))
    size = np.where(np.isfinite(values), np.abs(values), 0.0)
    largest = np.empty_like(size)
    largest[order] = np.maximum.accumulate(size[order])
    return largest


def _rounded(x: float, width: float) -> float:
    nice = round(x, 12)
    return nice + 0.0 if abs(nice - x) <= max(4 * width, 1e-12 * abs(x), 1e-13) else x


def _distinct(points: list[float]) -> list[float]:
    kept: list[float] = []
    for x in sorted(points):
        if not kept or x - kept[-1] > 1e-9 * max(1.0, abs(x)):
            kept.append(x)
    return kept


# ---------------------------------------------------------------------------- how rough


@dataclass(frozen=True)
class Rough:
    """Kinks that are more than corners.

    Attributes
    ----------
    jumps
        (x, φ(x-), φ(x+)) where φ itself jumps.
    steep
        (x, b) where φ' grows like 1/|y - x|^b, b > 0; for b >= 1/2 its square has no integral.
    slope_known
        Whether φ' as given is a number wherever φ is (not so for √max(x, 0) on the left of 0).
    """

    jumps: tuple[tuple[float, float, float], ...]
    steep: tuple[tuple[float, float], ...]
    slope_known: bool = True

    @property
    def reason(self) -> str:
        """Why E[φ'²] is infinite, or "" where it is not."""
        if self.jumps:
            return f"the function jumps at {_listed([x for x, *_ in self.jumps])}"
        endless = [x for x, b in self.steep if b > 0.5 - 1e-4]
        return f"the squared slope has no integral at {_listed(endless)}" if endless else ""


def _listed(places: list[float]) -> str:
    nearest = sorted(places, key=abs)[:3]
    more = f" and {len(places) - 3} more places" if len(places) > 3 else ""
    return "x = " + ", ".join(f"{x:g}" for x in nearest) + more


@functools.lru_cache(maxsize=512)
@exact_float64
def rough_places(fn: Callable, derivative: Callable, kinks: tuple[float, ...]) -> Rough:
    """The `Rough` places among the kinks."""
    if not kinks:
        return Rough((), ())
    at = np.asarray(kinks)
    scale = np.maximum(np.abs(at), 1.0)
    with np.errstate(all="ignore"):
        close = _sides(fn, at, 1e-10 * scale)
        here = _sides(fn, at, 1e-14 + 16 * np.spacing(np.abs(at)))
        rise = np.abs(here[1] - here[0])
        # A steep but unbroken φ rises less across less: |x|^b falls to a part of 1000^b.
        unbroken = rise < 0.99 * np.abs(close[1] - close[0])
        jumps = (rise > 1e-9 * (np.abs(here[0]) + np.abs(here[1]))) & (rise > 1e-13) & ~unbroken
        at_distances = (d * scale for d in (1e-7, 1e-10, 1.001e-10))
        far, slope, shifted = (np.abs(_sides(derivative, at, d)) for d in at_distances)
        growth = np.log(slope / far) / np.log(1e3)
        growth = np.where(slope > 30 * np.abs(shifted - slope), growth, 0.0)
        growth = np.max(np.nan_to_num(growth, nan=0.0), axis=0)
        known = not np.isnan(_sides(derivative, at, 1e-3 * scale)).any()
    steep = (growth > 0.01) & ~jumps
    return Rough(
        tuple(map(tuple, np.stack([at, *here], 1)[jumps].tolist())),
        tuple(map(tuple, np.stack([at, growth], 1)[steep].tolist())),
        known,
    )


def _sides(f: Callable, at: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """``f`` on the left and on the right of each place, (2, places)."""
    return np.asarray(f(jnp.asarray(np.stack([at - distance, at + distance]))))
