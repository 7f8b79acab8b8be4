"""The papers' tables in pieces: what is done, what is missing, what cannot be done, on one page."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import test_studies
import yaml

from benchmarks import beta_sweep, papers
from ppl_vae import evaluating, experiment, standing, studies, studying
from ppl_vae.runs import Run

SETTINGS = {**test_studies.STUDY["set"], "training.epochs": 2, "training.device": "cpu"}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pictures and reports, which take most of the time and are looked at elsewhere."""
    monkeypatch.setattr(experiment, "_draw", lambda *_: None)
    monkeypatch.setattr(standing, "_draw", lambda *_: None)
    monkeypatch.setattr(evaluating, "write_report", lambda *_: None)


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Tiny tables, {name: members}, in the place of the papers'; gives the folder to write to."""

    def put(**given: dict[str, Any]) -> Path:
        for name, members in given.items():
            tree = {
                "name": name, "description": f"of {name}", "source": f"the paper of {name}",
                "recipe": "vae-digits", "set": SETTINGS, "members": members,
                "published": {"theirs": dict.fromkeys(members, 86.5)},
            }  # fmt: skip
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(tree))
        monkeypatch.setattr(studies, "STUDIES", tmp_path)
        monkeypatch.setattr(papers, "TABLES", tuple(given))
        return tmp_path / "out"

    return put


def row(page: str, name: str) -> list[str]:
    """The cells of the first table's row of that name."""
    lines = [line for line in page.splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in lines[0].strip("|").split("|")][1:]


