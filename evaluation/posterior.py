r"""The guide's posterior beside the one that Markov chains find, as a DataTree for ArviZ.

Chains are believed where all units of an image have rank-normalised split R-hat below 1.01 and a
bulk effective sample size above 400 (Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021,
Rank-Normalization, Folding, and Localization: An Improved R-hat, arXiv 1903.08008). What has not
converged is said to be so, and is compared with nothing.
"""

from __future__ import annotations

__all__ = ["ESS_GATE", "RHAT_GATE", "agreement", "convergence", "plot_forests", "posterior_tree"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import arviz_stats
import numpy as np
import numpy.typing as npt
import xarray as xr

from evaluation._arviz import drawn
from evaluation._canvas import BLUE, ORANGE
from ppl_vae.errors import UsageError

Array: TypeAlias = npt.NDArray[Any]

RHAT_GATE = 1.01
ESS_GATE = 400.0

_STATS = {  # name: (units, long_name)
    "diverging": ("1", "whether the trajectory diverged"),
    "energy": ("nats", "Hamiltonian of the draw"),
    "lp": ("nats", "log p(x, z)"),
    "n_steps": ("1", "leapfrog steps"),
    "acceptance_rate": ("1", "mean acceptance along the trajectory"),
    "step_size": ("1", "leapfrog step"),
}


def posterior_tree(chains: Any, *, images: Sequence[int] | None = None) -> xr.DataTree:
    """What `ppl_vae.<ppl>.nuts` found, in the groups and dimensions that ArviZ reads.

    Args:
        chains: with `posterior` {site: (chain, draw, image, units…)}, `guide`
            {site: (draw, image, units…)}, `stats` {name: (chain, draw, image)} and `x`
            (image, c, h, w).
        images: what to call the images, such as their places in the test split.

    Returns:
        Groups `posterior`, `sample_stats` (chains), `posterior_guide` (independent draws, cut
        into as many chains), `observed_data`; units of a site along the dimension SITE_unit.
    """
    count = len(chains.x)
    names = np.arange(count) if images is None else np.asarray(images)
    if len(names) != count:
        raise UsageError(f"images: expected {count} names, one an image, came {len(names)}")
    stats = {
        name: (("chain", "draw", "image"), np.asarray(value), _attributes(name))
        for name, value in chains.stats.items()
    }
    num_chains = len(next(iter(chains.posterior.values())))
    guide = {site: _as_chains(value, num_chains) for site, value in chains.guide.items()}
    x = np.asarray(chains.x)
    groups = {
        "posterior": _sites(chains.posterior, names),
        "sample_stats": xr.Dataset(stats, coords={"image": names}),
        "posterior_guide": _sites(guide, names),
        "observed_data": xr.Dataset(
            {"x": (("image", "channel", "row", "column"), x)}, coords={"image": names}
        ),
    }
    return xr.DataTree.from_dict(groups)


def convergence(tree: xr.DataTree) -> xr.Dataset:
    """Whether the chains of each image have converged.

    Returns:
        `rhat` and `ess_bulk` (site, image), the worst over units; `divergences` (image,), of all
        draws; `converged` (image,). A constant chain has no R-hat and has not converged.
    """
    posterior = tree["posterior"].to_dataset()
    rhat = _over_units(arviz_stats.rhat(posterior), "max")
    ess = _over_units(arviz_stats.ess(posterior, method="bulk"), "min")
    good = ((rhat < RHAT_GATE) & (ess > ESS_GATE)).all("site")
    result = xr.Dataset({"rhat": rhat, "ess_bulk": ess, "converged": good})
    if "diverging" in tree["sample_stats"]:
        diverging = tree["sample_stats"]["diverging"]
        result["divergences"] = diverging.sum(("chain", "draw"))
        result["divergences"].attrs.update(units="1", long_name="diverging draws, of all chains")
    result["rhat"].attrs.update(units="1", long_name="highest rank-normalised R-hat of the units")
    result["ess_bulk"].attrs.update(units="1", long_name="lowest bulk effective sample size")
    result["converged"].attrs.update(
        units="1", long_name=f"R-hat < {RHAT_GATE} and bulk ESS > {ESS_GATE:g} for every unit"
    )
    result.attrs["reference"] = "Vehtari et al. 2021, arXiv 1903.08008"
    return result


def agreement(tree: xr.DataTree, converged: Any | None = None) -> xr.Dataset:
    r"""How far the guide's posterior of each unit is from the chains', in the chains' deviations.

    .. math:: shift = (E_q z - E_p z) / SD_p z, \qquad ratio = SD_q z / SD_p z

    Args:
        converged: (image,), of `convergence` by default.

    Returns:
        `shift_SITE`, `ratio_SITE` (image, SITE_unit), NaN where the chains have not converged;
        `shift` (root mean square) and `ratio` (median), (site, image).
    """
    good = convergence(tree)["converged"] if converged is None else converged
    p, q = (tree[group].to_dataset() for group in ("posterior", "posterior_guide"))
    over = ("chain", "draw")
    scale = p.std(over, ddof=1).where(good)
    shift, ratio = (q.mean(over) - p.mean(over)) / scale, q.std(over, ddof=1) / scale
    result = xr.Dataset(
        {f"shift_{site}": shift[site] for site in shift.data_vars}
        | {f"ratio_{site}": ratio[site] for site in ratio.data_vars}
    )
    result["shift"] = _over_units(shift**2, "mean") ** 0.5
    result["ratio"] = _over_units(ratio, "median")
    for name in result.data_vars:
        text = str(name)
        what = "guide's mean less the chains', in the chains' deviations"
        if text.startswith("ratio"):
            what = "guide's standard deviation over the chains'"
        result[name].attrs.update(units="1", long_name=what)
    return result


def plot_forests(
    tree: xr.DataTree, folder: str | Path, *, converged: Any | None = None, limit: int = 12
) -> dict[int, Path]:
    """For each converged image, the guide's intervals beside the chains' (arviz-plots).

    Args:
        folder: files `posterior_IMAGE.png` go there.
        converged: (image,), of `convergence` by default.
        limit: units shown, those that the guide misses by most.

    Returns:
        {image: file}; images whose chains have not converged are left out.
    """
    from arviz_plots import plot_forest

    good = convergence(tree)["converged"] if converged is None else converged
    found = {}
    for image in tree["posterior"].to_dataset()["image"].values[np.asarray(good, dtype=bool)]:
        groups = {
            name: _worst_units(tree, group, image, limit)
            for name, group in (("guide", "posterior_guide"), ("NUTS", "posterior"))
        }
        units = len(groups["guide"]["posterior"].data_vars)
        found[int(image)] = drawn(
            Path(folder) / f"posterior_{image}.png",
            plot_forest,
            groups,
            size=(6.4, 1.1 + 0.36 * units),
            combined=True,
            point_estimate="mean",
            color=[BLUE, ORANGE],
            ci_probs=(0.5, 0.9),
            labels=["__variable__"],
            visuals={"ticklabels": False},
            change=_legend,
        )
    return found


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=c) for c in (BLUE, ORANGE)]
    figure.legend(handles, ["guide", "NUTS"], loc="outside upper right", ncols=2)
    figure.axes[0].set_axis_off()  # the labels' own column
    figure.axes[-1].set_xlabel("latent: mean, 50 and 90 % intervals")


