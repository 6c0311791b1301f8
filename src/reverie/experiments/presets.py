"""Named, complete sets of options, as data. ``source`` says where the settings come from, ``cost`` what a run takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reverie.experiments.posterior_presets import PAPER, ROWS

NMI = "van de Ven, Tuytelaars and Tolias 2022, Nature Machine Intelligence 4:1185-1197"

SPLIT_MNIST = {"name": "split", "dataset": "mnist", "tasks": 5}
_MLP = {"name": "mlp", "hidden": [400, 400]}
_VAE = {"name": "vae", "hidden": [400, 400], "latent_dim": 100}
_BUDGET = {"solver": _MLP, "steps": 2000, "batch_size": 128, "active_classes": "all"}


@dataclass(frozen=True)
class Preset:
    """A config, whole; anything may be overridden after it."""

    options: Mapping[str, Any]
    source: str
    cost: str


def _split_mnist(learner: str, **options: Any) -> dict[str, Any]:
    return {"stream": SPLIT_MNIST, "scenario": "class", "learner": {"name": learner, **_BUDGET, **options}}


LGAA = "Ye and Bors, Lifelong Generative Adversarial Autoencoder, IEEE TNNLS, settings of the authors' public code"
_DOMAINS = {"name": "sequence", "datasets": ["mnist", "fashion-mnist"], "shared_labels": True}


_IMAGES = {"name": "folder", "path": "images", "tasks": 2}


def _lgaa(epochs: int, stream: Mapping[str, Any], learner: Mapping[str, Any], **autoencoder: Any) -> dict[str, Any]:
    method = {"name": "lgaa", "epochs": epochs, "batch_size": 64, **learner}
    return {
        "stream": dict(stream) if "name" in stream else {**_DOMAINS, **stream},
        "scenario": "domain",
        "learner": {**method, "autoencoder": {"name": "lgaa", **autoencoder}},
    }


def _lgaa_presets() -> dict[str, Preset]:
    """Our own settings, and the authors' with what can run at all of their choices."""

    def adam(rate: float, first: float = 0.9) -> dict[str, Any]:
        return {"name": "adam", "learning_rate": rate, "betas": [first, 0.999]}

    rms = {"name": "rmsprop", "learning_rate": 1e-4, "decay": 0.9, "epsilon": 1e-10}
    published = {
        "initial_std": 0.02,
        "conditioning": "none",
        "uniform_noise": True,
        "mutual_information": 0.0,
        "domain_shapes_encoder": False,
        "replay_temperature": 1.0,
    }
    shaped = {"shape_inference": True, "code_kl_weight": 1.0}
    penalty = {"penalty_norm": "columns", "one_place": True}
    rates = {"critic_optimiser": rms, "generator_optimiser": rms, "label_optimiser": adam(1e-4)}
    return {
        "lgaa-tiny": Preset(
            _lgaa(3, {"train_rows": 10_000}, {}, size="tiny"), "our own settings", "1,400 steps, minutes on two cores"
        ),
        "lgaa-small32": Preset(
            _lgaa(5, {"datasets": ["mnist", "svhn"], "size": 32}, {}, size="small32"),
            "our own settings; networks with a quarter of the published widths",
            "16,000 steps: hours on two cores, minutes on an accelerator",
        ),
        "lgaa-faithful32": Preset(
            _lgaa(
                20,
                {"size": 32, "channels": 3},
                {"balance": False},
                size="faithful32",
                dream_optimiser=adam(1e-4),
                **published,
                **shaped,
                **penalty,
                **rates,
            ),
            LGAA,
            "56,000 steps, 52 PFLOP: an accelerator",
        ),
        "lgaa-faithful64": Preset(
            _lgaa(
                50,
                _IMAGES,
                {"balance": False, "replay_ratio": 0.4},
                size="faithful64",
                critic_steps=5,
                dream_optimiser=adam(1e-4, 0.5),
                **published,
                **penalty,
                **rates,
            ),
            f"{LGAA}, those for CelebA and then chairs; differs in that the generator is told the domain. Give stream.path, a folder of images of "
            "64 x 64: train/DOMAIN/*.png, and test",
            "94,000 steps for 50,000 images a domain, 84 PFLOP: an accelerator",
        ),
        "lgaa-eccv28": Preset(
            _lgaa(
                10,
                {},
                {"balance": False},
                size="eccv28",
                generators="two",
                prior="domain-shifted",
                temperature=0.1,
                critic_optimiser=adam(2e-4, 0.5),
                generator_optimiser=adam(1e-3, 0.5),
                dream_optimiser=adam(2e-4, 0.5),
                label_optimiser=adam(2e-4, 0.5),
                **published,
                **shaped,
            ),
            "Ye and Bors, ECCV 2020, arXiv 2007.10221, settings of the authors' public code",
            "28,000 steps: an accelerator",
        ),
    }


GLR = "Armstrong, Thakur and Clifton, Generative Latent Replay for Continual Learning"
_CNN = {"name": "cnn", "channels": [16, 32], "kernel": 5, "halving": "max-pool", "width": 256}


