"""Gradients through residual, normalised and dropped-out blocks, predicted and measured.

For every block: how the squared gradient changes over 1000 layers, theory over measured networks.
Writes OUT/blocks.zarr, .png and .pdf, and prints the law of every block beside what was measured.
The same command again re-plots; other settings refuse to overwrite.

Examples:
  python experiments/blocks.py
  python experiments/blocks.py --preset small --activation tanh --out results/small
  python experiments/blocks.py --activation gelu erf --block plain residual batch_norm \
      --weight-var 2 --depth 200
"""

import dataclasses
import time
from collections.abc import Sequence

import command_line
import numpy as np
import xarray as xr

from sigprop import plots, studies, theory

PRESETS = {
    "small": {
        "activation": ("tanh",),
        "block": (
            "plain",
            "layer_norm",
            "batch_norm",
            "residual",
            "residual_scaled",
            "residual_layer_norm",
        ),
        "width": 128,
        "seeds": 6,
    },
    "default": {},
    "paper": {"activation": ("relu", "tanh", "gelu", "erf"), "width": 512, "seeds": 16},
}


@dataclasses.dataclass(frozen=True)
class Config(command_line.Options, studies.Blocks):
    """Options of this script."""

    activation: tuple[str, ...] = ("relu", "tanh")
    """One or several of the named activations, or module:function for your own."""

    block: tuple[str, ...] = tuple(studies.BLOCKS)
    """One or several of plain, weight_norm, dropout, layer_norm, post_rms_norm, batch_norm,
    residual, residual_scaled, residual_layer_norm, residual_post_layer_norm, residual_batch_norm,
    residual_layer_norm_dropout."""

    weight_var: tuple[float, ...] = (1.5,)
    """Weight variances (times fan-in), >= 0; the first one is drawn, all are stored."""

    def grid(self) -> dict[str, Sequence | np.ndarray]:
        """Where to ask it."""
        return {name: getattr(self, name) for name in ("activation", "block", "weight_var")}


def main() -> None:
    """Predict, measure, store, draw, and say the few numbers that answer the question."""
    begin = time.perf_counter()
    config = command_line.parse(Config, PRESETS, __doc__ or "")
    store = config.out / "blocks.zarr"
    (ds,) = command_line.swept(config, (config.study(), config.grid(), store))
    figure = plots.block_growth_figure(ds)
    paths = [store, *command_line.save_figure(figure, config.out / "blocks")]
    command_line.finish(begin, summary(ds), paths, ds)


_LAWS = {
    theory.GrowthKind.CONSTANT: "no growth",
    theory.GrowthKind.EXPONENTIAL: "factor {factor:.4g} a layer",
    theory.GrowthKind.SQUARE_ROOT: "exp({rate:.3g} sqrt(l))",
    theory.GrowthKind.POWER: "l^{rate:.3g}",
    theory.GrowthKind.UNKNOWN: "no law",
}


def summary(ds: xr.Dataset) -> list[str]:
    """For every block: its law, and the log squared gradient over all layers, told and found."""
    last = ds.isel(layer=-1, weight_var=0)
    width = ds.attrs["width"]
    lines = [
        f"ln of the squared gradient over {int(last['layer'])} layers:",
        f"  (predicted for infinite width, measured at {width}, and extrapolated from {width // 2} "
        f"and {width} to infinity: what is left is no finite-width part of first order)",
    ]
    for activation in ds["activation"].values:
        lines.append(f"{activation}, weight_var {float(last['weight_var']):g}")
        for block in ds["block"].values:
            at = last.sel(activation=activation, block=block)
            rate = float(at["gradient_rate_theory"])
            law = _LAWS[theory.GrowthKind(int(at["gradient_kind_theory"]))]
            lines.append(
                f"  {block:28s} {law.format(rate=rate, factor=np.exp(rate)):26s} "
                f"predicted {float(at['log_gradient_theory']):9.2f}, {_found(at)}"
            )
    return lines


def _found(at: xr.Dataset) -> str:
    layer = int(at["diverged_at_layer_measured"])
    if layer:
        return f"overflows at layer {layer}"
    (value, stderr), (limit, limit_stderr) = (
        [float(at[f"log_gradient_{estimate}_{kind}"]) for kind in ("measured", "stderr")]
        for estimate in ("corrected", "infinite_width")
    )
    return f"measured {value:9.2f} ± {stderr:<6.2f} extrapolated {limit:9.2f} ± {limit_stderr:.2f}"


if __name__ == "__main__":
    command_line.run_script(main)
