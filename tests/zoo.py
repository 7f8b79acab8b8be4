"""The one case table: models × guides × likelihoods × {pyro, numpyro}, built lazily, tiny nets.

`side(ppl)` gives what tests ask of a PPL beside its public calls, under the same names in both
(`pyro_side.py`, `numpyro_side.py`), so that a test is written once.
"""

from __future__ import annotations

__all__ = [
    "CASES", "FITTING", "GUIDES", "LIKELIHOODS", "MODELS", "PAIRS", "PPLS", "X_SHAPE",
    "Case", "images", "noisy", "room", "side", "tools",
]  # fmt: skip

import importlib
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

PPLS = ("pyro", "numpyro")
X_SHAPE = (2, 5, 4)  # two channels and three different sides: a swapped axis cannot hide

# {id: (class, arguments, latent event shapes from the top down)}
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "vae": ("VAE", {"latent": 3, "hidden": (5, 4)}, {"z1": (3,)}),
    "vae-conv": ("VAE", {"latent": 3, "hidden": (5, 4), "net": "conv"}, {"z1": (3,)}),
    "hierarchy": (
        "HierarchicalVAE",
        {"latents": (3, 2, 1), "hidden": (5, 4, 3), "layers": 1, "batch_norm": True},
        {"z3": (1,), "z2": (2,), "z1": (3,)},
    ),
    "hierarchy-conv": (
        "HierarchicalVAE",
        {"latents": (3, 2), "hidden": (5, 4), "layers": 1, "net": "conv", "batch_norm": True},
        {"z2": (2,), "z1": (3,)},
    ),
    "nvae": (
        "NVAE",
        {
            "scales": 2, "groups": 1, "latent_channels": 2, "channels": 2, "blocks": 1,
            "block_cells": 1, "group_cells": 1,
        },
        {"z2": (2, 2, 1), "z1": (2, 4, 2)},
    ),
    "pixel": (
        "PixelVAE",
        {
            "latent": 3, "hidden": (3, 4), "features": 2, "channels": 6, "layers": 2,
            "kernel_size": 3, "batch_norm": True,
        },
        {"z1": (3,)},
    ),
    "very-deep": (
        "VeryDeepVAE",
        {"decoder": "2x1,8m2", "width": 4, "latent_channels": 2, "bottleneck": 0.5, "max_bias": 2},
        {"z2": (2, 2, 2), "z1": (2, 8, 8)},
    ),
    "vq-vae": (
        "VQVAE",
        {"codes": 3, "code_dim": 2, "hidden": (3, 4), "blocks": 1, "update": "gradient",
         "start": "random", "restart": 0.0, "activation": "elu"},
        {"z1": (2, 2, 1)},
    ),
}  # fmt: skip
GUIDES = {
    "mean-field": "MeanFieldGuide",
    "ladder": "LadderGuide",
    "bottom-up": "BottomUpGuide",
    "residual-normal": "ResidualNormalGuide",
    "iaf": "IAFGuide",
    "nvae": "NVAEGuide",
    "nvae-free": "NVAEGuide",
    "very-deep": "VeryDeepGuide",
    "vector-quantizer": "VectorQuantizerGuide",
    "gumbel-softmax": "GumbelSoftmaxGuide",
}
GUIDE_ARGUMENTS: dict[str, dict[str, Any]] = {
    "nvae": {"flows": 1},
    "nvae-free": {"residual": False},
}
LIKELIHOODS = ("bernoulli", "discretized_logistic", "discretized_logistic_mixture", "normal")


