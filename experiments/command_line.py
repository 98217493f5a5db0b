"""What the scripts share: options and presets, one-line errors, cores, figures on disk."""

import contextlib
import dataclasses
import io
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar


def _one_line_if_interrupted(kind, error, trace) -> None:
    """Ctrl-C while libraries load (some pass it on as an ImportError) is no traceback either."""
    cause = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            print("interrupted; run the same command again", file=sys.stderr)
            return
        cause = cause.__cause__ or cause.__context__
    sys.__excepthook__(kind, error, trace)


sys.excepthook = _one_line_if_interrupted  # before what takes seconds to load

import jax  # noqa: E402
import matplotlib  # noqa: E402
import matplotlib.figure  # noqa: E402
import numpy as np  # noqa: E402
import xarray as xr  # noqa: E402

try:
    import tyro
except ModuleNotFoundError:
    raise SystemExit('the scripts need tyro: pip install -e ".[scripts]"') from None


def _use_all_cores() -> None:
    """One JAX device a core: sharding cells over them beats XLA's own threading on a CPU."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", cores)
    if cores == 1:
        os.environ.setdefault("NPROC", "2")  # see sigprop.sweeps.threads


_use_all_cores()  # has no effect once JAX is in use, which importing sigprop may bring about
matplotlib.use("Agg")  # scripts write files; without a display anything else fails

import matplotlib.pyplot as plt  # noqa: E402

from sigprop import activations, architecture, studies, sweeps  # noqa: E402
from sigprop.studies.base_study import Study  # noqa: E402

__all__ = [
    "DiagramConfig",
    "InputFile",
    "Options",
    "Preset",
    "check_own_tables",
    "distinct_networks",
    "finish",
    "parse",
    "replacing",
    "run_script",
    "save_figure",
    "save_tables",
    "spaced",
    "swept",
]

Preset = Literal["small", "default", "paper"]
Config = TypeVar("Config")
InputFile = Annotated[Path | None, tyro.conf.arg(name="inputs")]


@dataclasses.dataclass(frozen=True)
class SweepOptions:
    """How a script's sweeps run; every script has these options (docs/sweeps.md)."""

    engine: Literal["local", "dask", "multihost"] = "local"
    """Who computes: this process with all its devices, the processes of a Dask cluster, or all
    processes of a jax.distributed job together."""

    scheduler: str | None = None
    """Address of a Dask scheduler that runs, such as tcp://node:8786; a cluster of this machine's
    cores or GPUs if not given."""

    workers: int | None = None
    """Processes of this machine's Dask cluster; one a core (or one a GPU) if not given."""

    shard: str | None = None
    """i/n: compute every n-th chunk only, as one task of a job array. All tasks write into one
    store; figures come once it is complete."""

    coordinator: str | None = None
    """host:port at which process 0 of a multihost job listens; loopback if not given."""

    process: str | None = None
    """i/n: which process of a multihost job this is, from 0; Slurm's word if not given."""

    refine: tuple[str, ...] = ()
    """Axes along which cells are spent near boundaries only; the others stay coarse."""

    memory_gb: float | None = None
    """Memory that a computing process may hold in all; chunks are sized by what cells are seen to
    take. Less than the process holds anyway (about half a gigabyte) is taken as the memory of one
    chunk's cells, by a guess, and makes many small chunks."""

    chunk_cells: int | None = None
    """Cells of a chunk at most; chosen if not given."""

    def memory_budget(self) -> int | None:
        """Bytes a process may hold."""
        if self.memory_gb is None:
            return None
        if not (np.isfinite(self.memory_gb) and self.memory_gb > 0):
            raise ValueError(f"memory_gb must be > 0 and finite, got {self.memory_gb}")
        return int(self.memory_gb * 2**30)


def swept(
    options: SweepOptions, *questions: tuple[sweeps.Study, Mapping[str, Any], Path]
) -> list[xr.Dataset]:
    """Every question (study, grid, store) asked as the options say, answers opened from the stores.

    Ends the script where other shards have not finished yet, or another process goes on to plot.
    """
    for _, _, store in questions:
        _check_own_figures(store)
    axes = {axis for study, _, _ in questions for axis in study.traced_axes}
    if not axes.issuperset(options.refine):
        accepted, given = ", ".join(sorted(axes)), " ".join(options.refine)
        raise ValueError(f"refine must name axes among {accepted}, got {given}")
    found = [
        sweeps.run(
            study,
            grid,
            store=store,
            engine=options.engine,
            scheduler=options.scheduler,
            workers=options.workers,
            shard=options.shard,
            refine=[axis for axis in options.refine if axis in study.traced_axes],
            memory_budget=options.memory_budget(),
            chunk_cells=options.chunk_cells,
        )
        for study, grid, store in questions
    ]
    waiting = [ds for ds in found if ds.attrs.get("status") == "unfinished"]
    for ds, (_, _, store) in zip(found, questions):
        if ds.attrs.get("status") == "unfinished":
            there = f"{ds.attrs['cells_done']} of {ds.attrs['cells']} cells"
            print(f"shard {options.shard} is done; {store} holds {there}, figures come with all")
    if waiting or (options.engine == "multihost" and jax.process_index()):
        sys.exit(0)
    return [sweeps.filled(ds) if options.refine else ds for ds in found]


