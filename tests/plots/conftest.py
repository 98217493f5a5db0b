import json

import numpy as np
import pytest
import xarray as xr


def made_up(activations=("tanh",), initialisers=("gaussian",), weight_var=None, bias_var=None):
    """A dataset shaped like a phase diagram's, from formulas simple enough to check axes by.

    chi_1 = weight_var/(1 + bias_var) for every activation; the critical line is therefore
    weight_var = 1 + bias_var.
    """
    weight_var = np.linspace(0.25, 4.0, 16) if weight_var is None else np.asarray(weight_var)
    bias_var = np.linspace(0.0, 1.0, 11) if bias_var is None else np.asarray(bias_var)
    layers = np.arange(1, 31)
    coords = {
        "activation": list(activations),
        "initialiser": list(initialisers),
        "weight_var": weight_var,
        "bias_var": bias_var,
        "layer": layers,
        "line_point": np.arange(80),
        "edge_bias_var": [0.0, 0.5, 2.0],
    }
    theory_dims = ("activation", "weight_var", "bias_var")
    w, b = np.meshgrid(weight_var, bias_var, indexing="ij")
    chi = np.broadcast_to(w / (1 + b), (len(activations), *w.shape))
    rate = np.log(chi)
    noise = np.random.default_rng(0).normal(size=(len(activations), len(initialisers), *w.shape))
    measured = rate[:, None] + 0.01 * noise
    falling = (layers[-1] - layers) * rate[..., None]
    status = np.where(w > 3.5, 2, 0) * np.ones(chi.shape, int)
    correlation = np.clip(1.2 - 0.3 * chi, 0.0, 1.0)
    ds = xr.Dataset(
        {
            "chi_1_theory": (theory_dims, chi),
            "gradient_rate_theory": (theory_dims, rate),
            "fixed_point_correlation_theory": (theory_dims, correlation),
            "variance_status_theory": (
                theory_dims,
                status.astype(np.int8),
                {"flag_values": [0, 1, 2], "flag_meanings": "finite zero unbounded"},
            ),
            "log_gradient_z_theory": ((*theory_dims, "layer"), falling),
            "variance_theory": ((*theory_dims, "layer"), np.exp(falling / 30)),
            **{
                name: (dims, np.stack([line] * len(activations)), attrs)
                for name, (dims, line, attrs) in made_up_lines().items()
            },
        },
        coords,
        {
            "recipes": json.dumps({"he": 2.0, "xavier": 1.0, "lecun": 1.0}),
            **{"depth": 30, "width": 64, "seeds": 4, "stable_factor": 10.0},
        },
    )
    dims = ("activation", "initialiser", "weight_var", "bias_var")
    ds["gradient_rate_measured"] = dims, measured
    ds["disagreement_corrected"] = dims, noise
    ds["disagreement_raw"] = dims, noise - 2
    ds["growth_measured"] = dims, np.digitize(measured * 29, np.log(100) * np.asarray([-1, 1]))
    for name, spread in {"log_gradient_z": 0.5, "variance": 0.01}.items():
        expected = ds[f"{name}_theory"].expand_dims(initialiser=list(initialisers), axis=1)
        ds[f"{name}_measured"] = expected + spread
        ds[f"{name}_stderr"] = xr.full_like(expected, spread)
    ds["correlation_measured"] = xr.full_like(ds["variance_measured"], 1.0) * xr.DataArray(
        correlation, dims=theory_dims
    )
    return ds


def made_up_lines():
    """Stable on weight_var = 1 + bias_var, unstable on 0.5 + bias_var, unbounded beyond 3.6."""
    bias_var = np.linspace(0.0, 2.0, 40)
    status = {"flag_values": [0, 1, 2, 3], "flag_meanings": "stable unstable none unbounded"}
    ends = [np.nan], [2]  # a point that does not exist keeps the branches apart
    weights = np.concatenate([1 + bias_var[:-1], ends[0], 0.5 + bias_var])
    along = np.concatenate([bias_var[:-1], ends[0], bias_var])
    codes = np.concatenate([np.zeros(39), ends[1], np.ones(40)]).astype(np.int8)
    dims = ("activation", "line_point")
    return {
        "critical_line_weight_var_theory": (dims, weights, {}),
        "critical_line_bias_var_theory": (dims, along, {}),
        "critical_line_status_theory": (dims, codes, status),
        "bounded_weight_var_theory": (("activation", "edge_bias_var"), np.full(3, 3.6), {}),
    }


@pytest.fixture
def make_dataset():
    return made_up


@pytest.fixture(autouse=True)
def close_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")
