"""What a nonlinearity is: its function, its derivative, its kinks, and the table of named ones."""

import difflib
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sigprop._precision import exact_float64
from sigprop.importing import imported
from sigprop.kinks import Rough, find_kinks, rough_places, search_grid
from sigprop.landmarks import landmarks, near

__all__ = [
    "ALIASES",
    "Activation",
    "find_kinks",
    "functions",
    "get",
    "is_named",
    "leaky_relu",
    "names",
    "register",
]

ScalarFunction = Callable[[Float[Array, "..."]], Float[Array, "..."]]


@jax.tree_util.register_static
@dataclass(frozen=True)
class Activation:
    """A scalar nonlinearity φ applied to every unit.

    Parameters
    ----------
    fn
        φ. Any function of one number that JAX can trace.
    name
        What tables, files and figures call it; the function's own name by default.
    kinks
        Points where φ or one of its first three derivatives jumps. Gaussian integrals are cut
        there, so a missing kink costs accuracy. Looked for (`find_kinks`) when not given.
    derivative
        φ'. Automatic differentiation of ``fn`` by default.

    Raises
    ------
    ValueError
        If ``fn`` cannot be traced by JAX or does not map one real number to one real number.

    Examples
    --------
    >>> cube = Activation(lambda x: x**3, name="cube")
    >>> float(cube(2.0)), float(cube.derivative(2.0)), cube.kinks
    (8.0, 12.0, ())
    """

    fn: ScalarFunction
    name: str = ""
    kinks: tuple[float, ...] = None  # type: ignore[assignment]  # resolved below
    derivative: ScalarFunction = None  # type: ignore[assignment]  # resolved below
    _homogeneous: tuple[float, float] | None = field(init=False, compare=False, repr=False)

    def __post_init__(self):
        resolve = functools.partial(object.__setattr__, self)
        resolve("name", self.name or getattr(self.fn, "__name__", type(self.fn).__name__))
        resolve("fn", _elementwise(self.fn, self.name))
        if self.derivative is None:
            resolve("derivative", _Derivative(self.fn))
        found = find_kinks(self.fn) if self.kinks is None else self.kinks
        resolve("kinks", tuple(sorted(float(k) for k in found)))
        resolve("_homogeneous", _homogeneous_slopes(self.fn, self.kinks))

    def __call__(self, x: ArrayLike) -> Float[Array, "..."]:
        """φ(x), elementwise."""
        return self.fn(jnp.asarray(x))

    @property
    def homogeneous_slopes(self) -> tuple[float, float] | None:
        """Slopes (left, right) if φ(t x) = t φ(x) for every t > 0, else None.

        Homogeneous activations (relu, leaky_relu, linear) have closed forms, and their networks
        can be carried through any depth in log scale.
        """
        return self._homogeneous

    @property
    def rough(self) -> Rough:
        """Where φ jumps and where its slope is infinite.

        Examples
        --------
        >>> get(jnp.sign).rough.jumps
        ((0.0, -1.0, 1.0),)
        >>> get(jnp.tanh).rough.jumps
        ()
        """
        return rough_places(self.fn, self.derivative, self.kinks)

    @property
    def continuous(self) -> bool:
        """Whether φ has no jumps: then φ' by automatic differentiation is all of its derivative."""
        return not self.rough.jumps

    @property
    def infinite_slope(self) -> str:
        """Why E[φ'²] is infinite at every variance (φ jumps, or is like √|x|), or ""."""
        return self.rough.reason

    def value_and_derivative(self, x: ArrayLike) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """φ(x) and φ'(x) together, sharing what they have in common."""
        x = jnp.asarray(x)
        if isinstance(self.derivative, _Derivative):
            return jax.jvp(self.fn, (x,), (jnp.ones_like(x),))
        return self.fn(x), self.derivative(x)


@dataclass(frozen=True)
class _Derivative:
    """φ' by automatic differentiation; compares equal for the same φ, so caches hit."""

    fn: ScalarFunction

    def __call__(self, x):
        x = jnp.asarray(x)
        return jax.jvp(self.fn, (x,), (jnp.ones_like(x),))[1]


