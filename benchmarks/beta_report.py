"""What the beta sweep's models come to: one JSON file, a picture, a table."""

from __future__ import annotations

__all__ = ["Piece", "summarised", "write"]

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from benchmarks.machine import describe

Piece = dict[str, Any]
"""One model, as `benchmarks.beta_sweep.measured` gives it."""


def write(pieces: Sequence[Piece], results: Path, figure: Path) -> None:
    """The JSON, the picture, and a table on the screen, of a whole sweep."""
    from evaluation.beta_choice import choose_beta
    from evaluation.disentanglement_figures import beta_sweep

    sweep = summarised(pieces)
    choices = {
        str(metric): {
            str(name): float(value)
            for name, value in choose_beta(
                sweep.few.sel(choice=metric), sweep.rest.sel(choice=metric)
            ).data_vars.items()
        }
        for metric in sweep.choice.values
    }
    report = {
        "recipe": {**pieces[0]["recipe"], "objective": "beta_norm varies"},
        "ppl": pieces[0]["ppl"],
        "machine": describe(),
        "cpu_seconds": sum(piece["cpu_seconds"] for piece in pieces),
        "labelled": pieces[0]["labelled"],
        "beta_norm": sweep.beta_norm.values.tolist(),
        "seed": sweep.seed.values.tolist(),
        **{
            part: {str(m): sweep[part].sel(metric=m).values.tolist() for m in sweep.metric.values}
            for part in ("score", "chance")
        },
        **{key: sweep[key].values.tolist() for key in ("log_likelihood", "kl", "active_units")},
        "choice": choices,
    }
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(report, indent=2) + "\n")
    print(_table(sweep, choices))
    print(beta_sweep(sweep, figure))


def summarised(pieces: Sequence[Piece]) -> xr.Dataset:
    """All models as one data set: scores and chance (metric, beta_norm, seed), and by part."""
    betas = sorted({piece["recipe"]["objective"]["beta_norm"] for piece in pieces})
    seeds = sorted({piece["recipe"]["training"]["seed"] for piece in pieces})
    at = {
        (piece["recipe"]["objective"]["beta_norm"], piece["recipe"]["training"]["seed"]): piece
        for piece in pieces
    }

    def scores(key: str) -> Any:
        names = list(pieces[0][key])
        values = [[[at[b, s][key][name] for s in seeds] for b in betas] for name in names]
        return ("metric" if key in ("score", "scores", "chance") else "choice",
                "beta_norm", "seed"), values  # fmt: skip

    def numbers(key: str) -> Any:
        return ("beta_norm", "seed"), [[at[b, s][key] for s in seeds] for b in betas]

    return xr.Dataset(
        {
            "score": scores("scores"), "chance": scores("chance"),
            "few": scores("few"), "rest": scores("rest"),
            **{key: numbers(key) for key in ("log_likelihood", "kl", "active_units")},
        },
        {
            "metric": list(pieces[0]["scores"]), "choice": list(pieces[0]["few"]),
            "beta_norm": betas, "seed": seeds,
        },
    )  # fmt: skip


def _table(sweep: xr.Dataset, choices: Mapping[str, Mapping[str, float]]) -> str:
    """Mean ± standard deviation over seeds by beta_norm, as Markdown."""
    figures = {str(m): (sweep.score.sel(metric=m), 2) for m in sweep.metric.values}
    figures |= {"log p(x given z)": (sweep.log_likelihood, 1), "KL": (sweep.kl, 1)}
    figures["active units"] = (sweep.active_units, 1)
    lines = [
        "| beta_norm | " + " | ".join(figures) + " |",
        "|" + "---|" * (len(figures) + 1),
    ]
    for beta in sweep.beta_norm.values:
        cells = []
        for values, decimals in figures.values():
            of = values.sel(beta_norm=beta).values
            sd = of.std(ddof=1) if len(of) > 1 else 0.0
            cells.append(f"{of.mean():.{decimals}f} ± {sd:.{decimals}f}")
        lines.append(f"| {beta:g} | " + " | ".join(cells) + " |")
    chosen = [
        f"{metric}: beta_norm {told['chosen']:g} chosen on the few scores {told['score']:.3f} ± "
        f"{told['sd']:.3f} on the rest; best there {told['best']:g} with {told['best_score']:.3f}"
        for metric, told in choices.items()
    ]
    return "\n".join([*lines, "", *chosen])
