"""Who may import whom: the layers of the package, read from its syntax trees."""

import ast
import collections
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "sigprop"

# Each room, and every room it may import. A layer imports only what stands above it; the side
# rooms (sweeps, plots) import small shared rooms only; the facade (the package's own __init__)
# re-exports from anywhere, and nothing inside the package imports it.
SHARED = {"_blas_threads", "_derivatives", "_precision", "_checks", "_loops", "_arrays", "_tables"}
PROGRAM = SHARED | {"program"}
SHAPE = SHARED | {"importing", "kinks", "landmarks"}
ACTIVATIONS = PROGRAM | SHAPE | {"activations"}
GAUSSIAN = ACTIVATIONS | {"gaussian"}
LIMIT = GAUSSIAN | {"limit"}
BASE = LIMIT | {"architecture", "kinds"}
MEASURING = BASE | {"networks", "propagation", "jacobian", "gradients"}
TRAINED = MEASURING | {"training"}
MAY_IMPORT = {
    **dict.fromkeys(SHARED, SHARED),
    "program": SHARED,
    **dict.fromkeys(("importing", "kinks", "landmarks"), SHAPE),
    "activations": SHAPE,
    "own_activations": ACTIVATIONS,
    "citing": ACTIVATIONS | {"architecture"},
    "gaussian": ACTIVATIONS,
    "limit": GAUSSIAN,
    "kinds": LIMIT,
    "architecture": LIMIT | {"kinds"},
    "theory": BASE,
    "networks": BASE,
    "propagation": MEASURING,
    "jacobian": MEASURING,
    "gradients": MEASURING,
    "training": MEASURING,
    "diagnosis": TRAINED | {"theory"},
    "studies": TRAINED | {"theory", "diagnosis", "own_activations"},
    "sweeps": SHARED,
    "plots": SHARED,
}
FACADE = "__init__"


def _room(path: pathlib.Path) -> str:
    """The first component of a module's place inside the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported_modules(tree: ast.AST, package: list[str]) -> list[str]:
    """Dotted names of all that a module imports, relative imports resolved."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*above, *([node.module] if node.module else [])])
            # `from sigprop import theory` names the room in the alias, not in the module.
            found += [f"{stem}.{alias.name}" for alias in node.names]
    return found


def _rooms_imported(path: pathlib.Path, source: str | None = None) -> set[str]:
    """Rooms of the package that a module imports, at the top or inside a function."""
    place = path.relative_to(PACKAGE.parent)
    tree = ast.parse(path.read_text() if source is None else source)
    names = [name.split(".") for name in _imported_modules(tree, list(place.parts[:-1]))]
    inside = [parts for parts in names if parts[0] == PACKAGE.name]
    return {parts[1] if len(parts) > 1 else FACADE for parts in inside}


def _violations(path: pathlib.Path, source: str | None = None) -> set[str]:
    room = _room(path)
    if room == FACADE:
        return _rooms_imported(path, source) - set(MAY_IMPORT)
    return _rooms_imported(path, source) - MAY_IMPORT.get(room, set()) - {room}


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_what_stands_above_it(path):
    assert _room(path) in {*MAY_IMPORT, FACADE}, f"{_room(path)} is no room of the design"
    assert not _violations(path), f"{path.name} imports {sorted(_violations(path))}"


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("networks/mlp.py", "from sigprop import theory"),
        ("networks/mlp.py", "from sigprop.theory import fixed_point"),
        ("networks/mlp.py", "from ..theory import fixed_point"),
        ("networks/mlp.py", "def f():\n    import sigprop.studies.phase_diagram"),
        ("propagation.py", "from .theory import chi"),
        ("propagation.py", "from . import theory"),
        ("plots/diagram.py", "from sigprop import theory"),
        ("sweeps/engines.py", "import sigprop.studies"),
        ("gaussian/moments.py", "import sigprop"),
    ],
)
def test_an_import_that_points_up_is_seen(place, source):
    assert _violations(PACKAGE / place, source)


@pytest.mark.parametrize("folder", ["sigprop", "experiments"])
def test_no_star_imports(folder):
    for path in (PACKAGE.parent / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            stars = isinstance(node, ast.ImportFrom) and any(a.name == "*" for a in node.names)
            assert not stars, f"{path} line {node.lineno}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=str)
def test_a_package_names_what_it_exports(path):
    tree = ast.parse(path.read_text())
    assigned = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    imports = any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in tree.body)
    assert "__all__" in assigned or not imports, f"{path} re-exports without __all__"


def test_importing_sigprop_changes_no_jax_setting():
    """A library that flips a global switch changes the numbers of the program importing it."""
    script = (
        "import jax; before = dict(jax.config.values); import pkgutil, importlib, sigprop\n"
        "for m in pkgutil.walk_packages(sigprop.__path__, 'sigprop.'):\n"
        "    importlib.import_module(m.name)\n"
        "after = dict(jax.config.values)\n"
        "changed = {k for k in before if before[k] != after[k]}\n"
        "assert not changed, changed\n"
        "assert not jax._src.xla_bridge.backends_are_initialized(), 'a device was started'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# A study and the plots of it share their question's name.
ALIKE = {"__init__.py", "blocks.py", "jacobian_spectrum.py"}


def test_no_file_name_stands_twice():
    names = collections.Counter(path.name for path in PACKAGE.rglob("*.py"))
    assert {name for name, times in names.items() if times > 1} <= ALIKE
