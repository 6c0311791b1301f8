"""Generators: models of the past that can be sampled."""

from reverie.generators.oracle import Oracle
from reverie.generators.training import train
from reverie.generators.vae import VAE
from reverie.generators.wgan_gp import WGANGP
from reverie.options import Table
from reverie.types import Generator

GENERATORS = Table(
    "generator",
    Generator,
    {"vae": VAE, "wgan-gp": WGANGP, "oracle": Oracle},
    aliases={"conditional-vae": {"name": "vae", "conditional": True}},
    usual="vae",
)

__all__ = ["GENERATORS", "VAE", "WGANGP", "Oracle", "train"]
