"""Real inputs in pairs, brought to a chosen second moment and correlation."""

import hashlib
import os

import numpy as np
from jaxtyping import Float

__all__ = [
    "check_batches",
    "check_moments",
    "content_of",
    "content_of_arrays",
    "digit_batches",
    "digit_pairs",
    "load_pairs",
    "pairs_for",
    "with_moments",
]

_IMAGES, _PIXELS = 1797, 64  # of scikit-learn's digits
_PARALLEL = 1e-6  # below this sine, what is left of the second image is mostly rounding


def digit_pairs(pairs: int, *, seed: int = 0) -> Float[np.ndarray, "pairs 2 pixels"]:
    """Pairs of different 8x8 digit images (the UCI set that ships with scikit-learn).

    Parameters
    ----------
    pairs
        How many, 1 to 898; no image is used twice.
    seed
        Decides which.

    Returns
    -------
    numpy.ndarray
        (pairs, 2, 64) grey values, 0 to 16.

    Examples
    --------
    >>> digit_pairs(3).shape
    (3, 2, 64)
    """
    import sklearn.datasets  # takes seconds to import; only digits need it

    images = np.asarray(sklearn.datasets.load_digits(return_X_y=True)[0], dtype=np.float64)
    if not 1 <= pairs <= len(images) // 2:
        raise ValueError(f"pairs must be between 1 and {len(images) // 2}, got {pairs}")
    chosen = np.random.default_rng(seed).permutation(len(images))[: 2 * pairs]
    return images[chosen].reshape(pairs, 2, -1)


def digit_batches(
    batches: int, size: int, *, seed: int = 0, correlation: float = 0.5
) -> Float[np.ndarray, "batches size pixels"]:
    """Batches of digit images, each of mean square 1 and every two of a batch at one cosine.

    From orthonormal directions e_0..e_B of B + 1 images (Gram-Schmidt), image a is
    √N₀ (√c e_0 + √(1 - c) e_a), N₀ = 64.

    Parameters
    ----------
    batches
        How many, 1 to 1797 // (size + 1); no image is used twice.
    size
        Images B a batch, 1 to 63.
    seed
        Decides which.
    correlation
        c, 0 to 1.

    Returns
    -------
    numpy.ndarray
        (batches, size, 64).

    Raises
    ------
    ValueError
        For more images than there are, and a value out of range.

    Examples
    --------
    >>> first = digit_batches(2, 3, correlation=0.25)[0]
    >>> np.round(first @ first.T / 64, 12)[0]
    array([1.  , 0.25, 0.25])
    """
    import sklearn.datasets  # takes seconds to import; only digits need it

    images = np.asarray(sklearn.datasets.load_digits(return_X_y=True)[0], dtype=np.float64)
    entries = images.shape[1]
    check_batches(batches, size)
    if not 0 <= correlation <= 1:
        raise ValueError(f"correlation must be between 0 and 1, got {correlation}")
    chosen = np.random.default_rng(seed).permutation(len(images))[: batches * (size + 1)]
    stacked = images[chosen].reshape(batches, size + 1, entries)
    directions = np.linalg.qr(np.swapaxes(stacked, 1, 2))[0].swapaxes(1, 2)
    mixed = np.sqrt(correlation) * directions[:, :1] + np.sqrt(1 - correlation) * directions[:, 1:]
    return np.sqrt(entries) * mixed


def check_batches(batches: int, size: int) -> None:
    """Raise ValueError for more images than there are, or than directions in a batch."""
    if not 1 <= size < _PIXELS:
        raise ValueError(f"batch must be between 1 and {_PIXELS - 1} images, got {size}")
    most = _IMAGES // (size + 1)
    if not 1 <= batches <= most:
        raise ValueError(f"batches of {size} must be between 1 and {most}, got {batches}")


def load_pairs(path: str | os.PathLike) -> Float[np.ndarray, "pairs 2 entries"]:
    """Pairs of inputs from a NumPy file.

    Parameters
    ----------
    path
        A ``.npy`` file of real numbers, shaped (2, entries) for one pair or (pairs, 2, entries);
        images, as (2, 28, 28) or (pairs, 2, 28, 28, 3), are flattened.

    Returns
    -------
    numpy.ndarray
        (pairs, 2, entries), as stored.

    Raises
    ------
    ValueError
        If the file cannot be read, or holds no finite numbers of that shape.

    Examples
    --------
    >>> load_pairs("nowhere.npy")
    Traceback (most recent call last):
    ...
    ValueError: inputs must be a readable .npy file, got nowhere.npy: No such file or directory
    """
    try:
        with open(path, "rb") as file:
            stored = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise ValueError(
            f"inputs must be a readable .npy file, got {path}: {error.strerror}"
        ) from None
    except (ValueError, EOFError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"inputs must be a readable .npy file, got {path}: {reason}") from None
    if stored.dtype.kind not in "fiub":
        raise ValueError(f"inputs must hold real numbers, got dtype {stored.dtype} in {path}")
    at = 1 if stored.ndim > 2 and stored.shape[1] == 2 else 0  # of the axis of a pair
    if stored.ndim < 2 or stored.shape[at] != 2 or stored.size == 0:
        raise ValueError(
            "inputs must have shape (2, entries) or (pairs, 2, entries), or axes of images for "
            f"entries, got {stored.shape} in {path}"
        )
    pairs = stored.shape[0] if at else 1
    return stored.astype(np.float64).reshape(pairs, 2, -1)


