r"""Do images that the model makes look like the data's? Predictive checks on image statistics.

A statistic T is worked out for the data's images x and for replicated ones,

.. math:: p = P(T(\tilde x) > T(x)) + \tfrac12 P(T(\tilde x) = T(x))

with x̃ from p(x̃ | z), z ~ q(z | x): the posterior predictive p-value of an image (Gelman, Meng &
Stern 1996, Posterior predictive assessment of model fitness via realized discrepancies); or with x̃
from the model's prior: the prior predictive one, which is uniform over images where the model is
right. Posterior ones are not: the image has been seen, and they crowd around one half. What counts
is that few of them are near 0 or 1.
"""

from __future__ import annotations

__all__ = [
    "STATISTICS",
    "components",
    "image_statistics",
    "pixel_mean",
    "plot_predictive",
    "predictive_p_values",
    "predictive_tree",
    "stroke_width",
]

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy import ndimage, stats
from skimage.measure import label
from skimage.morphology import skeletonize

from evaluation._arviz import drawn
from evaluation._canvas import BLUE, GREY
from ppl_vae.errors import UsageError

Array: TypeAlias = npt.NDArray[Any]
Statistic: TypeAlias = Callable[[Array], float]
"""From one image (height, width), channels averaged, values in [0, 1], to a number."""

TAIL = 0.05  # an image counts as extreme below it, or above 1 less it


def pixel_mean(image: Array) -> float:
    """Mean grey value: how much ink."""
    return float(image.mean())


def stroke_width(image: Array) -> float:
    """Mean width of what is bright (above 0.5), in pixels; 0 where nothing is.

    Twice the distance to the dark along the skeleton, on a grid twice as fine, where a bar of w
    pixels has width w whether w is odd or even.
    """
    bright = (image > 0.5).repeat(2, axis=0).repeat(2, axis=1)
    if not bright.any():
        return 0.0
    # A frame of dark: the image's edge ends a stroke too.
    distance = ndimage.distance_transform_edt(np.pad(bright, 1))[1:-1, 1:-1]
    return float(distance[skeletonize(bright)].mean())


def components(image: Array) -> float:
    """Connected parts of what is bright (above 0.5), diagonal neighbours counted as joined."""
    return float(label(image > 0.5, connectivity=2).max())


STATISTICS: dict[str, Statistic] = {
    "pixel mean": pixel_mean,
    "stroke width": stroke_width,
    "components": components,
}


def image_statistics(
    images: Any, statistics: Mapping[str, Statistic] | None = None
) -> dict[str, Array]:
    """Statistics of each image, by name.

    Args:
        images: (…, channels, height, width): floats in [0, 1], or whole numbers, which are bytes
            where one is above 1.
        statistics: {name: function of one image (height, width)}; `STATISTICS` by default.

    Returns:
        {name: (…)}, in each statistic's unit: grey values, pixels, a count.

    Raises:
        UsageError: fewer than three axes, or no image.
    """
    array = np.asarray(images)
    if array.ndim < 3 or not array.size:
        raise UsageError(f"images: expected (…, channels, height, width), came {array.shape}")
    if array.dtype.kind in "iu" and array.max() > 1:
        array = array / 255.0
    grey = array.mean(axis=-3, dtype=np.float64)
    flat = grey.reshape(-1, *grey.shape[-2:])
    return {
        name: np.array([function(image) for image in flat]).reshape(grey.shape[:-2])
        for name, function in (STATISTICS if statistics is None else statistics).items()
    }


def predictive_tree(
    images: Any, posterior: Any, prior: Any, statistics: Mapping[str, Statistic] | None = None
) -> xr.DataTree:
    """Statistics of the data and of replicated images, in ArviZ's groups.

    Args:
        images: (image, c, h, w), the data as the likelihood saw them.
        posterior: (draw, image, c, h, w), as `ppl_vae.<ppl>.replicates` gives them.
        prior: (draw, image, c, h, w), from the model, in sets as large as the data's.
        statistics: {name: function}; `STATISTICS` by default.

    Returns:
        Groups `observed_data` (image), `posterior_predictive` and `prior_predictive`
        (chain, draw, image), a variable for each statistic, in its unit.

    Raises:
        UsageError: replicas of another shape than the images, or no images.
    """
    shape = np.shape(images)
    for name, given in (("posterior", posterior), ("prior", prior)):
        if np.shape(given)[1:] != shape:
            raise UsageError(
                f"{name}: expected (draws, {', '.join(map(str, shape))}), replicas of the images, "
                f"came {np.shape(given)}"
            )
    places = {"image": np.arange(shape[0])}
    groups = {"observed_data": _dataset(image_statistics(images, statistics), ("image",), places)}
    for name, given in (("posterior_predictive", posterior), ("prior_predictive", prior)):
        found = image_statistics(np.asarray(given)[None], statistics)
        coords = {"chain": [0], "draw": np.arange(len(given)), **places}
        groups[name] = _dataset(found, ("chain", "draw", "image"), coords)
    return xr.DataTree.from_dict(groups)


