"""Data sets as arrays: found on disk or fetched, checked, decoded. Which there are is the table DATASETS below.

Files are looked for in the user's data folder (``data_dir``), then in the one that REVERIE_DATA names, then in the
user's cache, each in our own layout (``mnist/``, ``cifar10/``, ...) and in torchvision's (``MNIST/raw/``,
``cifar-10-batches-py/``, ...). What is nowhere is fetched into the cache. Every file's checksum is compared, and a file
that is damaged is an error, never passed over in silence.

Environment: REVERIE_DATA (data folder), REVERIE_CACHE (cache folder instead of the system's usual place), and
REVERIE_MIRROR (base address to fetch from instead of the publishers': files are asked for at MIRROR/<data set>/<file>).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import pooch
from sklearn.datasets import load_digits

from reverie.checks import DataError, Problems, nearest
from reverie.streams.formats import (
    decompress,
    parse_cifar,
    parse_idx,
    parse_mat,
    parse_npy,
    parse_npz,
    parse_pickle,
    read_bytes,
    read_tar,
)

DATA_VARIABLE, CACHE_VARIABLE, MIRROR_VARIABLE = "REVERIE_DATA", "REVERIE_CACHE", "REVERIE_MIRROR"


@dataclass(frozen=True)
class Dataset:
    """A data set in memory. Its arrays cannot be written to, since every load of a process shares them.

    x_train, x_test: (N, C, H, W), uint8 in [0, 255] or float32 in [0, 1]. y_train, y_test: (N,) int64, an index into
    ``classes``. checksum: sha256 over the four arrays, the same from whichever files they came.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple[str, ...]
    checksum: str


# ------------------------------------------------------------------------------------ from files to arrays


