"""Records, splits, readers: what is read is what was written, and what is broken is named."""

import gzip
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigprop import training
from sigprop.training import image_files

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 28, 28), np.uint8)
LABELS = RNG.integers(0, 10, 12).astype(np.uint8)


def idx(array: np.ndarray, code: int = 0x08) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, code, array.ndim]) + sizes + array.tobytes()


@pytest.fixture
def mnist(tmp_path):
    """A folder of MNIST's four files, two of them gzipped."""
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(IMAGES))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS)))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES[:3])))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS[:3]))
    return tmp_path


def test_mnist_files_are_read_as_they_were_written(mnist):
    data = training.load(mnist, validation=0.25)
    assert (len(data.train), len(data.validation), len(data.test)) == (9, 3, 3)
    np.testing.assert_allclose(data.test.inputs * 255, IMAGES[:3].reshape(3, -1), rtol=1e-6)
    np.testing.assert_array_equal(data.test.targets, LABELS[:3])
    assert data.train.classes == 10
    one = training.load(mnist / "train-images-idx3-ubyte")
    assert len(one.train) + len(one.validation) + len(one.test) == 12


@pytest.mark.parametrize(
    ("code", "dtype"), [(0x09, ">i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")]
)
def test_every_idx_type_is_read(tmp_path, code, dtype):
    values = RNG.integers(-100, 100, (3, 2, 2)).astype(dtype)
    (tmp_path / "some").write_bytes(idx(values, code))
    np.testing.assert_array_equal(image_files.read_idx(tmp_path / "some"), values)


def test_cifar_batches_are_read_as_they_were_written(tmp_path):
    rows = RNG.integers(0, 256, (5, 3073), np.uint8)
    rows[:, 0] = [3, 1, 4, 1, 5]
    for name in ("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"):
        (tmp_path / name).write_bytes(rows.tobytes())
    data = training.load(tmp_path, validation=0.0)
    assert (len(data.train), data.validation, len(data.test)) == (10, None, 5)
    np.testing.assert_array_equal(data.test.targets, rows[:, 0])
    np.testing.assert_allclose(data.test.inputs * 255, rows[:, 1:], rtol=1e-6)


TRAIN, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz"
BROKEN = {
    "cut short": (TRAIN, idx(IMAGES)[:-5], "cut short"),
    "too long": (TRAIN, idx(IMAGES) + b"\0", "too long"),
    "another format": (TRAIN, b"\x89PNG....", "starts with 89 50 4e 47"),
    "empty": (TRAIN, b"", "must be an idx file"),
    "sizes missing": (TRAIN, idx(IMAGES)[:7], "ends after 7 bytes"),
    "labels in its place": (TRAIN, idx(LABELS), "not a file of images"),
    "gzip cut short": (TRAIN_LABELS, gzip.compress(idx(LABELS))[:-9], "whole gzip file"),
    "gzip damaged": (TRAIN_LABELS, b"\x1f\x8b" + bytes(20), "whole gzip file"),
    "fewer labels": (TRAIN_LABELS, idx(LABELS[:7]), "a label for each of the 12 images"),
    "label out of range": (TRAIN_LABELS, idx(LABELS + 10), "between 0 and 9, got"),
}


@pytest.mark.parametrize(("name", "content", "message"), BROKEN.values(), ids=BROKEN)
def test_a_malformed_file_is_named_with_what_is_wrong(mnist, name, content, message):
    (mnist / name).write_bytes(content)
    with pytest.raises(ValueError, match="must") as caught:
        training.load(mnist)
    assert name in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_malformed_folders_are_named(tmp_path, mnist):
    (mnist / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="no file t10k-labels-idx1-ubyte"):
        training.load(mnist)
    (mnist / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(ValueError, match="none named t10k-images"):
        training.load(mnist)
    (tmp_path / "cifar").mkdir()
    with pytest.raises(ValueError, match="with neither"):
        training.load(tmp_path / "cifar")
    (tmp_path / "cifar" / "data_batch_1.bin").write_bytes(bytes(3073))
    with pytest.raises(ValueError, match=r"test_batch.bin must be a readable file"):
        training.load(tmp_path / "cifar")
    (tmp_path / "cifar" / "test_batch.bin").write_bytes(bytes(3000))
    with pytest.raises(ValueError, match="whole number of rows of 3073 bytes"):
        training.load(tmp_path / "cifar")


@given(st.integers(3, 60), st.floats(0, 0.45), st.floats(0, 0.45), st.integers(0, 5))
def test_splits_are_disjoint_and_hold_every_example(count, validation, test, seed):
    data = training.regression(np.arange(count), np.arange(count))
    parts = training.split(data, validation=validation, test=test, seed=seed)
    of = [p for p in (parts.train, parts.validation, parts.test) if p is not None]
    seen = np.concatenate([part.targets[:, 0] for part in of])
    np.testing.assert_array_equal(np.sort(seen), np.arange(count))
    again = training.split(data, validation=validation, test=test, seed=seed)
    np.testing.assert_array_equal(again.train.inputs, parts.train.inputs)


def test_seeds_deal_differently():
    assert (training.digits(seed=0).test.targets != training.digits(seed=1).test.targets).any()


def test_standardisation_uses_the_training_part_only():
    parts = training.standardised(training.digits())
    changing = np.ptp(parts.train.inputs, axis=0) > 0
    np.testing.assert_allclose(parts.train.inputs.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(parts.train.inputs.std(0)[changing], 1, rtol=1e-4)
    assert abs(parts.test.inputs.std(0)[changing] - 1).max() > 0.01
    line = training.standardised(training.split(training.parabola()), targets=True)
    np.testing.assert_allclose(line.train.targets.std(), 1, rtol=1e-5)


def test_the_linear_task_is_the_line_it_says():
    data = training.linear_regression(50, noise=0.0)
    np.testing.assert_allclose(data.targets, 3 * data.inputs + 2, atol=1e-6)
    assert training.parabola().inputs[[0, -1], 0].tolist() == [1.0, 1000.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: training.classification(np.zeros((0, 3)), np.zeros(0, int)), "at least one"),
        (lambda: training.classification(np.zeros((2, 3)), [0, 5], 5), "0 and 4, got 5 at index"),
        (lambda: training.classification(np.zeros((2, 3)), [0, -1], 5), "got -1 at index (1,)"),
        (lambda: training.classification(np.zeros((2, 3)), [0.0, 1.0]), "whole numbers"),
        (lambda: training.classification(np.zeros((2, 3)), [0]), "a target for each of its 2"),
        (lambda: training.regression([[np.nan]], [1.0]), "inputs must be finite, got nan"),
        (lambda: training.regression([1.0], [np.inf]), "targets must be finite, got inf"),
        (lambda: training.split(training.regression([1.0], [1.0]), test=1.0), "less than 1"),
        (lambda: training.split(training.regression([1.0], [1.0]), test=0.8), "to train on"),
    ],
)
def test_bad_data_is_refused(make, message):
    with pytest.raises(ValueError, match="must") as caught:
        make()
    assert message in str(caught.value)
