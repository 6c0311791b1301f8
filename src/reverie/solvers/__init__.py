"""Solvers: the networks that answer."""

from reverie.options import Table
from reverie.solvers.alexnet import AlexNet
from reverie.solvers.classifier import CNN, MLP, Classifier, ConvStack, Module, cuts
from reverie.types import Solver

SOLVERS = Table(
    "solver",
    Solver,
    {"mlp": MLP, "cnn": CNN, "conv-stack": ConvStack, "alexnet": AlexNet, "module": Module},
    usual="mlp",
)

__all__ = ["CNN", "MLP", "SOLVERS", "AlexNet", "Classifier", "ConvStack", "Module", "cuts"]
