"""What each latent site holds: active units, views by label, what a site controls in the image.

Asks for `posterior_means` of the test images and of some training images, and a few dozen images
drawn; t-SNE takes most of the time, some seconds a site for 1,000 images.
"""

from __future__ import annotations

__all__ = ["NAME", "Settings", "judge"]

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from evaluation import active_units, linear_probe, principal_components, purity, two_dimensional
from evaluation.comparison import Number, Row
from evaluation.latent_figures import activity, codes_by_label, image_rows, unit_divergences
from evaluation.page import Chapter, Picture, Table
from ppl_vae.checks import natural
from ppl_vae.errors import UsageError
from ppl_vae.judging.subject import Finding, Subject

NAME = "latents"


@dataclass(frozen=True)
class Settings:
    """What is looked at.

    Args:
        threshold: a unit is active above it: by the variance of its posterior mean (Burda et al.
            2015), and by its divergence in nats.
        images: test images of the views and the purity, at most.
        probe_images: training images that the linear probe is trained on, at most.
        labels: True to demand what needs labels, False to leave it out, None for what there is.
        sites: of views and pictures, those of largest divergence, at most.
        shown: images in a row of pictures.
        traversals: units that are moved, those of largest divergence.
        steps: of a traversal and of an interpolation.
    """

    threshold: float = 0.01
    images: int = 1000
    probe_images: int = 2000
    labels: bool | None = None
    sites: int = 6
    shown: int = 10
    traversals: int = 8
    steps: int = 9

    def __post_init__(self) -> None:
        least = {"images": 2, "probe_images": 2, "sites": 1, "shown": 2, "traversals": 1}
        for name, number in (least | {"steps": 2}).items():
            if getattr(self, name) < number:
                raise UsageError(
                    f"{NAME}.{name}: expected at least {number}, came {getattr(self, name)}: "
                    "raise it"
                )


def ready(subject: Subject, settings: Settings) -> None:
    """UsageError where labels were asked for and there are none."""
    _has_labels(subject, settings)


def judge(subject: Subject, settings: Settings) -> Finding:
    """Units, views, probes and pictures of every site's posterior means."""
    labelled = _has_labels(subject, settings)
    images = subject.images.take(min(settings.images, len(subject.images)))
    units = _units(subject, settings)
    sites = _largest(units, settings.sites)
    means = subject.programs.posterior_means(*subject.pair, images, **subject.drawn)
    codes = {site: _flat(means[site]) for site in sites}
    labels = images.labels if labelled else None
    reading = _readings(subject, settings, codes, labels)
    moved, pictures = _redrawn(subject, settings, images, means)
    views = {site: principal_components(code) for site, code in codes.items()}
    data = units.merge(reading).merge(moved).merge(_views(views, labels))
    told = {
        name: _by_site(data[name])
        for name in ("active_units", "active_units_kl", "kl", "purity", "probe_accuracy", "moved")
        if name in data
    }
    chapter = Chapter(
        "What the latents hold",
        _text(data, settings, labelled, len(images)),
        [_table(data)],
        [
            *_drawn_units(subject, data, settings),
            *_scatter(subject, codes, views, labels),
            *pictures,
            *_walks(subject, settings, images, data, codes),
        ],
    )
    return Finding(NAME, data, chapter, told)


def _has_labels(subject: Subject, settings: Settings) -> bool:
    there = subject.images.labels is not None
    if settings.labels and not there:
        raise UsageError(
            f"{NAME}.labels: expected a data set with labels, came one without: leave "
            f"--set {NAME}.labels=true out, and purity and probe are left out"
        )
    return there and settings.labels is not False


