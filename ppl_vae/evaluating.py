"""One evaluation of a run: the likelihood, the checks asked for, and all of it kept in its folder.

RUN/evaluation.json     the summary (`evaluation.summary`) and each check's numbers
RUN/evaluation.nc       every array: a group `likelihood`, and one for each check
RUN/report.html         the same told in tables, words and figures (`ppl_vae.reporting`)
"""

from __future__ import annotations

__all__ = ["chosen", "evaluate", "take_part", "text"]

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ppl_vae import judging
from ppl_vae.errors import UsageError
from ppl_vae.judging import Finding, Subject
from ppl_vae.overrides import override
from ppl_vae.recipes import DataSettings
from ppl_vae.reporting import write_report
from ppl_vae.typed import checked_arguments

if TYPE_CHECKING:
    import xarray as xr

    from ppl_vae.runs import Run

Chosen = dict[str, Any]
"""{check: its settings}."""


def chosen(names: Sequence[str], bounds: Sequence[str], changes: Sequence[str]) -> Chosen:
    """The checks asked for and their settings, `--set check.key=value` in place.

    Args:
        names: of checks, each text perhaps several with commas between.
        bounds: names of checks that bound the likelihood.
        changes: as on the command line.

    Raises:
        UsageError: an unknown check or setting, or a setting of a check not asked for.
    """
    wanted = [name.strip() for text in names for name in text.split(",")] + list(bounds)
    modules = {name: judging.check(name) for name in dict.fromkeys(wanted)}
    for change in changes:
        name = change.partition(".")[0].strip()
        if name in judging.CHECKS and name not in modules:
            raise UsageError(f"--set {change}: {name} was not asked for: add --check {name}")
    known = {name: list(module.Settings.__dataclass_fields__) for name, module in modules.items()}
    tree = override({name: {} for name in modules}, changes, known)
    return {
        name: module.Settings(**checked_arguments(module.Settings, tree[name], name))
        for name, module in modules.items()
    }


def evaluate(
    run: Run,
    subject: Subject,
    num_samples: int,
    chosen: Chosen,
    data: DataSettings,
    about: Mapping[str, Any],
    command: str = "",
) -> dict[str, Any]:
    """Measure, keep, report, and give the summary that `--json` prints.

    Args:
        run: whose folder keeps it.
        num_samples: K of the importance-weighted bound; 1 is enough for a model without latents,
            whose every weight is p(x), and is what it gets.
        chosen: see `chosen`.
        data: the recipe's, for the protocol.
        about: what names the run in tables.
        command: that evaluates, for the report.
    """
    from evaluation import summary

    for name, settings in chosen.items():  # what cannot be done is refused before the long part
        ready = getattr(judging.check(name), "ready", None)
        if ready is not None:
            ready(subject, settings)
    likelihood = _likelihood(subject, _enough(subject, num_samples))
    subject = replace(subject, likelihood=likelihood)
    findings = [judging.check(name).judge(subject, sets) for name, sets in chosen.items()]
    by_site = _by_site(subject)
    told = summary(
        likelihood,
        **by_site,
        data=data.name,
        binarisation=data.binarization,
        split="test",
        **about,
    )
    if findings:
        told["checks"] = {finding.name: finding.told for finding in findings}
        told["check_settings"] = {name: asdict(settings) for name, settings in chosen.items()}
    _keep(run, likelihood, findings, told)
    write_report(run, subject, told, likelihood, by_site["active_units"], findings, command)
    return told


def take_part(subject: Subject, num_samples: int) -> None:
    """A process's share of an evaluation that another one leads."""
    drawn = {**subject.drawn, "spread": True}
    for _ in subject.programs.stream_log_weights(
        *subject.pair, subject.images, _enough(subject, num_samples), **drawn
    ):
        pass


def text(told: Mapping[str, Any]) -> str:
    """The summary as tables for a terminal."""
    from evaluation import table

    return table([told])


def _enough(subject: Subject, num_samples: int) -> int:
    """1 where no latent is drawn: the log weight is log p(x) itself, each time."""
    if subject.params is None and not subject.programs.latent_sites(subject.model):
        return 1
    return num_samples


def _likelihood(subject: Subject, num_samples: int) -> xr.Dataset:
    from evaluation import likelihood_ladder

    images = subject.images
    drawn = {**subject.drawn, "spread": subject.spread}
    blocks = subject.programs.stream_log_weights(*subject.pair, images, num_samples, **drawn)
    return likelihood_ladder(
        _progress(blocks, len(images) * num_samples, f"L_{num_samples}"), num_dims=images.num_dims
    )


def _by_site(subject: Subject) -> dict[str, Any]:
    """Divergences and active units by site, z1 first."""
    from evaluation import active_units

    programs, images, drawn = subject.programs, subject.images, subject.drawn
    kl = programs.site_terms(*subject.pair, images, **drawn)["kl"]
    if not kl:  # a model without latents
        return {"kl": {}, "active_units": {}}
    # Twice: what two draws of the sites above have in common is the image's doing.
    moments, again = (
        programs.posterior_moments(*subject.pair, images, **{**drawn, "seed": seed})
        for seed in (subject.seed, subject.seed + 1)
    )
    units = active_units(_from_z1(moments), again=_from_z1(again))
    return {"kl": _from_z1(kl), "active_units": units}


def _keep(
    run: Run, likelihood: xr.Dataset, findings: Sequence[Finding], told: Mapping[str, Any]
) -> None:
    """evaluation.nc and evaluation.json in the run's folder, each whole or not at all."""
    import xarray as xr

    from ppl_vae.runs import write_atomically

    # Side by side: a group below another would have to be about the same images.
    tree = xr.DataTree(children={"likelihood": xr.DataTree(likelihood)})
    for finding in findings:
        data = finding.data
        tree[finding.name] = data if isinstance(data, xr.DataTree) else xr.DataTree(data)
    write_atomically(run.path / "evaluation.nc", bytes(tree.to_netcdf(engine="h5netcdf")))
    write_atomically(run.path / "evaluation.json", json.dumps(told, indent=2).encode())


def _progress(blocks: Iterable[Any], count: int, what: str) -> Iterator[Any]:
    """Blocks (samples, images) of `count` image-samples, and how many of these come a second."""
    from tqdm import tqdm

    unit = " image-samples"
    with tqdm(total=count, desc=what, unit=unit, unit_scale=True, delay=1.0) as bar:
        for block in blocks:
            yield block
            bar.update(block.size)


def _from_z1(of_sites: Mapping[str, Any]) -> dict[str, Any]:
    """The same from z1, nearest the data, up: z2 before z10."""
    return dict(sorted(of_sites.items(), key=lambda item: (len(item[0]), item[0])))
