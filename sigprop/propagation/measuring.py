"""Measured propagation: per-layer variance, correlation and gradient norms of finite networks."""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Float

from sigprop._checks import check_finite, check_one_of, check_whole_number
from sigprop._precision import is_traced
from sigprop.architecture import Architecture
from sigprop.kinds import Composition, compose, sharing_masks
from sigprop.networks import MLP
from sigprop.networks.initialisers import RandomKey
from sigprop.propagation.draws import draw_on_devices, of_network, seed_key
from sigprop.propagation.forward import Cell
from sigprop.propagation.measurement import (
    Measurement,
    MeasurementStatus,
    over_seeds,
    seed_readings,
)
from sigprop.propagation.passes import run_independent, run_shared
from sigprop.propagation.plan import Plan, make_plan

__all__ = ["measure"]

Flat = Float[np.ndarray, " cells"]

_SEEDS = 8


def measure(
    network: Architecture | MLP,
    inputs: ArrayLike,
    *,
    key: RandomKey,
    seeds: int | None = None,
    draws: str = "shared",
    dropout_masks: str = "independent",
    precision: lax.PrecisionLike = lax.Precision.HIGHEST,
    memory_budget: int = 2**28,
) -> Measurement:
    """Send inputs forward and Gaussian cotangents backward through networks at initialisation.

    Parameters
    ----------
    network
        An `Architecture` with any block, whose four numbers may be grids: one network for each
        cell and seed. Or an `MLP`, measured as it stands (a readout is left out).
    inputs
        x⁰, shape (inputs, in_features), or (seeds, inputs, in_features) for one set a seed.
        Correlation is measured between the first two. With batch norm the inputs are the batch:
        more than three, or the ``status`` is degenerate.
    key
        Random key. Seed s uses `seed_key` (key, s): its weights are those of an `MLP` made from
        that key, and its cotangents are `networks.initialisers.cotangent` of it. For an `MLP`,
        only cotangents are drawn, from `seed_key` (key, 0).
    seeds
        How many networks for each cell, >= 1; 8 if not given, so that there are standard errors
        (of one alone they are nan). An `MLP` is one.
    draws
        "shared": all cells of a seed scale the same unit draws. A layer of the whole grid is then
        one matrix multiply, which is what makes a diagram cheap. Each cell is a fair sample of its
        ensemble, but neighbouring cells deviate from their means together: errors do not average
        out across the grid. "independent": every cell draws its own, from `cell_key`.
    dropout_masks
        "independent": every input has masks of its own. "shared": all inputs have the same. They
        come from the seed's key as those of ``MLP(x, key=...)`` do, and cells share the uniform
        numbers behind them as they share the draws.
    precision
        Of the matrix multiplies.
    memory_budget
        Bytes. The weights of all layers are held if they fit, else drawn again where they are used;
        the derivatives of all layers are stored if those of one block of cells fit, else layers
        are run forward twice, segment by segment.

    Returns
    -------
    Measurement
        Readings of every layer, leading axes those of the grid. Results do not depend on how a grid
        is cut into calls nor on the number of devices.

    Raises
    ------
    ValueError
        For inputs that are not finite or of the wrong shape, and values outside the ranges above.

    Notes
    -----
    Backward, each row is divided by its norm at every layer and the logs are summed, so that
    nothing vanishes or explodes; forward too for homogeneous activations. Other cells stop at their
    first non-finite layer, and gradients start from the layer before. One layer may change a norm
    by a factor of about 1e18 in float32; no activation of the table comes near.

    Examples
    --------
    >>> import jax
    >>> grid = Architecture(depth=20, width=64, activation="tanh", weight_var=[0.5, 4.0])
    >>> inputs = jax.random.normal(jax.random.key(1), (2, 64))
    >>> measured = measure(grid, inputs, key=jax.random.key(0), seeds=3)
    >>> measured.variance.shape, [float(rate) > 0 for rate in measured.gradient_rate]
    ((2, 20), [False, True])
    """
    default = 1 if isinstance(network, MLP) else _SEEDS
    seeds = default if seeds is None else check_whole_number("seeds", seeds)
    check_one_of("draws", draws, ("shared", "independent"))
    check_one_of("dropout_masks", dropout_masks, ("independent", "shared"))
    precision = lax.Precision(precision)
    budget = check_whole_number("memory_budget", memory_budget, minimum=0)
    if is_traced(network, inputs, key):
        raise ValueError("measure must be called outside jit, vmap and grad; it compiles itself")
    if isinstance(network, MLP):
        if seeds != 1 or draws != "shared":
            raise ValueError(
                "a given MLP is one network: seeds must be 1 and draws 'shared', got "
                f"seeds={seeds}, draws={draws!r}"
            )
        return _measure_network(network, inputs, key, dropout_masks, precision, budget)
    independent = draws == "independent"
    return _measure_grid(network, inputs, key, seeds, independent, dropout_masks, precision, budget)