@functools.lru_cache(maxsize=512)
def _elementwise(fn: ScalarFunction, name: str) -> ScalarFunction:
    """``fn`` itself if it already acts elementwise on arrays, else ``fn`` mapped over the array."""
    label = name or getattr(fn, "__name__", repr(fn))
    if not callable(fn):
        raise ValueError(f"activation must be a name, a callable or an Activation, got {fn!r}")
    try:
        scalar = jax.eval_shape(fn, jax.ShapeDtypeStruct((), jnp.float32))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"activation must be a JAX-traceable function of one number; {label} could not be "
            f"traced ({type(error).__name__}: {reason})"
        ) from error
    if getattr(scalar, "shape", None) != () or not jnp.issubdtype(scalar.dtype, jnp.floating):
        raise ValueError(
            f"activation must map one real number to one real number, {label} returned {scalar}"
        )
    return fn if _acts_elementwise(fn) else jnp.vectorize(fn)


@exact_float64
def _acts_elementwise(fn: ScalarFunction) -> bool:
    probe = np.asarray([-1.7, -0.3, 0.4, 0.9, 2.3])
    try:
        whole = np.asarray(fn(jnp.asarray(probe)))
    except Exception:  # a function of scalars only (lax.cond, say): mapped over arrays instead
        return False
    single = np.asarray([fn(jnp.asarray(x)) for x in probe])
    return whole.shape == probe.shape and np.allclose(whole, single, rtol=1e-6, equal_nan=True)


# ---------------------------------------------------------------------------- what shape it has


@exact_float64
def _homogeneous_slopes(fn: ScalarFunction, kinks: tuple[float, ...]) -> tuple[float, float] | None:
    if any(k != 0.0 for k in kinks):
        return None
    # Densely, and near what its program turns at: a narrow bump on a straight line bends it.
    x = np.concatenate([np.abs(search_grid(2**9)), np.abs(near(landmarks(fn)))])
    x = x[x > 0]
    left, right = (np.asarray(fn(jnp.asarray(t * x))) / (t * x) for t in (-1.0, 1.0))
    straight = all(np.allclose(s, s[0], rtol=1e-15, atol=0.0) for s in (left, right))
    if not straight or float(fn(jnp.asarray(0.0))) != 0.0:
        return None
    return float(left[0]) + 0.0, float(right[0])


# ---------------------------------------------------------------------------- the table


def leaky_relu(slope: float = 0.01) -> Activation:
    """φ(x) = x for x > 0 and slope·x otherwise (Maas, Hannun and Ng 2013).

    Examples
    --------
    >>> leaky_relu(0.2).name
    'leaky_relu(0.2)'
    """
    return _leaky_relu(float(slope))


@dataclass(frozen=True)
class _LeakyReLU:
    slope: float

    def __call__(self, x):
        return jax.nn.leaky_relu(x, self.slope)


@functools.cache
def _leaky_relu(slope: float) -> Activation:
    name = "leaky_relu" if slope == 0.01 else f"leaky_relu({slope:g})"
    return Activation(_LeakyReLU(slope), name=name, kinks=(0.0,))


def _linear(x):
    return jnp.asarray(x)


def _gelu(x):
    return jax.nn.gelu(x, approximate=False)


def _gelu_tanh(x):
    return jax.nn.gelu(x, approximate=True)


_TABLE: dict[str, tuple[ScalarFunction, tuple[float, ...]]] = {
    "linear": (_linear, ()),
    "relu": (jax.nn.relu, (0.0,)),
    "elu": (jax.nn.elu, (0.0,)),
    "selu": (jax.nn.selu, (0.0,)),
    "gelu": (_gelu, ()),
    "gelu_tanh": (_gelu_tanh, ()),
    "silu": (jax.nn.silu, ()),
    "mish": (jax.nn.mish, ()),
    "softplus": (jax.nn.softplus, ()),
    "sigmoid": (jax.nn.sigmoid, ()),
    "tanh": (jnp.tanh, ()),
    "hard_tanh": (jax.nn.hard_tanh, (-1.0, 1.0)),
    "erf": (jax.lax.erf, ()),
    "sin": (jnp.sin, ()),
    "softsign": (jax.nn.soft_sign, (0.0,)),
}
ALIASES = {"identity": "linear", "swish": "silu", "soft_sign": "softsign", "hardtanh": "hard_tanh"}
_LEAKY = re.compile(r"leaky_relu[(_:]?([-+0-9.eE]+)?\)?")


