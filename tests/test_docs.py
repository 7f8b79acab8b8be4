"""Every Python example in README and docs runs, with one epoch instead of many."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from ppl_vae.recipes import RECIPES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_example_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    quick = re.sub(r"epochs=\d+", "epochs=1", block)
    assert "fit(" not in quick or "epochs=1" in quick
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(quick, "example", "exec"), {"__name__": "example"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """Links to files of this project, and the pictures, exist."""
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#:]+)\)", prose)
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_every_recipe_is_in_the_table() -> None:
    """docs/recipes.md names those that come with the project, each once, and no others."""
    table = (ROOT / "docs" / "recipes.md").read_text().partition("## Those that come")[2]
    named = re.findall(r"`([\w-]+)`", table)
    assert sorted(named) == sorted(path.stem for path in RECIPES.glob("*.yaml"))