@dataclasses.dataclass(frozen=True)
class Options(SweepOptions):
    """Options of every script. One that inherits from a study too has the study's fields."""

    out: Path = Path("results")
    """Folder to write to."""

    preset: Preset = "default"
    """Sizes to start from; every other option overrides."""

    measuring_bytes: tyro.conf.Suppress[int] = 2**28
    """Follows from memory_gb."""

    def study(self) -> Any:
        """The study whose fields these options are."""
        kind = next(c for c in type(self).__mro__ if issubclass(c, Study) and "name" in vars(c))
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
        budget = self.memory_budget()
        if "measuring_bytes" in given and budget is not None:
            given["measuring_bytes"] = budget // 4  # beside it: the cells, and what compiling takes
        return kind(**given)


@dataclasses.dataclass(frozen=True)
class DiagramConfig(Options, studies.PhaseDiagram):
    """Options of every script that maps the plane of (weight_var, bias_var)."""

    activation: tuple[str, ...] = ("tanh",)
    """One or several of linear, relu, leaky_relu, elu, selu, gelu, gelu_tanh, silu, mish,
    softplus, sigmoid, tanh, hard_tanh, erf, sin, softsign; or module:function for your own, from a
    file of the current folder too."""

    initialiser: tuple[str, ...] = ("gaussian",)
    """One or several of gaussian, truncated_normal, uniform, orthogonal, or a recipe: he, xavier,
    lecun (and _normal, _uniform), which lends its distribution."""

    weight_var: tuple[float, float] = (0.25, 4.0)
    """First and last weight variance (times fan-in), >= 0."""

    weight_var_points: int = 31
    """How many values from the first to the last; stability maps add those of the recipes."""

    bias_var: tuple[float, float] = (0.0, 0.5)
    """First and last bias variance, >= 0."""

    bias_var_points: int = 21
    """How many values from the first to the last; stability maps add 0 and 0.05."""

    input_file: InputFile = None

    def grid(self) -> dict[str, Sequence | np.ndarray]:
        """Where to ask it."""
        return {
            **distinct_networks(self.activation, self.initialiser),
            "weight_var": spaced("weight_var", self.weight_var, self.weight_var_points),
            "bias_var": spaced("bias_var", self.bias_var, self.bias_var_points),
        }


