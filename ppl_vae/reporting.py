"""The report of an evaluation: its chapters, from what was measured to one HTML file.

Protocol, likelihood, latents by site, training, reconstructions and prior samples come first; each
check adds a chapter of its own (`ppl_vae.judging.Finding.chapter`). `evaluation.page` writes them.
"""

from __future__ import annotations

__all__ = ["chapters", "protocol", "write_report"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.judging import Finding, Subject

if TYPE_CHECKING:
    import xarray as xr

    from evaluation.comparison import Cell
    from evaluation.page import Chapter, Picture
    from ppl_vae.runs import Run

SHOWN = 20  # images of a figure

_BINARISATION = {
    "none": "none, grey values",
    "dynamic": "dynamic: training images drawn anew at every use, test images once, from seed {}",
    "static": "static: all images drawn once, from seed {} where none is published",
}
_TRAINING = (  # figures that training draws
    ("learning_curves.png", "ELBO and its parts over training, nats per image; higher is better."),
    ("kl_by_site.png", "Divergence of each site from its prior over training, nats per image."),
    ("posterior_range.png", "Lowest and highest posterior means and deviations over training."),
    ("codes_over_time.png", "Use of codes by the first 256 training images over training."),
    ("samples_over_time.png", "Prior samples of the same noise, a row for each epoch shown."),
)


def write_report(
    run: Run,
    subject: Subject,
    told: Mapping[str, Any],
    likelihood: xr.Dataset,
    units: xr.Dataset,
    findings: Sequence[Finding],
    command: str = "",
) -> Path:
    """Write RUN/report.html and give its path.

    Args:
        run: whose evaluation it is.
        subject: what was judged.
        told: the summary (`evaluation.summary`).
        likelihood, units: from `importance_weighted_nll` and `active_units`.
        findings: of the checks, in the order of their chapters.
        command: that evaluates.
    """
    from evaluation import write_page

    title = f"{told.get('recipe', 'A run')} on {told['data']}, evaluated"
    parts = chapters(subject, told, likelihood, units, findings)
    return write_page(run.path / "report.html", title, protocol(run, subject, told, command), parts)


def protocol(
    run: Run, subject: Subject, told: Mapping[str, Any], command: str = ""
) -> dict[str, Cell]:
    """Under what the numbers were measured, and with what: {what: value}."""
    from evaluation import Code
    from ppl_vae.runs import versions

    recipe, about = run.recipe, run.about
    samples, now = told["num_samples"], versions()
    trained = about.get("versions", now)
    binarisation = _BINARISATION.get(told["binarisation"], told["binarisation"])
    return {
        "data": told["data"],
        "split": told["split"],
        "binarisation": binarisation.format(recipe["data"].get("seed", 0)),
        "images": f"the first {told['num_images']} of the split",
        "bound": f"L_{samples}: {samples} importance samples an image, from the guide",
        "recipe's changes": told.get("changes"),
        "model": _named(recipe["model"]),
        "guide": _named(recipe["guide"]),
        "PPL": told.get("ppl", subject.ppl),
        "weights": told.get("weights"),
        "batch norm": f"{subject.batch_norm} statistics",
        "seed": f"{told.get('seed')} in training, {subject.seed} in evaluation",
        "run": told.get("run"),
        "versions": _versions(now),
        "trained with": None if trained == now else _versions(trained),
        "training": Code(about["command"]) if about.get("command") else None,
        "evaluation": Code(command) if command else None,
    }


def chapters(
    subject: Subject,
    told: Mapping[str, Any],
    likelihood: xr.Dataset,
    units: xr.Dataset,
    findings: Sequence[Finding] = (),
) -> list[Chapter]:
    """The report's chapters; also for a pair of one's own, as a `Subject` without a run."""
    parts = [_likelihood(told, likelihood), _training(subject), _samples(subject)]
    if told["kl"]:
        parts[1:1] = [_sites(told, units)]
        parts[3:3] = [_reconstructions(subject)]
    return [part for part in parts if part] + [finding.chapter for finding in findings]


def _likelihood(told: Mapping[str, Any], likelihood: xr.Dataset) -> Chapter:
    from evaluation.comparison import Number
    from evaluation.likelihood import K_BAD, K_MIN_SAMPLES
    from evaluation.page import Chapter, Table

    samples, bad, bits = told["num_samples"], told["pareto_k_bad"], told["bits_per_dim"]
    elbo_se = float(likelihood["elbo_se"])
    row: dict[str, Cell] = {
        f"-log p(x) by L_{samples}": Number(told["nll"], told["nll_se"]),
        "ELBO": told["elbo"] and Number(told["elbo"], elbo_se if np.isfinite(elbo_se) else None),
        "bits per dimension": bits and Number(bits, decimals=3),
        "effective samples, median": Number(float(likelihood["ess"].median()), decimals=1),
        f"% of images with Pareto k > {K_BAD}": None
        if bad is None
        else Number(100 * bad, decimals=1),
    }
    note = "Nats per image, ± standard error over images. -log p(x): lower is better; it is the "
    note += "importance-weighted bound, so the truth is lower still. ELBO: higher is better."
    warnings, text = [], []
    if bad is None:
        text.append(f"Pareto k is unknown: {samples} samples an image, {K_MIN_SAMPLES} are needed.")
    elif bad > 0:
        warnings.append(
            f"{100 * bad:.1f} % of the images have a Pareto k above {K_BAD}: there L_{samples} "
            "rests on a handful of samples, is a loose bound, and still moves with K."
        )
    else:
        text.append(f"No image has a Pareto k above {K_BAD}.")
    return Chapter("Likelihood", text, [Table([row], note)], warnings=warnings)


def _sites(told: Mapping[str, Any], units: xr.Dataset) -> Chapter:
    from evaluation.comparison import Number
    from evaluation.page import Chapter, Table

    kl = told["kl"]
    total = sum(nats for nats in kl.values() if nats is not None)
    rows: list[dict[str, Cell]] = []
    for site, nats in kl.items():
        count = int(units["num_units"].sel(site=site)) if site in units["site"] else None
        rows.append(
            {
                "site": site,
                "KL, nats per image": None if nats is None else Number(nats),
                "% of KL": Number(100 * nats / total, decimals=1) if nats and total > 0 else None,
                "active units": told["active_units"].get(site),
                "units": count,
            }
        )
    note = "z1 is nearest the data. KL: log q - log p of the site given those sampled before it, "
    note += "mean over images: a divergence where the guide goes down as the model does, else only "
    note += "their sum is one. A unit is active where the variance over images of its posterior "
    note += f"mean is above {units.attrs['threshold']:g}."
    idle = [site for site, count in told["active_units"].items() if count == 0]
    warnings = [
        f"No unit of {', '.join(idle)} is active: the posterior means there hardly change from "
        "image to image."
    ]
    return Chapter("Latent sites", tables=[Table(rows, note)], warnings=warnings if idle else ())


def _training(subject: Subject) -> Chapter | None:
    """What training drew; None where there is neither a figure nor a history."""
    from evaluation.page import Chapter

    pictures = [_picture(subject, name, caption) for name, caption in _TRAINING]
    shown = [picture for picture in pictures if picture.path.is_file()]
    history, text = subject.history, []
    if history is not None and history.sizes.get("step") and "epoch" in history.coords:
        last = history.isel(step=-1)
        text.append(
            f"{int(last['epoch'])} epochs; training ELBO in the last one "
            f"{float(last['elbo']):.2f} nats per image, on training images."
        )
    return Chapter("Training", text, pictures=shown) if shown or text else None


def _reconstructions(subject: Subject) -> Chapter:
    from evaluation import figures
    from evaluation.page import Chapter

    images = subject.images.take(min(SHOWN, len(subject.images)))
    means = np.asarray(subject.programs.reconstruct(*subject.pair, images, **subject.drawn))
    caption = "Test images, each above the mean of p(x | z) for one draw z from the guide."
    picture = _picture(subject, "report_reconstructions.png", caption)
    channels = images.pixels.shape[1]  # without a mask's
    figures.reconstructions(images.pixels, means[:, :channels], picture.path, limit=SHOWN)
    return Chapter("Reconstructions", pictures=[picture])


def _samples(subject: Subject) -> Chapter:
    """Draws from the prior; beside training images, where the data set is at hand."""
    from evaluation import figures
    from evaluation.page import Chapter

    draws = subject.programs.sample(subject.model, SHOWN, **subject.drawn)
    means = np.asarray(draws["x_mean"])[:, : subject.images.pixels.shape[1]]  # without a mask's
    caption = "Means of p(x | z) for draws z from the prior"
    if subject.data is None:
        picture = _picture(subject, "report_samples.png", f"{caption}.")
        figures.image_grid(means, picture.path, title="Prior samples")
        return Chapter("Prior samples", pictures=[picture])
    caption += ", each above its nearest training image (Euclidean over grey values in [0, 1]): a "
    caption += "sample that is a training image would show memorisation."
    picture = _picture(subject, "report_samples.png", caption)
    figures.samples_with_neighbours(means, subject.data.train.pixels, picture.path, limit=SHOWN)
    return Chapter("Prior samples", pictures=[picture])


def _picture(subject: Subject, name: str, caption: str) -> Picture:
    from evaluation.page import Picture

    return Picture(subject.figures / name, caption)


def _named(settings: Mapping[str, Any]) -> str:
    """A class and its arguments, as a recipe gives them.

    >>> _named({"class_path": "VAE", "init_args": {"latent": 8}})
    'VAE(latent=8)'
    """
    arguments = ", ".join(f"{k}={v}" for k, v in (settings.get("init_args") or {}).items())
    return f"{settings['class_path']}({arguments})"


def _versions(found: Mapping[str, str]) -> str:
    return ", ".join(f"{package} {version}" for package, version in found.items())
