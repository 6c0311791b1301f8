"""Finding, fetching, checking and decoding data sets: on made-up ones of a few images, and on the real ones if here."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import lzma
import os
import pickle
import struct
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from reverie.checks import DataError
from reverie.streams import datasets
from reverie.streams.datasets import DATASETS, Archive, Dataset, File, Source

# Read at import, because the fixture below hides it from the made-up tests.
REAL_DATA = os.environ.get(datasets.DATA_VARIABLE)
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{array.ndim + 1}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


X_TRAIN, X_TEST = (np.random.default_rng(rows).integers(0, 256, (rows, 2, 3)).astype(np.uint8) for rows in (6, 4))
Y_TRAIN, Y_TEST = np.array([0, 1, 2] * 2, np.uint8), np.array([0, 1, 2, 0], np.uint8)
RAW = {
    "train-images-idx3-ubyte": idx(X_TRAIN),
    "train-labels-idx1-ubyte": idx(Y_TRAIN),
    "t10k-images-idx3-ubyte": idx(X_TEST),
    "t10k-labels-idx1-ubyte": idx(Y_TEST),
}
PACKED = {f"{name}.gz": gzip.compress(raw, mtime=0) for name, raw in RAW.items()}
TINY = Source(
    partial(datasets._idx, classes=("a", "b", "c")),
    rows=(6, 4),
    folders=("tiny", "Tiny/raw"),
    files=tuple(File(name, md5(raw), md5(PACKED[f"{name}.gz"])) for name, raw in RAW.items()),
    urls=("http://127.0.0.1:9/tiny",),  # the discard port: nobody listens, so this is what being offline looks like
)


def decode_batches(contents: datasets.Contents) -> datasets.Parts:
    """Two batches in CIFAR's format; it counts how often it is called."""
    decode_batches.calls += 1  # type: ignore[attr-defined]
    train, test = (datasets.parse_cifar(contents[name], name, "labels") for name in ("train", "test"))
    return datasets.Parts(*train, *test, ("a", "b", "c"))


def batch(rows: int) -> bytes:
    data = np.random.default_rng(rows).integers(0, 256, (rows, 3072)).astype(np.uint8)
    return pickle.dumps({"data": data, "labels": [row % 3 for row in range(rows)]}, 2)


BATCHES = {"train": batch(6), "test": batch(4)}


