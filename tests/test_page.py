"""Reports and comparisons as pages: whole, self-contained, accessible, and nothing clipped."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import xarray as xr
from browser import chromium, layout, printed
from PIL import Image

from evaluation import (
    Chapter,
    Code,
    Picture,
    Table,
    compare,
    compare_checks,
    comparison_page,
    figures,
    published_numbers,
    table,
    write_page,
)
from evaluation.comparison import Number, Protocol, said_once
from evaluation.published import Published, with_published
from ppl_vae import cli, judging
from ppl_vae.errors import UsageError
from ppl_vae.judging import Finding, Subject

VOID = {"meta", "img", "input", "wbr", "br", "link"}
NASTY = '<script>alert("a & b")</script>'


class Page(HTMLParser):
    """Elements of a page: (tag, attributes, tags around it, text), in order; tags must match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], tuple[str, ...], list[str]]] = []
        self.open: list[int] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        around = tuple(self.elements[i][0] for i in self.open)
        self.elements.append((tag, {k: v or "" for k, v in attrs}, around, []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for i in self.open:
            self.elements[i][3].append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str], str]]:
        return [(a, "".join(text)) for name, a, _, text in self.elements if name == tag]


def evaluation(run: str = "a", **changes: Any) -> dict[str, Any]:
    base = {
        "nll": 85.0, "nll_se": 0.5, "elbo": -90.0, "num_samples": 5000, "num_images": 10000,
        "bits_per_dim": 0.15, "kl": {"z1": 18.7, "z2": 6.5}, "active_units": {"z1": 4, "z2": 2},
        "pareto_k_bad": 0.25, "data": "mnist", "binarisation": "dynamic", "split": "test",
        "run": run, "recipe": "lvae", "ppl": "pyro", "weights": "best", "batch_norm": "running",
        "seed": 0,
    }  # fmt: skip
    return base | changes


def ais(lower: float, temperatures: int = 1000) -> dict[str, Any]:
    told = {"lower": lower, "lower_se": 0.2, "gap": {"guide": 0.125}, "passed": True, "chains": 16}
    return {"checks": {"ais": told}, "check_settings": {"ais": {"temperatures": temperatures}}}


PAPER = Published(
    "IWAE",
    "paper: Somebody 2015, Table 1",
    Protocol("mnist", "dynamic", "test", 10000),
    {"-L_5000": Number(82.9)},
)


