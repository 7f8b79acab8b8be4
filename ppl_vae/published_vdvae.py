"""Very Deep VAE's published weights (Child 2021, arXiv 2011.10650) as a model and guide of the zoo.

Every key of the authors' `state_dict` has one place here; a key too few or too many, or of another
shape, is an error that names it.
"""

from __future__ import annotations

__all__ = ["SOURCES", "vdvae", "vdvae_arrays", "vdvae_config", "vdvae_recipe"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ppl_vae import recipes
from ppl_vae.errors import UsageError, nearest
from ppl_vae.recipes import ClassSettings, DataSettings, Recipe
from ppl_vae.runs import read_tree
from ppl_vae.typed import room


class Source(NamedTuple):
    """What the authors' name of a data set stands for."""

    data: str  # a set of `ppl_vae.data`
    image_size: int
    input_mean: float  # the nets see (grey level - mean) / scale
    input_scale: float
    num_levels: int = 256


SOURCES = {
    "cifar10": Source("cifar10", 32, 120.63838, 64.16736),
    "imagenet32": Source("imagenet32", 32, 116.2373, 69.37404),
    "imagenet64": Source("imagenet64", 64, 115.92961967, 69.37404),
    "ffhq_256": Source("ffhq256", 256, 112.8666757481, 69.84780273, 32),
    "ffhq_1024": Source("ffhq1024", 1024, 255 * 0.4387, 255 * 0.2743),
}
"""By the authors' names."""

DEFAULTS = {
    "image_channels": 3,
    "bottleneck_multiple": 0.25,
    "custom_width_str": "",
    "no_bias_above": 64,
    "num_mixtures": 10,
}
"""What the authors' settings mean by leaving a key out."""


def vdvae(
    state_dict: Mapping[str, Any], config: Mapping[str, Any], ppl: str = "pyro"
) -> tuple[Any, Any]:
    """(model, guide) with Very Deep VAE's published weights, in evaluation mode.

    Args:
        state_dict: {the authors' name: array or tensor}, of the model or of its moving average.
        config: the authors' settings: dataset, width, zdim, enc_blocks, dec_blocks and, where they
            are not the usual ones, image_size, image_channels, bottleneck_multiple,
            custom_width_str, no_bias_above, num_mixtures; others have no bearing on the nets.
        ppl: "pyro" or "numpyro".

    Raises:
        UsageError: a setting that is missing or wrong, a key or shape that does not fit; named.
    """
    recipe, x_shape = vdvae_recipe(config)
    model, guide = recipes.build(recipe, ppl, x_shape)
    room(ppl).load_state(model, guide, vdvae_arrays(state_dict, room(ppl).state(model, guide)))
    return model, guide


def vdvae_config(name: str) -> dict[str, Any]:
    """The authors' settings for a data set, by their name of it, or those in a YAML file."""
    if name.endswith((".yaml", ".yml", ".json")):
        return read_tree(Path(name))
    if name not in SOURCES:
        raise UsageError(f"config: unknown {name!r}: {nearest(name, SOURCES)}, or a YAML file")
    recipe = recipes.read(f"vdvae-{name.replace('_', '')}")
    model, guide = recipe.model.init_args, recipe.guide.init_args
    return {
        "dataset": name,
        "width": model["width"],
        "zdim": model["latent_channels"],
        "enc_blocks": guide["encoder"],
        "dec_blocks": model["decoder"],
        "custom_width_str": model.get("widths"),
        "num_mixtures": model.get("components"),
    }


def vdvae_recipe(config: Mapping[str, Any]) -> tuple[Recipe, tuple[int, ...]]:
    """(recipe of the zoo's Very Deep VAE with the authors' settings, shape of its images)."""
    given = {**DEFAULTS, **{key: value for key, value in config.items() if value is not None}}
    dataset = str(_of(given, "dataset"))
    if dataset not in SOURCES:
        raise UsageError(f"config.dataset: unknown {dataset!r}: {nearest(dataset, SOURCES)}")
    source = SOURCES[dataset]
    side, channels = int(given.get("image_size", source.image_size)), int(given["image_channels"])
    recipe = Recipe(
        name=f"vdvae-{dataset.replace('_', '')}",
        description=f"Very Deep VAE, published weights ({dataset})",
        source="Child 2021, arXiv 2011.10650, the authors' checkpoint",
        data=DataSettings(source.data),
        model=ClassSettings(
            "VeryDeepVAE",
            {
                "decoder": str(_of(given, "dec_blocks")),
                "width": int(_of(given, "width")),
                "widths": given["custom_width_str"] or None,
                "latent_channels": int(_of(given, "zdim")),
                "bottleneck": float(given["bottleneck_multiple"]),
                "max_bias": int(given["no_bias_above"]),
                "likelihood": "discretized_logistic_mixture",
                "components": int(given["num_mixtures"]),
                "edges": "vdvae",
                "num_levels": source.num_levels,
                "input_mean": source.input_mean,
                "input_scale": source.input_scale,
            },
        ),
        guide=ClassSettings("VeryDeepGuide", {"encoder": str(_of(given, "enc_blocks"))}),
    )
    return recipe, (channels, side, side)


def vdvae_arrays(
    state_dict: Mapping[str, Any], own: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The authors' weights under the names that `own` weights of the same nets have.

    Raises:
        UsageError: the first key that is missing or not known, or whose shape does not fit.
    """
    # What a data-parallel training wrapped has one more word before each name.
    arrays = {key.removeprefix("module."): _array(value) for key, value in state_dict.items()}
    theirs = {_theirs(name): name for name in own}
    missing = [key for key in theirs if key not in arrays]
    extra = [key for key in arrays if key not in theirs]
    for keys, what in ((missing, "missing"), (extra, "not known")):
        if keys:
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            raise UsageError(
                f"state_dict: {keys[0]} is {what}{more}: give it whole, with the settings that it "
                "was trained with"
            )
    for key, name in theirs.items():
        if arrays[key].shape != own[name].shape:
            raise UsageError(
                f"state_dict: {key} expected shape {own[name].shape}, came {arrays[key].shape}: "
                "take the settings that it was trained with"
            )
    return {name: arrays[key] for key, name in theirs.items()}


def _theirs(name: str) -> str:
    """The authors' name of one of our weights.

    >>> _theirs("model.groups.3.prior_net.convs.0.weight")
    'decoder.dec_blocks.3.prior.c1.weight'
    >>> _theirs("guide.tower.stem.bias"), _theirs("model.starts.2"), _theirs("model.gain")
    ('encoder.in_conv.bias', 'decoder.bias_xs.2', 'decoder.gain')
    """
    owner, *path = name.split(".")
    if "convs" in path:
        at = path.index("convs")
        path[at : at + 2] = [f"c{int(path[at + 1]) + 1}"]
    if path[0] in PARTS[owner]:
        path[:1] = PARTS[owner][path[0]]
    elif path[0] == "heads":
        path[:2] = ["decoder", "dec_blocks", path[1], "enc"]
    elif path[0] == "tower":
        path[:2] = ["encoder", {"stem": "in_conv", "blocks": "enc_blocks"}[path[1]]]
    if path[1] == "dec_blocks":
        path[3] = INSIDE.get(path[3], path[3])
    return ".".join(path)


PARTS = {
    "model": {
        "groups": ["decoder", "dec_blocks"],
        "starts": ["decoder", "bias_xs"],
        "gain": ["decoder", "gain"],
        "bias": ["decoder", "bias"],
        "out": ["decoder", "out_net", "out_conv"],
    },
    "guide": {},
}
INSIDE = {"prior_net": "prior", "project": "z_proj", "residual": "resnet"}


def _of(given: Mapping[str, Any], key: str) -> Any:
    if key not in given:
        raise UsageError(f"config.{key}: missing: give Very Deep VAE's settings whole")
    return given[key]


def _array(value: Any) -> np.ndarray:
    """A tensor or an array as numpy's, whichever library it comes from."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