def tar(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


# The wanted members come in another order than in the table, and something hostile is between them.
ARCHIVE = tar({"batches-py/test": BATCHES["test"], "../evil": b"evil", "batches-py/train": BATCHES["train"]})
COLOUR = Source(
    decode_batches,
    rows=(6, 4),
    folders=("colour", "batches-py"),
    files=tuple(File(name, md5(raw)) for name, raw in BATCHES.items()),
    archive=Archive("colour.tar.gz", md5(ARCHIVE), "batches-py"),
    urls=("http://127.0.0.1:9/colour",),
    keep_decoded=True,
)


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An own cache, no data folder, no proxies, and two made-up data sets in the table. Gives an empty data folder."""
    monkeypatch.setenv(datasets.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(datasets.DATA_VARIABLE, raising=False)
    monkeypatch.delenv(datasets.MIRROR_VARIABLE, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(DATASETS, "tiny", TINY)
    monkeypatch.setitem(DATASETS, "colour", COLOUR)
    monkeypatch.setattr(decode_batches, "calls", 0, raising=False)
    (tmp_path / "data").mkdir()
    yield tmp_path / "data"
    datasets._load.cache_clear()


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        write(folder / name, content)
    return folder


def check_tiny(data: Dataset) -> None:
    np.testing.assert_array_equal(data.x_train, X_TRAIN[:, None])
    np.testing.assert_array_equal(data.x_test, X_TEST[:, None])
    np.testing.assert_array_equal(data.y_train, Y_TRAIN)
    np.testing.assert_array_equal(data.y_test, Y_TEST)
    assert (data.x_train.dtype, data.y_train.dtype) == (np.uint8, np.int64)
    assert data.classes == ("a", "b", "c")


# ------------------------------------------------------------------------------------------------- on the disk


@pytest.mark.parametrize("folder", ["tiny", "Tiny/raw"])
@pytest.mark.parametrize("files", [PACKED, RAW, {f"{name}.xz": lzma.compress(raw) for name, raw in RAW.items()}])
def test_every_layout_gives_the_same_arrays(world: Path, folder: str, files: dict[str, bytes]) -> None:
    put(world / folder, files)
    data = datasets.load("tiny", world, download=False)
    check_tiny(data)
    assert data.checksum == datasets._checksum(X_TRAIN[:, None], np.int64(Y_TRAIN), X_TEST[:, None], np.int64(Y_TEST))
    assert datasets.available(world)["tiny"] == datasets.verify("tiny", world) == world / folder


def test_folders_are_searched_in_order(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_cache = put(datasets.cache_dir() / "tiny", PACKED)
    assert datasets.available()["tiny"] == in_cache
    in_variable = put(world.parent / "other" / "tiny", PACKED)
    monkeypatch.setenv(datasets.DATA_VARIABLE, str(world.parent / "other"))
    assert datasets.available()["tiny"] == datasets.available(world)["tiny"] == in_variable
    in_data = put(world / "tiny", PACKED)
    assert datasets.available(world)["tiny"] == in_data


def test_arrays_are_shared_and_cannot_be_written(world: Path) -> None:
    put(world / "tiny", PACKED)
    data = datasets.load("tiny", world)
    assert datasets.load("tiny", str(world)) is data
    for name in ARRAYS:
        with pytest.raises(ValueError, match="read-only"):
            getattr(data, name)[0] = 0


def test_a_missing_data_folder_is_an_error(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(datasets.DATA_VARIABLE, str(world / "no"))
    with pytest.raises(DataError, match=r"(?s)data folder = '.*nowhere': must be an existing.*REVERIE_DATA = '.*no'"):
        datasets.load("tiny", world / "nowhere")
    assert len(datasets.load("digits", world / "nowhere").y_test) == 355  # which needs no folder


def test_an_unknown_name_suggests_the_nearest() -> None:
    for function in (datasets.load, datasets.verify, datasets.fetch):
        with pytest.raises(DataError, match=r"no data set 'fashion_mnist': did you mean 'fashion-mnist'\?"):
            function("fashion_mnist")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte.gz", PACKED["train-images-idx3-ubyte.gz"][:-9], "the file is truncated"),
        ("train-labels-idx1-ubyte.gz", PACKED["t10k-labels-idx1-ubyte.gz"], "wrong checksum: md5 {}, expected {}"),
    ],
)
def test_a_damaged_file_is_named_not_passed_over(world: Path, name: str, content: bytes, message: str) -> None:
    put(datasets.cache_dir() / "tiny", PACKED)  # a sound copy further on does not hide it
    put(world / "tiny", {**PACKED, name: content})
    raw = RAW[name.removesuffix(".gz")]
    message = message.format(md5(RAW["t10k-labels-idx1-ubyte"]), md5(raw))
    for function in (datasets.load, datasets.verify):
        with pytest.raises(DataError, match=f"tiny/{name}: {message}"):
            function("tiny", world)


def test_a_file_whose_packed_checksum_alone_is_known(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tuple(File(file.name, gz_md5=file.gz_md5) for file in TINY.files)
    monkeypatch.setitem(DATASETS, "tiny", Source(TINY.decode, TINY.rows, TINY.folders, files))
    put(world / "tiny", RAW)
    check_tiny(datasets.load("tiny", world))
    write(world / "tiny" / "t10k-labels-idx1-ubyte.gz", gzip.compress(idx(Y_TEST), 1, mtime=1))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: wrong checksum"):
        datasets.verify("tiny", world)


def test_an_incomplete_folder_is_reported(world: Path) -> None:
    put(world / "tiny", {name: content for name, content in PACKED.items() if "t10k" in name})
    message = r"(?s)data set 'tiny' is not available.*looked in .*data, .*cache.*tiny is incomplete: it has no train-im"
    with pytest.raises(DataError, match=message):
        datasets.load("tiny", world, download=False)
    assert datasets.available(world)["tiny"] is None


def test_a_part_loads_only_under_its_own_name(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Source(TINY.decode, (6, 4), ("tiny",), TINY.files, part_of="whole")
    unchecked = tuple(File(file.name) for file in TINY.files)
    monkeypatch.setitem(DATASETS, "tiny-6", part)
    monkeypatch.setitem(DATASETS, "whole", Source(TINY.decode, (60, 4), ("whole",), unchecked))
    put(world / "tiny", RAW)
    assert datasets.load("tiny-6", world).name == "tiny-6"
    with pytest.raises(DataError, match="a part of it is there and loads under its own name: 'tiny-6'"):
        datasets.load("whole", world)
    put(world / "whole", RAW)
    with pytest.raises(DataError, match="6 train and 4 test images, expected 60 and 4; a part of a data set"):
        datasets.load("whole", world)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x_train": np.zeros((6, 1, 2, 3), np.float64)}, "train pixels are float64, expected uint8 or float32"),
        ({"x_test": np.full((4, 1, 2, 3), np.nan, np.float32)}, r"test pixels must be finite and in \[0, 1\]"),
        ({"x_test": np.full((4, 1, 2, 3), 1.5, np.float32)}, r"test pixels must be finite and in \[0, 1\]"),
        ({"x_train": np.zeros((6, 2), np.uint8)}, r"train images of shape \(6, 2\), expected \(N, C, H, W\)"),
        ({"y_train": np.zeros(5, np.uint8)}, r"train labels of shape \(5,\) for 6 images"),
        ({"y_train": np.zeros(6)}, "train labels are float64, expected integers"),
        ({"y_test": np.array([0, 1, 2, 3])}, "test labels must be 0 to 2"),
        ({"y_test": np.array(["a"] * 4)}, "test labels are <U1, expected integers"),
        ({}, "wrong checksum: the arrays' sha256 is [0-9a-f]{64}, expected another"),
    ],
)
def test_arrays_that_break_the_rules_are_refused(
    world: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, np.ndarray], message: str
) -> None:
    parts = datasets.Parts(X_TRAIN[:, None], Y_TRAIN, X_TEST[:, None], Y_TEST, ("a", "b", "c"))._replace(**changed)
    source = Source(lambda _: parts, (6, 4), ("tiny",), TINY.files, checksum="another")
    monkeypatch.setitem(DATASETS, "tiny", source)
    put(world / "tiny", PACKED)
    with pytest.raises(DataError, match=rf"(?s)data set 'tiny' in .*tiny: .*{message}"):
        datasets.load("tiny", world)


# ------------------------------------------------------------------------------------ archives, decoded arrays


def test_loose_files_and_archives_give_the_same(world: Path) -> None:
    put(world / "batches-py", BATCHES)
    loose = datasets.load("colour", world)
    other = put(world.parent / "other" / "colour", {"colour.tar.gz": ARCHIVE})
    packed = datasets.load("colour", other.parent)
    assert packed.checksum == loose.checksum
    assert datasets.available(other.parent)["colour"] == other
    assert loose.x_train.shape == (6, 3, 32, 32)
    assert not list(world.parent.rglob("evil"))


def test_an_archive_with_a_changed_member_is_refused(world: Path) -> None:
    put(world, {"colour.tar.gz": tar({"batches-py/train": BATCHES["test"], "batches-py/test": BATCHES["test"]})})
    with pytest.raises(DataError, match=r"colour\.tar\.gz: train: wrong checksum"):
        datasets.load("colour", world)


def load_anew(world: Path) -> Dataset:
    """As another process would, without the arrays that this one remembers."""
    datasets._load.cache_clear()
    return datasets.load("colour", world)


def test_slow_sets_are_decoded_once(world: Path) -> None:
    put(world / "colour", BATCHES)
    first, second = load_anew(world), load_anew(world)
    assert decode_batches.calls == 1  # type: ignore[attr-defined]
    assert (first.checksum, first.classes) == (second.checksum, second.classes)
    np.testing.assert_array_equal(first.x_test, second.x_test)
    assert not second.x_train.flags.writeable
    datasets.verify("colour", world)
    assert decode_batches.calls == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: kept[:-50],
        lambda kept: kept[:5000] + bytes([kept[5000] ^ 1]) + kept[5001:],
        lambda kept: b"",
        lambda kept: pickle.dumps(os.system),
    ],
)
def test_damaged_decoded_arrays_are_made_again(world: Path, damage: Any) -> None:
    put(world / "colour", BATCHES)
    first = load_anew(world)
    kept = datasets._decoded_path("colour")
    kept.write_bytes(damage(kept.read_bytes()))
    assert load_anew(world).checksum == first.checksum
    assert decode_batches.calls == 2  # type: ignore[attr-defined]
    load_anew(world)
    assert decode_batches.calls == 2  # type: ignore[attr-defined]
    assert list(kept.parent.iterdir()) == [kept]


def test_decoded_arrays_do_not_hide_a_file_damaged_later(world: Path) -> None:
    put(world / "colour", BATCHES)
    load_anew(world)
    write(world / "colour" / "test", BATCHES["test"][:-1])
    with pytest.raises(DataError, match="colour/test: wrong checksum"):
        load_anew(world)


def test_a_cache_that_cannot_be_written_is_no_error(world: Path) -> None:
    put(world / "colour", BATCHES)
    write(datasets.cache_dir(), b"a file where the folder should be")
    assert load_anew(world).x_test.shape == (4, 3, 32, 32)


# ---------------------------------------------------------------------------------------------------- fetching


class Served(dict[str, Any]):
    """What the server has, by path; ``asked`` lists the paths asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """An HTTP server on this machine, made known as the mirror. A value is a content or (announced length, content)."""
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            if self.path not in served:
                self.send_error(404)
                return
            entry = served[self.path]
            length, content = entry if isinstance(entry, tuple) else (len(entry), entry)
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv(datasets.MIRROR_VARIABLE, f"http://127.0.0.1:{http.server_port}/base/")
        yield served
        http.shutdown()
        thread.join()


def test_fetched_once_then_found_without_a_word(
    server: Served, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    server.update({f"/base/tiny/{name}": content for name, content in PACKED.items()})
    with caplog.at_level(logging.DEBUG):
        check_tiny(datasets.load("tiny"))
    assert sorted(server.asked) == sorted(server)
    folder = datasets.cache_dir() / "tiny"
    assert sorted(path.name for path in folder.iterdir()) == sorted(PACKED)
    assert datasets.available()["tiny"] == folder
    datasets._load.cache_clear()
    check_tiny(datasets.load("tiny"))
    assert len(server.asked) == 4
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if "pooch" in record.name]


def test_an_archive_is_fetched_and_read(server: Served) -> None:
    server["/base/colour/colour.tar.gz"] = ARCHIVE
    assert datasets.fetch("colour") == datasets.cache_dir() / "colour"
    assert datasets.load("colour", download=False).x_train.shape == (6, 3, 32, 32)
    assert not list(datasets.cache_dir().parent.rglob("evil"))


def test_fetch_repairs_the_cache(server: Served) -> None:
    server.update({f"/base/tiny/{name}": content for name, content in PACKED.items()})
    datasets.fetch("tiny")
    write(datasets.cache_dir() / "tiny" / "t10k-labels-idx1-ubyte.gz", b"damaged")
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: the file is damaged"):
        datasets.load("tiny")
    datasets.fetch("tiny")
    check_tiny(datasets.load("tiny"))
    assert len(server.asked) == 5


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (None, "404"),
        (b"another content", "md5 hash .* does not match the known hash: expected md5:.* but got"),
        ((len(PACKED["train-images-idx3-ubyte.gz"]), b"cut"), "the connection broke off|does not match the known hash"),
    ],
)
def test_a_fetch_that_fails_leaves_nothing_half_done(server: Served, entry: Any, reason: str) -> None:
    server.update({f"/base/tiny/{name}": content for name, content in PACKED.items()})
    path = "/base/tiny/train-images-idx3-ubyte.gz"
    server.update({path: entry}) if entry is not None else server.pop(path)
    with pytest.raises(DataError, match=rf"(?si)not available.*tried http://.*{path}: .*({reason})") as caught:
        datasets.load("tiny")
    assert caught.value.__cause__ is None
    assert not (datasets.cache_dir() / "tiny").exists()
    server[path] = PACKED["train-images-idx3-ubyte.gz"]
    check_tiny(datasets.load("tiny"))


