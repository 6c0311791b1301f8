"""Normalizing flows, conditional on the class: samples of all kinds and an exact density, from one invertible network.

Sources: MAF (Papamakarios, Pavlakou and Murray 2017, arXiv 1705.07057); RealNVP (Dinh, Sohl-Dickstein and Bengio 2017, arXiv
1605.08803); neural spline flows (Durkan, Bekasov, Murray and Papamakarios 2019, arXiv 1906.04032). The transforms are zuko's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from reverie.checks import Problems
from reverie.generators.class_conditional import PIECE, ClassConditional, ClassDim, Hidden
from reverie.generators.decoding import check_trained
from reverie.nn.networks import forward_flops, training_flops
from reverie.nn.optimisers import Adam, Optimiser
from reverie.types import Batch, Losses

try:  # the extra "flows"
    import zuko.flows
    import zuko.transforms
except ImportError:
    zuko = None

BINS = 8


@dataclass(eq=False, repr=False)
class NormalizingFlow(ClassConditional):
    """Normalizing flow of zuko (extra ``flows``), conditional on the class, with an exact density.

    log p(x | y) = log N(f(u; y); 0, I) + log abs det (df / du) - sum_i log scale_i, u = (x - mean) / scale, the scale fixed by the first rows.
    Loss: - log p(x | y) / number of inputs, in nats. All of it is computed in float32, whatever the precision asked for: a density is
    a sum of many small logarithms. Splines are couplings (RQ-NSF (C) of the paper) and the identity outside [-5, 5] deviations.
    """

    kind: Annotated[
        Literal["affine-autoregressive", "coupling", "spline"],
        Field(
            description="affine-autoregressive (MAF; samples one number of the row after the other), coupling (RealNVP: affine), or spline "
            "(couplings by monotonic rational-quadratic splines)"
        ),
    ] = "coupling"
    transforms: Annotated[int, Field(gt=0, description="invertible transforms, one after the other")] = 4
    hidden: Hidden = None
    bins: Annotated[int, Field(ge=2, description="pieces of a spline (spline)")] = BINS
    dequantise: Annotated[
        float,
        Field(
            ge=0,
            description="deviation of the noise added to training rows, as a share of their own deviation; latents that are often exactly 0 "
            "have no density without it",
        ),
    ] = 0.2
    class_dim: ClassDim = 16
    optimiser: Annotated[Optimiser, Field(description="how its weights are updated")] = field(default_factory=Adam)

    def check(self, problems: Problems) -> None:
        super().check(problems)
        problems.check(
            zuko is not None, "normalizing-flow: needs zuko, which is not installed; pip install 'reverie[flows]'"
        )
        problems.check(
            self.kind == "spline" or self.bins == BINS,
            f"bins = {self.bins}: has no effect with kind = {self.kind!r}; set kind = 'spline' or leave it out",
        )
        problems.check(
            self.kind == "affine-autoregressive" or self.transforms > 1,
            f"transforms = 1: a coupling changes half of the numbers, so kind = {self.kind!r} needs at least 2",
        )

    def make_network(self, width: int) -> nn.Module:
        options = {"transforms": self.transforms, "hidden_features": self.hidden or (400, 400)}
        if self.kind == "affine-autoregressive":
            flow: Any = zuko.flows.MAF(width, self.class_dim, **options)
        elif self.kind == "coupling":
            flow = zuko.flows.NICE(width, self.class_dim, **options)
        else:
            shapes = [(self.bins,), (self.bins,), (self.bins - 1,)]
            spline = zuko.transforms.MonotonicRQSTransform
            flow = zuko.flows.NICE(width, self.class_dim, univariate=spline, shapes=shapes, **options)
        # Without zuko's base, which draws from the global generator of torch: noise is drawn here.
        transform: nn.Module = flow.transform
        return transform

    def loss(self, batch: Batch) -> Losses:
        u = self.module.scale(batch.x.flatten(1))
        if self.dequantise:
            u = u + self.dequantise * torch.randn(u.shape, generator=self.rng("generator noise"), device=u.device)
        self.network.ready(train=True)
        log_prob = self._log_prob(u, self.module.classes(batch.y))
        return {"nll": -(batch.weight * log_prob).sum() / self.width}

    def log_prob(self, x: Tensor, classes: Tensor) -> Tensor:
        """(B, ...), classes (B,) -> (B,) log p(x | class) in nats."""
        check_trained(self)
        self.network.ready(train=False)
        with torch.no_grad():
            u, told = self.module.scale(x.flatten(1)), self.module.classes(classes)
            parts = [self._log_prob(*piece) for piece in zip(u.split(PIECE), told.split(PIECE), strict=True)]
        return torch.cat(parts)

    def _log_prob(self, u: Tensor, told: Tensor) -> Tensor:
        noise, log_jacobian = self.module.net(told).call_and_ladj(u)
        log_normal = -0.5 * (noise.square() + math.log(2 * math.pi)).sum(dim=1)
        return log_normal + log_jacobian - self.module.scale.scale.log().sum()

    def draw(self, noise: Tensor, told: Tensor) -> Tensor:
        drawn: Tensor = self.module.net(told).inv(noise)
        return drawn

    def flops(self, rows: int, train: bool = True) -> float:
        counts = [p.numel() for p in self.module.net.parameters() if p.dim() == 2]
        if train:
            return training_flops(counts, rows, input_gradient=True)
        passes = self.width if self.kind == "affine-autoregressive" else 1
        return passes * forward_flops(counts, rows)