def distinct_networks(
    activation: Sequence[str], initialiser: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The axes of a grid over weight_var, without names that would repeat the same networks."""
    return {
        "activation": _distinct(activation, lambda name: activations.get(name).name),
        "initialiser": _distinct(initialiser, architecture.distribution_of),
    }


def _distinct(names: Sequence[str], meaning: Callable[[str], str]) -> tuple[str, ...]:
    first: dict[str, str] = {}
    for name in names:
        known = first.setdefault(meaning(name), name)
        if known != name:
            print(f"{name}: the same networks as {known}, computed once", file=sys.stderr)
    return tuple(first.values())


def spaced(name: str, ends: tuple[float, float], points: int) -> np.ndarray:
    """``points`` equal steps between ``ends``, free of the rounding that would show in files."""
    low, high = ends
    if not (np.isfinite(ends).all() and 0 <= low <= high):
        raise ValueError(f"{name} must be two numbers 0 <= first <= last, got {low:g} {high:g}")
    if points < 1 or (points > 1) != (high > low):
        raise ValueError(
            f"{name}_points must be >= 2 for a range and 1 for a single value, got {points} "
            f"from {low:g} to {high:g}"
        )
    return np.round(np.linspace(low, high, points), 12)


def parse(
    config: type[Config],
    presets: Mapping[str, Mapping],
    description: str,
    arguments: Sequence[str] | None = None,
) -> Config:
    """``config`` from the command line: the preset's values, then every option given.

    Bad options end the process with one line on the error stream and exit code 2.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    named = re.findall(r"--preset[= ](\S+)", " ".join(arguments))
    changes = presets.get(named[-1], {}) if named else presets["default"]
    start = config(**changes, **({"preset": named[-1]} if named and named[-1] in presets else {}))
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed = tyro.cli(config, default=start, args=arguments, description=description)
    except SystemExit as stop:
        if stop.code:
            _fail(_one_line(complaint.getvalue()))
        raise
    if isinstance(parsed, SweepOptions) and parsed.engine == "multihost":
        sweeps.join_hosts(parsed.coordinator, parsed.process)  # before JAX is first used
    return parsed


def _one_line(boxed: str) -> str:
    """The message in tyro's framed text, and the nearest options where it names some."""
    _, *lines = (line.strip("│╭╮╰╯ ") for line in boxed.splitlines())
    rules = set("─-")  # by the terminal's encoding
    parts = [
        list(part) for rule, part in groupby(lines, lambda line: set(line) <= rules) if not rule
    ]
    message = " ".join(" ".join(parts[0]).split()).removeprefix("Error parsing Config: ")
    near = [line.split()[0] for line in chain(*parts[1:]) if line.startswith("--")]
    if near and "Unrecognized" in message:
        message += f"; did you mean {' or '.join(dict.fromkeys(near))}?"
    if re.search(r"--(\S*std|sigma)", message):
        message += " (variances are meant, not standard deviations)"
    return message


def run_script(main: Callable[[], None]) -> None:
    """Call ``main``; a user's mistake is one line and exit code 2, not a traceback."""
    try:
        main()
    except ValueError as error:
        _fail(" ".join(str(error).split()))
    except sweeps.SweepIncompleteError as error:
        _fail(str(error), code=1)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(130)


def _fail(message: str, code: int = 2) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


_FIGURES = {".png": "Software", ".pdf": "Creator"}  # and where each says who wrote it
_WRITER = "sigprop"


def save_figure(figure: matplotlib.figure.Figure, stem: Path) -> list[Path]:
    """Write ``stem``.png and ``stem``.pdf and let the figure go; gives their paths.

    Files of others are not replaced.
    """
    _check_own_figures(stem)
    paths = [stem.with_suffix(suffix) for suffix in _FIGURES]
    for path, field in zip(paths, _FIGURES.values()):
        with replacing(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], metadata={field: _WRITER})
    plt.close(figure)
    return paths


def _check_own_figures(stem: Path) -> None:
    """Raise ValueError if a figure's name is taken by a file that no script wrote."""
    for suffix in _FIGURES:
        path = stem.with_suffix(suffix)
        if path.exists() and _WRITER.encode() not in path.read_bytes():
            _refuse(path)


def _refuse(path: Path) -> NoReturn:
    raise ValueError(
        f"out must not hold a {path.name} of other making, got {path}: move it, or choose "
        "another folder"
    )


WriteTable = Callable[[Sequence, Path], None]


def check_own_tables(stem: Path, tables: Mapping[str, WriteTable]) -> None:
    """Raise ValueError if a table's name is taken by a file of another heading than it writes."""
    for suffix, write in tables.items():
        path = stem.with_suffix(suffix)
        if path.exists():
            with tempfile.TemporaryDirectory() as folder:
                empty = Path(folder) / path.name
                write([], empty)
                if _heading(path) != _heading(empty):
                    _refuse(path)


def _heading(path: Path) -> bytes:
    """The first line, however wide its columns."""
    return b"".join(path.read_bytes().partition(b"\n")[0].split())


def save_tables(stem: Path, rows: Sequence, tables: Mapping[str, WriteTable]) -> list[Path]:
    """Write ``rows`` beside a figure, by a function for every suffix; gives the paths."""
    check_own_tables(stem, tables)
    paths = [stem.with_suffix(suffix) for suffix in tables]
    for path, write in zip(paths, tables.values()):
        with replacing(path) as temporary:
            write(rows, temporary)
    return paths


def finish(begin: float, lines: Sequence[str], paths: Sequence[Path], *found: xr.Dataset) -> None:
    """Print the answer, what was written, and how long all of it took."""
    for line in [*lines, "", *(f"wrote {path}" for path in paths)]:
        print(line)
    computing = sum(ds.attrs["wall_seconds"] for ds in found)
    print(f"took {time.perf_counter() - begin:.0f} s ({computing:.0f} s computing)")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that takes ``path``'s place once it is whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(f"out must be a folder that can be written, got {path}: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)
