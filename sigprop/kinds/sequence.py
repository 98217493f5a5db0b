"""One kind after another, and the names of what they draw and train."""

from dataclasses import dataclass

import jax

from sigprop.kinds.kind import Combinator, Kind

__all__ = ["Sequence"]


@dataclass(frozen=True, init=False)
class Sequence(Combinator):
    """Kinds in the order in which they act; ``Sequence()`` changes nothing.

    What its parts draw and train has the parts' own names; where two have one name, the later one's
    is numbered: weight, weight_2.
    """

    kinds: tuple[Kind, ...]

    def __init__(self, *kinds: Kind, **given):  # `replace` gives the field by name
        object.__setattr__(self, "kinds", given.get("kinds", kinds))

    def shape_after(self, shape):
        """Of what leaves the last part."""
        for kind in self.kinds:
            shape = kind.shape_after(shape)
        return shape

    def mixes(self, shape):
        """Of all parts."""
        return self._joined("mixes", shape)

    def trained(self, shape):
        """Of all parts."""
        return self._joined("trained", shape)

    def apply(self, mix, trained, x, *, numbers, key=None):
        """One part after another; the first random one gets the key itself."""
        names = zip(self._names("mixes", x.shape[1:]), self._names("trained", x.shape[1:]))
        for kind, own_key, (mixes, values) in zip(self.kinds, self._keys(key), names):
            own = {name: mix[here] for name, here in mixes.items()}
            ours = {name: trained[here] for name, here in values.items()}
            x = kind.apply(own, ours, x, numbers=numbers, key=own_key)
        return x

    def covariance(self, gauss, state, numbers):
        """One part after another."""
        for kind in self.kinds:
            state = kind.covariance(gauss, state, numbers)
        return state

    def _shapes(self, shape):
        """Of what enters every part."""
        for kind in self.kinds:
            yield shape
            shape = kind.shape_after(shape)

    def _names(self, what: str, shape) -> list[dict[str, str]]:
        """For every part, its own names and what they are called here."""
        taken, found = set(), []
        for kind, entering in zip(self.kinds, self._shapes(shape)):
            own = {}
            for name in getattr(kind, what)(entering):
                numbered = (name, *(f"{name}_{i}" for i in range(2, len(taken) + 3)))
                own[name] = next(free for free in numbered if free not in taken)
                taken.add(own[name])
            found.append(own)
        return found

    def _joined(self, what: str, shape) -> dict:
        parts = zip(self.kinds, self._names(what, shape), self._shapes(shape))
        return {
            names[name]: value
            for kind, names, entering in parts
            for name, value in getattr(kind, what)(entering).items()
        }

    def _keys(self, key) -> list:
        """One for every part that is random, None for the others."""
        count, keys = 0, []
        for kind in self.kinds:
            mine = key if kind.random and key is not None else None
            keys.append(jax.random.fold_in(mine, count) if mine is not None and count else mine)
            count += kind.random
        return keys
