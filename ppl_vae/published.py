"""Authors' published weights as models and guides of the zoo.

`nvae` takes NVAE's `state_dict` and the settings that it was trained with. Every key of the
checkpoint has one place here; a key too few or too many, or of another shape, is an error that
names it. Left aside are batch norm's counters and the `weight_normalized` copies of weights that
the authors' code keeps beside inverted residual convolutions.
"""

from __future__ import annotations

__all__ = ["nvae", "nvae_recipe"]

from collections.abc import Mapping
from typing import Any

import numpy as np

from ppl_vae import recipes
from ppl_vae.errors import UsageError, nearest
from ppl_vae.nvae_names import names
from ppl_vae.recipes import ClassSettings, DataSettings, Recipe
from ppl_vae.typed import room

DATA = {
    "mnist": "mnist",
    "omniglot": "omniglot",
    "cifar10": "cifar10",
    "celeba_64": "celeba64",
    "imagenet_32": "imagenet32",
    "celeba_256": "celebahq256",
    "ffhq": "ffhq256",
}
"""NVAE's names of data sets, and ours."""

BINARY = ("mnist", "omniglot")  # 28 × 28, padded to 32 × 32, Bernoulli

OLDER = {"ada_groups": False, "min_groups_per_scale": 1, "num_mixture_dec": 10, "num_x_bits": 8}
"""What configurations from before an option existed mean by leaving it out."""


def nvae(
    state_dict: Mapping[str, Any], config: Mapping[str, Any], ppl: str = "pyro"
) -> tuple[Any, Any]:
    """(model, guide) with NVAE's published weights, in evaluation mode.

    Args:
        state_dict: {the authors' name: array or tensor}.
        config: the authors' settings, such as num_latent_scales and num_groups_per_scale; what
            has no bearing on the nets is ignored.
        ppl: "pyro" or "numpyro".

    Raises:
        UsageError: a setting that is missing or means something else, a key or shape that does
            not fit; it is named.
    """
    recipe, x_shape = nvae_recipe(state_dict, config)
    model, guide = recipes.build(recipe, ppl, x_shape)
    arrays = {key: _array(value) for key, value in state_dict.items()}
    ours, ignored = names(recipe.model.init_args, recipe.guide.init_args)
    _check_keys(arrays, ours, ignored)
    own = room(ppl).state(model, guide)
    for theirs, name in ours.items():
        if arrays[theirs].shape != own[name].shape:
            raise UsageError(
                f"state_dict: {theirs} expected shape {own[name].shape}, came "
                f"{arrays[theirs].shape}: take the settings that it was trained with"
            )
    room(ppl).load_state(model, guide, {name: arrays[theirs] for theirs, name in ours.items()})
    return model, guide


def nvae_recipe(
    state_dict: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[Recipe, tuple[int, ...]]:
    """(recipe of the zoo's NVAE with the authors' settings, shape of its images)."""
    given = {**OLDER, **config}
    if given.get("arch_instance", "res_mbconv") != "res_mbconv":
        raise UsageError(
            f"config.arch_instance: expected 'res_mbconv', came {given['arch_instance']!r}: "
            "the zoo has no other cells"
        )
    blocks = _whole(given, "num_postprocess_blocks")
    if _whole(given, "num_preprocess_blocks") != blocks:
        raise UsageError(
            f"config.num_preprocess_blocks: expected {blocks}, as num_postprocess_blocks, came "
            f"{given['num_preprocess_blocks']}"
        )
    dataset = _of(given, "dataset")
    if dataset not in DATA:
        raise UsageError(f"config.dataset: unknown {dataset!r}: {nearest(str(dataset), DATA)}")
    scales = _whole(given, "num_latent_scales")
    padding = 2 if dataset in BINARY else 0
    recipe = Recipe(
        name=f"nvae-{DATA[dataset]}",
        description=f"NVAE, published weights ({dataset})",
        source="Vahdat & Kautz 2020, arXiv 2007.03898, the authors' checkpoint",
        data=DataSettings(DATA[dataset], "dynamic" if dataset in BINARY else "none"),
        model=ClassSettings(
            "NVAE",
            {
                "scales": scales,
                "groups": _whole(given, "num_groups_per_scale"),
                "adaptive_groups": bool(_of(given, "ada_groups")),
                "min_groups": _whole(given, "min_groups_per_scale"),
                "latent_channels": _whole(given, "num_latent_per_group"),
                "channels": _whole(given, "num_channels_dec"),
                "blocks": blocks,
                "block_cells": _whole(given, "num_postprocess_cells"),
                "group_cells": _whole(given, "num_cell_per_cond_dec"),
                "squeeze_excite": bool(_of(given, "use_se")),
                "padding": padding,
                **_likelihood(dataset, given),
            },
        ),
        guide=ClassSettings(
            "NVAEGuide",
            {
                "channels": _whole(given, "num_channels_enc"),
                "block_cells": _whole(given, "num_preprocess_cells"),
                "group_cells": _whole(given, "num_cell_per_cond_enc"),
                "residual": bool(_of(given, "res_dist")),
                "flows": _whole(given, "num_nf"),
            },
        ),
    )
    return recipe, _x_shape(state_dict, blocks + scales - 1, padding)


def _likelihood(dataset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if dataset in BINARY:
        return {"likelihood": "bernoulli"}
    components, levels = _whole(given, "num_mixture_dec"), 2 ** _whole(given, "num_x_bits")
    if components == 1:
        return {"likelihood": "normal", "num_levels": levels}
    return {
        "likelihood": "discretized_logistic_mixture",
        "components": components,
        "num_levels": levels,
        "edges": "nvae",
    }


def _x_shape(state_dict: Mapping[str, Any], halvings: int, padding: int) -> tuple[int, ...]:
    """Shape of the images, which the settings do not have, from the weights that do."""
    for key in ("stem.weight", "prior_ftr0"):
        if key not in state_dict:
            raise UsageError(f"state_dict: {key} is missing: give it whole")
    channels = int(state_dict["stem.weight"].shape[1])
    height, width = (int(side) * 2**halvings for side in state_dict["prior_ftr0"].shape[1:])
    return channels, height - 2 * padding, width - 2 * padding


def _check_keys(given: Mapping[str, Any], ours: Mapping[str, str], ignored: set[str]) -> None:
    missing = [key for key in ours if key not in given]
    extra = [key for key in given if key not in ours and key not in ignored]
    for keys, what in ((missing, "missing"), (extra, "not known")):
        if keys:
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            raise UsageError(
                f"state_dict: {keys[0]} is {what}{more}: give it whole, with the settings that it "
                "was trained with"
            )


def _of(given: Mapping[str, Any], key: str) -> Any:
    if key not in given:
        raise UsageError(f"config.{key}: missing: give NVAE's settings whole")
    return given[key]


def _whole(given: Mapping[str, Any], key: str) -> int:
    value = _of(given, key)
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise UsageError(f"config.{key}: expected a whole number, came {value!r}")
    return int(value)


def _array(value: Any) -> np.ndarray:
    """A tensor or an array as numpy's, whichever library it comes from."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
