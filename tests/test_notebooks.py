"""Every notebook runs from top to bottom with small settings, in its own folder."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

FOLDER = Path(__file__).parent.parent / "evaluation" / "notebooks"
SMALL = {
    "calibration": {"num_simulations": 500, "num_draws": 9, "epochs": 1},
    "compose": {"epochs": 1, "num_samples": 30},
    "likelihood": {"epochs": 1, "num_images": 20, "num_samples": 30},
}


def cells(name: str) -> list[dict[str, Any]]:
    book = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    return list(book["cells"])


def test_every_notebook_has_small_settings() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_notebook_is_kept_without_outputs(name: str) -> None:
    """Pictures of another machine's run neither age here nor weigh on the clone."""
    assert len({cell["id"] for cell in cells(name)}) == len(cells(name))
    for cell in cells(name):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


@pytest.mark.parametrize("name", SMALL)
def test_notebook_runs(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(FOLDER)
    before = sorted(FOLDER.iterdir())
    namespace: dict[str, Any] = {"__name__": name}
    given = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for cell in cells(name):
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), cell["id"], "exec"), namespace)
            if "parameters" in cell["metadata"].get("tags", []):
                assert set(SMALL[name]) <= set(namespace)
                namespace |= SMALL[name]
                given += 1
    plt.close("all")
    assert given == 1
    assert sorted(FOLDER.iterdir()) == before
    assert capsys.readouterr().out
