"""What every study must hold, whatever its question; a new one is here by being exported."""

import dataclasses
import inspect
import json

import numpy as np
import pytest

from sigprop import studies, sweeps
from sigprop.studies.base_study import Study

STUDIES = [cls for _, cls in inspect.getmembers(studies, inspect.isclass) if issubclass(cls, Study)]
NAMES = [cls.name for cls in STUDIES]


@pytest.fixture(params=STUDIES, ids=NAMES)
def study(request):
    return request.param()


def test_all_are_here():
    assert len(NAMES) == len(set(NAMES)) >= 8


def test_it_is_what_a_sweep_asks_for(study):
    assert isinstance(study, sweeps.Study)
    assert study.bytes_per_cell > 0
    assert study.version >= 1


def test_every_output_and_dimension_says_what_it_is(study):
    grid = (*study.static_axes, *study.traced_axes)
    for name, variable in study.variables.items():
        assert variable.attrs["long_name"], name
        assert "units" in variable.attrs or "flag_meanings" in variable.attrs, name
        assert set(variable.axes) <= set(grid), name
        assert set(variable.dims) <= set(study.coordinates), name
        if "flag_meanings" in variable.attrs:
            meanings = variable.attrs["flag_meanings"].split()
            assert len(meanings) == len(variable.attrs["flag_values"]), name
    for dim in (*grid, *study.coordinates):
        assert study.axis_attrs[dim]["long_name"], dim


def test_attributes_let_a_reader_repeat_it(study):
    attributes = json.loads(json.dumps(study.attributes()))
    assert {"title", "seed", "device", "matmul_precision", "dtype"} <= set(attributes)
    assert not [name for name, value in attributes.items() if value is None]


def test_whatever_decides_the_results_is_in_the_config(study):
    config = json.loads(json.dumps(study.config()))
    for field in dataclasses.fields(study):
        if "tuning" in field.metadata:
            assert field.name not in config
            changed = dataclasses.replace(study, **{field.name: 2 * getattr(study, field.name)})
            assert changed.config() == study.config(), field.name
        elif field.type in ("int", int):
            value = getattr(study, field.name)
            changed = dataclasses.replace(study, **{field.name: value + 2})
            assert changed.config() != config, field.name


def test_numbers_out_of_range_are_refused_by_name(study):
    for field in dataclasses.fields(study):
        if field.type in ("int", int, "float", float) and "tuning" not in field.metadata:
            whole = field.type in ("int", int)
            for bad in (-2,) if whole else (-2.0, np.nan):
                with pytest.raises(ValueError, match=field.name):
                    dataclasses.replace(study, **{field.name: bad})


@pytest.mark.parametrize("axis", ["weight_var", "bias_var", "learning_rate", "seed"])
def test_coordinates_out_of_range_are_refused_by_name(study, axis):
    if axis not in study.traced_axes:
        pytest.skip("not an axis of this study")
    good = {name: [1.0] for name in study.traced_axes} | {"depth": [2.0]}
    names = {"activation": ["tanh"], "initialiser": ["gaussian"]}
    grid = {a: good.get(a, names.get(a, [])) for a in (*study.static_axes, *study.traced_axes)}
    study.check(grid)
    with pytest.raises(ValueError, match=axis):
        study.check(grid | {axis: [-1.0]})


def test_a_file_is_known_by_its_content(study, tmp_path):
    if study.file_field is None:
        pytest.skip("takes no file")
    rows = np.random.default_rng(0).normal(size=(2, 2, 9))
    digests = []
    for place, values in (("a", rows), ("b", rows), ("c", rows + 1)):
        np.save(tmp_path / f"{place}.npy", values)
        given = {study.file_field: tmp_path / f"{place}.npy"}
        digests.append(dataclasses.replace(study, **given).config())
    assert digests[0] == digests[1] != digests[2]
    assert str(tmp_path) not in json.dumps(digests)