def test_offline_says_what_was_tried_and_what_to_put_where() -> None:
    with pytest.raises(DataError) as caught:
        datasets.load("tiny")
    cache = datasets.cache_dir()
    assert str(caught.value).splitlines() == [
        "data set 'tiny' is not available:",
        f"  - looked in {cache}",
        "  - tried http://127.0.0.1:9/tiny/train-images-idx3-ubyte.gz: no connection",
        f"  - put {', '.join(PACKED)} into {cache / 'tiny'}, or into tiny/ of a data folder of your own "
        "(--data-dir or REVERIE_DATA)",
    ]
    assert not (cache / "tiny").exists()


def test_a_set_without_an_address_says_where_its_file_goes() -> None:
    with pytest.raises(DataError, match=r"(?s)no public address.*put usps\.npz into .*usps, or into usps/ of a"):
        datasets.load("usps")


def test_a_cache_that_cannot_hold_the_download_is_said(server: Served) -> None:
    server.update({f"/base/tiny/{name}": content for name, content in PACKED.items()})
    write(datasets.cache_dir(), b"a file where the folder should be")
    with pytest.raises(DataError, match=r"(?s)not available.*train-images-idx3-ubyte\.gz: .*(exists|directory)"):
        datasets.load("tiny")


# ----------------------------------------------------------------------------------------------- the real ones