@dataclass(frozen=True)
class Case:
    """One cell of the table; `build` makes it."""

    ppl: str
    model: str
    guide: str
    likelihood: str = "bernoulli"

    def __str__(self) -> str:
        return "-".join((self.ppl, self.model, self.guide, self.likelihood))

    @property
    def sites(self) -> dict[str, tuple[int, ...]]:
        """{site: event shape}, top first, as the table has them."""
        return MODELS[self.model][2]

    @property
    def guide_class(self) -> str:
        return GUIDES[self.guide]

    @property
    def has_batch_norm(self) -> bool:
        return self.model == "nvae" or bool(MODELS[self.model][1].get("batch_norm"))

    def build(self, seed: int = 0, x_shape: tuple[int, ...] = X_SHAPE, **changes: Any) -> Any:
        """(model, guide), fresh weights; `changes` to the model's arguments."""
        name, arguments, _ = MODELS[self.model]
        arguments = {**arguments, "likelihood": self.likelihood, **changes}
        models = importlib.import_module(f"models.{self.ppl}")
        guides = importlib.import_module(f"guides.{self.ppl}")
        guide = partial(getattr(guides, self.guide_class), **GUIDE_ARGUMENTS.get(self.guide, {}))
        return side(self.ppl).build(getattr(models, name), guide, x_shape, arguments, seed)


def fits(model: str, guide: str) -> bool:
    """Whether the table has the pair: all guides answer all, but for those that look at states.

    NVAE stands for maps of latents under the others' guides. Pixels that depend on each other are
    no affair of a guide's: one stands for the rest. Codes have guides of their own.
    """
    quantizes = guide in ("vector-quantizer", "gumbel-softmax")
    if model == "vq-vae" or quantizes:  # codes are not Normal
        return model == "vq-vae" and quantizes
    if model == "pixel":
        return guide == "mean-field"
    if "very-deep" in (model, guide):
        return model == guide or guide == "iaf"  # flows over maps, as over NVAE's
    return model == "nvae" or not guide.startswith("nvae")


# Likelihoods meet models and guides in one place, the decoder's output: PAIRS leaves them at one.
# Nor do convolutions meet any guide but in the encoder that they share: one VAE of them does.
FITTING = [
    (model, guide)
    for model in MODELS
    for guide in GUIDES
    if fits(model, guide)
    if (model, guide) not in {("vae-conv", "residual-normal"), ("vae-conv", "iaf")}
]
PAIRS = [Case(ppl, model, guide) for ppl in PPLS for model, guide in FITTING]
CASES = [replace(pair, likelihood=name) for pair in PAIRS for name in LIKELIHOODS]


def room(ppl: str) -> Any:
    """`ppl_vae.<ppl>`: the public calls."""
    return importlib.import_module(f"ppl_vae.{ppl}")


def side(ppl: str) -> Any:
    """`tests/<ppl>_side.py`."""
    return importlib.import_module(f"{ppl}_side")


def tools(ppl: str) -> Any:
    """`tests/<ppl>_parts.py`."""
    return importlib.import_module(f"{ppl}_parts")


def images(
    likelihood: str = "bernoulli",
    n: int = 6,
    x_shape: tuple[int, ...] = X_SHAPE,
    seed: int = 0,
    dtype: Any = np.float32,
) -> Any:
    """(n, c, h, w) in the likelihood's range, the lowest and highest values among them."""
    levels = np.random.default_rng(seed).integers(0, 256, (n, *x_shape))
    levels.flat[:2] = 0, 255
    if likelihood == "bernoulli":
        return (levels > 127).astype(dtype)
    return (levels / 255).astype(dtype)


def noisy(arrays: dict[str, Any], seed: int = 0, scale: float = 0.5) -> dict[str, Any]:
    """Weights like `arrays`, every entry drawn anew, float64: no zero bias, no unit variance.

    Those of flows are smaller: a gate that is all but shut cannot be undone in float32.
    """
    rng = np.random.default_rng(seed)
    drawn = {
        name: (0.1 if ".flows." in name else scale) * rng.standard_normal(arrays[name].shape)
        for name in sorted(arrays)
    }
    for name, value in drawn.items():  # a deep stack of convolutions would overflow otherwise
        if value.ndim == 4 and name.endswith("weight"):
            value /= np.sqrt(value[0].size)
    return {
        name: np.exp(value) if name.endswith("running_var") else value
        for name, value in drawn.items()
    }
