"""Activations of the user's own by name: found, told from one another, and kept apart in stores."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sigprop import activations, own_activations, studies, sweeps
from sigprop.activations import Activation

GRID = {"initialiser": ["gaussian"], "weight_var": [1.0, 2.0], "bias_var": [0.1]}


def swoosh(x):
    return x / (1 + jnp.exp(-1.5 * x))


def test_a_name_finds_the_function():
    name = own_activations.named(swoosh)
    kind = activations.get(name)
    assert kind.fn is swoosh
    assert kind.name == name
    assert own_activations.named(name) == name
    assert activations.get("jax.nn:relu") is activations.get("relu")


def test_what_cannot_be_imported_has_its_own_name():
    bent = Activation(lambda x: jnp.abs(x - 0.3), name="bent")
    assert own_activations.named(bent) == "bent"
    assert activations.get("bent") == bent
    moved = Activation(swoosh, name="moved", kinks=(1.0,))  # cut elsewhere than the function itself
    assert activations.get(own_activations.named(moved)) == moved
    with pytest.raises(ValueError, match="must have a name of its own, got tanh"):
        own_activations.named(Activation(lambda x: x * x, name="tanh"))


def test_a_fingerprint_is_that_of_the_program():
    def scaled(by):
        return lambda x: jnp.tanh(by * x)

    def print_of(fn, name="f"):
        activations.register(Activation(fn, name=name))
        return own_activations.fingerprint(name)

    assert print_of(scaled(1.5)) == print_of(scaled(1.5)) != print_of(scaled(1.5 + 1e-12))
    assert print_of(functools.partial(jnp.multiply, jnp.asarray(2.0))) != print_of(
        functools.partial(jnp.multiply, jnp.asarray(3.0))
    )
    assert print_of(lambda x: jax.nn.relu(x)) == print_of(lambda x: jax.nn.relu(x), "g")


BAD = {
    "nowhere:f": "there is no module nowhere among those installed, and no nowhere.py in",
    "own_file:swosh": "own_file has no swosh; did you mean swoosh",
    "own_file:NUMBER": "must be a function, got 3.0",
    "own_file:": "has no function without a name",
    "own_file:pair": "must map one real number to one real number",
    "broken_file:f": "broken_file could not be imported: SyntaxError",
    "needy_file:f": "No module named .not_there.",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_file.py").write_text(
        "def swoosh(x):\n    return x\n\ndef pair(x):\n    return (x, x)\n\nNUMBER = 3.0\n"
    )
    (tmp_path / "broken_file.py").write_text("def f(x) return x\n")
    (tmp_path / "needy_file.py").write_text("import not_there\n")
    return tmp_path


@pytest.mark.parametrize("name", BAD)
def test_a_bad_name_is_one_line(name, folder):
    with pytest.raises(ValueError, match=BAD[name]) as caught:
        activations.get(name)
    assert len(str(caught.value).splitlines()) == 1


def test_a_study_takes_functions_and_its_store_tells_them_apart(tmp_path):
    study = studies.PhaseDiagram(depth=4, width=32, seeds=2)

    def run(fn):
        grid = GRID | {"activation": [fn, "tanh", jnp.sign]}
        return sweeps.run(study, grid, store=tmp_path / "s.zarr", progress=False)

    first = Activation(lambda x: jnp.tanh(1.1 * x), name="steeper")
    ds = run(first)
    assert ds["activation"].values.tolist() == ["steeper", "tanh", "jax.numpy:sign"]
    own, known = (ds["chi_1_theory"].sel(activation=a) for a in ("steeper", "tanh"))
    assert np.isfinite(own).all()
    assert not np.allclose(own, known)
    run(first)
    with pytest.raises(ValueError, match="holds another sweep: content of steeper is"):
        run(Activation(lambda x: jnp.tanh(1.2 * x), name="steeper"))


def test_theory_is_not_remembered_by_name_alone():
    study = studies.PhaseDiagram(depth=4, width=32, seeds=2)
    found = []
    for slope in (1.0, 1.2):
        fn = Activation(lambda x, slope=slope: jnp.tanh(slope * x), name="sloped")
        ds = sweeps.run(study, GRID | {"activation": [fn]}, progress=False)
        found.append(ds["chi_1_theory"].values)
    assert not np.allclose(*found)