def test_digits_are_always_there() -> None:
    data = datasets.load("digits")
    assert (data.x_train.shape, data.x_test.shape) == ((1442, 1, 8, 8), (355, 1, 8, 8))
    assert (data.x_train.dtype, data.x_train.min(), data.x_train.max()) == (np.float32, 0, 1)
    assert set(np.bincount(data.y_test)) <= {34, 35, 36}
    rows = {row.tobytes() for row in data.x_train}
    assert not [row for row in data.x_test if row.tobytes() in rows]
    assert datasets.verify("digits") == datasets.fetch("digits") == datasets.available()["digits"]
    assert (datasets.verify("digits") / "digits.csv.gz").is_file()


def test_inverted_digits_are_digits_in_a_mirror_with_their_ink_inverted() -> None:
    plain, inverted = datasets.load("digits"), datasets.load("digits-inverted")
    for mine, theirs in ((inverted.x_train, plain.x_train), (inverted.x_test, plain.x_test)):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_array_equal(mine[:, 0, :, 0], 1 - theirs[:, 0, :, 7])
        np.testing.assert_array_equal(mine[:, 0, :, 6], 1 - theirs[:, 0, :, 1])
    np.testing.assert_array_equal(inverted.y_train, plain.y_train)
    np.testing.assert_array_equal(inverted.y_test, plain.y_test)
    assert inverted.classes == plain.classes


