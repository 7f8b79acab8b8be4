"""The guide of a model without latents: nothing to infer."""

from __future__ import annotations

__all__ = ["NoLatentsGuide"]

from collections.abc import Callable
from typing import Any, NoReturn

from ppl_vae.errors import UsageError
from ppl_vae.pyro.guide import Guide, Site, hidden_sites


class NoLatentsGuide(Guide):
    """Completes a pair whose model has no latent sites given data, such as `PixelCNN`.

    The bound is then the exact likelihood, with any number of samples.

    Raises:
        UsageError: the model has latent sites.
    """

    def __init__(self, model: Callable[..., Any], *, name: str = "guide") -> None:
        super().__init__(model, name=name)
        hidden = hidden_sites(model) if self.sites else ()
        if hidden:
            raise UsageError(
                f"NoLatentsGuide: expected a model without latents, came one with "
                f"{', '.join(hidden)}: take MeanFieldGuide"
            )

    def posterior(self, site: Site, features: Any) -> NoReturn:
        """Refused with UsageError: there was no site when the guide was built."""
        raise UsageError(f"NoLatentsGuide: site {site.name} appeared after the guide was built")