def _units(subject: Subject, settings: Settings) -> xr.Dataset:
    """Counts, variances and divergences by site and unit, z1 first."""
    programs, pair, images, drawn = subject.programs, subject.pair, subject.images, subject.drawn
    kl = programs.site_terms(*pair, images, **drawn)["kl"]
    sites = sorted(kl, key=natural)
    moments, again = (
        programs.posterior_moments(*pair, images, **{**drawn, "seed": seed})
        for seed in (subject.seed, subject.seed + 1)
    )
    found = active_units(
        {site: moments[site] for site in sites if site in moments},
        again=again,
        threshold=settings.threshold,
    ).reindex(site=sites)
    by_unit = {
        site: _ravel(part) for site, part in programs.unit_kl(*pair, images, **drawn).items()
    }
    width = max([found.sizes["unit"], *map(len, by_unit.values())])
    table = np.full((len(sites), width), np.nan)
    for row, site in zip(table, sites, strict=True):
        row[: len(by_unit.get(site, ()))] = by_unit.get(site, ())
    active = [(row > settings.threshold).sum() if site in by_unit else np.nan
              for row, site in zip(table, sites, strict=True)]  # fmt: skip
    about = {"units": "nats per image", "long_name": "divergence"}
    return found.assign(
        kl=("site", [float(np.mean(kl[site])) for site in sites], about),
        unit_kl=(("site", "unit"), table, about),
        active_units_kl=(
            "site", active,
            {"units": "1", "long_name": f"units whose divergence is over {settings.threshold:g}"},
        ),
    )  # fmt: skip


def _largest(units: xr.Dataset, count: int) -> list[str]:
    """The sites of largest divergence, z1 first."""
    ordered = units["site"].values[np.argsort(-units["kl"].values)][:count]
    return sorted(map(str, ordered), key=natural)


def _readings(
    subject: Subject, settings: Settings, codes: dict[str, Any], labels: Any
) -> xr.Dataset:
    """Purity and probe accuracy by site; nothing where there are no labels."""
    data = subject.data
    if labels is None:
        return xr.Dataset()
    pure = {site: purity(code, labels, seed=subject.seed) for site, code in codes.items()}
    found = {"purity": _of_sites(pure, "share of images in a cluster of their label")}
    if data is not None and data.train.labels is not None:
        train = data.train.take(min(settings.probe_images, len(data.train)))
        means = subject.programs.posterior_means(*subject.pair, train, **subject.drawn)
        read = {
            site: linear_probe(_flat(means[site]), train.labels, code, labels)
            for site, code in codes.items()
        }
        found["probe_accuracy"] = _of_sites(read, "share of test images read off linearly")
    return xr.Dataset(found)


def _redrawn(
    subject: Subject, settings: Settings, images: Any, means: dict[str, Any]
) -> tuple[xr.Dataset, list[Picture]]:
    """Images with the sites up to one redrawn and those above held."""
    few = images.take(min(settings.shown, len(images)))
    means = {name: np.asarray(value)[: len(few)] for name, value in means.items()}
    sites = sorted((name for name in means if name != "x_mean"), key=natural)
    held = means["x_mean"]
    rows = {"image": few.images, "all held": held}
    moved = {}
    for i, site in enumerate(sites, start=1):
        kept = {name: means[name] for name in sites[i:]}
        found = subject.programs.redraw(subject.model, kept, n=len(few), **subject.drawn)
        image = np.asarray(found["x_mean"])
        moved[site] = float(np.sqrt(np.mean((image - held) ** 2)))
        rows["all redrawn" if i == len(sites) else f"up to {site}"] = image
    shown = _thinned(rows, 2 + settings.sites)
    path = image_rows(
        shown, subject.figures / "latents_redrawn.png", limit=settings.shown,
        title="Sites redrawn from their priors, those above held at posterior means",
    )  # fmt: skip
    caption = "What each site controls: rows downwards redraw one more site, from z1 upwards."
    what = "root mean square change of the mean image as the sites up to this one are redrawn"
    return xr.Dataset({"moved": _of_sites(moved, what, "range of x")}), [Picture(path, caption)]


