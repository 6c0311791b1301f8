"""Streams of tasks: data sets as arrays, scenarios, and the table of named streams."""

from reverie.options import Table
from reverie.streams.regression import Regression1D
from reverie.streams.rows import DatasetRows, JoinedRows, TensorRows
from reverie.streams.sources import Blobs, Folder, GaussianModes, Permuted, Rotated, Sequence, Split, StreamSource
from reverie.streams.stream import ArrayStream

Stream = ArrayStream

STREAMS = Table(
    "stream",
    StreamSource,
    {
        "split": Split,
        "permuted": Permuted,
        "rotated": Rotated,
        "sequence": Sequence,
        "blobs": Blobs,
        "gaussian-modes": GaussianModes,
        "regression-1d": Regression1D,
        "folder": Folder,
    },
    aliases={
        "split-digits": {"name": "split", "dataset": "digits", "tasks": 5},
        "split-mnist": {"name": "split", "dataset": "mnist", "tasks": 5},
        "split-fashion-mnist": {"name": "split", "dataset": "fashion-mnist", "tasks": 5},
        "split-kmnist": {"name": "split", "dataset": "kmnist", "tasks": 5},
        "split-kmnist-7000": {"name": "split", "dataset": "kmnist-7000", "tasks": 5},
        "split-usps": {"name": "split", "dataset": "usps", "tasks": 5},
        "split-cifar10": {"name": "split", "dataset": "cifar10", "tasks": 5},
        "split-cifar100": {"name": "split", "dataset": "cifar100", "tasks": 10},
        "split-cifar100-subset": {"name": "split", "dataset": "cifar100-subset", "tasks": 10},
        "permuted-digits": {"name": "permuted", "dataset": "digits", "tasks": 10},
        "permuted-mnist": {"name": "permuted", "dataset": "mnist", "tasks": 10, "pad": 2},
        "rotated-digits": {"name": "rotated", "dataset": "digits", "tasks": 5},
        "rotated-mnist": {"name": "rotated", "dataset": "mnist", "tasks": 5},
        "digits-inverted": {"name": "sequence", "datasets": ("digits", "digits-inverted")},
        "mnist-svhn": {"name": "sequence", "datasets": ("mnist", "svhn"), "shared_labels": True, "size": 32},
        "four-domains": {"name": "sequence", "datasets": ("mnist", "kmnist-7000", "usps", "fashion-mnist")},
        "mnist-fashion": {"name": "sequence", "datasets": ("mnist", "fashion-mnist")},
    },
)

__all__ = [
    "STREAMS",
    "ArrayStream",
    "Blobs",
    "DatasetRows",
    "Folder",
    "GaussianModes",
    "JoinedRows",
    "Permuted",
    "Regression1D",
    "Rotated",
    "Sequence",
    "Split",
    "Stream",
    "StreamSource",
    "TensorRows",
]
