"""Studies: every member trained, evaluated and told in one table; gone on with where it stands."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml

from evaluation.study_figures import kl_gaps
from ppl_vae import cli, experiment, standing, studies, studying
from ppl_vae.errors import UsageError
from ppl_vae.runs import Run
from ppl_vae.study_page import page, table
from ppl_vae.typed import room

STUDY: dict[str, Any] = {
    "name": "two",
    "description": "for tests",
    "recipe": "vae-digits",
    "set": {
        "model.init_args": {"latent": 2, "hidden": [4]},
        "training.epochs": 1,
        "evaluation.samples": 2,
        "evaluation.images": 8,
    },
    "members": {"plain": None, "weak": {"set": {"objective.beta": 0.1}}},
    "seeds": [3],
    "along": {"beta": {"plain": 1, "weak": 0.1}},
    "columns": {"ELBO": "elbo", "KL": ["kl.z1", "kl"], "weights": "parameters", "no": "kl.z9"},
}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without figures of their own (test_cli looks at those), which take most of the time."""
    monkeypatch.setattr(experiment, "_draw", lambda *_: None)


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "two.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}))
    return path


def test_a_study_is_trained_told_and_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "out", written(tmp_path)
    argv = ["study", str(file), "--out", str(out)]
    assert cli.main(argv) == 0
    printed = capsys.readouterr().out
    assert printed.startswith((out / "table.md").read_text())
    assert Run.open(out / "weak").recipe["objective"]["beta"] == 0.1
    told = json.loads((out / "study.json").read_text())["members"]
    assert [(one["member"], one["seed"], one["epochs"]) for one in told] == [
        ("plain", 3, 1),
        ("weak", 3, 1),
    ]
    # 64 pixels, 4 hidden, 2 latents: guide 64*4+4 and 4*4+4, decoder 2*4+4 and 4*64+64
    assert {one["parameters"] for one in told} == {64 * 4 + 4 + 4 * 4 + 4 + 2 * 4 + 4 + 4 * 64 + 64}
    for name in ("training.png", "curves.png", "along.png"):
        assert (out / name).stat().st_size > 1000
        assert f"]({name})" in (out / "page.md").read_text()
    stamps = [(out / name / "evaluation.json").stat().st_mtime_ns for name in ("plain", "weak")]
    assert cli.main(argv) == 0  # nothing to do
    assert capsys.readouterr().out == printed
    assert stamps == [
        (out / name / "evaluation.json").stat().st_mtime_ns for name in ("plain", "weak")
    ]


def test_gaps_of_divergence_by_layer(tmp_path: Path) -> None:
    """Drawn where every run has validation images; runs may have other sites."""

    def history(sites: list[str]) -> xr.Dataset:
        kl = np.arange(2.0 * len(sites)).reshape(2, -1)
        both = {"kl": (("step", "site"), kl), "valid_kl": (("step", "site"), kl + 1)}
        return xr.Dataset(both, coords={"site": sites, "epoch": ("step", [1, 2])})

    runs = {"one": history(["z1"]), "two": history(["z1", "z2"])}
    assert kl_gaps(runs, tmp_path / "gaps.png").stat().st_size > 1000
    with pytest.raises(UsageError, match="valid_kl"):
        kl_gaps({**runs, "none": runs["one"].drop_vars("valid_kl")}, tmp_path / "gaps.png")


def test_a_stopped_study_goes_on(tmp_path: Path) -> None:
    """A member trained and not evaluated, and with fewer epochs than wanted now."""
    study = studies.read(written(tmp_path, members={"plain": None}, along={}))
    run = experiment.begin(study.runs()[0].recipe, "pyro", tmp_path / "out" / "plain")
    assert int(run.history["epoch"][-1]) == 1
    wanted = ["training.epochs=2", "evaluation.samples=3"]
    studying.run(study, tmp_path / "out", changes=wanted)
    told = json.loads((tmp_path / "out" / "study.json").read_text())["members"]
    assert [(one["epochs"], one["num_samples"]) for one in told] == [(2, 3)]
    with pytest.raises(UsageError, match=r"objective\.beta: cannot change with --resume"):
        studying.run(study, tmp_path / "out", changes=["training.epochs=2", "objective.beta=2"])


