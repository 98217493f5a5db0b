import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigprop.studies import inputs


@given(
    second_moment=st.floats(1e-6, 1e6),
    correlation=st.floats(-1.0, 1.0),
    scale=st.sampled_from([1e-200, 1.0, 1e200]),
    seed=st.integers(0, 1000),
)
def test_moments_are_what_was_asked_for(second_moment, correlation, scale, seed):
    pairs = inputs.digit_pairs(3, seed=seed) * scale
    x = inputs.with_moments(pairs, second_moment=second_moment, correlation=correlation)
    gram = x @ x.transpose(0, 2, 1) / (x.shape[-1] * second_moment)
    expected = np.asarray([[1.0, correlation], [correlation, 1.0]])
    np.testing.assert_allclose(gram, np.broadcast_to(expected, gram.shape), rtol=0, atol=1e-13)


def test_each_pair_stays_in_the_plane_of_its_images():
    pairs = inputs.digit_pairs(4)
    x = inputs.with_moments(pairs, second_moment=1.0, correlation=0.3)
    for images, moved in zip(pairs, x):
        assert np.linalg.matrix_rank(np.concatenate([images, moved]), tol=1e-8) == 2
        cosine = images[0] @ moved[0] / np.linalg.norm(images[0]) / np.linalg.norm(moved[0])
        assert cosine == pytest.approx(1.0)


def test_pairs_differ_between_seeds_and_use_no_image_twice():
    pairs = inputs.digit_pairs(50, seed=7)
    assert len({image.tobytes() for image in pairs.reshape(-1, 64)}) == 100
    np.testing.assert_array_equal(pairs, inputs.digit_pairs(50, seed=7))
    assert not np.array_equal(pairs, inputs.digit_pairs(50, seed=8))


@pytest.mark.parametrize("shape", [(2, 10), (1, 2, 10), (5, 2, 10)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint8"])
def test_files_come_back_as_pairs(tmp_path, shape, dtype):
    stored = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    np.save(tmp_path / "x.npy", stored)
    loaded = inputs.load_pairs(tmp_path / "x.npy")
    assert loaded.dtype == np.float64
    np.testing.assert_array_equal(loaded, stored.reshape(-1, 2, 10))


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 4, 5, 3), (3, 2, 4, 5), (1, 2, 4, 5, 3)])
def test_images_are_flattened(tmp_path, shape):
    stored = np.random.default_rng(0).standard_normal(shape)
    np.save(tmp_path / "x.npy", stored)
    pairs = 1 if shape[0] == 2 else shape[0]
    np.testing.assert_array_equal(
        inputs.load_pairs(tmp_path / "x.npy"), stored.reshape(pairs, 2, -1)
    )


def _saved(array):
    return lambda path: np.save(path, array, allow_pickle=True)


BAD_FILES = [
    (lambda path: None, r"readable \.npy file, got .*x\.npy: No such file"),
    (lambda path: path.mkdir(), r"readable \.npy file, got .*: Is a directory"),
    (lambda path: path.write_bytes(b""), r"readable \.npy file, got .*x\.npy"),
    (lambda path: path.write_bytes(b"\x89PNG not an array"), r"readable \.npy file"),
    (_saved(np.asarray([{}, None])), r"readable \.npy file, got .*: Object arrays"),
    (_saved(np.asarray(["a", "b"])), r"must hold real numbers, got dtype <U1"),
    (_saved(np.ones((2, 3), complex)), r"must hold real numbers, got dtype complex128"),
    (
        _saved(np.ones(4)),
        r"shape \(2, entries\) or \(pairs, 2, entries\), or axes of .* got \(4,\)",
    ),
    (_saved(np.ones((3, 8))), r"got \(3, 8\)"),
    (_saved(np.ones((3, 8, 8))), r"got \(3, 8, 8\)"),
    (_saved(np.ones((0, 2, 8))), r"got \(0, 2, 8\)"),
]


@pytest.mark.parametrize(("write", "message"), BAD_FILES)
def test_bad_files_are_told_in_one_line(tmp_path, write, message):
    write(tmp_path / "x.npy")
    with pytest.raises(ValueError, match=message) as error:
        inputs.load_pairs(tmp_path / "x.npy")
    assert "\n" not in str(error.value)


def _with(index, value):
    pairs = inputs.digit_pairs(2)
    pairs[index] = value
    return pairs


BAD_PAIRS = [
    (_with((1, 0, 5), np.nan), r"must be finite, got nan at index \(1, 0, 5\)"),
    (_with((0, 1, 2), np.inf), r"must be finite, got inf at index \(0, 1, 2\)"),
    (_with((1, 1), 3.0), "must not be constant, got 3 everywhere in input 1 of pair 1"),
    (_with((0, 0), 0.0), "must not be constant, got 0 everywhere in input 0 of pair 0"),
    (_with((1, 1), 2.5 * inputs.digit_pairs(2)[1, 0]), "not be parallel, those of pair 1 are"),
    (_with((1, 1), -inputs.digit_pairs(2)[1, 0]), "not be parallel, those of pair 1 are"),
    (np.ones((1, 2, 1)), r"shape \(pairs, 2, entries >= 2\), got \(1, 2, 1\)"),
]


@pytest.mark.parametrize(("pairs", "message"), BAD_PAIRS)
def test_unusable_inputs_are_named(pairs, message):
    with pytest.raises(ValueError, match=message):
        inputs.with_moments(pairs, second_moment=1.0, correlation=0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"second_moment": 0.0, "correlation": 0.5}, r"input_second_moment must be > 0.*got 0\.0"),
        ({"second_moment": np.nan, "correlation": 0.5}, "input_second_moment must be > 0"),
        ({"second_moment": np.inf, "correlation": 0.5}, "input_second_moment must be > 0"),
        ({"second_moment": 1.0, "correlation": 1.5}, r"between -1 and 1, got 1\.5"),
        ({"second_moment": 1.0, "correlation": np.nan}, "between -1 and 1, got nan"),
    ],
)
def test_moments_out_of_range_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        inputs.with_moments(inputs.digit_pairs(1), **values)


def test_more_pairs_than_images_is_an_error():
    with pytest.raises(ValueError, match="pairs must be between 1 and 898, got 899"):
        inputs.digit_pairs(899)
