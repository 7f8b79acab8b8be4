"""Images that a check looks at one by one."""

from __future__ import annotations

__all__ = ["chosen", "once"]

from typing import TYPE_CHECKING

import numpy as np

from ppl_vae.errors import UsageError

if TYPE_CHECKING:
    from ppl_vae.data import Images


def once(images: Images, seed: int) -> Images:
    """The images with dynamic binarisation drawn once, so that all draws are of one image."""
    return images.fixed(seed) if images.binarization == "dynamic" else images


def chosen(images: Images, places: tuple[int, ...], setting: str) -> Images:
    """The images at `places`; UsageError about `setting` where there are none such."""
    wrong = [place for place in places if not 0 <= place < len(images)]
    if wrong or not places:
        raise UsageError(
            f"{setting}: expected places from 0 to {len(images) - 1}, came {list(places)}: "
            "choose among the images asked about, or ask about more (--images)"
        )
    return images[np.array(places)]
