"""What is looked at before training starts, so that a mistake costs seconds and says its name."""

from __future__ import annotations

__all__ = ["check_batch_size", "check_num_samples", "check_pair", "check_sites", "natural"]

from typing import Any

from ppl_vae.checks import check_cover, natural
from ppl_vae.errors import UsageError
from ppl_vae.numpyro.asking import batch_norms, keeps_order
from ppl_vae.numpyro.guide import Guide, latent_sites


def check_batch_size(model: Any, guide: Any, batch_size: int) -> None:
    """UsageError where batch norm would see one image at a time."""
    if batch_size == 1 and batch_norms(model, guide):
        raise UsageError(
            "training.batch_size: batch norm needs at least 2 images in a batch, came 1: raise it, "
            "or build model and guide with batch_norm=False"
        )


def check_pair(model: Any, guide: Any) -> None:
    """UsageError where guide and model do not cover the same latent sites."""
    sites = getattr(guide, "sites", None)
    if not isinstance(sites, dict):
        return
    check_cover(sites, latent_sites(model))
    if isinstance(guide, Guide) and guide.model is not model:
        raise UsageError("guide was built from another model: build it from the one to be trained")


def check_num_samples(guide: Any, num_samples: int) -> None:
    """UsageError where an automatic guide would have to answer for repeated images."""
    if num_samples > 1 and keeps_order(guide):
        raise UsageError(
            f"objective.num_samples: expected 1 with {type(guide).__name__}, which keeps one "
            f"posterior for each image of a batch, came {num_samples}: set it to 1, or take an "
            "amortised guide"
        )


def check_sites(guide: Any, sites: dict[str, Any], n: int, num_data: int) -> None:
    """UsageError where a site has no reparametrised draws, or cannot be trained on batches of n."""
    for name, site in sites.items():
        if site["type"] != "sample":
            continue
        if not site["fn"].has_rsample and type(site["fn"]).__name__ != "Delta":
            raise UsageError(
                f"site {name}: {type(site['fn']).__name__} has no reparametrised draws, so its "
                "gradient would be missing: take a relaxed distribution"
            )
        local = any(frame.size == n for frame in site["cond_indep_stack"])
        if local and keeps_order(guide) and n < num_data:
            raise UsageError(
                f"{type(guide).__name__} keeps one posterior for each image of a batch, so "
                f"site {name} cannot be trained on minibatches: set batch_size to "
                f"{num_data} (all images), or take an amortised guide"
            )
