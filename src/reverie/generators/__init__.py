"""Generators: models of the past that can be sampled."""

from reverie.generators.autoencoder import RegularisedAutoencoder
from reverie.generators.class_mixture import ClassMixture
from reverie.generators.codebook import KMeansCodebook
from reverie.generators.copula import GaussianCopula
from reverie.generators.densities import Densities
from reverie.generators.factor_analysers import MixtureOfFactorAnalysers
from reverie.generators.flow import NormalizingFlow
from reverie.generators.gaussian import Gaussian
from reverie.generators.gmm import GaussianMixture
from reverie.generators.kde import KernelDensity
from reverie.generators.lgaa import AdversarialAutoencoder
from reverie.generators.likeliest import Likeliest
from reverie.generators.oracle import Oracle
from reverie.generators.principal import PrincipalComponents
from reverie.generators.rectified_flow import RectifiedFlow
from reverie.generators.training import train
from reverie.generators.vae import VAE
from reverie.generators.wgan_gp import WGANGP
from reverie.options import Table
from reverie.types import Density, Generator

DENSITIES = Table(
    "density",
    Density,
    {
        "gaussian": Gaussian,
        "gmm": GaussianMixture,
        "mixture-of-factor-analysers": MixtureOfFactorAnalysers,
        "kde": KernelDensity,
        "k-means": KMeansCodebook,
        "principal-components": PrincipalComponents,
        "copula": GaussianCopula,
        "likeliest": Likeliest,
    },
    usual="gaussian",
)

GENERATORS = Table(
    "generator",
    Generator,
    {
        "vae": VAE,
        "wgan-gp": WGANGP,
        "oracle": Oracle,
        "densities": Densities,
        "class-mixture": ClassMixture,
        "autoencoder": RegularisedAutoencoder,
        "normalizing-flow": NormalizingFlow,
        "rectified-flow": RectifiedFlow,
        "lgaa": AdversarialAutoencoder,
    },
    aliases={"conditional-vae": {"name": "vae", "conditional": True}},
    usual="vae",
)

__all__ = [
    "DENSITIES",
    "GENERATORS",
    "VAE",
    "WGANGP",
    "AdversarialAutoencoder",
    "ClassMixture",
    "Densities",
    "Gaussian",
    "GaussianCopula",
    "GaussianMixture",
    "KMeansCodebook",
    "KernelDensity",
    "Likeliest",
    "MixtureOfFactorAnalysers",
    "NormalizingFlow",
    "Oracle",
    "PrincipalComponents",
    "RectifiedFlow",
    "RegularisedAutoencoder",
    "train",
]