def _worst_units(tree: xr.DataTree, group: str, image: int, limit: int) -> xr.DataTree:
    """The `limit` units that the guide misses by most, each a variable, of one image."""
    p, q = (
        {f"{site}[{u}]": values[..., u] for site, values in _arrays(tree, name, image).items()
         for u in range(values.shape[-1])}
        for name in ("posterior", "posterior_guide")
    )  # fmt: skip
    misses = {
        unit: abs(q[unit].mean() - p[unit].mean()) / p[unit].std()
        + abs(np.log(q[unit].std() / p[unit].std()))
        for unit in p
    }
    worst = sorted(misses, key=lambda unit: -misses[unit])[:limit]
    draws = min(next(iter(side.values())).shape[1] for side in (p, q))
    chosen = {
        unit: (p if group == "posterior" else q)[unit][:, :draws] for unit in p if unit in worst
    }
    data = xr.Dataset({unit: (("chain", "draw"), value) for unit, value in chosen.items()})
    return xr.DataTree.from_dict({"posterior": data})


def _arrays(tree: xr.DataTree, group: str, image: int) -> dict[str, Array]:
    """{site: (chain, draw, unit)} of one image."""
    data = tree[group].to_dataset().sel(image=image)
    return {str(site): np.asarray(value, np.float64) for site, value in data.data_vars.items()}


def _as_chains(value: Any, num_chains: int) -> Array:
    """(draw, …) as (chain, draw, …), so that ArviZ can lay them beside the chains."""
    array = np.asarray(value)
    draws = len(array) // num_chains
    return array[: num_chains * draws].reshape(num_chains, draws, *array.shape[1:])


def _sites(draws: Mapping[str, Any], names: Array) -> xr.Dataset:
    """(chain, draw, image, SITE_unit) of each site."""
    found = xr.Dataset(coords={"image": names})
    for site, value in draws.items():
        array = np.asarray(value)
        array = array.reshape(*array.shape[:3], -1)
        dims = ("chain", "draw", "image", f"{site}_unit")
        found[site] = (dims, array, {"units": "latent unit"})
        sizes = zip(dims, array.shape, strict=True)
        found = found.assign_coords({d: np.arange(n) for d, n in sizes if d != "image"})
    return found


def _over_units(data: xr.Dataset, how: str) -> xr.DataArray:
    """(site, image): the units of each site brought together, NaN where one of them is."""
    parts = [
        getattr(data[site], how)(f"{site}_unit", skipna=False).drop_vars("site", errors="ignore")
        for site in data.data_vars
    ]
    return xr.concat(
        parts, xr.DataArray([str(s) for s in data.data_vars], dims="site", name="site")
    )


def _attributes(name: str) -> dict[str, str]:
    units, long_name = _STATS.get(name, ("1", name))
    return {"units": units, "long_name": long_name}