class Parts(NamedTuple):
    """What a decoder gives: a Dataset before its checks, in any integer or pixel type."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple[str, ...]


Contents = Mapping[str, bytes]  # unpacked content by file name
DIGITS = tuple("0123456789")
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _digits(_: Contents) -> Parts:
    """The 1797 digits inside scikit-learn; of each class every fifth image, in the given order, is a test image."""
    bunch = load_digits()
    x, y = (bunch.images / 16).astype(np.float32)[:, None], bunch.target
    test = np.zeros(len(y), bool)
    for label in range(10):
        test[np.flatnonzero(y == label)[4::5]] = True
    return Parts(x[~test], y[~test], x[test], y[test], DIGITS)


def _svhn(contents: Contents) -> Parts:
    """Cropped street view house numbers; the digit 0 is labelled 10 in the files."""

    def part(name: str) -> tuple[np.ndarray, np.ndarray]:
        found = parse_mat(contents[name], name, ("X", "y"))
        return np.ascontiguousarray(found["X"].transpose(3, 2, 0, 1)), found["y"].reshape(-1) % 10

    return Parts(*part("train_32x32.mat"), *part("test_32x32.mat"), DIGITS)


def _digits_inverted(contents: Contents) -> Parts:
    """The same digits mirrored left to right and with inverted ink: another domain of the same classes."""
    digits = _digits(contents)
    x_train, x_test = (np.ascontiguousarray(1 - x[..., ::-1]) for x in (digits.x_train, digits.x_test))
    return digits._replace(x_train=x_train, x_test=x_test)


def _idx(contents: Contents, classes: tuple[str, ...]) -> Parts:
    def images(part: str) -> np.ndarray:
        return parse_idx(contents[f"{part}-images-idx3-ubyte"], f"{part}-images-idx3-ubyte", 3)[:, None]

    def labels(part: str) -> np.ndarray:
        return parse_idx(contents[f"{part}-labels-idx1-ubyte"], f"{part}-labels-idx1-ubyte", 1)

    return Parts(images("train"), labels("train"), images("t10k"), labels("t10k"), classes)


def _kmnist_7000(contents: Contents) -> Parts:
    train = parse_npz(contents["train_first7000.npz"], "train_first7000.npz", ("x_train", "y_train"))
    x_test = parse_idx(contents["t10k-images-idx3-ubyte"], "t10k-images-idx3-ubyte", 3)[:, None]
    y_test = parse_idx(contents["t10k-labels-idx1-ubyte"], "t10k-labels-idx1-ubyte", 1)
    return Parts(train["x_train"][:, None], train["y_train"], x_test, y_test, DIGITS)


def _cifar10(contents: Contents) -> Parts:
    train = [parse_cifar(contents[name], name, "labels") for name in CIFAR10_TRAIN]
    x_test, y_test = parse_cifar(contents["test_batch"], "test_batch", "labels")
    x_train, y_train = (np.concatenate(arrays) for arrays in zip(*train))
    return Parts(x_train, y_train, x_test, y_test, CIFAR10)


def _fine_names(contents: Contents) -> tuple[str, ...]:
    names = parse_pickle(contents["meta"], "meta").get("fine_label_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError("meta: has no list of names 'fine_label_names'")
    return tuple(names)


def _cifar100(contents: Contents) -> Parts:
    x_train, y_train = parse_cifar(contents["train"], "train", "fine_labels")
    x_test, y_test = parse_cifar(contents["test"], "test", "fine_labels")
    return Parts(x_train, y_train, x_test, y_test, _fine_names(contents))


def _cifar100_subset(contents: Contents) -> Parts:
    x_train, x_test = (parse_npy(contents[name], name) for name in ("x_train.npy", "x_test.npy"))
    labels = parse_npz(contents["labels.npz"], "labels.npz", ("y_train", "y_test"))
    return Parts(x_train, labels["y_train"], x_test, labels["y_test"], _fine_names(contents))


def _usps(contents: Contents) -> Parts:
    arrays = parse_npz(contents["usps.npz"], "usps.npz", ("x_train", "y_train", "x_test", "y_test"))
    return Parts(
        arrays["x_train"][:, None], arrays["y_train"], arrays["x_test"][:, None], arrays["y_test"], classes=DIGITS
    )


# ----------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class File:
    """A file by its unpacked name. md5: of its unpacked content; gz_md5: of the ``.gz`` that its publisher gives out.

    Where only gz_md5 is known, an unpacked copy is checked by its form alone.
    """

    name: str
    md5: str = ""
    gz_md5: str = ""


@dataclass(frozen=True)
class Archive:
    """A tar file that holds the files of a data set in the folder ``folder``."""

    name: str
    md5: str
    folder: str


@dataclass(frozen=True)
class Source:
    """Where a data set comes from and how its files become arrays.

    folders: where its files lie inside a data folder; the first is where fetched files go. Each file may end in .gz or
    .xz. urls: base addresses of the publisher and its mirrors, none if it cannot be fetched. rows: images in the train
    and in the test set. checksum: of the arrays, where the files themselves have no canonical bytes. part_of: the full
    data set that this is a part of. keep_decoded: decoding takes seconds, so keep the arrays in the cache.
    """

    decode: Callable[[Contents], Parts]
    rows: tuple[int, int]
    folders: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    archive: Archive | None = None
    urls: tuple[str, ...] = ()
    checksum: str = ""
    part_of: str = ""
    keep_decoded: bool = False

    @property
    def downloads(self) -> dict[str, str]:
        """What to fetch: md5 by file name."""
        if self.archive:
            return {self.archive.name: self.archive.md5}
        packed = {f"{file.name}.gz": file.gz_md5 for file in self.files if file.gz_md5}
        return packed or {file.name: file.md5 for file in self.files if self.urls}


CIFAR10_TRAIN = tuple(f"data_batch_{batch}" for batch in range(1, 6))
KMNIST_TEST = (
    File("t10k-images-idx3-ubyte", "bf305b8cd328700fbc17f5acbc2856d2", "5c965bf0a639b31b8f53240b1b52f4d7"),
    File("t10k-labels-idx1-ubyte", "9f55f451c0988b028eccdf7d5cc265ab", "7320c461ea6c1c855c0b718fb2a4b134"),
)
CIFAR100_META = File("meta", "7973b15100ade9c7d40fb424638fde48")

DATASETS: dict[str, Source] = {
    "digits": Source(_digits, rows=(1442, 355)),
    "digits-inverted": Source(_digits_inverted, rows=(1442, 355)),
    "mnist": Source(
        partial(_idx, classes=DIGITS),
        rows=(60000, 10000),
        folders=("mnist", "MNIST/raw"),
        files=(
            File("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            File("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624", "d53e105ee54ea40749a09fcbcd1e9432"),
            File("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea", "9fb629c4189551a2d022fa330f9573f3"),
            File("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637", "ec29112dd5afa0611ce80d1b7f02629c"),
        ),
        urls=(
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
        ),
    ),
    "fashion-mnist": Source(
        partial(_idx, classes=FASHION),
        rows=(60000, 10000),
        folders=("fashion_mnist", "FashionMNIST/raw"),
        files=(
            File("train-images-idx3-ubyte", "f4a8712d7a061bf5bd6d2ca38dc4d50a", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            File("train-labels-idx1-ubyte", "9018921c3c673c538a1fc5bad174d6f9", "25c81989df183df01b3e8a0aad5dffbe"),
            File("t10k-images-idx3-ubyte", "8181f5470baa50b63fa0f6fddb340f0a", "bef4ecab320f06d8554ea6380940ec79"),
            File("t10k-labels-idx1-ubyte", "15d484375f8d13e6eb1aabb0c3f46965", "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
        urls=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",),
    ),
    "kmnist": Source(
        partial(_idx, classes=DIGITS),
        rows=(60000, 10000),
        folders=("kmnist", "KMNIST/raw"),
        files=(
            File("train-images-idx3-ubyte", gz_md5="bdb82020997e1d708af4cf47b453dcf7"),
            File("train-labels-idx1-ubyte", gz_md5="e144d726b3acfaa3e44228e80efcd344"),
            *KMNIST_TEST,
        ),
        urls=("http://codh.rois.ac.jp/kmnist/dataset/kmnist",),
    ),
    "kmnist-7000": Source(
        _kmnist_7000,
        rows=(7000, 10000),
        folders=("kmnist",),
        files=(File("train_first7000.npz", "de6844d956c7942c17e413d709c952a6"), *KMNIST_TEST),
        part_of="kmnist",
    ),
    "cifar10": Source(
        _cifar10,
        rows=(50000, 10000),
        folders=("cifar10", "cifar-10-batches-py"),
        files=(
            File("data_batch_1", "c99cafc152244af753f735de768cd75f"),
            File("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
            File("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
            File("data_batch_4", "634d18415352ddfa80567beed471001a"),
            File("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
            File("test_batch", "40351d587109b95175f43aff81a1287e"),
        ),
        archive=Archive("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py"),
        urls=("https://www.cs.toronto.edu/~kriz",),
        keep_decoded=True,
    ),
    "cifar100": Source(
        _cifar100,
        rows=(50000, 10000),
        folders=("cifar100", "cifar-100-python"),
        files=(
            File("train", "16019d7e3df5f24257cddd939b257f8d"),
            File("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
            CIFAR100_META,
        ),
        archive=Archive("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python"),
        urls=("https://www.cs.toronto.edu/~kriz",),
        keep_decoded=True,
    ),
    "cifar100-subset": Source(
        _cifar100_subset,
        rows=(10000, 2000),
        folders=("cifar100_subset",),
        files=(
            File("x_train.npy", "04e7e98a4e7ee777dc708c91950e9bb6"),
            File("x_test.npy", "98f73675bf8d7274a27ea1d97337ac1d"),
            File("labels.npz", "6d67beb6998e73b29f8bdde6d0eb413a"),
            CIFAR100_META,
        ),
        part_of="cifar100",
        keep_decoded=True,
    ),
    "svhn": Source(
        _svhn,
        rows=(73257, 26032),
        folders=("svhn", ""),
        files=(
            File("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
            File("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
        ),
        urls=("http://ufldl.stanford.edu/housenumbers",),
        keep_decoded=True,
    ),
    "usps": Source(
        _usps,
        rows=(7291, 2007),
        folders=("usps",),
        files=(File("usps.npz"),),
        checksum="67488e6203629f10ac4ecd1aaa8ef46414b0b4e3f28f91097a7397d8ad34a5a1",
    ),
}


# --------------------------------------------------------------------------------------- what users call


def load(name: str, data_dir: str | Path | None = None, *, download: bool = True) -> Dataset:
    """A data set by its name in DATASETS, from disk, or else fetched into the user's cache.

    Raises: DataError if there is no such data set, if its files are nowhere and cannot be fetched (or ``download`` is
    False), or if a file is damaged.

    >>> digits = load("digits")
    >>> digits.x_train.shape, digits.x_train.dtype, len(digits.y_test)
    ((1442, 1, 8, 8), dtype('float32'), 355)
    """
    source = _source(name)
    return _load(name, _search_folders(source, data_dir), download)


def available(data_dir: str | Path | None = None) -> dict[str, Path | None]:
    """Where each data set of the table is found without fetching anything; None where it is not. Nothing is read."""
    places = {name: _locate(source, _search_folders(source, data_dir)) for name, source in DATASETS.items()}
    return {name: found.folder if found else None for name, found in places.items()}


def verify(name: str, data_dir: str | Path | None = None) -> Path:
    """Reads a data set's files anew, past every cache, and compares their checksums.

    Returns: the folder they are in. Raises: DataError if they are not found or not what they should be.
    """
    source = _source(name)
    folders = _search_folders(source, data_dir)
    found = _locate(source, folders)
    if found is None:
        _refuse(name, folders, "nothing was fetched, since this only verifies what is there")
    _decode(name, source, found)
    return found.folder


def fetch(name: str) -> Path:
    """Fetches a data set into the user's cache, or completes and repairs what is there, and verifies it.

    Returns: the folder in the cache. Raises: DataError if it cannot be fetched; no incomplete file is left.
    """
    source = _source(name)
    if source.files:  # otherwise it came with a library
        _download(name, source, (cache_dir(),))
    return verify(name, cache_dir())


def cache_dir() -> Path:
    """The folder for fetched and decoded data: REVERIE_CACHE, or else the system's usual place."""
    return Path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("reverie")).expanduser().resolve()