def test_the_table_is_consistent() -> None:
    assert not [part for part, source in DATASETS.items() if source.part_of and source.part_of not in DATASETS]
    for source in DATASETS.values():
        assert bool(source.urls) <= bool(source.downloads)
        for digest in [file.md5 for file in source.files] + list(source.downloads.values() if source.urls else ()):
            assert len(digest) in (0, 32)
        assert all(source.downloads.values())


MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
USPS_TRAIN = [1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644]
USPS_TEST = [359, 264, 198, 166, 200, 160, 170, 147, 166, 177]
KMNIST_TRAIN = [690, 689, 695, 698, 755, 707, 688, 707, 672, 699]


@pytest.mark.parametrize(
    ("name", "shape", "train", "test", "classes"),
    [
        ("mnist", (1, 28, 28), MNIST_TRAIN, MNIST_TEST, "0 9"),
        ("fashion-mnist", (1, 28, 28), [6000] * 10, [1000] * 10, "T-shirt/top Ankle boot"),
        ("kmnist-7000", (1, 28, 28), KMNIST_TRAIN, [1000] * 10, "0 9"),
        ("usps", (1, 16, 16), USPS_TRAIN, USPS_TEST, "0 9"),
        ("cifar100-subset", (3, 32, 32), [100] * 100, [20] * 100, "apple worm"),
        pytest.param("cifar10", (3, 32, 32), [5000] * 10, [1000] * 10, "airplane truck", marks=pytest.mark.slow),
    ],
)
def test_real_data(
    monkeypatch: pytest.MonkeyPatch, name: str, shape: tuple[int, ...], train: list[int], test: list[int], classes: str
) -> None:
    monkeypatch.setattr(datasets, "_write_decoded", lambda *_: None)  # a test leaves no 180 MB behind
    if not REAL_DATA or not datasets.available(REAL_DATA)[name]:
        pytest.skip(f"{name} is not in the folder of {datasets.DATA_VARIABLE}")
    start = time.perf_counter()
    data = datasets.load(name, REAL_DATA, download=False)
    print(f"{name}: {time.perf_counter() - start:.2f} s")
    assert data.x_train.shape == (sum(train), *shape)
    assert data.x_test.shape == (sum(test), *shape)
    assert np.bincount(data.y_train).tolist() == train
    assert np.bincount(data.y_test).tolist() == test
    assert f"{data.classes[0]} {data.classes[-1]}" == classes
    assert data.x_train.dtype == (np.float32 if name == "usps" else np.uint8)
    assert data.x_train.max() == (1 if name == "usps" else 255)


