"""The parameters of a kind of layer, alone or stacked, and how the layer acts with them."""

from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from sigprop.kinds import Kind, Mix, Shape, sharing_masks

__all__ = ["Layer", "Scale"]


class Scale(nnx.Variable):
    """A number or factor applied where something is used; not itself trained."""


class Layer(nnx.Module):
    """One layer of a kind, or a stack of such layers along a leading axis.

    Every drawn map and every trained array of the kind is a parameter of its own name here:
    ``weight`` and ``bias`` of `sigprop.kinds.Dense`, ``scale`` and ``shift`` of a norm.

    Parameters
    ----------
    kind
        A kind or composition, bound to its activations.
    shape
        (places, width) of what enters.
    draws
        Unit draws by name; with a leading axis for a stack.
    numbers
        Of the network, by name: the variances of the draws are among them.
    parameterisation
        "standard": a parameter is the array that acts, sqrt(variance / fan_in) times the draw.
        "ntk": it is the draw, and the factor is kept beside it.
    stack
        Leading axes of what is trained but not drawn.
    """

    def __init__(
        self,
        kind: Kind,
        shape: Shape,
        draws: Mapping[str, Float[Array, "..."]],
        numbers: Mapping[str, Array],
        parameterisation: str,
        stack: tuple[int, ...] = (),
    ):
        self.kind, self.shape = kind, shape
        for name, mix in self._mixes.items():
            scale = jnp.sqrt(numbers[mix.variance] / mix.fan_in)
            standard = parameterisation == "standard"
            setattr(self, name, nnx.Param(scale * draws[name] if standard else draws[name]))
            if not standard or mix.prepared is not None:  # what is prepared has lost its size
                setattr(self, _scale_of(name), Scale(scale))
        for name, value in kind.trained(shape).items():
            setattr(self, name, nnx.Param(jnp.broadcast_to(value, (*stack, *value.shape))))

    @property
    def fan_in(self) -> int:
        """Entries of an input."""
        return self.shape[1]

    @property
    def _mixes(self) -> dict[str, Mix]:
        return self.kind.mixes(self.shape)

    def parameters(self) -> dict[str, Array]:
        """By name; a scan over them hands `apply` those of one layer at a time."""
        return {name: getattr(self, name)[...] for name in self._mixes} | self.trained()

    def trained(self) -> dict[str, Array]:
        """Those that are trained and not drawn."""
        return {name: getattr(self, name)[...] for name in self.kind.trained(self.shape)}

    def acting(self) -> dict[str, Array]:
        """The drawn arrays as they act: prepared and scaled."""
        found = {}
        for name, mix in self._mixes.items():
            weight, scale = getattr(self, name)[...], getattr(self, _scale_of(name), None)
            weight = weight if mix.prepared is None else mix.prepared(weight)
            found[name] = weight if scale is None else scale[...] * weight
        return found

    def hold(self, kind: Kind, fixed: Mapping[str, Array]) -> None:
        """Become a layer of ``kind``, whose further arrays are given and not trained."""
        self.kind = kind
        for name, value in fixed.items():
            setattr(self, name, nnx.BatchStat(value))

    def apply(
        self,
        parameters: Mapping[str, Array],
        x: Float[Array, "inputs places width"],
        numbers: Mapping[str, Array],
        key: Array | None = None,
        masks: str = "independent",
    ) -> Float[Array, "inputs places_after width_after"]:
        """The layer from one layer of `parameters`."""
        mix = {name: self._map(name, mix, parameters[name]) for name, mix in self._mixes.items()}
        kind = sharing_masks(self.kind) if masks == "shared" else self.kind
        return kind.apply(mix, parameters, x, numbers=numbers, key=key)

    def _map(self, name: str, mix: Mix, weight: Array):
        # The product is scaled rather than the weight: no scaled copy of a whole stack is made.
        weight = weight if mix.prepared is None else mix.prepared(weight)
        scale = getattr(self, _scale_of(name), None)
        if scale is None:
            return partial(mix.multiply, weight)
        return lambda x: scale[...] * mix.multiply(weight, x)

    def __call__(self, x: Float[Array | np.ndarray, "*batch in"]) -> Float[Array, "*batch out"]:
        """What a single (not stacked) layer of one place and no further numbers gives."""
        rows = jnp.asarray(x).reshape(-1, 1, np.shape(x)[-1])
        out = self.apply(self.parameters(), rows, {})
        return out.reshape(*np.shape(x)[:-1], out.shape[-1])

    def effective(self) -> tuple[Float[Array, "*stack out in"], Float[Array, "*stack out"]]:
        """W and b as they act, of a kind that holds one matrix; b is 0 where there is none.

        Raises
        ------
        ValueError
            For any other kind.
        """
        acting, trained = self.acting(), self.trained()
        weight = self.kind.matrix(acting, trained)
        return weight, acting.get("bias", jnp.zeros(weight.shape[:-1], weight.dtype))


def _scale_of(name: str) -> str:
    return f"{name}_scale"
