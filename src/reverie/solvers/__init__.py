"""Solvers: the networks that answer."""

from reverie.options import Table
from reverie.solvers.alexnet import AlexNet
from reverie.solvers.classifier import CNN, MLP, Classifier, ConvStack, Module, cuts
from reverie.solvers.resnet import ResNet, WideResNet
from reverie.types import Solver

SOLVERS = Table(
    "solver",
    Solver,
    {
        "mlp": MLP,
        "cnn": CNN,
        "conv-stack": ConvStack,
        "resnet": ResNet,
        "wide-resnet": WideResNet,
        "alexnet": AlexNet,
        "module": Module,
    },
    aliases={
        "resnet-18": {
            "name": "resnet",
            "channels": [64, 128, 256, 512],
            "blocks": 2,
            "shortcut": "projection",
            "bias": False,
        }
    },
    usual="mlp",
)

__all__ = [
    "CNN",
    "MLP",
    "SOLVERS",
    "AlexNet",
    "Classifier",
    "ConvStack",
    "Module",
    "ResNet",
    "WideResNet",
    "cuts",
]