def test_the_real_kmnist_prefix_is_not_taken_for_kmnist() -> None:
    if not REAL_DATA or not datasets.available(REAL_DATA)["kmnist-7000"] or datasets.available(REAL_DATA)["kmnist"]:
        pytest.skip(f"the folder of {datasets.DATA_VARIABLE} does not have kmnist-7000 alone")
    with pytest.raises(DataError, match="loads under its own name: 'kmnist-7000'"):
        datasets.load("kmnist", REAL_DATA, download=False)


def test_svhn_has_channels_first_and_its_tens_are_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = {part: rng.integers(0, 256, (32, 32, 3, n), dtype=np.uint8) for part, n in (("train", 20), ("test", 10))}
    files = []
    (tmp_path / "svhn").mkdir()
    for part, images in x.items():
        labels = np.arange(1, images.shape[3] + 1, dtype=np.uint8)[:, None] % 10
        file = tmp_path / "svhn" / f"{part}_32x32.mat"
        savemat(file, {"X": images, "y": np.where(labels == 0, 10, labels)})
        files.append(File(file.name, hashlib.md5(file.read_bytes()).hexdigest()))
    published = DATASETS["svhn"]
    monkeypatch.setitem(DATASETS, "svhn", replace(published, rows=(20, 10), files=tuple(files), keep_decoded=False))
    data = datasets.load("svhn", tmp_path)
    assert data.x_train.shape == (20, 3, 32, 32)
    np.testing.assert_array_equal(data.x_train[7], x["train"][..., 7].transpose(2, 0, 1))
    assert data.y_train.tolist() == [k % 10 for k in range(1, 21)]
    assert data.classes[0] == "0"