def test_a_share_of_the_protocol(tmp_path: Path) -> None:
    """Epochs, warm-up and decay alike, and no member's warm-up but its own."""
    own = {"objective.warmup_epochs": 40, "training.decay_epochs": 200}
    members = {"plain": None, "weak": {"set": own}}
    changes = {
        "training.epochs": 200, "training.schedule": "cosine", "training.decay_epochs": 100,
        "objective.warmup_epochs": 0,
    }  # fmt: skip
    study = studies.read(written(tmp_path, members=members, set={**STUDY["set"], **changes}))
    plain, weak = study.runs(share=0.05)
    for run, warmup, decay in ((plain, 0, 5), (weak, 2, 10)):
        training = run.recipe.training
        assert (training.epochs, training.decay_epochs, run.full_epochs) == (10, decay, 200)
        assert run.recipe.objective.warmup_epochs == warmup
    assert study.runs(share=1e-9)[0].recipe.training.epochs == 1
    for share in (0, 1.5):
        with pytest.raises(UsageError, match="--share: expected a number above 0 and at most 1"):
            study.runs(share=share)


def test_a_study_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of time at an epoch's end: that epoch is kept, and the next command goes on."""
    epochs = {**STUDY["set"], "training.epochs": 3}
    study = studies.read(written(tmp_path, set=epochs, published={"theirs": {"weak": 86.5}}))
    out, clock = tmp_path / "out", iter(range(100))
    now = SimpleNamespace(monotonic=lambda: 30.0 * next(clock))
    monkeypatch.setattr(studying, "time", now)
    told = studying.run(study, out, minutes=1)  # a minute is two looks at the clock
    assert "stopped after 1 minutes: plain stands at epoch 2 of 3" in told
    assert not (out / "weak").exists()
    left = (out / "page.md").read_text()
    assert "No row is done yet.\n\nNot run yet: plain (at epoch 2 of 3), weak.\n" in left
    assert [line.split()[-2] for line in left.splitlines() if line.startswith("| weak")] == ["86.5"]
    monkeypatch.undo()
    monkeypatch.setattr(experiment, "_draw", lambda *_: None)
    table = studying.run(study, out)
    assert Run.open(out / "plain").history["epoch"].values.tolist() == [1, 2, 3]
    head, _, *rows = ([c.strip() for c in r.strip("|").split("|")] for r in table.splitlines())
    assert [dict(zip(head, row, strict=True))["theirs"] for row in rows] == ["", "86.5"]
    with pytest.raises(UsageError, match="--minutes: expected a number above 0, came 0"):
        studying.run(study, out, minutes=0)
    with pytest.raises(UsageError, match=r"published.theirs: expected numbers .* came other"):
        studies.read(written(tmp_path, published={"theirs": {"other": 1}}))


def test_a_study_stops_within_an_epoch_of_several_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eleven steps in parts of four: the second look at the clock ends the first epoch's first."""
    parts = {**STUDY["set"], "training.checkpoint_steps": 4}
    one = {"members": {"plain": None}, "along": {}}
    study = studies.read(written(tmp_path, set=parts, **one))
    out, clock = tmp_path / "out", iter(range(100))
    monkeypatch.setattr(studying, "time", SimpleNamespace(monotonic=lambda: 45.0 * next(clock)))
    told = studying.run(study, out, minutes=1)
    assert "stopped after 1 minutes: plain stands at epoch 0 of 1" in told
    run = Run.open(out / "plain")
    assert run.last is not None
    assert run.last.name == "epoch-000000.step-000004"
    monkeypatch.undo()
    monkeypatch.setattr(experiment, "_draw", lambda *_: None)
    studying.run(study, out)
    assert run.epochs == 1


