"""Every reader on made-up files: what it reads, and what it refuses and how it says so."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from reverie.checks import DataError
from reverie.streams import formats


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{array.ndim + 1}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def python2_batch(rows: int, labels: str = "labels") -> bytes:
    """A CIFAR batch opcode by opcode as Python 2's cPickle wrote it: the array's bytes are an 8-bit string."""
    content = bytes(value % 256 for value in range(rows * 3072))
    state = (
        b"(K\x01K" + bytes([rows]) + b"M\x00\x0c\x86"  # version 1, shape (rows, 3072)
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<I", len(content)) + content + b"tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R" + state
    key = b"U" + bytes([len(labels)]) + labels.encode()
    numbers = b"".join(b"K" + bytes([row % 10]) for row in range(rows))
    return b"\x80\x02}(U\x04data" + array + key + b"](" + numbers + b"eu."


# ------------------------------------------------------------------------------------------ files, packed or not


@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)])
def test_decompress_gives_the_content_back(ending: str, pack: Any) -> None:
    assert formats.decompress(pack(b"content" * 50), f"file{ending}") == b"content" * 50


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
@pytest.mark.parametrize("cut", [1, 6, 30])
def test_a_truncated_file_is_named_and_called_so(ending: str, pack: Any, cut: int) -> None:
    packed = pack(os.urandom(100))
    with pytest.raises(DataError, match=rf"^here/file{ending}: the file is truncated; copy or fetch it again"):
        formats.decompress(packed[:-cut], f"here/file{ending}")


@pytest.mark.parametrize("ending", [".gz", ".xz"])
def test_another_damage_is_said_too(ending: str) -> None:
    with pytest.raises(DataError, match=rf"file{ending}: the file is damaged \("):
        formats.decompress(b"not packed at all" * 5, f"file{ending}")
    with pytest.raises(DataError, match=rf"file{ending}: the file is empty"):
        formats.decompress(b"", f"file{ending}")


def test_a_flipped_bit_is_found() -> None:
    packed = bytearray(gzip.compress(b"content" * 50))
    packed[-6] ^= 1  # within the stored checksum
    with pytest.raises(DataError, match=r"file\.gz: the file is damaged"):
        formats.decompress(bytes(packed), "file.gz")


def test_read_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert formats.read_bytes(tmp_path / "file") == b"content"
    with pytest.raises(DataError, match="absent: no such file"):
        formats.read_bytes(tmp_path / "absent")
    with pytest.raises(DataError, match="cannot be read"):
        formats.read_bytes(tmp_path)


# ------------------------------------------------------------------------------------------------------------ idx


def test_idx_images_and_labels() -> None:
    x = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(formats.parse_idx(idx(x), "x", 3), x)
    np.testing.assert_array_equal(formats.parse_idx(idx(x[0, 0]), "y", 1), x[0, 0])


def test_idx_with_another_magic_number_is_refused() -> None:
    labels = idx(np.zeros(5, np.uint8))
    with pytest.raises(DataError, match=r"^images: not an idx file of 3 dim.*: magic number 2049, expected 2051"):
        formats.parse_idx(labels, "images", 3)
    with pytest.raises(DataError, match="expected 2049"):
        formats.parse_idx(b"", "labels", 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-1], r"truncated: 39 bytes, its header \(2, 3, 4\) asks for 40"),
        (lambda raw: raw + b"x", "too long: 41 bytes"),
        (lambda raw: raw[:7], "truncated within its header"),
        (lambda raw: raw[:4] + b"\xff" * 12 + raw[16:], "truncated: 40 bytes"),
    ],
)
def test_idx_of_another_length_is_refused(damage: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"^images: the file is {message}"):
        formats.parse_idx(damage(idx(np.zeros((2, 3, 4), np.uint8))), "images", 3)


# ---------------------------------------------------------------------------------------------------------- CIFAR


@pytest.mark.parametrize("labels", ["labels", "fine_labels"])
def test_a_batch_of_python_2(labels: str) -> None:
    x, y = formats.parse_cifar(python2_batch(3, labels), "batch", labels)
    np.testing.assert_array_equal(x, (np.arange(3 * 3072) % 256).astype(np.uint8).reshape(3, 3, 32, 32))
    assert (x.dtype, y.dtype, y.tolist()) == (np.uint8, np.int64, [0, 1, 2])


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "<i4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_pickled_by_this_python_come_back(protocol: int, dtype: str, order: Any) -> None:
    array = np.asarray(np.arange(6).reshape(2, 3).astype(dtype), order=order)
    value = formats.parse_pickle(pickle.dumps({"data": array, "n": 3}, protocol), "batch")
    assert value["n"] == 3
    assert value["data"].dtype == array.dtype
    np.testing.assert_array_equal(value["data"], array)


class Malicious:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize(
    ("function", "argument", "named"),
    [
        (os.system, "touch {}", r"(posix|nt)\.system"),
        (eval, "open('{}', 'w')", r"(builtins|__builtin__)\.eval"),
        (open, "{}", r"(io|_io)\.open"),
        (np.load, "{}", r"numpy\.load"),
        (getattr, "{}", r"(builtins|__builtin__)\.getattr"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_would_run_something_runs_nothing(
    tmp_path: Path, function: Any, argument: str, named: str, protocol: int
) -> None:
    raw = pickle.dumps({"data": Malicious(function, argument.format(tmp_path / "traces"))}, protocol)
    with pytest.raises(DataError, match=rf"^batch: the file asks for {named}, .* nothing was executed"):
        formats.parse_pickle(raw, "batch")
    assert not list(tmp_path.iterdir())


def test_an_array_of_objects_is_refused() -> None:
    with pytest.raises(DataError, match=r"batch: not a readable data batch .*array of type 'O8'"):
        formats.parse_pickle(pickle.dumps({"data": np.array([{}], object)}, 2), "batch")


@pytest.mark.parametrize(
    "attack",
    [
        b"cnumpy\ndtype\n(N}U\x0c__setstate__K\x01stb.",  # write an attribute on an allowed class
        b"cnumpy.core.multiarray\n_reconstruct\n}U\x0c__setstate__K\x01sb.",
        b"ccodecs.open\nx\n.",
        b"cnumpy\nndarray\n)R.",  # call what stands for numpy.ndarray
        b"Pname\n.",  # a persistent id
    ],
)
def test_tricks_of_the_pickle_machine_change_nothing(attack: bytes) -> None:
    before = {key: dict(vars(value)) for key, value in formats._GLOBALS.items() if hasattr(value, "__dict__")}
    with pytest.raises(DataError, match=r"^batch: "):
        formats.parse_pickle(b"\x80\x02" + attack, "batch")
    assert before == {key: dict(vars(value)) for key, value in formats._GLOBALS.items() if hasattr(value, "__dict__")}


def test_every_truncation_of_a_batch_is_an_error_of_ours() -> None:
    raw = python2_batch(1)
    for length in (*range(150), len(raw) - 1):
        with pytest.raises(DataError, match=r"^batch: "):
            formats.parse_pickle(raw[:length], "batch")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1], "holds a list, expected a dict"),
        ({"labels": [1]}, "has no 'data'; it has labels"),
        ({"data": np.zeros((1, 3072), np.uint8)}, "has no 'labels'; it has data"),
        ({"data": [1], "labels": [1]}, r"'data' is list, expected uint8 \(N, 3072\)"),
        ({"data": np.zeros((1, 3071), np.uint8), "labels": [1]}, r"'data' is uint8 \(1, 3071\)"),
        ({"data": np.zeros((1, 3072), np.int64), "labels": [1]}, r"'data' is int64"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, "'labels' must be a list of 2 integers"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": ["cat"]}, "'labels' must be a list of 1 integers"),
    ],
)
def test_a_batch_of_another_form_is_refused(batch: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"^batch: {message}"):
        formats.parse_cifar(pickle.dumps(batch, 2), "batch", "labels")


# ---------------------------------------------------------------------------------------------- npy, npz and tar


def test_npy_and_npz() -> None:
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(formats.parse_npy(npy(x), "x.npy"), x)
    arrays = formats.parse_npz(npz(x=x, y=x + 1), "file.npz")
    assert list(arrays) == ["x", "y"]
    assert list(formats.parse_npz(npz(x=x, y=x + 1), "file.npz", ["y"])) == ["y"]


def test_npy_and_npz_that_cannot_be_read_are_refused() -> None:
    objects = np.array([Malicious(os.system, "false")], object)
    for raw in (npy(objects), npy(np.zeros(9))[:-1], b"", pickle.dumps(1)):
        with pytest.raises(DataError, match=r"^x\.npy: not a readable npy file without Python objects"):
            formats.parse_npy(raw, "x.npy")
    with pytest.raises(DataError, match=r"^x\.npz: not a readable npz file without Python objects"):
        formats.parse_npz(npz(x=objects), "x.npz")
    for raw in (npz(x=np.zeros(9))[:-30], b"", pickle.dumps(1), npy(np.zeros(9))):
        with pytest.raises(DataError, match=r"^x\.npz: not an npz file, or a truncated one"):
            formats.parse_npz(raw, "x.npz")
    with pytest.raises(DataError, match=r"^x\.npz: has no y, z; it has x$"):
        formats.parse_npz(npz(x=np.zeros(1)), "x.npz", ["z", "x", "y"])


def test_a_flipped_bit_in_an_npz_is_found() -> None:
    raw = bytearray(npz(x=np.zeros(100)))
    raw[400] ^= 1
    with pytest.raises(DataError, match=r"^x\.npz: not a readable npz file"):
        formats.parse_npz(bytes(raw), "x.npz")


def make_tar(path: Path, *members: tarfile.TarInfo, content: bytes = b"content") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            member.size = len(content) if member.isfile() else 0
            archive.addfile(member, io.BytesIO(content))
    return path


def test_tar_members_are_read_and_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    hostile = (tarfile.TarInfo("../escaped"), tarfile.TarInfo(str(tmp_path / "absolute")))
    path = make_tar(folder / "a.tar.gz", *hostile, tarfile.TarInfo("set/b"), tarfile.TarInfo("set/a"))
    assert formats.read_tar(path, ["set/a", "set/b"]) == {"set/a": b"content", "set/b": b"content"}
    assert formats.read_tar(path, ["../escaped"]) == {"../escaped": b"content"}
    assert sorted(tmp_path.rglob("*")) == [folder, path]


def test_tar_links_are_not_followed(tmp_path: Path) -> None:
    link = tarfile.TarInfo("set/a")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
    path = make_tar(tmp_path / "a.tar.gz", link)
    with pytest.raises(DataError, match=r"a\.tar\.gz: set/a is not a plain file"):
        formats.read_tar(path, ["set/a"])


def test_tar_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar.gz", tarfile.TarInfo("set/a"), content=os.urandom(5000))
    with pytest.raises(DataError, match=r"a\.tar\.gz: the archive has no set/b, set/c$"):
        formats.read_tar(path, ["set/c", "set/a", "set/b"])
    with pytest.raises(DataError, match=r"absent\.tar\.gz: no such file"):
        formats.read_tar(tmp_path / "absent.tar.gz", ["set/a"])
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"a\.tar\.gz: the archive is truncated or damaged"):
        formats.read_tar(path, ["set/a"])
    path.write_bytes(b"something else")
    with pytest.raises(DataError, match=r"a\.tar\.gz: the archive is truncated or damaged"):
        formats.read_tar(path, ["set/a"])


# ---------------------------------------------------------------------------------- mat


def mat(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    savemat(file, arrays)
    return file.getvalue()


def test_arrays_of_a_matlab_file() -> None:
    x = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    found = formats.parse_mat(mat(X=x, y=np.array([[10], [1]], np.uint8), other=x), "train.mat", ("X", "y"))
    assert list(found) == ["X", "y"]
    np.testing.assert_array_equal(found["X"], x)
    assert found["y"].tolist() == [[10], [1]]


@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: raw[:150], lambda raw: b"no such file" * 20])
def test_a_damaged_matlab_file_is_refused(damage: Any) -> None:
    with pytest.raises(DataError, match=r"train\.mat: "):
        formats.parse_mat(damage(mat(X=np.arange(2000.0))), "train.mat", ("X",))


def test_a_matlab_file_without_the_array_is_refused() -> None:
    with pytest.raises(DataError, match=r"train\.mat: holds no y; is it the right file"):
        formats.parse_mat(mat(X=np.zeros(2)), "train.mat", ("X", "y"))