def predictive_p_values(tree: xr.DataTree) -> xr.Dataset:
    """Predictive p-values of each image and of all together, by statistic.

    Returns:
        `p_posterior`, `p_prior` (statistic, image): share of replicas above the data, ties by
        half; `extreme` (statistic,): share of images with p_posterior below 0.05 or above 0.95;
        `p_set` (source, moment, statistic): the same p-value of the mean and the standard
        deviation over all images, sources "posterior" and "prior"; `p_same` (statistic,):
        two-sample Kolmogorov-Smirnov p-value of the data against the prior's images.
    """
    data = tree["observed_data"].to_dataset().to_array("statistic")
    sides = {
        "posterior": tree["posterior_predictive"].to_dataset().to_array("statistic"),
        "prior": tree["prior_predictive"].to_dataset().to_array("statistic"),
    }
    by_image = {f"p_{name}": _above(side, data) for name, side in sides.items()}
    moments = ("mean", "sd")
    by_set = xr.concat(
        [
            xr.concat([_above(_moment(side, m), _moment(data, m)) for m in moments], "moment")
            for side in sides.values()
        ],
        "source",
    ).assign_coords(source=list(sides), moment=list(moments))
    p = by_image["p_posterior"]
    same = [
        stats.ks_2samp(data[i].values.ravel(), sides["prior"][i].values.ravel()).pvalue
        for i in range(data.sizes["statistic"])
    ]
    result = xr.Dataset(
        {
            **by_image,
            "extreme": ((p < TAIL) | (p > 1 - TAIL)).mean("image"),
            "p_set": by_set,
            "p_same": ("statistic", same),
        }
    )
    for name, long_name in {
        "p_posterior": "share of replicas from the guide's posterior above the image's statistic",
        "p_prior": "share of the model's images above the image's statistic",
        "extreme": f"share of images whose p_posterior is within {TAIL} of 0 or 1",
        "p_set": "share of replicated sets whose mean (sd) over images is above the data's",
        "p_same": "Kolmogorov-Smirnov p-value of data and the model's images having one law",
    }.items():
        result[name].attrs.update(units="1", long_name=long_name)
    return result


def plot_predictive(tree: xr.DataTree, path: str | Path) -> Path:
    """Each statistic over images: sets replicated from the posterior, and the data (arviz-plots).

    Curves are empirical distribution functions, one for each replicated set.

    Args:
        tree: of `predictive_tree`.
        path: of a PNG file.

    Returns:
        The path.
    """
    from arviz_plots import plot_ppc_dist

    columns = len(tree["observed_data"].data_vars)
    return drawn(
        path,
        plot_ppc_dist,
        tree,
        size=(3.1 * columns, 2.9),
        kind="ecdf",
        num_samples=min(50, tree["posterior_predictive"].sizes["draw"]),
        visuals={
            "predictive_dist": {"color": BLUE, "alpha": 0.15},
            "observed_dist": {"color": "black"},
            "remove_axis": False,
        },
        change=lambda figure: _label(figure, columns),
    )


def _label(figure: Any, columns: int) -> None:
    from matplotlib.lines import Line2D

    for axes in figure.axes[:columns]:
        axes.set_ylabel("share of images below")
        axes.tick_params(colors=GREY)
    handles = [Line2D([], [], color="black"), Line2D([], [], color=BLUE)]
    figure.legend(handles, ["data", "replicated"], loc="outside upper right", ncols=2)


def _dataset(values: Mapping[str, Array], dims: tuple[str, ...], coords: Any) -> xr.Dataset:
    units = {"stroke width": "pixels"}
    return xr.Dataset(
        {name: (dims, value, {"units": units.get(name, "1")}) for name, value in values.items()},
        coords=coords,
    )


def _above(replicated: xr.DataArray, data: xr.DataArray) -> xr.DataArray:
    share = (replicated > data).mean(("chain", "draw"))
    return share + 0.5 * (replicated == data).mean(("chain", "draw"))


def _moment(values: xr.DataArray, moment: str) -> xr.DataArray:
    return values.mean("image") if moment == "mean" else values.std("image")
