"""Reading the user's own image files: MNIST and Fashion-MNIST idx, CIFAR-10 binary."""

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from sigprop.training.data import Data, Splits, classification, split
from sigprop.training.tasks import digits

__all__ = ["load", "read_cifar10", "read_idx", "read_idx_pair"]

_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CIFAR_ROW = 1 + 3 * 32 * 32
_CLASSES = 10


def load(
    path: str | os.PathLike | None = None, *, validation: float = 0.15, seed: int = 0
) -> Splits:
    """Images to classify, pixels 0 to 1 in one row each.

    Parameters
    ----------
    path
        None: scikit-learn's digits. A folder with MNIST's four files (``train-images-idx3-ubyte``,
        ..., gzipped or not; Fashion-MNIST has the same names) or with CIFAR-10's binaries
        (``data_batch_1.bin``, ..., ``test_batch.bin``). Or one file: idx images with their labels
        beside them, or a CIFAR-10 batch; the test examples are then split off it.
    validation
        Share of the training files kept for validation, >= 0.
    seed
        Decides the split.

    Raises
    ------
    ValueError
        For a missing or malformed file: which, and what is wrong with it.

    Examples
    --------
    >>> len(load().test)
    270
    >>> load("nowhere")
    Traceback (most recent call last):
    ...
    ValueError: data must be a folder or a file of images, got nowhere: no such file or folder
    """
    if path is None:
        return digits(validation=validation, seed=seed)
    place = Path(path)
    if not place.exists():
        raise ValueError(
            f"data must be a folder or a file of images, got {place}: no such file or folder"
        )
    if place.is_file():
        one = read_cifar10([place]) if place.suffix == ".bin" else read_idx_pair(place)
        return split(one, validation=validation, seed=seed)
    train, test = _folder(place)
    kept = split(train, validation=validation, test=0.0, seed=seed)
    return Splits(kept.train, kept.validation, test)


def _folder(folder: Path) -> tuple[Data, Data]:
    images = _first(folder, "train-images*")
    if images is not None:
        test = _first(folder, "t10k-images*")
        if test is None:
            raise ValueError(f"data must have test images, got none named t10k-images* in {folder}")
        return read_idx_pair(images), read_idx_pair(test)
    batches = sorted(folder.glob("data_batch_*.bin"))
    if batches:
        return read_cifar10(batches), read_cifar10([folder / "test_batch.bin"])
    raise ValueError(
        "data must be a folder with train-images-idx3-ubyte (MNIST, Fashion-MNIST) or "
        f"data_batch_1.bin (CIFAR-10), got {folder} with neither"
    )


def _first(folder: Path, pattern: str) -> Path | None:
    return next(iter(sorted(folder.glob(pattern))), None)


def read_idx_pair(images: str | os.PathLike) -> Data:
    """An idx file of images and the file of labels beside it, named alike.

    The name of the labels has "labels" for "images" and "idx1" for "idx3", gzipped or not.

    Raises
    ------
    ValueError
        If either is missing or malformed, or their lengths differ.
    """
    images = Path(images)
    labels = _labels_beside(images)
    pixels, classes = read_idx(images), read_idx(labels)
    if pixels.ndim < 2 or not pixels.size:
        raise ValueError(
            f"{images} must hold images, got an array of shape {pixels.shape}: not a file of images"
        )
    if classes.ndim != 1 or len(classes) != len(pixels):
        raise ValueError(
            f"{labels} must hold a label for each of the {len(pixels)} images of {images.name}, "
            f"got an array of shape {classes.shape}"
        )
    _check_labels(labels, classes)
    rows = pixels.reshape(len(pixels), -1) / (255.0 if pixels.dtype.kind == "u" else 1.0)
    return classification(rows, classes.astype(np.int32), _CLASSES)


def _labels_beside(images: Path) -> Path:
    if "images" not in images.name:
        raise ValueError(f"data must be idx images with 'images' in their name, got {images}")
    name = images.name.replace("images", "labels").replace("idx3", "idx1")
    stem = name.removesuffix(".gz")
    found = [images.with_name(n) for n in (stem, stem + ".gz") if images.with_name(n).exists()]
    if not found:
        raise ValueError(f"data must have labels beside {images}, got no file {stem}[.gz]")
    return found[0]


def _check_labels(path: Path, labels: np.ndarray) -> None:
    wrong = (labels < 0) | (labels >= _CLASSES)
    if wrong.any():
        index = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"{path} must hold labels between 0 and {_CLASSES - 1}, got {labels[index]} at index "
            f"({index},)"
        )


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """The array in an idx file, gzipped or not.

    Format: two zero bytes, the type, the number of dimensions; their sizes as big-endian 32-bit
    integers; the entries (LeCun, Cortes & Burges, the MNIST database).

    Raises
    ------
    ValueError
        If it cannot be read or is malformed: the file, and what is wrong with it.
    """
    content = _content(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES:
        raise ValueError(
            f"{path} must be an idx file, got one that starts with {content[:4].hex(' ') or '—'} "
            "where 00 00, a type and a number of dimensions are expected"
        )
    dtype, dimensions = np.dtype(_IDX_TYPES[content[2]]), content[3]
    start = 4 + 4 * dimensions
    if not dimensions or len(content) < start:
        raise ValueError(
            f"{path} must hold the sizes of {dimensions or 'its'} dimensions, got a file that "
            f"ends after {len(content)} bytes"
        )
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", dimensions, offset=4))
    expected = math.prod(shape) * dtype.itemsize
    given = len(content) - start
    if given != expected:
        raise ValueError(
            f"{path} must hold {expected} bytes for an array of shape {shape}, got {given}: "
            f"{'cut short' if given < expected else 'too long'}"
        )
    values = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def _content(path: str | os.PathLike) -> bytes:
    """Of a file, unpacked if its first bytes say that it is gzipped."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} must be a readable file, got: {error.strerror}") from None
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} must be a whole gzip file, got: {error}") from None


def read_cifar10(paths: list[Path]) -> Data:
    """Batches of CIFAR-10's binary version: rows of a label and 3 x 32 x 32 bytes.

    Raises
    ------
    ValueError
        If a file cannot be read, is no whole number of rows, or has a label above 9.
    """
    rows = [_cifar_rows(path) for path in paths]
    whole = np.concatenate(rows)
    return classification(_pixels(whole), _labels(whole), _CLASSES)


def _cifar_rows(path: Path) -> UInt8[np.ndarray, "rows 3073"]:
    content = _content(path)
    if not content or len(content) % _CIFAR_ROW:
        raise ValueError(
            f"{path} must be a whole number of rows of {_CIFAR_ROW} bytes (CIFAR-10, binary "
            f"version), got {len(content)} bytes"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, _CIFAR_ROW)
    _check_labels(path, rows[:, 0])
    return rows


def _pixels(rows: UInt8[np.ndarray, "rows 3073"]) -> Float[np.ndarray, "rows 3072"]:
    return rows[:, 1:].astype(np.float32) / np.float32(255.0)


def _labels(rows: UInt8[np.ndarray, "rows 3073"]) -> Int[np.ndarray, " rows"]:
    return rows[:, 0].astype(np.int32)