# ---------------------------------------------------------------------------------------- finding the files


@dataclass(frozen=True)
class Found:
    """The files of a data set on disk: all at ``paths``, by name, or all inside ``archive``."""

    folder: Path
    paths: Mapping[str, Path]
    archive: Path | None = None


def _source(name: str) -> Source:
    if name not in DATASETS:
        raise DataError(f"no data set {name!r}: {nearest(name, DATASETS)}")
    return DATASETS[name]


def _search_folders(source: Source, data_dir: str | Path | None) -> tuple[Path, ...]:
    """The data folders to look in, the user's own first. A folder named but missing is an error, not an empty one."""
    if not source.files:
        return ()
    named = {"data folder": data_dir, DATA_VARIABLE: os.environ.get(DATA_VARIABLE)}
    folders = {what: Path(folder).expanduser().resolve() for what, folder in named.items() if folder}
    problems = Problems()
    for what, folder in folders.items():
        problems.check(folder.is_dir(), f"{what} = {str(folder)!r}: must be an existing folder")
    problems.raise_as(DataError, "cannot look for data sets")
    return tuple(dict.fromkeys((*folders.values(), cache_dir())))


def _locate(source: Source, folders: tuple[Path, ...]) -> Found | None:
    """The first place that has all files of the data set, in any of the layouts."""
    if not source.files:
        return Found(_library_folder(), {})
    for folder in (root / layout for root in folders for layout in source.folders):
        paths = _present(source, folder)
        if len(paths) == len(source.files):
            return Found(folder, paths)
    if source.archive:
        for folder in (root / layout for root in folders for layout in (*source.folders, "")):
            if (folder / source.archive.name).is_file():
                return Found(folder, {}, folder / source.archive.name)
    return None


