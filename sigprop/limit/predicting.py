"""What infinite width makes of a user's own program: the call, and how rows are put together."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop._checks import check_one_of, check_whole_number
from sigprop.limit.figures import Figures, exact_figures, sampled_figures
from sigprop.limit.interpreting import Reading, read
from sigprop.limit.record import Place, Prediction
from sigprop.limit.refusals import Refusal, Refused
from sigprop.limit.signals import Unknown
from sigprop.limit.weights import Laws

__all__ = ["predict"]

_NARROW = 64


def predict(
    model: Any,
    inputs: Any,
    *,
    apply: Callable | None = None,
    loss: Callable | None = None,
    laws: Laws = None,
    samples: int = 16384,
    populations: int = 4,
    key: Any = None,
    require: str = "any",
) -> Prediction:
    r"""Second moments, covariances and gradients at every weight of any program, at infinite width.

    The program of the model is read (its jaxpr), with its arrays as independent draws of mean 0.
    Where every function meets one Gaussian at a place the figures are integrals, right to about
    1e-12; elsewhere they are means over ``samples`` draws with standard errors from ``populations``
    independent repetitions. A figure without a law behind it is not given: see ``refused``.

    Parameters
    ----------
    model
        A Flax NNX module, a bound Linen module, an Equinox module, or any pytree with ``apply``.
    inputs
        What the model is given; a tuple stands for several arguments.
    apply
        ``apply(model, inputs)``, where ``model(inputs)`` will not do.
    loss
        ``loss(outputs)``, one number. Without it gradients are those of ⟨u, outputs⟩ with u of
        independent N(0, 1) entries.
    laws
        Variances of the entries of the model's arrays: by path ("layers/*/kernel"), or a function
        of path and shape (None: not told). Otherwise they are estimated from the arrays, and the
        error of that is in the standard errors.
    samples
        Units of one population, > 0.
    populations
        Independent repetitions for standard errors, at least 4.
    key
        Of everything that is drawn; None stands for ``jax.random.key(0)``.
    require
        "exact" to have a ValueError instead of a row that is sampled, estimated or refused.

    Returns
    -------
    A `Prediction`: rows in the order of the program, what was approximated, what is refused.

    Raises
    ------
    ValueError
        For a model that cannot be read, laws that name no array, and by ``require``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> weights = [np.ones((64, 64)), np.ones((64, 64))]
    >>> net = lambda w, x: jax.nn.relu(x @ w[0]) @ w[1]
    >>> path = predict(weights, jnp.eye(2, 64), apply=net, laws={"*": 2 / 64}, require="exact")
    >>> [place.name for place in path.places], path["1"].second_moment.round(12).tolist()
    (['0', '1'], [0.03125, 0.03125])
    >>> round(path.correlation("1", 0, 1), 6), round(1 / np.pi, 6)
    (0.31831, 0.31831)

    Notes
    -----
    Yang 2019 (Tensor Programs I), 2020 (II, III); Price 1958 for derivatives of expectations.
    """
    check_one_of("require", require, ("any", "exact"))
    check_whole_number("samples", samples)
    check_whole_number("populations", populations, 4)
    key = jax.random.key(0) if key is None else key
    try:
        reading = read(model, inputs, apply, loss, laws)
    except Refused as reason:
        operation, _, why = str(reason).partition(": ")
        return _demanded(Prediction((), (), (Refusal(operation, why or operation),)), require)
    figures = exact_figures(reading)
    estimated = [n for n, law in enumerate(reading.laws) if law.variance and not law.known]
    jitter, draws = jax.random.split(key)
    moved = _moved(reading, populations, jitter) if estimated else [reading] * populations
    repeated = [exact_figures(each) for each in moved] if estimated else []
    sampled = _sampled(moved, figures, samples, draws)
    places, refused = [], list(_arrays_refused(reading))
    for n, (name, multiply) in enumerate(zip(reading.names, reading.joint.multiplies)):
        found, others, why = figures[n], [each[n] for each in repeated], ()
        if not found.complete:
            mine = [each[n] for each in sampled]
            found, others, why = _together(found, others, mine)
        refused += [Refusal(name, each) for each in why]
        if found.reason is None:
            weight = reading.opened.names[multiply.leaf]
            exact = not estimated and figures[n].complete
            places.append(_place(name, weight, found, others, exact))
    notes = _notes(reading, figures, estimated, samples if sampled else 0)
    if sampled:
        told = zip(reading.joint.multiplies, sampled[0])
        notes += tuple(
            dict.fromkeys(f"{reading.opened.names[m.leaf]} {f.note}" for m, f in told if f.note)
        )
    return _demanded(Prediction(tuple(places), notes, tuple(refused)), require)


def _sampled(
    moved: Sequence[Reading], figures: Sequence[Figures], samples: int, key: Any
) -> list[list[Figures]]:
    """Populations, where anything is missing."""
    if all(each.complete for each in figures):
        return []
    keys = jax.random.split(key, len(moved))
    return [sampled_figures(each, samples, k) for each, k in zip(moved, keys)]


def _together(
    found: Figures, repeated: list[Figures], sampled: list[Figures]
) -> tuple[Figures, list[Figures], tuple[str, ...]]:
    """What is exact of a row with what populations say of the rest; and what neither has."""
    first = sampled[0]
    if first.reason is not None:
        return found, repeated, (_why("", found.reason, first.reason),)
    mean = _mean_of(sampled)
    others = _about(mean, sampled)
    if found.reason is None:  # its second moments are exact
        mean = replace(found, gradient=mean.gradient, gradient_reason=mean.gradient_reason)
        exact = repeated or [found] * len(others)
        others = [replace(e, gradient=o.gradient) for e, o in zip(exact, others)]
    if mean.gradient_reason is None:
        return mean, others, ()
    return mean, others, (_why("gradient: ", found.gradient_reason, mean.gradient_reason),)


def _why(what: str, exact: Unknown | None, sampled: Unknown) -> str:
    closed = "" if exact is None else f" (not exact either: {exact.reason})"
    return f"{what}{sampled.operation}: {sampled.reason}{closed}"


def _mean_of(sampled: Sequence[Figures]) -> Figures:
    mean = lambda arrays: np.mean(list(arrays), axis=0)  # noqa: E731
    gradient = None
    if all(each.gradient is not None for each in sampled):
        gradient = mean(each.gradient for each in sampled)
    return replace(
        sampled[0],
        second_moment=mean(each.second_moment for each in sampled),
        lack=mean(each.lack for each in sampled),
        gradient=gradient,
    )


def _about(mean: Figures, sampled: Sequence[Figures]) -> list[Figures]:
    """Figures as far from the mean as the mean is off: deviations over √(P - 1)."""
    share = 1 / np.sqrt(len(sampled) - 1)

    def moved(value, about):
        return None if value is None or about is None else about + share * (value - about)

    return [
        replace(
            each,
            second_moment=moved(each.second_moment, mean.second_moment),
            lack=moved(each.lack, mean.lack),
            gradient=moved(each.gradient, mean.gradient),
        )
        for each in sampled
    ]


def _demanded(found: Prediction, require: str) -> Prediction:
    if require == "exact" and not found.exact:
        reasons = [str(each) for each in found.refused] or list(found.notes)
        raise ValueError(f"require='exact' cannot be had: {'; '.join(reasons[:3])}")
    return found


def _arrays_refused(reading: Reading) -> list[Refusal]:
    return [Refusal(reading.opened.names[n], reason) for n, reason in reading.not_drawn.items()]


def _moved(reading: Reading, populations: int, key: Any) -> list[Reading]:
    """With variances moved by what they are not known by."""
    seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
    generator = np.random.default_rng(seed)
    errors = np.asarray([law.relative_error for law in reading.laws])
    factors = [np.exp(errors * generator.standard_normal(errors.size)) for _ in range(populations)]
    return [reading.scaled(each) for each in factors]


def _place(name: str, weight: str, found: Figures, moved: Sequence[Figures], exact: bool) -> Place:
    second, lack = found.second_moment, found.lack
    assert second is not None
    assert lack is not None
    covariance = _covariance(found)
    size = np.sqrt(np.outer(second, second))
    distance = lack - (np.sqrt(second)[:, None] - np.sqrt(second)) ** 2 / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        angle = np.clip(np.where(size > 0, distance / size, np.nan), 0, 2)
    return Place(
        name=name, weight=weight, shape=found.shape, units=found.units,
        exact=exact and found.complete,
        second_moment=second, covariance=covariance, one_minus_correlation=angle,
        log_gradient=found.log_gradient,
        gradient_covariance=np.nan * lack if found.gradient is None else found.gradient,
        second_moment_stderr=_error(second, [each.second_moment for each in moved]),
        covariance_stderr=_error(covariance, [_covariance(each) for each in moved]),
        log_gradient_stderr=float(
            _error(found.log_gradient, [each.log_gradient for each in moved])
        ),
        transposed_share=found.share,
    )  # fmt: skip


def _covariance(found: Figures) -> np.ndarray:
    assert found.second_moment is not None
    assert found.lack is not None
    return (found.second_moment[:, None] + found.second_moment) / 2 - found.lack


def _error(value: Any, others: Sequence[Any]) -> np.ndarray:
    """Root mean square distance of others that are as far off as the value itself."""
    if not others:
        return np.zeros(np.shape(value))
    with np.errstate(invalid="ignore"):  # of ln 0, which they may all be, the distance is 0
        squares = [np.where(o == value, 0.0, np.square(np.subtract(o, value))) for o in others]
    return np.asarray(np.sqrt(np.mean(squares, axis=0)))


def _notes(
    reading: Reading, figures: Sequence[Figures], estimated: Sequence[int], samples: int
) -> tuple[str, ...]:
    names, notes = reading.opened.names, []
    lost = dict.fromkeys(str(f.reason or f.gradient_reason) for f in figures if not f.complete)
    if samples:
        notes.append(
            f"sampled with {samples} units where integrals do not close: {'; '.join(lost)}"
        )
    if estimated:
        listed = ", ".join(names[n] for n in estimated[:4]) + (", ..." if estimated[4:] else "")
        notes.append(f"variances estimated from the arrays themselves ({listed}): laws tells them")
    narrow = {f.units for f in figures if 0 < f.units < _NARROW}
    if narrow:
        notes.append(f"layers of {sorted(narrow)} units are taken at their infinite-width limit")
    shares = {names[m.leaf]: f.share for m, f in zip(reading.joint.multiplies, figures)}
    notes += [
        f"{name} meets its own transpose: up to {share:.2g} of a second moment"
        for name, share in shares.items()
        if share > 1e-9
    ]
    hidden = [c for c in reading.joint.program.consts if np.ndim(c) >= 2 and np.size(c) > 4096]
    if hidden:
        shapes = ", ".join(str(np.shape(c)) for c in hidden)
        notes.append(f"arrays of shape {shapes} are no part of the model: taken as they are")
    if _rounds(reading.joint.program.jaxpr):
        notes.append("rounding to half precision is left out of what is exact")
    if reading.joint.backward:
        notes.append(f"no gradients: {reading.joint.backward}")
    return tuple(notes)


def _rounds(jaxpr: Any) -> bool:
    halves = (jnp.bfloat16, jnp.float16)
    return any(
        getattr(v.aval, "dtype", None) in halves
        for equation in jaxpr.eqns
        for v in equation.outvars
    )
