"""What the README and the docs say is true: examples run, commands exist, tables are recomputed."""

import ast
import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re
import shlex
import sys

import numpy as np
import pytest

import sigprop
from sigprop import activations, studies, sweeps, theory

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
README = (ROOT / "README.md").read_text()
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


@pytest.mark.parametrize("path", [p for p in DOCS if ">>>" in p.read_text()], ids=lambda p: p.name)
def test_examples_in_the_docs(path):
    done = doctest.testfile(str(path), module_relative=False, optionflags=FLAGS)
    assert done.attempted > 0
    assert done.failed == 0


@pytest.fixture(scope="module")
def folder_with_results(tmp_path_factory):
    """A folder in which the main script has run, at the smallest size."""
    folder = tmp_path_factory.mktemp("clone")
    sweeps.run(
        studies.PhaseDiagram(depth=4, width=16, seeds=2),
        {
            "activation": ["tanh"],
            "initialiser": ["gaussian"],
            "weight_var": np.asarray([1.0, 2.5]),
            "bias_var": np.asarray([0.0, 0.1]),
        },
        store=folder / "results" / "phase_diagram.zarr",
        progress=False,
    )
    return folder


PAGES = {"README": README} | {
    p.stem: p.read_text() for p in DOCS if _blocks(p.read_text(), "python")
}


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run_one_after_the_other(page, folder_with_results, monkeypatch):
    monkeypatch.chdir(folder_with_results)
    blocks = _blocks(PAGES[page], "python")
    assert blocks
    names: dict = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{page}, block {number}", "exec"), names)


def test_the_quick_start_is_two_lines_and_ci_runs_the_second():
    quick_start = README.split("## Quick start")[1].split("\n## ")[0]
    lines = [line for block in _blocks(quick_start, "") for line in block.splitlines()]
    assert len(lines) == 2
    install, test = lines
    assert install.endswith('pip install -e ".[scripts]" && python experiments/phase_diagram.py')
    command = test.split(" && ")[-1]
    assert command.startswith("pytest")
    for page in (".ci/run", "CONTRIBUTING.md"):
        assert re.search(
            rf"^(check )?{re.escape(command)}( #.*)?$", (ROOT / page).read_text(), re.M
        )


def test_contributing_names_the_checks_that_ci_runs():
    checks = re.findall(r"^check (.*?)(?: #.*)?$", (ROOT / ".ci/run").read_text(), flags=re.M)
    listed = _blocks((ROOT / "CONTRIBUTING.md").read_text(), "")[1].splitlines()
    assert sorted(checks) == sorted(listed)


def _commands() -> list[str]:
    text = "\n".join([README, *(p.read_text() for p in DOCS)])
    return sorted(set(re.findall(r"python (experiments/\w+\.py(?: [^`\n]*)?)", text)))


@pytest.mark.parametrize("command", _commands())
def test_the_commands_that_are_shown_are_understood(command, monkeypatch, tmp_path):
    """Parsed by the script's own options, not run."""
    script, *options = shlex.split(command)
    path = ROOT / script
    assert path.exists()
    monkeypatch.syspath_prepend(str(path.parent))
    module = __import__(path.stem)
    monkeypatch.setattr(sys, "argv", [str(path), *options])
    if "mine:bent" in options:  # the page's own file
        (tmp_path / "mine.py").write_text("def bent(x):\n    return x / (1 + abs(x))\n")
        monkeypatch.chdir(tmp_path)
    config = module.command_line.parse(module.Config, module.PRESETS, "")
    if hasattr(config, "study") and hasattr(config, "grid"):
        config.study().check(config.grid())


def test_links_lead_somewhere():
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]:
        prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)#\s]+)\)", prose.replace("\n", " ")):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), f"{path.name}: {target}"


def _table() -> dict[str, list[str]]:
    text = (ROOT / "docs" / "how_to_choose.md").read_text().split("<!-- table:")[1]
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {name: values for name, *values in cells}


def test_the_table_of_how_to_choose_covers_every_activation():
    assert sorted(_table()) == sorted(activations.names())


@pytest.mark.parametrize("name", activations.names())
def test_the_table_of_how_to_choose_is_what_theory_says(name):
    found = theory.critical_weight_var(name, bias_var=np.asarray([0.0, 0.05]))
    words = {
        theory.CriticalStatus.UNSTABLE: " (unstable)",
        theory.CriticalStatus.UNBOUNDED: " (unbounded)",
    }
    critical = [
        f"{value:.3g}{words.get(theory.CriticalStatus(status), '')}"
        for value, status in zip(found.weight_var, found.status)
    ]
    chi = theory.fixed_point(name, weight_var=np.asarray([2.0, 1.0]), bias_var=0.0).chi_1
    assert _table()[name] == [*critical, *(f"{value:.3g}" for value in chi)]


def _calls() -> list[str]:
    text = (ROOT / "docs" / "questions.md").read_text()
    return re.findall(r"`(sigprop\.[^`]+)`", text)


@pytest.mark.parametrize("call", _calls())
def test_the_calls_that_answer_questions_can_be_made(call):
    """Names lead to something public, and the arguments are ones that it takes."""
    tree = ast.parse(call, mode="eval").body
    assert isinstance(tree, ast.Call)
    function = eval(ast.unparse(tree.func), {"sigprop": sigprop})
    keywords = {keyword.arg: None for keyword in tree.keywords}
    inspect.signature(function).bind(*tree.args, **keywords)
    *room, name = ast.unparse(tree.func).split(".")
    assert name in eval(".".join(room)).__all__


def test_every_room_has_a_page_of_its_public_names():
    for room in sorted(set(sigprop.__all__) & {p.stem for p in (ROOT / "sigprop").iterdir()}):
        assert f"::: sigprop.{room}\n" in (ROOT / "docs" / "reference" / f"{room}.md").read_text()


def test_no_public_name_is_hidden_by_a_module_of_the_same_name():
    """Where a function and its module share a name, a reference page shows the module's."""
    for room in (p for p in (ROOT / "sigprop").iterdir() if (p / "__init__.py").exists()):
        module = importlib.import_module(f"sigprop.{room.name}")
        functions = {name for name in module.__all__ if callable(getattr(module, name))}
        assert not functions & {found.name for found in pkgutil.iter_modules(module.__path__)}
