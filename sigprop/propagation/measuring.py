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
from sigprop.networks import MLP
from sigprop.networks.initialisers import RandomKey
from sigprop.propagation.draws import draw_on_devices, of_network, seed_key
from sigprop.propagation.forward import Cells
from sigprop.propagation.measurement import Measurement, over_seeds, seed_readings
from sigprop.propagation.passes import run_independent, run_shared
from sigprop.propagation.plan import Plan, make_plan

__all__ = ["measure"]

Flat = Float[np.ndarray, " cells"]


def measure(
    network: Architecture | MLP,
    inputs: ArrayLike,
    *,
    key: RandomKey,
    seeds: int = 1,
    draws: str = "shared",
    precision: lax.PrecisionLike = lax.Precision.HIGHEST,
    memory_budget: int = 2**28,
) -> Measurement:
    """Send inputs forward and Gaussian cotangents backward through networks at initialisation.

    Parameters
    ----------
    network
        An `Architecture`, whose ``weight_var`` and ``bias_var`` may be grids: one network for each
        cell and seed. Or an `MLP`, measured as it stands (a readout is left out).
    inputs
        x⁰, shape (inputs, in_features), or (seeds, inputs, in_features) for one set a seed.
        Correlation is measured between the first two.
    key
        Random key. Seed s uses `seed_key` (key, s): its weights are those of an `MLP` made from
        that key, and its cotangents are `networks.initialisers.cotangent` of it. For an `MLP`,
        only cotangents are drawn, from `seed_key` (key, 0).
    seeds
        How many networks for each cell, >= 1; 1 for an `MLP`.
    draws
        "shared": all cells of a seed scale the same unit draws. A layer of the whole grid is then
        one matrix multiply, which is what makes a diagram cheap. Each cell is a fair sample of its
        ensemble, but neighbouring cells deviate from their means together: errors do not average
        out across the grid. "independent": every cell draws its own, from `cell_key`.
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
    seeds = check_whole_number("seeds", seeds)
    check_one_of("draws", draws, ("shared", "independent"))
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
        return _measure_network(network, inputs, key, precision, budget)
    return _measure_grid(network, inputs, key, seeds, draws == "independent", precision, budget)


def _measure_grid(
    architecture: Architecture, inputs, key, seeds: int, independent: bool, precision, budget: int
) -> Measurement:
    _check_plain(architecture.is_plain)
    x = _inputs(inputs, seeds)
    cells = math.prod(architecture.grid_shape)
    plan = make_plan(
        activation=architecture.activation,
        depth=architecture.depth,
        width=architecture.width,
        in_features=x.shape[-1],
        inputs=x.shape[-2],
        distribution=architecture.distribution,
        independent=independent,
        dtype=x.dtype,
        precision=precision,
        memory_budget=budget,
    )
    variances = _flat_variances(architecture, plan, cells)
    scales = _scales(plan, *variances)
    readings = []
    for seed in range(seeds):
        own, x_own = seed_key(key, seed), x[seed % len(x)]
        if independent:
            passed = run_independent(plan, own, variances, scales, x_own)
        else:
            passed = run_shared(plan, draw_on_devices(plan, own), scales, x_own)
        readings.append(seed_readings(passed, cells))
    return over_seeds(readings, architecture.grid_shape)


def _measure_network(network: MLP, inputs, key, precision, budget: int) -> Measurement:
    _check_plain(network.elementwise and network.dropout is None)
    x = _inputs(inputs, 1)
    if x.shape[-1] != network.first.fan_in:
        raise ValueError(
            f"inputs must have {network.first.fan_in} features (the network's), got shape "
            f"{x.shape[1:]}"
        )
    shape = network.first.effective()[0].shape
    if len(shape) != 2:
        raise ValueError(f"network must be one MLP, got a stack of them: weights of shape {shape}")
    plan = make_plan(
        activation=network.activation,
        depth=network.depth,
        width=network.width,
        in_features=x.shape[-1],
        inputs=x.shape[-2],
        distribution="gaussian",  # nothing is drawn
        independent=False,
        dtype=x.dtype,
        precision=precision,
        memory_budget=budget,
        always_held=True,
    )
    draws = of_network(plan, network, seed_key(key, 0))
    ones = np.ones(plan.padded(1), plan.dtype)
    # A network without biases must be told apart: in log scale, 0 times a huge factor is still 0.
    log_bias_scale = 0 * ones if np.any(np.asarray(draws.biases)) else np.full_like(ones, -np.inf)
    passed = run_shared(plan, draws, Cells(ones, ones, log_bias_scale), x[0])
    return over_seeds([seed_readings(passed, 1)], ())


def _check_plain(plain: bool) -> None:
    if not plain:
        raise ValueError("network must have block='plain', norm=None and dropout=0 to be measured")


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


def _flat_variances(architecture: Architecture, plan: Plan, cells: int) -> tuple[Flat, Flat]:
    """weight_var and bias_var of every cell; the padding repeats the last one."""
    pad = (0, plan.padded(cells) - cells)
    both = np.broadcast_arrays(architecture.weight_var, architecture.bias_var)  # type: ignore[arg-type]
    weight_var, bias_var = (np.pad(v.ravel(), pad, mode="edge").astype(plan.dtype) for v in both)
    return weight_var, bias_var


def _scales(plan: Plan, weight_var: Flat, bias_var: Flat) -> Cells:
    weight_var, bias_var = weight_var.astype(np.float64), bias_var.astype(np.float64)
    with np.errstate(divide="ignore"):  # without bias, -inf is meant
        scales = (
            np.sqrt(weight_var / plan.in_features),
            np.sqrt(weight_var / plan.width),
            0.5 * np.log(bias_var),
        )
    return Cells(*(scale.astype(plan.dtype) for scale in scales))