def pairs_for(
    count: int, *, seed: int, input_file: str | os.PathLike | None
) -> Float[np.ndarray, "count 2 entries"]:
    """A pair for each of ``count`` networks: of digits, or of the user's file again and again."""
    if input_file is None:
        return digit_pairs(count, seed=seed)
    stored = load_pairs(input_file)
    return stored[np.arange(count) % len(stored)]


def content_of(input_file: str | os.PathLike | None) -> str:
    """What identifies the inputs, wherever their file lies."""
    return "digits" if input_file is None else content_of_arrays(load_pairs(input_file))


def content_of_arrays(*arrays: np.ndarray) -> str:
    """The same for numbers in memory.

    Examples
    --------
    >>> content_of_arrays(np.zeros(3)) == content_of_arrays(np.zeros(4))
    False
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return f"file with content {digest.hexdigest()[:16]}"


def with_moments(
    pairs: Float[np.ndarray, "pairs 2 entries"], *, second_moment: float, correlation: float
) -> Float[np.ndarray, "pairs 2 entries"]:
    """The same inputs scaled and mixed to |x|²/N₀ and cosine as chosen, to rounding.

    Gram-Schmidt within each pair: with unit vectors e₁ ∥ x_1 and e₂ ⟂ e₁ in the plane of the two,
    the first becomes r e₁ and the second r (c e₁ + sqrt(1 - c²) e₂), r² = N₀ · second_moment.

    Parameters
    ----------
    pairs
        (pairs, 2, entries), entries >= 2; every input finite and not constant, and the two of a
        pair not parallel.
    second_moment
        Mean square of the entries of every input, > 0.
    correlation
        Cosine of the angle between the two inputs of every pair, -1 to 1.

    Returns
    -------
    numpy.ndarray
        Same shape, float64.

    Raises
    ------
    ValueError
        For a value out of range, or an input that is not finite, zero, constant, or parallel to
        the other of its pair.

    Examples
    --------
    >>> a, b = with_moments(digit_pairs(1), second_moment=2.0, correlation=0.25)[0]
    >>> round(float(a @ a / 64), 12), round(float(a @ b / 128), 12)
    (2.0, 0.25)
    """
    check_moments(second_moment, correlation)
    _check_usable(pairs)
    # Scaled by the largest entry first: squares of very large or small inputs would overflow.
    scaled = pairs / np.abs(pairs).max(axis=-1, keepdims=True)
    first, second = _orthonormal(scaled[:, 0], scaled[:, 1])
    mixed = correlation * first + np.sqrt(1 - correlation**2) * second
    return np.sqrt(pairs.shape[-1] * second_moment) * np.stack([first, mixed], axis=1)


def check_moments(second_moment: float, correlation: float) -> None:
    """Raise ValueError for moments that no pair of inputs can be brought to."""
    if not (np.isfinite(second_moment) and second_moment > 0):
        raise ValueError(f"input_second_moment must be > 0 and finite, got {second_moment}")
    if not -1 <= correlation <= 1:
        raise ValueError(f"input_correlation must be between -1 and 1, got {correlation}")


def _check_usable(pairs: np.ndarray) -> None:
    if pairs.ndim != 3 or pairs.shape[1] != 2 or pairs.shape[2] < 2:
        raise ValueError(f"inputs must have shape (pairs, 2, entries >= 2), got {pairs.shape}")
    if not np.isfinite(pairs).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(pairs))[0])
        raise ValueError(f"inputs must be finite, got {pairs[where]} at index {where}")
    constant = np.ptp(pairs, axis=-1) == 0
    if constant.any():
        pair, which = (int(i) for i in np.argwhere(constant)[0])
        value = pairs[pair, which, 0]
        raise ValueError(
            f"inputs must not be constant, got {value:g} everywhere in input {which} of pair {pair}"
        )


def _orthonormal(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first = first / np.linalg.norm(first, axis=-1, keepdims=True)
    second = second / np.linalg.norm(second, axis=-1, keepdims=True)
    for _ in range(2):  # once more for the rounding that nearly parallel inputs leave
        second = second - np.sum(first * second, axis=-1, keepdims=True) * first
        sine = np.linalg.norm(second, axis=-1, keepdims=True)
        if (sine < _PARALLEL).any():
            pair = int(np.flatnonzero(sine < _PARALLEL)[0])
            raise ValueError(f"inputs of a pair must not be parallel, those of pair {pair} are")
        second = second / sine
    return first, second
