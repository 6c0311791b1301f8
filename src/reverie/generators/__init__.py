"""Generators: models of the past that can be sampled."""

from reverie.generators.oracle import Oracle
from reverie.generators.training import train
from reverie.generators.vae import VAE
from reverie.options import Table
from reverie.types import Generator

GENERATORS = Table(
    "generator",
    Generator,
    {"vae": VAE, "oracle": Oracle},
    aliases={"conditional-vae": {"name": "vae", "conditional": True}},
)

__all__ = ["GENERATORS", "VAE", "Oracle", "train"]
