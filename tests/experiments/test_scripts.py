"""The scripts, end to end, as a user would start them."""

import csv
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr

from tests.experiments.scripts import EXPERIMENTS, contents, run, run_afresh, started

TINY = ["--depth", "5", "--width", "16", "--seeds", "2", "--weight-var", "1", "3"]
TINY += ["--weight-var-points", "3", "--bias-var", "0", "0.2", "--bias-var-points", "2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One tiny finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("phase_diagram")
    arguments = [*TINY, "--activation", "relu", "--out", "out"]
    code, out, err = run_afresh("phase_diagram", *arguments, cwd=folder)
    assert code == 0, err
    return folder, out


def test_phase_diagram_writes_dataset_and_figures(finished):
    folder, _ = finished
    names = ["phase_diagram.pdf", "phase_diagram.png", "phase_diagram.zarr"]
    assert sorted(p.name for p in (folder / "out").iterdir()) == names
    assert (folder / "out" / "phase_diagram.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "out" / "phase_diagram.pdf").read_bytes().startswith(b"%PDF")
    with xr.open_zarr(folder / "out" / "phase_diagram.zarr") as ds:
        assert {
            dim: ds.sizes[dim] for dim in list(ds.sizes) if "line" not in dim and "edge" not in dim
        } == {
            **{"activation": 1, "initialiser": 1, "weight_var": 3, "bias_var": 2},
            "layer": 5,
        }
        assert ds["weight_var"].values.tolist() == [1.0, 2.0, 3.0]
        np.testing.assert_allclose(ds["chi_1_theory"].sel(weight_var=2.0), 1.0, rtol=1e-12)


def test_phase_diagram_prints_the_numbers_that_answer(finished):
    _, out = finished
    assert "relu: critical weight_var 2 " in out
    for pattern in (r"phase as predicted in [\d.]+% of cells", r"growth [\d.]+ standard errors"):
        assert re.search(pattern, out), out
    assert re.search(r"wrote out.phase_diagram\.zarr", out)
    assert re.search(r"took \d+ s", out)


def test_the_same_command_again_only_plots(finished):
    folder, _ = finished
    (folder / "out" / "phase_diagram.png").unlink()
    before = contents(folder / "out" / "phase_diagram.zarr")
    code, out, err = run("phase_diagram", *TINY, "--activation", "relu", "--out", "out", cwd=folder)
    assert code == 0, err
    assert contents(folder / "out" / "phase_diagram.zarr") == before
    assert (folder / "out" / "phase_diagram.png").exists()
    assert "relu: critical weight_var 2 " in out


def test_another_config_is_refused(finished):
    folder, _ = finished
    before = contents(folder)
    arguments = [*TINY, "--activation", "relu", "--seed", "7", "--out", "out"]
    code, out, err = run("phase_diagram", *arguments, cwd=folder)
    assert code == 2
    assert out == ""
    assert re.fullmatch(r"error: store .*seed is 0 there and 7 here.*\n", err)
    assert contents(folder) == before


def _bad_inputs(folder):
    np.save(folder / "constant.npy", np.ones((2, 9)))
    np.save(folder / "shape.npy", np.ones((3, 9)))
    rows = np.random.default_rng(0).normal(size=(2, 9))
    np.save(folder / "parallel.npy", np.stack([rows[0], 2 * rows[0]]))
    np.save(folder / "nan.npy", np.where(rows > 0, rows, np.nan))
    (folder / "taken").mkdir()
    (folder / "taken" / "phase_diagram.zarr").mkdir()
    (folder / "taken" / "phase_diagram.zarr" / "notes.txt").write_text("mine")
    (folder / "file").write_text("")


BAD = [
    (["--activation", "tahn"], "'tahn'; did you mean 'tanh'"),
    (["--activation", "tanh", "rellu"], "'rellu'; did you mean 'relu'"),
    (["--activation", "nowhere:f"], "'nowhere:f': there is no module nowhere among those inst"),
    (["--activation", "math:sine"], "'math:sine': math has no sine; did you mean sin"),
    (["--activation"], "activation must be a non-empty list"),
    (["--initialiser", "hee"], "initialiser must be one of .*'orthogonal'.* got 'hee'"),
    (["--depth", "0"], "depth must be an integer >= 2, got 0"),
    (["--depth", "ten"], "--depth: invalid literal for int.*'ten'"),
    (["--detph", "10"], r"Unrecognized options: --detph, 10; did you mean --depth\?"),
    (["--width", "0"], "width must be an integer >= 4, got 0"),
    (["--seeds", "1"], "seeds must be an integer >= 2, got 1"),
    (["--weight-var", "-1", "2"], "weight_var must be two numbers 0 <= first <= last, got -1 2"),
    (["--weight-var", "nan", "2"], "weight_var must be two numbers .*got nan 2"),
    (["--weight-var", "1"], "Missing value for argument '--weight-var'. Expected 2"),
    (["--bias-var", "1", "0.5"], r"bias_var must be two numbers .*got 1 0\.5"),
    (["--bias-var-points", "0"], "bias_var_points must be >= 2 for a range"),
    (["--preset", "huge"], "invalid choice 'huge' for argument '--preset'.*'small'"),
    (["--memory-gb", "0"], r"memory_gb must be > 0 and finite, got 0\.0"),
    (["--inputs", "nowhere.npy"], r"inputs must be a readable \.npy file, got nowhere\.npy"),
    (["--inputs", "shape.npy"], r"inputs must have shape \(2, entries\).*got \(3, 9\)"),
    (["--inputs", "constant.npy"], "inputs must not be constant, got 1 everywhere"),
    (["--inputs", "parallel.npy"], "inputs of a pair must not be parallel"),
    (["--inputs", "nan.npy"], "inputs must be finite, got nan at index"),
    (["--input-correlation", "1.5"], r"input_correlation must be between -1 and 1, got 1\.5"),
    (["--out", "taken"], "taken/phase_diagram.zarr, which exists and is not a finished sweep"),
    (["--out", "file"], "store must be in a folder that can be written, got file"),
]


@pytest.fixture(scope="module")
def folder_of_bad_inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    _bad_inputs(folder)
    return folder


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_mistyped_option_is_one_line_in_any_encoding(tmp_path, monkeypatch, encoding):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    code, out, err = run_afresh("phase_diagram", "--detph", "10", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err == "error: Unrecognized options: --detph, 10; did you mean --depth?\n"


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_clear_line(folder_of_bad_inputs, arguments, message):
    folder = folder_of_bad_inputs
    before = contents(folder)
    arguments = [*TINY, "--activation", "relu", *arguments]
    code, out, err = run("phase_diagram", *arguments, cwd=folder)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"error: .*{message}.*\n", err), err
    assert contents(folder) == before, "nothing may be written"


def test_a_killed_script_resumes(tmp_path):
    arguments = [*TINY, "--activation", "relu", "linear", "--initialiser", "gaussian", "orthogonal"]
    arguments += ["--out", "out", "--memory-gb", "0.00001"]
    process = started("phase_diagram", *arguments, cwd=tmp_path)
    marks = tmp_path / "out" / "phase_diagram.zarr" / "done"
    deadline = time.monotonic() + 200
    while not list(marks.glob("[0-9]*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    code, out, err = run("phase_diagram", *arguments, cwd=tmp_path)
    assert code == 0, err
    names = ["phase_diagram.pdf", "phase_diagram.png", "phase_diagram.zarr"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    assert "linear: critical weight_var 1 " in out


def test_stability_map_names_where_recipes_land(tmp_path):
    arguments = [*TINY, "--activation", "relu", "linear", "--initialiser", "he", "xavier"]
    code, out, err = run("stability_map", *arguments, "--out", "out", cwd=tmp_path)
    assert code == 0, err
    names = [f"stability_map.{suffix}" for suffix in ("csv", "pdf", "png", "zarr")]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    with open(tmp_path / "out" / "stability_map.csv") as file:
        rows = {(row["activation"], row["recipe"]): row for row in csv.DictReader(file)}
    he, xavier = rows["relu", "he"], rows["relu", "xavier"]
    assert float(he["critical_weight_var_0"]) == float(he["recipe_weight_var"]) == 2.0
    assert float(xavier["variance_factor"]) == float(xavier["chi_1"]) == 0.5
    assert he["predicted"] == he["measured"] == "stable"
    assert float(rows["linear", "xavier"]["chi_1"]) == 1.0
    for word in ("relu", "linear", "he", "xavier", "critical"):
        assert word in out
    with xr.open_zarr(tmp_path / "out" / "stability_map.zarr") as ds:
        assert {0.0, 0.05} <= set(ds["bias_var"].values)
        assert {1.0, 2.0} <= set(ds["weight_var"].values)
        assert ds["critical_weight_var_theory"].sel(activation="relu", bias_var=0.0) == 2.0


@pytest.mark.parametrize("script", ["phase_diagram", "stability_map"])
def test_help_shows_options_and_examples(tmp_path, script):
    code, out, _ = run(script, "--help", cwd=tmp_path)
    assert code == 0
    for word in ("--preset {small,default,paper}", "--activation", "--out", f"{script}.py --"):
        assert word in out
    code, out, _ = run(script, "--preset", "paper", "--seeds", "3", "--help", cwd=tmp_path)
    assert "(default: 61)" in out, "a preset comes first"


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_a_figure_that_no_script_wrote_is_not_overwritten(tmp_path, suffix):
    theirs = tmp_path / "out" / f"phase_diagram.{suffix}"
    theirs.parent.mkdir()
    theirs.write_bytes(b"a picture of one's own")
    code, out, err = run("phase_diagram", *TINY, "--out", "out", cwd=tmp_path)
    assert code == 2, out
    assert err.startswith(f"error: out must not hold a phase_diagram.{suffix} of other making")
    assert [p.name for p in theirs.parent.iterdir()] == [theirs.name]  # told before computing
    assert theirs.read_bytes() == b"a picture of one's own"


@pytest.mark.parametrize(
    ("script", "suffix"), [("stability_map", "csv"), ("remedies", "csv"), ("remedies", "md")]
)
def test_nor_is_a_table(tmp_path, script, suffix):
    theirs = tmp_path / "out" / f"{script}.{suffix}"
    theirs.parent.mkdir()
    theirs.write_text("a table, of one's own\n1,2\n")
    code, out, err = run(script, "--preset", "small", "--out", "out", cwd=tmp_path)
    assert code == 2, out
    assert err.startswith(f"error: out must not hold a {script}.{suffix} of other making")
    assert [p.name for p in theirs.parent.iterdir()] == [theirs.name]  # told before computing


OWN = """
import jax.numpy as jnp

def swoosh(x):
    return x / (1 + jnp.exp(-x))
"""


def test_an_activation_from_a_file_of_the_current_folder(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    arguments = [*TINY, "--out", "out", "--activation", "mine:swoosh", "silu"]
    code, out, err = run_afresh("phase_diagram", *arguments, cwd=tmp_path)
    assert code == 0, err
    own, known = re.findall(r"^(?:mine:swoosh|silu): (critical weight_var .*)$", out, re.MULTILINE)
    assert own == known  # the same function, by another hand
    (tmp_path / "mine.py").write_text(OWN.replace("(-x)", "(-2 * x)"))
    code, out, err = run_afresh("phase_diagram", *arguments, cwd=tmp_path)
    assert code == 2
    assert re.search(r"holds another sweep: content of mine:swoosh is \S+ there and \S+ here", err)


@pytest.mark.parametrize("as_import_error", [False, True])
def test_ctrl_c_while_libraries_load_is_one_line(as_import_error):
    raising = "raise ImportError('failed') from KeyboardInterrupt()"
    program = f"""
import builtins, sys
load = builtins.__import__
def interrupted(name, *rest):
    if name == "jax":
        {raising if as_import_error else "raise KeyboardInterrupt"}
    return load(name, *rest)
builtins.__import__ = interrupted
sys.path.insert(0, {str(EXPERIMENTS)!r})
import command_line
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.returncode != 0
    assert found.stderr.strip() == "interrupted; run the same command again"
