"""The package as a whole: rooms at hand without loading them, its version, its papers."""

import subprocess
import sys

import pytest

import sigprop
from sigprop.architecture import Architecture


def test_rooms_load_when_first_used():
    """`import sigprop` brings in neither JAX nor any room; attributes then do."""
    script = (
        "import sys, sigprop\n"
        "loaded = {'jax', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "sigprop.theory.fixed_point, sigprop.Architecture, sigprop.diagnose\n"
        "assert 'sigprop.training' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tab_completion_offers_every_name():
    assert {*sigprop.__all__, "__version__"} <= set(dir(sigprop))
    for name in sigprop.__all__:
        assert getattr(sigprop, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'theorie'"):
        sigprop.theorie  # noqa: B018


def test_version_is_that_of_the_distribution():
    assert sigprop.__version__.count(".") == 2


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (Architecture(2, 8, "tanh", 1.0), {"poole2016", "schoenholz2017"}),
        (Architecture(2, 8, "tanh", 1.0, norm="batch_norm"), {"yang2019", "ioffe2015"}),
        (Architecture(2, 8, "tanh", 1.0, dropout=0.1), {"srivastava2014"}),
        (Architecture(2, 8, "erf", initialiser="glorot_normal"), {"glorot2010", "williams1997"}),
        (Architecture(2, 8, "relu", 2.0, parameterisation="ntk"), {"jacot2018", "cho2009"}),
    ],
)
def test_a_network_is_cited_by_what_it_is_made_of(network, expected):
    plain = sigprop.cite(Architecture(2, 8, "linear", 1.0))
    cited = sigprop.cite(network)
    for key in expected:
        assert f"{{{key}," in cited
    assert len(cited) >= len(plain)
    assert "srivastava2014" not in plain


def test_an_unknown_name_cannot_be_cited():
    with pytest.raises(ValueError, match=r"used must be an Architecture or one of .*, got 'foo'"):
        sigprop.cite("foo")