def _measure_grid(
    architecture: Architecture,
    inputs,
    key,
    seeds: int,
    independent: bool,
    masks: str,
    precision,
    budget: int,
) -> Measurement:
    x = _inputs(inputs, seeds)
    plan = make_plan(
        compose(architecture, masks),
        depth=architecture.depth,
        width=architecture.width,
        in_features=x.shape[-1],
        inputs=x.shape[-2],
        distribution=architecture.distribution,
        independent=independent,
        dtype=x.dtype.name,
        precision=precision,
        memory_budget=budget,
    )
    cells = math.prod(architecture.grid_shape)
    numbers = _flat_numbers(architecture, plan, cells)
    every = _cells(plan, numbers)
    coordinates = tuple(numbers.values())
    if architecture.is_plain:
        coordinates = numbers["weight_var"], numbers["bias_var"]
    readings = []
    for seed in range(seeds):
        own, x_own = seed_key(key, seed), x[seed % len(x)]
        if independent:
            passed = run_independent(plan, own, coordinates, every, x_own)
        else:
            passed = run_shared(plan, draw_on_devices(plan.drawing, own), every, x_own)
        readings.append(seed_readings(passed, cells))
    return over_seeds(readings, architecture.grid_shape, _status(plan))


def _measure_network(network: MLP, inputs, key, masks: str, precision, budget: int) -> Measurement:
    x = _inputs(inputs, 1)
    if x.shape[-1] != network.first.fan_in:
        raise ValueError(
            f"inputs must have {network.first.fan_in} features (the network's), got shape "
            f"{x.shape[1:]}"
        )
    shape = next(iter(network.first.parameters().values())).shape
    if len(shape) != 2:
        raise ValueError(f"network must be one MLP, got a stack of them: weights of shape {shape}")
    layer = sharing_masks(network.hidden.kind) if masks == "shared" else network.hidden.kind
    plan = make_plan(
        Composition(network.first.kind, layer, network.last.kind),
        depth=network.depth,
        width=network.width,
        in_features=x.shape[-1],
        inputs=x.shape[-2],
        distribution="gaussian",  # nothing is drawn
        independent=False,
        dtype=x.dtype.name,
        precision=precision,
        memory_budget=budget,
        always_held=True,
    )
    draws = of_network(plan.drawing, network, seed_key(key, 0))
    ones = np.ones(plan.padded(1), plan.dtype)
    own = Cell(
        first=_present(plan.drawing.first, draws.first, ones),
        hidden=_present(plan.drawing.hidden, draws.hidden, ones),
        numbers={name: ones * np.asarray(value) for name, value in network.values().items()},
    )
    passed = run_shared(plan, draws, own, x[0])
    return over_seeds([seed_readings(passed, 1)], (), _status(plan))


def _present(mixes, arrays, ones: Flat) -> dict[str, Flat]:
    """Scales of 1; 0 of biases that are all 0: in log scale, 0 times a huge factor is still 0."""
    absent = {n for n, mix in mixes if mix.constant and not np.any(np.asarray(arrays[n]))}
    return {name: 0 * ones if name in absent else ones for name, _ in mixes}


# Of batch norm over B inputs: with B = 2 the outputs are ±1, with B = 3 E[g²] diverges.
_DEGENERATE_BATCH = 3


def _status(plan: Plan) -> MeasurementStatus:
    degenerate = plan.layer.couples_inputs and plan.inputs <= _DEGENERATE_BATCH
    return MeasurementStatus.DEGENERATE if degenerate else MeasurementStatus.OK


def _inputs(inputs, seeds: int) -> Float[np.ndarray, "seeds inputs in_features"]:
    """One set of inputs, or one for each seed, in the dtype to compute in."""
    check_finite("inputs", inputs)
    x = np.asarray(inputs)
    if x.ndim not in (2, 3) or 0 in x.shape or (x.ndim == 3 and len(x) != seeds):
        raise ValueError(
            "inputs must have shape (inputs, in_features) or (seeds, inputs, in_features) with "
            f"seeds={seeds}, got shape {x.shape}"
        )
    return x.reshape(-1, *x.shape[-2:]).astype(jnp.result_type(float))


def _flat_numbers(architecture: Architecture, plan: Plan, cells: int) -> dict[str, Flat]:
    """The numbers of every cell by name; the padding repeats the last one."""
    pad = (0, plan.padded(cells) - cells)
    flat = lambda v: np.broadcast_to(v, architecture.grid_shape).ravel()  # noqa: E731
    return {
        name: np.pad(flat(value), pad, mode="edge").astype(plan.dtype)
        for name, value in architecture.all_numbers.items()
    }


def _cells(plan: Plan, numbers: dict[str, Flat]) -> Cell:
    """The scales of every cell's weights, made in double precision, and its other numbers."""
    exact = {name: value.astype(np.float64) for name, value in numbers.items()}

    def scales(mixes) -> dict[str, Flat]:
        of = lambda mix: np.sqrt(exact[mix.variance] / mix.fan_in)  # noqa: E731
        return {name: of(mix).astype(plan.dtype) for name, mix in mixes}

    return Cell(scales(plan.drawing.first), scales(plan.drawing.hidden), numbers)
