"""How every test runs: two CPU devices, strict dtype promotion, shapes and types checked.

Loaded before any test module, so that the settings stand before JAX is first used and before
sigprop is first imported. (Warnings are errors: see pyproject.toml.)
"""

import gc
import os
import pathlib
import shutil

import jax
import jaxtyping
import pytest
import scipy.linalg  # noqa: F401  # brings the BLAS that threadpoolctl limits
import threadpoolctl
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

from tests import affected
from tests.agreement.stored import MEASURE_ANEW

os.environ.setdefault("MPLBACKEND", "Agg")


ROOT = pathlib.Path(__file__).resolve().parent
COMPILED = ROOT / ".cache" / "compiled"
COMPILED_AT_MOST = 4 * 2**30  # bytes


def _share_compiled_programs() -> None:
    """What one process compiles, other workers, the scripts they start and later runs reuse.

    Half the time of a run would go into compiling the same programs again. The first process
    empties the folder when old programs have made it too large, and hands its name down.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        if COMPILED.exists() and _size(COMPILED) > COMPILED_AT_MOST:
            shutil.rmtree(COMPILED, ignore_errors=True)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(COMPILED)
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _size(folder: pathlib.Path) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(folder))


def _compile_quickly() -> None:
    """Most of the time of the tests goes into compiling. Flags that are set already come first.

    Level 1, not 0, at which networks run twice as long as they do at 1 (and, with the fusion
    emitters of jaxlib 0.10.2, one fixed point of tanh came out wrong by 7e-4).
    """
    quick = (
        "--xla_backend_optimization_level=1",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_backend_extra_options=xla_cpu_disable_slp_vectorizer,xla_cpu_disable_loop_unrolling",
    )
    os.environ["XLA_FLAGS"] = " ".join([*quick, os.environ.get("XLA_FLAGS", "")]).strip()


if not os.environ.get("SIGPROP_TEST_AS_USERS_COMPILE"):
    _compile_quickly()
_share_compiled_programs()
# Tracing makes objects by the million: to look for garbage at every 700th, as Python does, takes a
# tenth of the time.
gc.set_threshold(50_000, 10, 10)

if not os.environ.get("JAX_PLATFORMS"):
    jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")

# A batch of small decompositions runs one matrix a thread; a BLAS that starts threads of its own
# inside each makes it tens of times slower.
threadpoolctl.threadpool_limits(limits=1, user_api="blas")

# An int will do for a float, and a float for a complex number, as PEP 484 has it.
install_import_hook(
    "sigprop", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

# Compiling makes the first example of a property slow, so there is no deadline; the examples are
# the same on every run, so that a failure can be repeated.
settings.register_profile(
    "sigprop",
    deadline=None,
    derandomize=True,
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("sigprop")


def pytest_addoption(parser):
    parser.addoption(
        "--affected-by",
        metavar="REVISION",
        help="run the tests of what has changed since a git revision (HEAD: what is not committed) "
        "and of all that depends on it",
    )


def pytest_configure(config):
    """The run of all tests measures anew what the others read (see tests/agreement/stored.py)."""
    if "slow" in config.option.markexpr.replace("not slow", ""):
        os.environ[MEASURE_ANEW] = "1"


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by marker
def pytest_collection_modifyitems(config, items):
    """Every test is fast or slow; cases that a mark `every_run` does not name are slow."""
    revision = config.getoption("--affected-by")
    if revision:
        paths = affected.tests(revision, {item.path for item in items})
        config.hook.pytest_deselected(items=[i for i in items if i.path not in paths])
        items[:] = [item for item in items if item.path in paths]
    for item in items:
        marker = item.get_closest_marker("every_run")
        if marker and not {item.callspec.id, *item.callspec.id.split("-")} & set(marker.args):
            item.add_marker("slow")
        if not item.get_closest_marker("slow"):
            item.add_marker("fast")


@pytest.fixture(autouse=True, scope="module")
def programs_let_go():
    """After a module's tests, let the compiled programs go if they have become too many or large.

    Each holds some mappings of memory, of which Linux gives a process 65,530: at the last of them
    the compiler crashes. What is let go comes back from the folder that runs share.
    """
    yield
    if _memory_mappings() > 25_000 or _resident_bytes() > 2**30:
        jax.clear_caches()
        gc.collect()


def _memory_mappings() -> int:
    """Of this process; 0 where the system does not tell."""
    maps = pathlib.Path("/proc/self/maps")
    return len(maps.read_text().splitlines()) if maps.exists() else 0


def _resident_bytes() -> int:
    """Of this process; 0 where the system does not tell."""
    statm = pathlib.Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


@pytest.fixture
def as_users_call():
    """Annotations not enforced, as outside the tests: what arguments of a wrong type run into."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def float64():
    """JAX's 64-bit mode, scoped to one test."""
    with jax.enable_x64(True):
        yield
