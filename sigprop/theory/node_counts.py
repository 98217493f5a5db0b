"""How many quadrature nodes a trajectory needs: found by running its variances coarsely first."""

import functools
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from sigprop._precision import exact_float64
from sigprop.activations import Activation
from sigprop.gaussian import resolution
from sigprop.gaussian.closed_forms import closed_form
from sigprop.kinds import Gauss, Kind, State
from sigprop.kinds.kind import rewritten
from sigprop.theory.chunks import over_cells

__all__ = ["activations_in", "groups_of_cells", "nodes_for_all"]

# Nodes that find a variance to 20%, and what is allowed for that.
_COARSE, _ALLOWANCE = 64, 1.25

Nodes = tuple[tuple[Activation, int | None], ...]


def groups_of_cells(
    layer: Kind, depth: int, cells: dict[str, np.ndarray]
) -> list[tuple[Nodes, np.ndarray]]:
    """Cells that need equally many nodes for all activations at the largest variance they meet."""
    served = _served(layer)
    everywhere = np.arange(cells["variance0"].size)
    if not served:
        return [((), everywhere)]
    variances = {name: a for name, a in cells.items() if name != "correlation0"}
    watch = functools.partial(_watched, layer, served, depth, tuple(variances))
    largest = over_cells(watch, list(variances.values()))
    needed = [[_needed(a, float(q)) for a in served] for q in largest]
    groups = np.unique(np.asarray(needed, int), axis=0)
    members = [np.flatnonzero((np.asarray(needed) == group).all(1)) for group in groups]
    return [
        (tuple((a, int(n) or None) for a, n in zip(served, group)), cells)
        for group, cells in zip(groups, members)
    ]


def _needed(activation: Activation, variance: float) -> int:
    """0 for panels. A variance that more than the coarse nodes find is known to 20% only."""
    nodes = resolution.uniform_nodes(activation, variance) or 0
    if 0 < nodes <= _COARSE:
        return nodes
    return resolution.uniform_nodes(activation, _ALLOWANCE * variance) or 0


def nodes_for_all(layer: Kind, depth: int, cells: dict[str, np.ndarray]) -> Nodes:
    """Nodes that serve every cell."""
    groups = [dict(nodes) for nodes, _ in groups_of_cells(layer, depth, cells)]
    counts = {a: [group[a] for group in groups] for a in groups[0]}
    return tuple((a, None if None in n else max(filter(None, n))) for a, n in counts.items())


def _served(layer: Kind) -> tuple[Activation, ...]:
    """The activations in a layer whose integrals a uniform rule serves."""
    found = activations_in(layer)
    return tuple(a for a in found if closed_form(a) is None and resolution.uniform_nodes(a, 1.0))


def activations_in(layer: Kind) -> list[Activation]:
    """Every activation in a layer, once."""
    found: list[Activation] = []

    def note(kind: Kind) -> Kind:
        own = vars(kind).values()
        found.extend(v for v in own if isinstance(v, Activation) and v not in found)
        return kind

    rewritten(layer, note)
    return found


@dataclass(frozen=True)
class _Watching(Gauss):
    """Notes the variance of every signal that it activates."""

    seen: list = field(default_factory=list, compare=False)

    def activated(self, activation, state):
        if state.law == "gaussian":
            self.seen.append(jnp.max(state.variance))
        return super().activated(activation, state)


@exact_float64
def _watched(layer, served, depth, names, *arrays):
    return np.asarray(_largest(layer, served, depth, dict(zip(names, map(jnp.asarray, arrays)))))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _largest(layer, served, depth, cells):
    """The largest variance that an activation sees at any layer, inf where that is not known."""

    def one(cell):
        def step(state, _):
            gauss = _Watching(nodes=tuple((a, _COARSE) for a in served))
            after = gauss.settled(layer.covariance(gauss, state, cell))
            return after, jnp.max(jnp.stack([jnp.ones_like(cell["variance0"]), *gauss.seen]))

        _, largest = jax.lax.scan(step, State.of(cell["variance0"]), length=depth)
        return jnp.nan_to_num(jnp.max(largest), nan=jnp.inf)

    return jax.vmap(one)(cells)