def names() -> tuple[str, ...]:
    """Every name that `get` knows; leaky_relu also takes a slope, as in ``leaky_relu(0.2)``."""
    return tuple(sorted([*_TABLE, "leaky_relu"]))


def functions() -> dict[str, ScalarFunction]:
    """The plain functions of the table, by name.

    Examples
    --------
    >>> float(functions()["relu"](jnp.float32(-2.0)))
    0.0
    """
    return {name: fn for name, (fn, _) in _TABLE.items()}


def is_named(activation: Activation) -> bool:
    """Whether the activation is one of the table, under whatever name.

    Examples
    --------
    >>> is_named(get("relu")), is_named(get(jnp.cbrt))
    (True, False)
    """
    fn = activation.fn
    return isinstance(fn, _LeakyReLU) or any(fn is table_fn for table_fn, _ in _TABLE.values())


@functools.cache
def _named(name: str) -> Activation:
    fn, kinks = _TABLE[name]
    return Activation(fn, name=name, kinks=kinks)


_registered: dict[str, Activation] = {}


def register(activation: Activation) -> None:
    """Let `get` know an activation by its name, in this process."""
    _registered[activation.name] = activation


@functools.lru_cache(maxsize=512)
def _called(name: str, found: Any) -> Activation:
    """What was imported, under the name it was asked for by, unless it stands in the table."""
    kind = get(found)
    if is_named(kind):
        return kind
    return Activation(kind.fn, name, kind.kinks, kind.derivative)


@functools.lru_cache(maxsize=512)
def _from_callable(fn: ScalarFunction) -> Activation:
    known = [name for name, (table_fn, _) in _TABLE.items() if table_fn is fn]
    return _named(known[0]) if known else Activation(fn)


def get(name_or_fn: "str | ScalarFunction | Activation") -> Activation:
    """The `Activation` for a name, a callable, or an `Activation`.

    A name is one of `names`, or ``module:function`` for one that is imported from there; the module
    may be a file of the current folder.

    Raises
    ------
    ValueError
        For an unknown name (the nearest known ones are listed) or a function JAX cannot trace.

    Examples
    --------
    >>> get("relu").kinks
    (0.0,)
    >>> get("leaky_relu(0.2)").homogeneous_slopes
    (0.2, 1.0)
    >>> get("tahn")
    Traceback (most recent call last):
    ...
    ValueError: activation must be a known name or a callable, got 'tahn'; did you mean 'tanh'?
    """
    if isinstance(name_or_fn, Activation):
        return name_or_fn
    if isinstance(name_or_fn, str):
        return _from_name(name_or_fn)
    if not callable(name_or_fn):
        raise ValueError(
            f"activation must be a name, a callable or an Activation, got {name_or_fn!r}"
        )
    return _from_callable(name_or_fn)


def _imported(name: str) -> Activation:
    try:
        found = imported(name)
        if not callable(found):
            raise ValueError(f"must be a function, got {found!r}")
        return _called(name, found)
    except ValueError as error:
        raise ValueError(f"activation {name!r}: {error}") from error


def _from_name(given: str) -> Activation:
    name = ALIASES.get(given, given)
    if name in _TABLE:
        return _named(name)
    leaky = _LEAKY.fullmatch(name)
    if leaky:
        return leaky_relu(float(leaky[1]) if leaky[1] else 0.01)
    if given in _registered:
        return _registered[given]
    if ":" in given:
        return _imported(given)
    near = difflib.get_close_matches(given, names(), n=3, cutoff=0.5)
    hint = (
        "did you mean " + " or ".join(f"'{n}'" for n in near) + "?"
        if near
        else f"known names: {', '.join(names())}"
    )
    raise ValueError(f"activation must be a known name or a callable, got '{given}'; {hint}")
