"""What inferred codes say of classes and domains: agreement of a clustering with labels, dependence between two sets of rows."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.cluster import contingency_matrix, normalized_mutual_info_score
from torch import Tensor

from reverie.checks import DataError


def clustering_accuracy(labels: Tensor, clusters: Tensor) -> float:
    """Share of rows (n,) whose cluster is matched to their label, by the best one-to-one match of clusters and labels (Kuhn 1955, the Hungarian
    method); clusters beyond the number of labels match nothing.

    >>> clustering_accuracy(torch.tensor([0, 0, 1, 1]), torch.tensor([7, 7, 3, 7]))
    0.75
    """
    counts = contingency_matrix(*_pair(labels, clusters))
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / len(labels))


def normalized_mutual_information(labels: Tensor, clusters: Tensor) -> float:
    """I(labels; clusters) / mean of their entropies, in [0, 1]; 1 where each tells the other.

    >>> normalized_mutual_information(torch.tensor([0, 0, 1, 1]), torch.tensor([7, 7, 3, 3]))
    1.0
    """
    return float(normalized_mutual_info_score(*_pair(labels, clusters)))


def hsic(x: Tensor, y: Tensor) -> float:
    """The biased estimate tr(K H L H) / (n - 1)^2 of the Hilbert-Schmidt independence criterion of rows (n, p) and (n, q) (Gretton et al. 2005),
    H = 1 - 11' / n, Gaussian kernels exp(-d^2 / (2 s^2)) with s the median distance between rows that differ. Near 0 where x and y are
    independent, of order 1 / n. It holds two matrices (n, n).

    >>> x = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    >>> round(hsic(x, x), 4), hsic(x, torch.ones(4, 1))
    (0.0688, 0.0)
    """
    if len(x) != len(y) or len(x) < 2:
        raise DataError(f"{len(x)} and {len(y)} rows: expected the same number of both, 2 or more")
    first, second = _centred_kernel(x), _centred_kernel(y)
    return max(float((first * second).sum()) / (len(x) - 1) ** 2, 0.0)  # below 0 by rounding alone


def _centred_kernel(x: Tensor) -> Tensor:
    """H K H, (n, n) float64."""
    distances = torch.nn.functional.pdist(x.double().flatten(1))
    apart = distances[distances > 0]
    n = len(x)
    kernel = torch.ones(n, n, dtype=torch.float64)
    if len(apart):
        above = torch.triu_indices(n, n, 1)
        values = torch.exp(-(distances / apart.median()).square() / 2).cpu()
        kernel[above[0], above[1]] = kernel[above[1], above[0]] = values
    return kernel - kernel.mean(dim=0) - kernel.mean(dim=1, keepdim=True) + kernel.mean()


def _pair(labels: Tensor, clusters: Tensor) -> tuple[np.ndarray, np.ndarray]:
    if labels.shape != clusters.shape or labels.dim() != 1 or len(labels) == 0:
        raise DataError(
            f"labels of shape {tuple(labels.shape)}, clusters of shape {tuple(clusters.shape)}: expected (n,) of both"
        )
    return labels.cpu().numpy(), clusters.cpu().numpy()
