"""A user's model read: its arrays and their laws, its program, and what its rows are called."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop._precision import exact_float64
from sigprop.limit.model import Opened, opened
from sigprop.limit.refusals import Refused
from sigprop.limit.signals import Const, Unknown
from sigprop.limit.structured_weights import why_not_drawn
from sigprop.limit.tracing import Joint, joint, multiplies, straight, traced
from sigprop.limit.weights import Law, Laws, law_of, whole

__all__ = ["Reading", "read"]


@dataclass(frozen=True)
class Reading:
    """What is known before anything is predicted.

    Attributes
    ----------
    opened
        The model, taken apart.
    laws
        Of every array.
    joint
        Its program, both ways.
    data
        The inputs, as known arrays.
    names
        Of the rows.
    not_drawn
        By array: why it is not taken for drawn weights.
    has_loss
        Whether gradients are those of a loss.
    """

    opened: Opened
    laws: tuple[Law, ...]
    joint: Joint
    data: tuple[Any, ...]
    names: tuple[str, ...]
    not_drawn: dict[int, str]
    has_loss: bool

    def scaled(self, factors: Iterable[float]) -> "Reading":
        """With every array's variance times a number."""
        pairs = zip(self.laws, factors)
        laws = tuple(replace(law, variance=law.variance * f) for law, f in pairs)
        return replace(self, laws=laws)

    @property
    def random(self) -> list[bool]:
        """Which arrays are weights."""
        return _random(self.opened, self.laws)

    def leaves(self) -> list[Any]:
        """What stands for every array: weights, known arrays, or why neither."""
        found = []
        for n, (value, law) in enumerate(zip(self.opened.values, self.laws)):
            if n in self.not_drawn:
                found.append(Unknown(self.opened.names[n], self.not_drawn[n]))
            elif law.variance == 0 or value.ndim == 0:
                found.append(Const(_rescaled(value, law)))
            else:
                found.append(whole(n, value.shape, law))
        return found


def _rescaled(value: np.ndarray, law: Law) -> np.ndarray:
    """A told variance of 0 is an array of 0."""
    return np.zeros_like(value) if law.known and law.variance == 0 and np.ptp(value) else value


def _random(model: Opened, laws: Sequence[Law]) -> list[bool]:
    return [v.ndim >= 2 and law.variance > 0 for v, law in zip(model.values, laws)]


@exact_float64
def read(
    model: Any, inputs: Any, apply: Callable | None, loss: Callable | None, laws: Laws
) -> Reading:
    """Take a model apart and trace its program.

    Raises
    ------
    ValueError
        If the model cannot be taken apart or run on these inputs.
    """
    taken = opened(model, apply, loss)
    known = tuple(law_of(name, v, laws) for name, v in zip(taken.names, taken.values))
    _check_names(taken.names, laws)
    values = [np.asarray(v) for v in taken.values]
    wide = jax.tree.map(_widened, inputs)
    closed = _traced(taken, values, wide)
    found = multiplies(closed, _random(taken, known))
    both = traced(joint, closed, found, loss is not None)
    data = tuple(Const(_array(x)) for x in jax.tree.leaves(wide))
    pairs = enumerate(zip(values, known))
    multiplied = {m.leaf for m in found}
    odd = {n: why_not_drawn(v, law, n in multiplied) for n, (v, law) in pairs}
    names = _row_names(taken.names, [m.leaf for m in found])
    not_drawn = {n: reason for n, reason in odd.items() if reason}
    return Reading(taken, known, both, data, names, not_drawn, loss is not None)


def _traced(taken: Opened, values: Sequence[np.ndarray], inputs: Any) -> Any:
    try:
        return traced(straight, taken.run, values, inputs)[0]
    except Refused:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"model could not be run on inputs: {lines[0]}") from error


def _widened(leaf: Any) -> Any:
    if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating):
        return np.asarray(leaf, np.float64)
    return leaf


def _array(x: Any) -> Any:
    is_key = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.extended)
    return x if is_key else np.asarray(x)


def _check_names(names: Sequence[str], laws: Laws) -> None:
    if laws is None or callable(laws):
        return
    for key in laws:
        if not any(name == key or fnmatch(name, key) for name in names):
            raise ValueError(f"laws names {key!r}, which is none of the arrays {list(names)}")


def _row_names(names: Sequence[str], leaves: Sequence[int]) -> tuple[str, ...]:
    """The layer's path where it holds one weight, else the weight's own; uses are counted."""
    parents = Counter(names[leaf].rpartition("/")[0] for leaf in set(leaves))
    label = {}
    for leaf in set(leaves):
        parent = names[leaf].rpartition("/")[0]
        label[leaf] = parent if parent and parents[parent] == 1 else names[leaf]
    uses, seen = Counter(leaves), Counter()
    out = []
    for leaf in leaves:
        out.append(label[leaf] if uses[leaf] == 1 else f"{label[leaf]}[{seen[leaf]}]")
        seen[leaf] += 1
    return tuple(out)