def _present(source: Source, folder: Path) -> dict[str, Path]:
    """Those of the data set's files that are in ``folder``. Packed forms come first: their checksum is always known."""
    places = {file.name: [folder / (file.name + ending) for ending in (".gz", ".xz", "")] for file in source.files}
    found = {name: next((path for path in paths if path.is_file()), None) for name, paths in places.items()}
    return {name: path for name, path in found.items() if path}


def _library_folder() -> Path:
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None  # it is imported above
    return Path(str(spec.origin)).parent / "datasets" / "data"


def _refuse(name: str, folders: tuple[Path, ...], *reasons: str) -> NoReturn:
    """Says that a data set is not to be had, why, and what to put where."""
    source = DATASETS[name]
    problems = Problems()
    problems.add(f"looked in {', '.join(map(str, folders))}")
    for folder in (root / layout for root in folders for layout in source.folders):
        present = _present(source, folder)
        missing = [file.name for file in source.files if file.name not in present]
        problems.check(not present, f"{folder} is incomplete: it has no {', '.join(missing)}")
    for reason in reasons:
        problems.add(reason)
    needed = ", ".join(source.downloads if source.urls else (file.name for file in source.files))
    layout = source.folders[0]
    problems.add(
        f"put {needed} into {cache_dir() / layout}, or into {layout}/ of a data folder of your own "
        f"(--data-dir or {DATA_VARIABLE})"
    )
    for part, entry in DATASETS.items():
        found = _locate(entry, folders) if entry.part_of == name else None
        problems.check(found is None, f"a part of it is there and loads under its own name: {part!r}")
    problems.raise_as(DataError, f"data set {name!r} is not available")
    raise AssertionError("unreachable: there is always a problem")


