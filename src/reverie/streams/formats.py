"""Readers of data files: idx, CIFAR's pickled batches, npy, npz, members of a tar. No continual learning in here.

Every reader takes bytes and the name of where they came from, gives plain numpy arrays, and executes nothing that the
file says. What it cannot read it refuses with a DataError that names the file.
"""

from __future__ import annotations

import gzip
import io
import lzma
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from reverie.checks import DataError

DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".xz": lzma.decompress}


def read_bytes(path: Path) -> bytes:
    """The whole content of a file, as it is on disk."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def decompress(packed: bytes, source: str) -> bytes:
    """Unpacks the content of a ``.gz`` or ``.xz`` file, judged by the ending of ``source``; others stay as they are."""
    unpack = DECOMPRESS.get(Path(source).suffix)
    if unpack is None:
        return packed
    if not packed:  # gzip takes no bytes at all for an empty content
        raise DataError(f"{source}: the file is empty; copy or fetch it again")
    try:
        return unpack(packed)
    except EOFError:
        raise DataError(f"{source}: the file is truncated; copy or fetch it again") from None
    except lzma.LZMAError as error:
        # lzma.decompress reports a cut with this error and this text, not with EOFError.
        what = "truncated" if "end-of-stream" in str(error) else f"damaged ({error})"
        raise DataError(f"{source}: the file is {what}; copy or fetch it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{source}: the file is damaged ({error}); copy or fetch it again") from None


# -------------------------------------------------------------------------------------------------- idx


def parse_idx(raw: bytes, source: str, dims: int) -> np.ndarray:
    """An idx file of unsigned bytes, as MNIST and its kin use it.

    The header is big-endian: magic 2048 + dims (2051 for images, 2049 for labels), then ``dims`` sizes.

    Returns: uint8 array with ``dims`` axes, for instance (N, 28, 28) or (N,).
    """
    magic, expected = int.from_bytes(raw[:4], "big"), 0x0800 + dims
    if len(raw) < 4 or magic != expected:
        raise DataError(f"{source}: not an idx file of {dims} dimensions: magic number {magic}, expected {expected}")
    start = 4 + 4 * dims
    if len(raw) < start:
        raise DataError(f"{source}: the file is truncated within its header ({len(raw)} of {start} bytes)")
    shape = tuple(int.from_bytes(raw[at : at + 4], "big") for at in range(4, start, 4))
    size = start + int(np.prod(shape, dtype=object))  # Python integers: a made-up header cannot overflow them
    if len(raw) != size:
        what = "truncated" if len(raw) < size else "too long"
        raise DataError(f"{source}: the file is {what}: {len(raw)} bytes, its header {shape} asks for {size}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


# ------------------------------------------------------------------------------------- CIFAR's pickles


class _PickledDtype:
    """Stands in for numpy.dtype: keeps the type's code and byte order, and only plain numbers are let through."""

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"):
            raise ValueError(f"array of type {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        byte_order = state[1]  # '|', '<', '>' or '='
        self.dtype = self.dtype.newbyteorder(byte_order)


class _PickledArray:
    """Stands in for numpy's own reconstruction, which trusts the file's state; here the sizes are checked."""

    def __init__(self, *_: Any) -> None:
        self.array: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        # Python 2 wrote the content as a string, which encoding="latin1" below turns into one character a byte.
        content = content.encode("latin1") if isinstance(content, str) else content
        self.array = np.frombuffer(content, kind.dtype).reshape(shape, order="F" if fortran else "C")


# All that a pickle of plain arrays needs. None of it is the real thing: numpy never sees the file's own state, and the
# classes all have __setstate__, so that a pickle cannot write attributes on them either.
_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
    ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
    ("numpy", "ndarray"): None,  # only handed to _reconstruct, which ignores it; calling it fails
    ("numpy", "dtype"): _PickledDtype,
    ("_codecs", "encode"): bytes,  # how Python 3 writes bytes in protocol 2: encode(text, "latin1")
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            raise DataError(f"the file asks for {module}.{name}, which no data batch needs; nothing was executed")
        return _GLOBALS[module, name]


def parse_pickle(raw: bytes, source: str) -> dict[str, Any]:
    """A pickled dict of numbers, strings, lists and plain numpy arrays, written by Python 2 or 3.

    No global that the file names is imported or called; one that arrays do not need is a DataError that names it.

    Returns: the dict, strings decoded as latin1, arrays as numpy arrays (read-only).
    """
    try:
        value = _ArrayUnpickler(io.BytesIO(raw), encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{source}: not a readable data batch ({type(error).__name__}: {error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{source}: holds a {type(value).__name__}, expected a dict")
    return {str(key): item.array if isinstance(item, _PickledArray) else item for key, item in value.items()}


def parse_cifar(raw: bytes, source: str, labels: str) -> tuple[np.ndarray, np.ndarray]:
    """A CIFAR python batch; ``labels`` is the key of the labels: "labels" (CIFAR-10) or "fine_labels" (CIFAR-100).

    Returns: x (N, 3, 32, 32) uint8, y (N,) int64.
    """
    batch = parse_pickle(raw, source)
    for key in ("data", labels):
        if key not in batch:
            raise DataError(f"{source}: has no {key!r}; it has {', '.join(sorted(batch))}")
    x, y = batch["data"], batch[labels]
    if not isinstance(x, np.ndarray) or x.dtype != np.uint8 or x.ndim != 2 or x.shape[1] != 3072:
        found = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise DataError(f"{source}: 'data' is {found}, expected uint8 (N, 3072)")
    if not isinstance(y, list) or len(y) != len(x) or not all(isinstance(label, int) for label in y):
        raise DataError(f"{source}: {labels!r} must be a list of {len(x)} integers, one for each image")
    return x.reshape(-1, 3, 32, 32), np.asarray(y, np.int64)


# ------------------------------------------------------------------------------------------- npy, npz, tar


def parse_npy(raw: bytes, source: str) -> np.ndarray:
    """One array in numpy's npy format, without Python objects."""
    try:
        return np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        raise DataError(f"{source}: not a readable npy file without Python objects ({error})") from error


def parse_npz(raw: bytes, source: str, keys: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an npz file, without Python objects: those named in ``keys``, or all of them."""
    try:
        # np.load tells the formats apart by their first bytes and would take a pickle for a wrong option of ours.
        if not zipfile.is_zipfile(io.BytesIO(raw)):
            raise DataError(f"{source}: not an npz file, or a truncated one; copy or fetch it again")
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            missing = sorted(set(keys or ()) - set(arrays.files))
            if missing:
                raise DataError(f"{source}: has no {', '.join(missing)}; it has {', '.join(arrays.files) or 'nothing'}")
            return {key: arrays[key] for key in keys or arrays.files}
    except (ValueError, EOFError, MemoryError, OSError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{source}: not a readable npz file without Python objects ({error})") from error


def read_tar(path: Path, names: Iterable[str]) -> dict[str, bytes]:
    """The named members of a tar file (.tar, .tar.gz, .tar.xz), read into memory.

    Nothing is extracted, so no member can be written anywhere, whatever it is called; links are not followed.
    """
    wanted, found = set(names), {}
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.name in wanted:
                    if not member.isfile():
                        raise DataError(f"{path}: {member.name} is not a plain file; fetch the archive again")
                    content = archive.extractfile(member)
                    found[member.name] = content.read() if content else b""
                if len(found) == len(wanted):
                    return found  # what follows need not even be unpacked
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path}: the archive is truncated or damaged ({error}); copy or fetch it again") from error
    raise DataError(f"{path}: the archive has no {', '.join(sorted(wanted - set(found)))}")


# -------------------------------------------------------------------------------------------------- mat


def parse_mat(raw: bytes, source: str, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Numeric arrays of a MATLAB 5 file, by name."""
    names = list(names)
    try:
        found = loadmat(io.BytesIO(raw), variable_names=names)
    except (ValueError, TypeError, NotImplementedError, OSError, MatReadError, zlib.error) as error:
        raise DataError(f"{source}: not a readable MATLAB 5 file ({error}); copy or fetch it again") from None
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{source}: holds no {', '.join(missing)}; is it the right file?")
    return {name: np.asarray(found[name]) for name in names}