# The page itself


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page of everything that a page may hold, with text that must be escaped."""
    image = figures.image_grid(np.zeros((12, 1, 8, 8)), tmp_path / "a.png", title="Zeros")
    wide = [{f"column {i}": Number(i, 0.25) for i in range(20)} | {"run": NASTY} for _ in range(9)]
    chapters = [
        Chapter(NASTY, [NASTY], [Table(wide, NASTY, NASTY)], warnings=[NASTY]),
        Chapter(
            "Same",
            tables=[Table([{"run": "a", "L_1": Number(1.0), "none": None}]), Table([])],
            pictures=[Picture(image, NASTY), Picture(image, "Zeros", alt="Black squares")],
        ),
        Chapter("Same", tables=[Table([{"a": 1, "b": 2, "c": "x"}])]),
    ]
    facts = {NASTY: NASTY, "command": Code("ppl-vae <a>"), "unknown": None}
    return write_page(tmp_path / "new" / "page.html", NASTY, facts, chapters)


def test_page_is_one_file_that_asks_for_nothing(page: Path) -> None:
    parsed = Page(page)
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]
    assert not parsed.all("script")
    assert not parsed.all("link")
    for _, attributes, _, _ in parsed.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,"))
    style = parsed.all("style")[0][1]
    assert "url(" not in style
    assert "@import" not in style
    assert "&lt;script&gt;alert(&quot;a &amp; b&quot;)" in page.read_text(encoding="utf-8")
    assert parsed.all("h1")[0][1] == parsed.all("title")[0][1] == NASTY


def test_pictures_are_whole_and_described(page: Path) -> None:
    images = Page(page).all("img")
    assert [attributes["alt"] for attributes, _ in images] == [NASTY, "Black squares"]
    for attributes, _ in images:
        data = base64.b64decode(attributes["src"].partition(",")[2], validate=True)
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert picture.size == (int(attributes["width"]), int(attributes["height"]))


def test_page_can_be_heard(page: Path) -> None:
    """Language, headings, anchors that lead somewhere, captions, and cells that know their row."""
    parsed = Page(page)
    assert parsed.all("html")[0][0]["lang"] == "en"
    ids = [a["id"] for _, a, _, _ in parsed.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    for attributes, _ in parsed.all("a"):
        assert attributes["href"][1:] in ids
    for _, attributes, _, _ in parsed.elements:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert attributes.get(name, ids[0]) in ids
    assert [text for _, text in parsed.all("h2")] == ["Protocol", NASTY, "Same", "Same"]
    captions = [text for _, text in parsed.all("caption")]
    assert captions == [NASTY, "Same", "Same"]  # an empty table is none
    heads = [a["scope"] for a, _ in parsed.all("th")]
    assert heads.count("row") == 9 + 1 + 3  # a single row of several stands upright
    assert heads.count("col") == 21 + 2


def test_broad_tables_and_pictures_have_boxes_of_their_own(page: Path) -> None:
    parsed = Page(page)
    boxes = [a["class"] for a, _ in parsed.all("div") if a["class"].startswith("wide")]
    assert boxes == ["wide broad many", "wide", "wide"]
    for tag in ("table", "img"):
        assert all(around[-1] == "div" for name, _, around, _ in parsed.elements if name == tag)


def test_few_rows_of_many_columns_stand_upright(tmp_path: Path) -> None:
    rows = [{"run": n} | {f"c{i}": Number(i) for i in range(12)} for n in ("first", "second")]
    parsed = Page(write_page(tmp_path / "a.html", "A", {}, [Chapter("A", tables=[Table(rows)])]))
    names = [text for attributes, text in parsed.all("th") if attributes["scope"] == "col"]
    assert names == ["run", "first", "second"]
    assert len(parsed.all("tr")) == 1 + 12


def test_picture_that_is_none_is_refused_and_nothing_written(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    for name, said in (("gone.png", "No such file"), ("text.png", "expected a PNG file")):
        chapter = Chapter("A", pictures=[Picture(tmp_path / name, "A picture")])
        with pytest.raises(UsageError, match=said):
            write_page(tmp_path / "a.html", "A", {}, [chapter])
    assert not (tmp_path / "a.html").exists()


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    levels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_by_day_and_by_night(scheme: int) -> None:
    """Contrast of 4.5 and more, WCAG 2.2's level AA."""
    style = resources.files("evaluation").joinpath("page.css").read_text(encoding="utf-8")
    block = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    for text, ground in (
        ("text", "ground"), ("quiet", "ground"), ("link", "ground"), ("warn", "warn-ground"),
    ):  # fmt: skip
        light, dark = sorted((luminance(colours[n]) for n in (text, ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


# Papers' numbers


def test_papers_share_a_column_only_where_bound_and_k_are_the_same() -> None:
    runs = [evaluation("a"), evaluation("b", num_samples=1000, seed=1)]
    (section,) = with_published(compare(runs), [PAPER])
    *measured, paper = section.rows
    assert [row["source"] for row in measured] == ["measured here"] * len(measured)
    assert paper["source"] == "paper: Somebody 2015, Table 1"
    assert str(paper["-L_5000"]) == "82.90"
    assert paper["-L_1000"] is None
    assert paper["ELBO"] is None
    assert all(list(row) == list(paper) for row in measured)
    assert list(paper)[:6] == ["data", "binarisation", "split", "images", "run", "source"]
    assert section.bounds == ["-L_1000", "-L_5000"]


def test_papers_of_another_protocol_stand_apart_and_of_other_data_nowhere() -> None:
    sections = with_published(compare([evaluation(num_images=1000)]), [PAPER])
    assert [section.protocol.num_images for section in sections] == [1000, 10000]
    assert "source" not in sections[0].rows[0]
    assert [row["run"] for row in sections[1].rows] == ["IWAE"]
    (alone,) = with_published(compare([evaluation(data="digits")]), [PAPER])
    assert [row["run"] for row in alone.rows] == ["a"]


def test_what_runs_share_says_nothing_of_papers() -> None:
    (section,) = with_published(compare([evaluation("a"), evaluation("b", seed=1)]), [PAPER])
    shared, rows = said_once(section.rows)
    assert shared["ppl"] == "pyro"
    assert "source" in rows[0]
    text = table([evaluation()], published=[PAPER])
    assert re.search(r"IWAE +paper: Somebody 2015, Table 1 .* 82\.90 ", text)


def test_the_project_s_table_says_where_each_number_is_from() -> None:
    numbers = published_numbers()
    assert len(numbers) > 20
    for number in numbers:
        assert re.match(
            r"paper(, by a secondary source)?: .*20\d\d, arXiv \d{4}\.\d{4,5}", number.source
        )
        assert number.figures.keys() & {"ELBO", "-L_5000"}
    cells = [number.figures.get("-L_5000") for number in numbers]
    likelihoods = [cell for cell in cells if isinstance(cell, Number)]
    assert all(figure.value > 0 for figure in likelihoods)  # nll: lower is better


GROUP = {
    "source": "A 2020", "read": "paper", "data": "mnist", "binarisation": "dynamic",
    "split": "test", "num_images": 10000, "num_samples": 10, "rows": [{"model": "m", "nll": 80}],
}  # fmt: skip


def test_a_user_s_table_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps([GROUP]))
    (number,) = published_numbers(tmp_path / "mine.json")
    assert number == Published("m", "paper: A 2020", PAPER.protocol, {"-L_10": Number(80.0)})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "neither YAML nor JSON"),
        ("[]", "expected a list of groups"),
        ("just text", "expected a list of groups"),
        (json.dumps([3]), "group 1: expected source"),
        (json.dumps([{**GROUP, "sourc": "x"}]), "did you mean 'source'"),
        (json.dumps([{k: v for k, v in GROUP.items() if k != "source"}]), "lacks source"),
        (json.dumps([{**GROUP, "num_images": "all"}]), "num_images: expected int, came 'all'"),
        (json.dumps([{**GROUP, "read": "blog"}]), "unknown 'blog'"),
        (json.dumps([{**GROUP, "rows": [{"model": "m"}]}]), "row 1: expected nll or elbo"),
        (json.dumps([{**GROUP, "num_samples": 0}]), "num_samples: expected 1 or more, came 0"),
        (
            json.dumps([{k: v for k, v in GROUP.items() if k != "num_samples"}]),
            "nll without num_samples",
        ),
    ],
)
def test_a_table_that_is_none_is_refused(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        published_numbers(tmp_path / "mine.yaml")
    assert "\n" not in str(caught.value)


# Checks of several runs


def test_checks_have_tables_of_their_own_with_mean_and_deviation_over_seeds() -> None:
    runs = [evaluation(f"r{s}", seed=s, **ais(-84.0 - s)) for s in range(3)]
    (found,) = compare_checks([*runs, evaluation("unchecked")])
    assert (
        found.title
        == "ais · mnist · binarisation dynamic · test · 10000 images · temperatures 1000"
    )
    assert [row["run"] for row in found.rows] == ["r0", "r1", "r2", "mean ± sd"]
    first, mean = found.rows[0], found.rows[-1]
    assert list(first)[:4] == ["data", "binarisation", "split", "images"]
    assert str(first["lower"]) == "-84.00 ± 0.20"
    assert str(first["gap guide"]) == "0.125"
    assert (first["passed"], first["chains"]) == ("yes", 16)
    assert "lower se" not in first
    assert str(mean["lower"]) == "-85.00 ± 1.00"
    assert mean["chains"] == 16


def test_other_settings_or_protocols_never_share_a_check_s_table() -> None:
    runs = [
        evaluation("a", **ais(-84.0)),
        evaluation("b", **ais(-84.0, temperatures=100)),
        evaluation("c", num_images=50, **ais(-84.0)),
    ]
    assert [[row["run"] for row in found.rows] for found in compare_checks(runs)] == [
        ["a"], ["b"], ["c"],
    ]  # fmt: skip
    assert "temperatures 100\n" in table(runs)


def test_p_values_of_no_decimals_and_settings_of_none() -> None:
    told, sets = {"sbc": {"p": 2e-50, "q": 0.0}}, {"sbc": {"simulations": 500, "samples": None}}
    (found,) = compare_checks([evaluation(checks=told, check_settings=sets)])
    assert str(found.rows[0]["p"]) == "2e-50"
    assert str(found.rows[0]["q"]) == "0.00"
    assert found.title.endswith("simulations 500")


def test_what_is_told_of_very_many_sites_is_drawn_together() -> None:
    sites = [f"z{i}" for i in range(1, 46)]
    told = {"calibrated": {s: s != "z1" for s in sites}, "p": {s: 0.5 for s in sites}}
    (found,) = compare_checks([evaluation(checks={"sbc": told})])
    assert found.rows[0]["calibrated"] == "44 of 45"
    assert found.rows[0]["p"] == "0.5 to 0.5"
    assert found.title.endswith("10000 images")


def test_what_hangs_on_k_says_so_where_several_k_meet() -> None:
    (section,) = compare([evaluation("a"), evaluation("b", num_samples=10)])
    assert section.rows[0]["bits/dim, K = 10"] is None
    assert str(section.rows[0]["bits/dim, K = 5000"]) == "0.150"
    (section,) = compare([evaluation("a"), evaluation("b")])
    assert str(section.rows[0]["bits/dim"]) == "0.150"


# From the command line


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two small runs, evaluated."""
    folder = tmp_path_factory.mktemp("runs")
    paths = [folder / f"seed-{seed}" for seed in range(2)]
    for seed, path in enumerate(paths):
        argv = ["train", "lvae-digits", "--out", str(path), "--set", "training.epochs=2"]
        argv += ["--set", "model.init_args={latents: [3, 2], hidden: [16, 8], layers: 1}"]
        assert cli.main([*argv, "--set", f"training.seed={seed}"]) == 0
        assert cli.main(["evaluate", str(path), "--samples", "30", "--images", "40"]) == 0
    return paths


def test_evaluate_writes_a_report(runs: list[Path]) -> None:
    parsed = Page(runs[0] / "report.html")
    told = json.loads((runs[0] / "evaluation.json").read_text())
    chapters = [text for _, text in parsed.all("h2")]
    assert chapters == [
        "Protocol", "Likelihood", "Latent sites", "Training", "Reconstructions", "Prior samples",
    ]  # fmt: skip
    facts = dict(
        zip((t for _, t in parsed.all("dt")), (t for _, t in parsed.all("dd")), strict=True)
    )
    assert facts["data"] == "digits"
    assert facts["bound"].startswith("L_30: 30 importance samples")
    assert facts["images"] == "the first 40 of the split"
    assert "numpy" in facts["versions"]
    assert facts["evaluation"].startswith("ppl-vae")
    cells = [text for _, text in parsed.all("td")]
    assert f"{told['nll']:.2f} ± {told['nll_se']:.2f}" in cells
    assert len(parsed.all("img")) == 6
    share = 100 * told["pareto_k_bad"]
    assert (f"{share:.1f} % of the images" in "".join(t for _, t in parsed.all("p"))) == (share > 0)


def test_a_check_adds_a_chapter_and_says_its_settings(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True)
    class Settings:
        draws: int = 3

    def judge(subject: Subject, settings: Settings) -> Finding:
        rows = [{"site": "z1", "mean": Number(settings.draws, 0.5)}]
        chapter = Chapter("Planted", tables=[Table(rows)], warnings=["All is well"])
        return Finding("planted", xr.Dataset({"mean": 1.0}), chapter, {"mean": 1.0})

    module = ModuleType("ppl_vae.judging.planted")
    vars(module).update(NAME="planted", Settings=Settings, judge=judge)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(judging.CHECKS, "planted", "what is planted")
    run = shutil.copytree(runs[0], tmp_path / "run")
    argv = ["--check", "planted", "--set", "planted.draws=5", "--samples", "2", "--images", "4"]
    assert cli.main(["evaluate", str(run), *argv]) == 0
    parsed = Page(run / "report.html")
    assert parsed.all("h2")[-1][1] == "Planted"
    assert parsed.all("td")[-1][1] == "5.00 ± 0.50"
    assert any("All is well" in text for _, text in parsed.all("p"))
    told = json.loads((run / "evaluation.json").read_text())
    assert (told["checks"], told["check_settings"]) == (
        {"planted": {"mean": 1.0}}, {"planted": {"draws": 5}},
    )  # fmt: skip


def test_compare_writes_a_page(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.main(["compare", *map(str, runs), "--published", "--out", str(tmp_path)]) == 0
    assert "compare.html" in capsys.readouterr().out
    parsed = Page(tmp_path / "compare.html")
    names = [text for _, text in parsed.all("th")]
    assert names.count(str(runs[0])) == 2  # likelihood, and divergence by site
    assert len(parsed.all("img")) == 2
    assert any("3 seeds" in text or "2 seeds" in text for _, text in parsed.all("td"))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--published", "{run}", "{run}"), "put --published after the runs"),
        (("{run}", "--published", "gone.yaml"), "gone.yaml: no such table"),
    ],
)
def test_published_wants_a_table(
    argv: tuple[str, ...], said: str, runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.main(["compare", *(text.format(run=runs[0]) for text in argv)]) == 2
    assert said in capsys.readouterr().err


# As a browser shows it


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many runs, many columns, papers' numbers, a deep hierarchy, a check."""
    folder = tmp_path_factory.mktemp("comparison")
    deep = {"kl": {f"z{i}": 1.0 for i in range(1, 46)}, "active_units": {"z1": 3}}
    told = [evaluation(f"runs/mnist-{i}", seed=i, **ais(-84.0 - i)) for i in range(5)]
    told += [evaluation(f"runs/a-long-name/deep-{i}", recipe=f"r{i}", **deep) for i in range(9)]
    told += [evaluation("runs/other", num_samples=100, **ais(-84.0, temperatures=100))]
    picture = figures.compare_likelihoods(told, folder / "a.png", published_numbers())
    return comparison_page(
        folder / "compare.html",
        told,
        published=published_numbers(),
        pictures=[Picture(picture, "L_K")],
    )


@pytest.fixture
def shown(runs: list[Path], comparison: Path) -> Callable[[str], Path]:
    if chromium() is None:
        pytest.skip("no Chromium on this machine: install one, or name it in PPL_VAE_CHROMIUM")
    return lambda name: comparison if name == "compare" else runs[0] / "report.html"


@pytest.mark.parametrize("name", ["report", "compare"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_clipped_and_no_picture_broken(
    shown: Callable[[str], Path], name: str, width: int, tmp_path: Path
) -> None:
    told = layout(shown(name), width, tmp_path)
    assert told["scroll_width"] <= told["width"] == width
    assert told["outside"] == []
    assert told["broken"] == 0
    assert told["pictures"] == (6 if name == "report" else 1)
    assert len(told["tables"]) >= 2
    for found in told["tables"]:
        assert found["scrolls"] <= found["box_width"] + 1
        assert found["box_right"] <= width
    with Image.open(told["screenshot"]) as picture:
        assert picture.size[0] == max(width, 500)
        grey = np.asarray(picture.convert("L"))
        assert grey[:, :width].std() > 5  # not a blank page


def test_page_on_paper(shown: Callable[[str], Path], tmp_path: Path) -> None:
    pdf = printed(shown("compare"), tmp_path).read_bytes()
    boxes = {
        tuple(map(float, box)) for box in re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf)
    }
    assert any(width < height for width, height in boxes)
    assert any(width > height for width, height in boxes)  # broad tables on their side