def _walks(
    subject: Subject, settings: Settings, images: Any, data: xr.Dataset, codes: dict[str, Any]
) -> list[Picture]:
    """Traversals of the units of largest divergence, and interpolations."""
    rows = {}
    for site, units in _top_units(data, codes, settings.traversals).items():
        chosen = codes[site][:, units]
        ends = 2.5 * chosen.std(0)[:, None] * np.linspace(-1, 1, settings.steps)
        values = chosen.mean(0)[:, None] + ends
        found = subject.programs.traverse(
            *subject.pair, images[:1], site, units, values, **subject.drawn
        )
        for unit, line in zip(units, np.asarray(found["x_mean"])[:, :, 0], strict=True):
            rows[f"{site}[{unit}]"] = line
    pictures = []
    if rows:
        path = image_rows(
            rows, subject.figures / "latents_traversals.png", limit=settings.steps,
            title="One unit moved by 2.5 deviations of its posterior means either way",
        )  # fmt: skip
        caption = (
            "Traversals of the units of largest divergence, of the first test image: the sites "
            "above stay at its posterior means, those below follow at their priors' means."
        )
        pictures.append(Picture(path, caption))
    pairs = [(i, i + 1) for i in range(0, min(2 * (settings.shown // 2), len(images)) - 1, 2)]
    found = subject.programs.interpolate(
        *subject.pair, images, pairs, settings.steps, **subject.drawn
    )
    between = np.asarray(found["x_mean"]).swapaxes(0, 1)
    path = image_rows(
        {f"{i + 1} to {j + 1}": row for (i, j), row in zip(pairs, between, strict=True)},
        subject.figures / "latents_interpolation.png", limit=settings.steps,
        title="Between two test images, in posterior means at every site",
    )  # fmt: skip
    pictures.append(Picture(path, "Interpolations; the ends are the images' reconstructions."))
    return pictures


def _drawn_units(subject: Subject, data: xr.Dataset, settings: Settings) -> list[Picture]:
    kl = {
        str(s): row[np.isfinite(row)]
        for s, row in zip(data["site"].values, data["unit_kl"].values, strict=True)
    }
    kl = {site: row for site, row in kl.items() if len(row)}
    pictures = []
    if kl:
        path = subject.figures / "latents_units.png"
        unit_divergences(kl, path, threshold=settings.threshold)
        pictures.append(Picture(path, "Divergence of every unit, largest first."))
    history = subject.history
    if history is not None and "active_units" in history and history.sizes["step"]:
        path = activity(history, subject.figures / "latents_activity.png")
        caption = (
            "Active units through training, on training images under one draw of the sites above "
            "(by variance: an upper bound below the first site)."
        )
        pictures.append(Picture(path, caption))
    return pictures


def _scatter(
    subject: Subject, codes: dict[str, Any], views: dict[str, xr.Dataset], labels: Any
) -> list[Picture]:
    """Both two-dimensional views."""
    flat = {site: np.nan_to_num(view["scores"].values) for site, view in views.items()}
    shares = {site: f"{100 * float(v['explained'].sum()):.0f} %" for site, v in views.items()}
    title, path = "Principal components of means", subject.figures / "latents_pca.png"
    caption = "First two principal components of posterior means; their share of the variance."
    pictures = [Picture(codes_by_label(flat, labels, path, title=title, notes=shares), caption)]
    if len(next(iter(codes.values()))) >= 4:
        near = {site: two_dimensional(code, seed=subject.seed) for site, code in codes.items()}
        path = subject.figures / "latents_tsne.png"
        codes_by_label(near, labels, path, title="t-SNE of posterior means")
        caption = "t-SNE of posterior means: neighbours stay, distances and sizes mean nothing."
        pictures.append(Picture(path, caption))
    return pictures


def _views(views: dict[str, xr.Dataset], labels: Any) -> xr.Dataset:
    """Principal components by site, and the labels beside them."""
    kept = [view[["scores", "explained"]].expand_dims(site=[site]) for site, view in views.items()]
    found: xr.Dataset = xr.concat(kept, "site")
    return found if labels is None else found.assign(label=("image", labels, {"units": "class"}))


def _table(data: xr.Dataset) -> Table:
    rows: list[Row] = []
    for site in map(str, data["site"].values):
        one = data.sel(site=site)
        row: Row = {"site": site, "units": _whole(one["num_units"])}
        row["active, variance"] = _whole(one["active_units"])
        row["active, KL"] = _whole(one["active_units_kl"])
        row["KL"] = Number(float(one["kl"]))
        if np.isfinite(float(one["explained"].sum(skipna=False))):
            row["2 components, %"] = Number(100 * float(one["explained"].sum()), decimals=1)
        for name, title in (("purity", "purity, %"), ("probe_accuracy", "probe, %")):
            if name in one and np.isfinite(float(one[name])):
                row[title] = Number(100 * float(one[name]), decimals=1)
        row["moved"] = Number(float(one["moved"]), decimals=3)
        rows.append(row)
    return Table(
        rows,
        "KL: nats per image. 2 components: share of the posterior means' variance. Purity: share "
        "of images whose label is the commonest of their k-means cluster. Probe: accuracy of "
        "logistic regression on test images, trained on training images. Moved: root mean square "
        "change of the mean image when the sites up to this one are redrawn.",
    )


def _text(data: xr.Dataset, settings: Settings, labelled: bool, num_images: int) -> list[str]:
    text = [
        "A unit is active where its posterior mean varies over images by more than "
        f"{settings.threshold:g} (Burda et al. 2015; two passes, so that the noise of the sites "
        f"above does not count), or where its divergence is over {settings.threshold:g} nats, known"
        " of sites that the guide samples after all those that the model samples before them. "
        f"Measured on {int(data.attrs['num_images'])} test images, the views on {num_images}.",
    ]
    if not labelled:
        why = "they were not wanted" if settings.labels is False else "the data set has none"
        text.append(f"Cluster purity and linear probe need labels, and {why}: left out.")
    return text


def _top_units(data: xr.Dataset, codes: dict[str, Any], count: int) -> dict[str, list[int]]:
    """{site: units} of largest divergence over all sites, z1 first."""
    ranked = [
        (-float(kl), site, unit)
        for site in codes
        for unit, kl in enumerate(data["unit_kl"].sel(site=site).values[: codes[site].shape[1]])
        if np.isfinite(kl)
    ]
    found: dict[str, list[int]] = {}
    for _, site, unit in sorted(ranked)[:count]:
        found.setdefault(site, []).append(unit)
    return dict(sorted(found.items(), key=lambda item: natural(item[0])))


def _thinned(rows: dict[str, Any], count: int) -> dict[str, Any]:
    """At most `count` rows: both ends and even steps between."""
    names = list(rows)
    kept = {round(i) for i in np.linspace(0, len(names) - 1, min(count, len(names)))} | {1}
    return {names[i]: rows[names[i]] for i in sorted(kept)}


def _of_sites(values: dict[str, float], long_name: str, units: str = "1") -> xr.DataArray:
    about = {"units": units, "long_name": long_name}
    return xr.DataArray(list(values.values()), {"site": list(values)}, attrs=about)


def _by_site(values: xr.DataArray) -> dict[str, Any]:
    numbers = zip(map(str, values["site"].values), values.values.tolist(), strict=True)
    whole = values.name is not None and str(values.name).startswith("active")
    return {s: int(v) if whole else v for s, v in numbers if np.isfinite(v)}


def _whole(value: Any) -> int | None:
    return int(value) if np.isfinite(float(value)) else None


def _flat(values: Any) -> Any:
    array = np.asarray(values)
    return array.reshape(len(array), -1)


def _ravel(values: Any) -> Any:
    return np.asarray(values, dtype=np.float64).reshape(-1)
