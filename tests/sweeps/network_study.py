"""A study of real networks, run as a script with a number of devices of its own.

Usage: python network_study.py STORE DEVICES [ENGINE [WORKERS [SHARD [PROCESS]]]]; - for none.
"""

import sys

import jax

GRID = {
    "activation": ["tanh"],
    "initialiser": ["gaussian", "orthogonal"],
    "weight_var": [0.5, 1.0, 1.5, 2.0, 6.0, 9.0],
    "bias_var": [0.0, 0.1],
}


def main(store, devices, engine="local", workers="-", shard="-", process="-"):
    jax.config.update("jax_num_cpu_devices", int(devices))
    from sigprop import sweeps
    from sigprop.studies import PhaseDiagram

    if engine == "multihost":
        sweeps.join_hosts(*process.split(","))
    study = PhaseDiagram(depth=30, width=16, seeds=2)
    sweeps.run(
        study, GRID, store=store, engine=engine, shard=None if shard == "-" else shard,
        workers=None if workers == "-" else int(workers), chunk_cells=4, progress=False,
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