def _latent_presets() -> dict[str, Preset]:
    """The frozen family: each is a learner that may be put on any stream; the streams are those that its source used."""
    rotated = {"name": "rotated", "dataset": "mnist", "tasks": 5, "max_angle": 360}
    described = {
        "name": "generative-replay",
        "generator": {
            "name": "densities",
            "scope": "task",
            "density": {"name": "gmm", "covariance": "diagonal", "components": 10},
        },
        "labels": "solver",
        "pool": 6000,
        "steps": 1000,
    }
    recommended = {
        "name": "generative-replay",
        "generator": {
            "name": "densities",
            "scope": "task-class",
            "density": {"name": "gmm", "covariance": "tied", "components": 150, "iterations": 1},
        },
        "labels": "condition",
        "steps": 800,
        "align_steps": 200,
    }
    backbone = {"backbone": _CNN, "steps": 500}
    coded = {
        "name": "generative-replay",
        "generator": {"name": "class-mixture", "samples": 6000},
        "labels": "condition",
        "importance": 58 / 64,
        "batch_size": 58,
        "replay_size": 6,
        "epochs": 3,
    }
    sgd = {"name": "sgd", "learning_rate": 1e-3, "momentum": 0.9, "weight_decay": 5e-4, "reset_each_task": True}
    alexnet = {"name": "alexnet", "side": 244, "optimiser": sgd}
    return {
        "glr-as-coded": Preset(
            {
                "stream": rotated,
                "scenario": "domain",
                "learner": {
                    "name": "generative-latent-replay",
                    "backbone": alexnet,
                    "normalise": "none",
                    "batch_size": 58,
                    "epochs": 3,
                    "method": coded,
                },
            },
            f"the code published with {GLR}; give learner.weights = AlexNet's of ImageNet; differs in that latents are taken after training and "
            "without dropout, and that three epochs stand for its early stopping on training rows (2 to 4 there)",
            "hours on a CPU: 300,000 images of 244 x 244",
        ),
        "glr-as-described": Preset(
            {
                "stream": rotated,
                "scenario": "domain",
                "learner": {"name": "generative-latent-replay", "method": described, **backbone},
            },
            f"{GLR}: a mixture for each task, sampled once a task, its samples labelled by the head of that time; sizes ours",
            "about a minute",
        ),
        "glr-recommended": Preset(
            {
                "stream": SPLIT_MNIST,
                "scenario": "class",
                "learner": {"name": "generative-latent-replay", "method": recommended, **backbone},
            },
            "ours, chosen on a validation split (python -m benchmarks.choices components, backbone, align)",
            "5,500 steps, half a minute",
        ),
    }


PRESETS: dict[str, Preset] = {
    "demo": Preset(
        {
            "stream": {"name": "split", "dataset": "digits", "tasks": 5},
            "scenario": "class",
            "learner": {"name": "generative-replay"},
        },
        "ours",
        "some ten seconds on two cores",
    ),
    "split-mnist-naive": Preset(_split_mnist("naive"), NMI, "10,000 steps, half a minute"),
    "split-mnist-joint": Preset(_split_mnist("joint", steps=10_000), NMI, "10,000 steps, half a minute"),
    "split-mnist-generative-replay": Preset(
        _split_mnist("generative-replay", generator=_VAE), NMI, "10,000 steps, 20.5 TFLOP, about two minutes"
    ),
    "split-mnist-generative-replay-distilled": Preset(
        _split_mnist("generative-replay", generator=_VAE, distill=True),
        NMI,
        "10,000 steps, 20.5 TFLOP, about two minutes",
    ),
    "split-mnist-generative-replay-wgan-gp": Preset(
        _split_mnist("generative-replay", generator={"name": "wgan-gp", "hidden": [400, 400], "latent_dim": 100}),
        f"solver: {NMI}; generator: ours, chosen on a validation split (seeds 100, 101): 2,000 critic and 1,000 generator steps a task",
        "20,000 steps, about five minutes",
    ),
    "split-mnist-generative-replay-lgaa": Preset(
        _split_mnist(
            "generative-replay",
            generator={
                "name": "lgaa",
                "phase_steps": 600,
                "reconstruction_weight": 0.1,
                "kl_weight": 0.1,
                "replay_temperature": 1.0,
                "infer_generated": True,
            },
            labels="agreement",
            reconstructed=0.5,
        ),
        f"solver: {NMI}; generator: ours, chosen on a validation split (seed 1)",
        "3,000 steps of the generator, 10,000 of the solver, half an hour",
    ),
    "split-mnist-learning-without-forgetting": Preset(
        _split_mnist("learning-without-forgetting"), NMI, "10,000 steps, a minute"
    ),
    **_latent_presets(),
    "split-mnist-replay": Preset(
        _split_mnist("replay", buffer={"name": "buffer", "budget": 100, "unit": "items-per-class"}),
        NMI,
        "10,000 steps, a minute",
    ),
    **{name: Preset(options, PAPER, cost) for name, (options, cost) in ROWS.items()},
    **_lgaa_presets(),
}