# ------------------------------------------------------------------------------------- reading and checking


@lru_cache(maxsize=4)  # the latest few, since one experiment loads the same data set for every cell of its grid
def _load(name: str, folders: tuple[Path, ...], download: bool) -> Dataset:
    source = DATASETS[name]
    found = _locate(source, folders)
    if found is None and download:
        _download(name, source, folders)
        found = _locate(source, folders)
    if found is None:
        _refuse(name, folders, "nothing was fetched, since fetching was switched off")
    if not source.keep_decoded:
        return _decode(name, source, found)
    data = _read_decoded(name, source, _stamp(source, found))
    if data is None:
        data = _decode(name, source, found)
        _write_decoded(data, _stamp(source, found))
    return data


def _decode(name: str, source: Source, found: Found) -> Dataset:
    contents = _contents(source, found)
    try:
        return _checked(name, source, source.decode(contents))
    except (ValueError, IndexError, TypeError) as error:  # DataError, or numpy on arrays of quite another form
        raise DataError(f"data set {name!r} in {found.folder}: {error}") from error


def _contents(source: Source, found: Found) -> Contents:
    """The unpacked content of every file, its checksum compared."""
    if found.archive and source.archive:
        members = {file.name: f"{source.archive.folder}/{file.name}" for file in source.files}
        content = read_tar(found.archive, members.values())
        for file in source.files:
            _compare(content[members[file.name]], file.md5, f"{found.archive}: {file.name}")
        return {name: content[member] for name, member in members.items()}
    with ThreadPoolExecutor(max_workers=2) as pool:  # unpacking lets go of the interpreter lock
        return dict(pool.map(lambda file: (file.name, _content(file, found.paths[file.name])), source.files))


def _content(file: File, path: Path) -> bytes:
    packed = read_bytes(path)
    if not file.md5 and path.suffix == ".gz":
        _compare(packed, file.gz_md5, str(path))
    raw = decompress(packed, str(path))
    _compare(raw, file.md5, str(path))
    return raw


def _compare(content: bytes, md5: str, where: str) -> None:
    got = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 and got != md5:
        raise DataError(
            f"{where}: wrong checksum: md5 {got}, expected {md5}. The file is damaged or another version; "
            "delete it to have it fetched, or copy it anew"
        )


def _checked(name: str, source: Source, parts: Parts) -> Dataset:
    """A Dataset from decoded arrays, once they keep its rules."""
    problems = Problems()
    rows = (len(parts.x_train), len(parts.x_test))
    problems.check(
        rows == source.rows,
        f"{rows[0]} train and {rows[1]} test images, expected {source.rows[0]} and {source.rows[1]}; "
        "a part of a data set loads only under a name of its own",
    )
    _check_part(problems, "train", parts.x_train, parts.y_train, len(parts.classes))
    _check_part(problems, "test", parts.x_test, parts.y_test, len(parts.classes))
    problems.raise_as(DataError, "not the expected arrays")
    x_train, x_test = np.ascontiguousarray(parts.x_train), np.ascontiguousarray(parts.x_test)
    y_train, y_test = parts.y_train.astype(np.int64, order="C"), parts.y_test.astype(np.int64, order="C")
    checksum = _checksum(x_train, y_train, x_test, y_test)
    if source.checksum not in ("", checksum):
        raise DataError(f"wrong checksum: the arrays' sha256 is {checksum}, expected {source.checksum}")
    for array in (x_train, y_train, x_test, y_test):
        array.setflags(write=False)
    return Dataset(name, x_train, y_train, x_test, y_test, parts.classes, checksum)