def test_tables_in_pieces(
    tables: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The time is up within the first table; given again, the command ends both."""
    weak = {"set": {"objective.beta": 0.1}}
    out = tables(first={"plain": None, "weak": weak}, second={"other": None})
    asked = ["--ppl", "pyro", "--out", str(out)]
    looks, pieces = iter(range(100)), iter([0.0, 0.0, 150.0])
    clocks = (lambda: 30.0 * next(looks)), (lambda: next(pieces))
    for module, clock in zip((studying, papers), clocks, strict=True):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock))
    assert papers.main([*asked, "--minutes", "2.5"]) == 1  # six looks at the study's clock
    page = (out / "papers.md").read_text()
    assert row(page, "first") == ["2", "1", "0", "2", "1", "0"]
    assert row(page, "second") == ["1", "0", "0", "1", "0", "1"]
    assert row(page, "all") == ["3", "1", "0", "3", "1", "1"]
    assert "Not run yet: weak (at epoch 1 of 2)." in page
    assert row(page, "weak") == ["-", "-", "-", "86.5"]
    assert row(page, "plain")[0] != "-"
    assert "No row is done yet." in page.partition("## second")[2]
    assert page.count("No GPU run yet: every row.") == 2
    assert "trained on cpu." in page
    assert not (out / "second").exists()
    assert "Cannot be done" not in page  # there was no time to try
    for part in ("Source: the paper of second", f"--tables second --ppl pyro --out {out}"):
        assert part in page.partition("## second")[2]

    monkeypatch.setattr(studying, "time", time)
    monkeypatch.setattr(papers, "time", time)
    stamp = (out / "first" / "plain" / "evaluation.json").stat().st_mtime_ns
    capsys.readouterr()
    assert papers.main([*asked, "--page", str(out / "elsewhere" / "page.md")]) == 0
    assert (out / "first" / "plain" / "evaluation.json").stat().st_mtime_ns == stamp
    assert Run.open(out / "first" / "weak").history["epoch"].values.tolist() == [1, 2]
    page = (out / "elsewhere" / "page.md").read_text()
    assert row(page, "all") == ["3", "3", "0", "3", "0", "0"] == row(capsys.readouterr().out, "all")
    assert "Not run yet" not in page
    assert "](../first/page.md)" in page


def one_by_one(jobs: Sequence[Callable[[], Any]], _: Any) -> list[Any]:
    """`ppl_vae.pyro.together` in this process: the first error once all have ended."""
    found, errors = [], []
    for job in jobs:
        try:
            found.append(job())
        except ValueError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return found


def test_a_table_that_cannot_be_done(
    tables: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data are not there: what is done of it is told, and so are the tables after it."""
    nowhere = {"data.name": "mnist", "data.path": str(tmp_path / "nowhere")}
    out = tables(absent={"here": None, "gone": {"set": nowhere}}, second={"other": None})
    monkeypatch.setattr("ppl_vae.pyro.together", one_by_one)
    asked = ["--ppl", "pyro", "--out", str(out), "--jobs", "2", "--share", "0.5"]
    assert papers.main(asked) == 1
    page = (out / "papers.md").read_text()
    assert row(page, "absent") == ["2", "1", "1", "2", "0", "1"]
    assert row(page, "second") == ["1", "1", "1", "1", "0", "0"]
    reason = f"expected a folder with the files of mnist, came {tmp_path / 'nowhere'}"
    assert page.count(reason) == 2  # at the top and at the table
    assert page.count("Not the whole protocol: 1 of 2 epochs (") == 2
    told = json.loads((out / "absent" / "study.json").read_text())["members"]
    assert [one["member"] for one in told] == ["here"]
    assert "Not run yet: gone." in (out / "absent" / "page.md").read_text()


def test_the_beta_sweep_is_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for each strength, over seeds; models that are there are not trained again."""
    trained: list[tuple[float, int]] = []

    def measured(recipe: Any, ppl: str, labelled: int) -> dict[str, Any]:
        seed = recipe.training.seed
        trained.append((recipe.objective.beta_norm, seed))
        metrics = ("higgins", "factor_vae", "mig", "sap", *(f"dci_{part}" for part in DCI))
        scores = dict.fromkeys(metrics, 0.25 + 0.5 * seed)
        tree = json.loads(json.dumps(recipe.to_dict()))
        return {
            "recipe": tree, "ppl": ppl, "labelled": labelled, "device": "Some GPU", "hours": 0.5,
            "num_images": 9, "scores": scores, "chance": scores, "few": scores, "rest": scores,
            "log_likelihood": -3.0, "kl": 2.0, "active_units": 4, "cpu_seconds": 1.0,
        }  # fmt: skip

    study = papers.beta_table.STUDY
    few = dict(list(study.members.items())[:3])
    monkeypatch.setattr(papers.beta_table, "STUDY", replace(study, members=few))
    monkeypatch.setattr(beta_sweep, "measured", measured)
    looks = iter(range(99))
    monkeypatch.setattr(beta_sweep, "time", SimpleNamespace(monotonic=lambda: next(looks)))
    monkeypatch.setattr(papers.beta_table, "time", SimpleNamespace(monotonic=lambda: -58))
    monkeypatch.setattr(papers, "time", SimpleNamespace(monotonic=lambda: 0))
    asked = ["--tables", "beta-sweep", "--seeds", "0,1", "--share", "0.1", "--out", str(tmp_path)]
    assert papers.main([*asked, "--minutes", "1"]) == 1
    assert trained == [(0.004, 0), (0.004, 1), (0.04, 0)]
    page = (tmp_path / "papers.md").read_text()
    assert row(page, "beta-sweep") == ["3", "1", "1", "1", "1", "1"]
    assert row(page, "0.004")[0] == "0.50 ± 0.35"  # 0.25 and 0.75
    assert "trained on Some GPU. Training steps took 1.5 hours" in page
    assert papers.main(asked) == 0
    assert len(trained) == len(set(trained)) == 6
    page = (tmp_path / "beta-sweep" / "page.md").read_text()
    assert "5 of 50 epochs (0.004, 0.04, 0.07)" in page
    assert "](beta-sweep.png)" in page
    assert (tmp_path / "beta-sweep" / "beta_sweep.json").exists()


DCI = ("disentanglement", "completeness", "informativeness")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--tables", "burda"], "--tables: unknown 'burda': did you mean 'burda-2015'?"),
        (["--tables"], "--tables: expected at least one argument"),
        (["--share", "2"], "--share: expected a number above 0 and at most 1, came 2"),
        (["--minutes", "0"], "--minutes: expected a number above 0, came 0"),
        (["--jobs", "0"], "--jobs: expected a whole number of at least 1, came 0"),
        (["--seeds", "a"], "--seeds: expected whole numbers such as 0,1,2, came 'a'"),
        (["--seeds", "1,1"], "seeds: expected each one once, came 1, 1: leave the second 1 out"),
        (["--page", "."], "--page: expected a file, came the folder ."),
        (["--ppl", "jax"], "--ppl: invalid choice: 'jax'"),
        (["--set", "training.epoch=2"], "training.epoch: unknown key: did you mean 'epochs'"),
        (["--set", "latents.images=3", "--tables", "burda-2015"], "no table has the check latents"),
    ],
)
def test_wrong_arguments(
    given: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and nothing made."""
    assert papers.main(["--out", str(tmp_path / "out"), *given]) == 2
    told = capsys.readouterr().err
    assert told.startswith("papers: error: ")
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", papers.TABLES)
def test_every_table_stands_beside_the_papers(name: str) -> None:
    """Each has their numbers or says that it has none, and how far its rows got."""
    study = papers.beta_table.STUDY if name == papers.SWEEP else studies.read(name)
    assert {"epochs", "full_epochs"} <= set(map(str, study.columns.values()))
    assert study.published or study.source.startswith("own")
    places = [study.columns[title] for title in study.columns if "L_" in title or title == "ELBO"]
    assert len(places) == len(set(map(str, places)))  # a bound each