def test_a_page_says_what_rows_share_and_what_not() -> None:
    told = [
        {"member": "a", "num_samples": 5, "epochs": 2, "hours": 1},
        {"member": "b", "num_samples": 9, "epochs": 4, "hours": 0.5},
    ]
    told = [{"data": "digits", "full_epochs": 4, **one} for one in told]
    text = page("two", "what", "where", told, "| table |", "ppl-vae study two", ["along.png"])
    assert text.startswith("# two\n\nwhat\n\nSource: where\n\n    ppl-vae study two\n\n| table |\n")
    assert "Every row: data digits. Training steps took 1.5 hours, all runs together." in text
    assert "| run | K |\n|---|---|\n| a | 5 |\n| b | 9 |" in text
    assert "Not the whole protocol: 2 of 4 epochs (a).\n\n![along](along.png)" in text
    told[1] |= {"cut": "K = 9 of 50"}
    text = page("", "", "", told, "", "", [], ["Not run yet: c."])
    assert (
        "\n\nNot run yet: c.\n\nNot the whole protocol: 2 of 4 epochs (a); K = 9 of 50 (b).\n"
        in text
    )
    del told[1]["hours"]
    assert "How long training took was not kept." in page("", "", "", told, "", "", [])


def test_a_run_keeps_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after another too; what was measured of a run of before is not measured again."""
    monkeypatch.setattr(standing, "_draw", lambda *_: None)
    settings = {**STUDY["set"], "training.device": "cpu"}
    study = studies.read(written(tmp_path, set=settings, members={"plain": None}, along={}))
    out = tmp_path / "out"
    studying.run(study, out)
    assert Run.open(out / "plain").device == "cpu"
    assert "trained on cpu." in (out / "page.md").read_text()
    assert "No GPU run yet: every row." in (out / "page.md").read_text()
    for name in ("run.json", "evaluation.json"):
        kept = json.loads((out / "plain" / name).read_text())
        del kept["device"]
        (out / "plain" / name).write_text(json.dumps(kept))
    stamp = (out / "plain" / "evaluation.json").stat().st_mtime_ns
    studying.run(study, out)
    assert (out / "plain" / "evaluation.json").stat().st_mtime_ns == stamp
    assert "trained on not kept." in (out / "page.md").read_text()
    assert "No GPU run yet: plain (device not kept)." in (out / "page.md").read_text()
    monkeypatch.setattr("ppl_vae.pyro.device_name", lambda _: "Some GPU")
    studying.run(study, out, changes=["training.epochs=2"])
    assert Run.open(out / "plain").device == "not kept, then Some GPU"
    told = json.loads((out / "study.json").read_text())["members"][0]
    assert (told["device"], told["epochs"]) == ("not kept, then Some GPU", 2)
    assert "No GPU run" not in (out / "page.md").read_text()


def test_the_processor_has_one_name(ppl: str) -> None:
    assert room(ppl).device_name("cpu") == "cpu"


def test_a_change_leaves_the_protocol_what_it_was(tmp_path: Path) -> None:
    study = studies.read(written(tmp_path, set={**STUDY["set"], "training.epochs": 9}))
    plain, _ = study.runs(["training.epochs=3", "evaluation.samples=1", "evaluation.images=5"])
    assert (plain.recipe.training.epochs, plain.full_epochs) == (3, 9)
    assert plain.cut == "K = 1 of 2, 5 of 8 test images"
    assert study.runs(["evaluation.samples=9"])[0].cut == ""


def test_rows_of_several_seeds_are_counted(tmp_path: Path) -> None:
    """A row is done when all its seeds are; on a GPU when one of them was."""
    names = ("done", "half", "begun", "not")
    study = studies.read(written(tmp_path, members=dict.fromkeys(names), along={}))
    runs = study.runs(seeds=[0, 1])
    of = {"full_epochs": 4, "epochs": 4, "device": "cpu", "elbo": -3.0}
    told = {
        "done/seed-0": {**of, "member": "done", "epochs": 2},
        "done/seed-1": {**of, "member": "done", "device": "Some GPU"},
        "half/seed-0": {**of, "member": "half"},
    }
    found = standing.Standing(study, runs, told, {"begun/seed-1": 1}, "")
    assert found.count() == (4, 1, 1, 3, 2, 1)
    assert found.notes() == [
        "Not run yet: begun/seed-0, begun/seed-1 (at epoch 1 of 1), half/seed-1, not.",
        "No GPU run yet: begun, half, not.",
    ]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in found.table().split("\n")]
    assert [row[:2] for row in cells[2:]] == [
        ["begun", "-"], ["done", "-3.00 ± 0.00"], ["half", "-3.00"], ["not", "-"],
    ]  # fmt: skip


def test_members_along_an_axis(tmp_path: Path) -> None:
    told = [{"member": "a", "kl": 2}, {"member": "b", "kl": 3.5}, {"member": "c", "kl": 1}]
    found = standing.points(told, {"a": 0, "b": 1}, {"KL": "kl", "none": "elbo"})
    assert found == {"KL": [(0.0, 2.0), (1.0, 3.5)]}
    with pytest.raises(UsageError, match=r"numbers for members \(plain, weak\), came other"):
        studies.read(written(tmp_path, along={"strength": {"other": 1}}))


def test_seeds_have_folders_of_their_own(tmp_path: Path) -> None:
    study = studies.read(written(tmp_path, seeds=[0, 1]))
    assert [run.folder for run in study.runs()] == [
        "plain/seed-0", "plain/seed-1", "weak/seed-0", "weak/seed-1",
    ]  # fmt: skip
    found = study.runs(["objective.beta=3"], seeds=[7])
    assert [(run.folder, run.seed) for run in found] == [("plain", 7), ("weak", 7)]
    assert {run.recipe.objective.beta for run in found} == {3.0}


def test_table_of_means_and_deviations() -> None:
    told = [
        {"member": "a", "elbo": -3.0, "n": 5, "checks": {"c": {"low": 0.001, "high": 2.0}}},
        {"member": "a", "elbo": -5.0, "n": 5, "checks": {"c": {"low": 0.001, "high": 2.0}}},
        {"member": "b", "elbo": None, "n": 7, "checks": {}},
    ]
    columns: dict[str, Any] = {
        "ELBO": "elbo", "n": "n", "c": ["checks.c.low", "checks.c.high"], "sum": "checks.c",
        "each": "checks.c.*",
    }  # fmt: skip
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table(told, columns).splitlines()
    ]
    assert lines[0] == ["member", "ELBO", "n", "c", "sum", "each"]
    low, high = "0.001 ± 0.00", "2.00 ± 0.00"
    assert lines[2] == ["a", "-4.00 ± 1.41", "5", f"{low} … {high}", high, f"{low}, {high}"]
    assert lines[3] == ["b", "-", "7", "- … -", "-", "-"]


@pytest.mark.parametrize("name", studies.names())
def test_studies_of_the_project_are_whole(name: str) -> None:
    """Every member's recipe stands, its checks and their settings are known."""
    from ppl_vae.evaluating import chosen

    study = studies.read(name)
    runs = study.runs(seeds=[0])
    assert [run.folder for run in runs] == list(study.members)
    chosen(study.checks, [], [f"{k}={json.dumps(v)}" for k, v in study.check_settings.items()])
    assert study.name == name
    assert studies.description(name) == study.description
    for run in runs:
        for kind, part in (("model", run.recipe.model), ("guide", run.recipe.guide)):
            part.resolve(kind, "pyro")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"membres": {}}, "membres: unknown key: did you mean 'members'"),
        ({"members": {}, "along": {}}, "members: expected one or more, came none"),
        ({"members": {"a": {"sets": {}}}, "along": {}}, "member a: expected recipe and set"),
        (
            {"members": {"a": {"recipe": "vae-digit"}}, "along": {}},
            "member a: recipe 'vae-digit' is unknown",
        ),
        ({"members": {"a": None}}, "along.beta: .*members \\(a\\), came plain, weak"),
        ({"seeds": [3, 3]}, "seeds: expected each one once, came 3, 3"),
        ({"recipe": None}, "member plain: recipe: missing"),
        ({"set": {"objective.betta": 1}}, "member plain: .*objective.betta: unknown key"),
        ({"checks": ["colapse"]}, "--check: unknown 'colapse'"),
    ],
)
def test_wrong_studies_are_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        studying.run(studies.read(written(tmp_path, **changes)), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_unknown_study_and_seeds(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["study", "colapse", "--out", str(tmp_path)]) == 2
    assert "study 'colapse' is unknown: did you mean 'collapse'" in capsys.readouterr().err
    assert cli.main(["study", "collapse", "--out", str(tmp_path), "--seeds", "a"]) == 2
    assert "--seeds: expected whole numbers" in capsys.readouterr().err