def _check_part(problems: Problems, part: str, x: np.ndarray, y: np.ndarray, classes: int) -> None:
    problems.check(x.ndim == 4, f"{part} images of shape {x.shape}, expected (N, C, H, W)")
    problems.check(y.shape == x.shape[:1], f"{part} labels of shape {y.shape} for {len(x)} images")
    problems.check(x.dtype in (np.uint8, np.float32), f"{part} pixels are {x.dtype}, expected uint8 or float32")
    problems.check(y.dtype.kind in "iu", f"{part} labels are {y.dtype}, expected integers")
    if x.dtype == np.float32:
        # Not a number fails both comparisons.
        problems.check(bool(((x >= 0) & (x <= 1)).all()), f"{part} pixels must be finite and in [0, 1]")
    if y.dtype.kind in "iu":
        problems.check(bool(((y >= 0) & (y < classes)).all()), f"{part} labels must be 0 to {classes - 1}")


def _checksum(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape} ".encode())
        digest.update(array.data)
    return digest.hexdigest()


# ------------------------------------------------------------------------- decoded arrays kept in the cache


DECODED_VERSION = 1  # to be raised when decoding gives other arrays from the same files


def _decoded_path(name: str) -> Path:
    return cache_dir() / "decoded" / f"{name}.npz"


def _stamp(source: Source, found: Found) -> str:
    """Changes whenever a file does, by its place, size or time, or what is expected of it: then it is read anew."""
    paths = [found.archive] if found.archive else list(found.paths.values())
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(repr((DECODED_VERSION, files, source.files)).encode()).hexdigest()


def _read_decoded(name: str, source: Source, stamp: str) -> Dataset | None:
    """The arrays kept for these very files, or None if there are none or they are damaged."""
    path = _decoded_path(name)
    try:
        kept = parse_npz(read_bytes(path), str(path), ("stamp", "checksum", *Parts._fields))
        if kept["stamp"].item() != stamp:
            return None
        classes = tuple(kept["classes"].tolist())
        data = _checked(name, source, Parts(kept["x_train"], kept["y_train"], kept["x_test"], kept["y_test"], classes))
    except (DataError, ValueError):
        return None
    return data if data.checksum == kept["checksum"].item() else None


def _write_decoded(data: Dataset, stamp: str) -> None:
    """Keeps the arrays for the next process; a cache that cannot be written only costs the time to decode again."""
    path = _decoded_path(data.name)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(
                    file,
                    stamp=np.asarray(stamp),
                    checksum=np.asarray(data.checksum),
                    classes=np.asarray(data.classes),
                    x_train=data.x_train,
                    y_train=data.y_train,
                    x_test=data.x_test,
                    y_test=data.y_test,
                )
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------------- fetching


# The errors of requests by the names of their classes: their own texts are a page of its inner workings.
_FETCH_ERRORS = {
    "Timeout": "no answer in time",
    "ConnectionError": "no connection",
    "ChunkedEncodingError": "the connection broke off",
}


def _download(name: str, source: Source, folders: tuple[Path, ...]) -> None:
    """Fetches a data set's files into the cache, from the first address that gives them all."""
    mirror = os.environ.get(MIRROR_VARIABLE)
    bases = (f"{mirror.rstrip('/')}/{name}",) if mirror and source.urls else source.urls
    problems = []
    for base in bases:
        problem = _download_from(base, source.downloads, cache_dir() / source.folders[0])
        if not problem:
            return
        problems.append(f"tried {problem}")
    _refuse(name, folders, *problems or ["it has no public address to fetch it from"])


def _download_from(base: str, downloads: Mapping[str, str], folder: Path) -> str:
    """Fetches files that are not there yet into ``folder``. Returns: what went wrong, or an empty text.

    A file appears under its name once it is whole and its checksum agrees (pooch writes it elsewhere until then).
    """
    web = pooch.HTTPDownloader(progressbar=False, chunk_size=1 << 16, timeout=30)
    for file, md5 in downloads.items():
        try:
            with _quiet_pooch():
                pooch.retrieve(f"{base}/{file}", known_hash=f"md5:{md5}", fname=file, path=folder, downloader=web)
        except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong checksum is a ValueError
            with contextlib.suppress(OSError):
                folder.rmdir()  # made for nothing; refused, as it should be, when something is in it
            names = [_FETCH_ERRORS[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _FETCH_ERRORS]
            return f"{base}/{file}: {names[0] if names else error}"
    return ""


@contextlib.contextmanager
def _quiet_pooch() -> Iterator[None]:
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
