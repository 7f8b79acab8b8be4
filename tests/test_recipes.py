"""Recipes: read, checked, overridden, written back, resolved to classes."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ppl_vae import data, recipes
from ppl_vae.data.masks import draw_mixed
from ppl_vae.errors import UsageError
from ppl_vae.overrides import parse_sweep
from ppl_vae.recipes import Recipe
from ppl_vae.typed import checked_arguments, find_class, room

TINY = {
    "name": "tiny",
    "data": {"name": "digits"},
    "model": {"class_path": "VAE", "init_args": {"latent": 2, "hidden": [8]}},
    "guide": "MeanFieldGuide",
}


# What is left of the largest recipes where two steps are to take seconds: fewer blocks, narrower.
LARGE = ("vdvae-cifar10", "vdvae-imagenet32", "vdvae-imagenet64", "vdvae-ffhq256", "vdvae-ffhq1024")
LEFT = (
    'model.init_args.decoder="1x1,4m1,32m4"', "model.init_args.width=8",
    "model.init_args.widths=null", "guide.init_args.encoder=null",
)  # fmt: skip


class Base:
    def __init__(
        self, x_shape: tuple[int, int, int], depth: int = 2, rate: float = 0.5
    ) -> None: ...


class Derived(Base):
    def __init__(self, *args: Any, widths: tuple[int, ...], name: str | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)


@pytest.mark.parametrize("name", recipes.names())
def test_shipped_recipe(name: str, ppl: str) -> None:
    """Read, its data set known, its classes found and their arguments right, in both PPLs."""
    recipe = recipes.read(name)
    assert recipe.name == name
    assert recipe.description
    assert recipe.source
    assert recipe.data.name in data.names()
    assert (recipes.RECIPES / f"{name}.yaml").read_text(encoding="utf-8").startswith("#")
    for kind in ("model", "guide"):
        found, arguments = getattr(recipe, kind).resolve(kind, ppl)
        assert found.__module__.startswith(f"{kind}s.{ppl}.")
        assert arguments.keys() == getattr(recipe, kind).init_args.keys()


@pytest.mark.parametrize(
    ("name", "ppl"),
    [
        *((name, "pyro") for name in recipes.names()),
        # What XLA compiles for the others differs in numbers alone.
        pytest.param("iwae-mnist-2", "numpyro", marks=pytest.mark.slow),
    ],
)
def test_shipped_recipe_trains(name: str, ppl: str) -> None:
    """Two steps of every recipe's own nets, optimiser and objective on images of its size."""
    changes = ["training.epochs=1", "training.batch_size=8"]
    if name.startswith("nvae-") and name not in ("nvae-digits", "nvae-mnist-small"):
        changes += ["model.init_args.channels=2", "model.init_args.min_groups=1"]  # all but their
        changes += ["model.init_args.groups=1", "guide.init_args.flows=1"]  # size
    if name == "inpaint-celeba64":
        changes += ["model.init_args.channels=[8, 8, 8, 8, 8, 8]"]
    if name in LARGE:
        changes += LEFT
    recipe = recipes.read(name, changes)
    size = data.source(recipe.data.name).size or (1, 28, 28)
    x_shape = (size[0], *(min(side, 32) for side in size[1:]))
    grey = np.random.default_rng(0).integers(0, 256, (16, *x_shape)).astype(np.uint8)
    drawn = recipe.data.binarization != "none"
    images = data.Images(grey, binarization="dynamic" if drawn else "none")
    if recipe.data.binarization == "static":
        images = images.fixed(0)
    if recipe.data.masks:
        masks = draw_mixed(recipe.data.masks, 32, images.x_shape[1:])
        images = images.with_fresh_masks(masks)
    pair = recipes.build(recipe, ppl, images.x_shape)
    settings = dataclasses.asdict(recipe.training)
    fitted = room(ppl).fit(*pair, images, objective=recipe.objective, progress=False, **settings)
    assert fitted.history.sizes["step"] == 1
    assert np.isfinite(fitted.history["elbo"]).all()


def test_the_issue_s_experiments_are_there() -> None:
    assert {
        "vae-digits", "lvae-digits", "vae-mnist", "iwae-mnist", "iwae-mnist-2", "hvae-mnist",
        "lvae-mnist", "lvae-mnist-short", "lvae-omniglot", "nvae-digits", "nvae-mnist",
        "nvae-mnist-small", "nvae-cifar10", "nvae-celeba64", "nvae-imagenet32", "nvae-celebahq256",
        "nvae-ffhq256", "inpaint-celeba64", "vdvae-digits", "vdvae-mnist", "vdvae-cifar10",
        "vdvae-imagenet32", "vdvae-imagenet64", "vdvae-ffhq256", "vdvae-ffhq1024",
    } <= set(recipes.names())  # fmt: skip


@pytest.mark.parametrize("name", recipes.names())
def test_written_recipe_reads_back_the_same(name: str, tmp_path: Path) -> None:
    recipe = recipes.read(name, ["training.betas=[0.5, 0.9]", "data.path=null"])
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.to_dict()), encoding="utf-8")
    assert recipes.read(path) == recipe


def test_written_recipe_spells_every_setting_out() -> None:
    tree = yaml.safe_load(yaml.safe_dump(Recipe.from_dict(TINY).to_dict()))
    assert tree["training"]["epochs"] == 60
    assert tree["training"]["betas"] == [0.9, 0.999]
    assert tree["guide"] == {"class_path": "MeanFieldGuide", "init_args": {}}


def test_overrides_are_typed_as_yaml() -> None:
    recipe = recipes.read(
        "lvae-digits",
        [
            "training.epochs=3",
            "training.learning_rate=1e-3",
            "training.clip_norm=null",
            "model.init_args.latents=[4, 2]",
            "model.init_args.hidden=[8, 8]",
            "guide=BottomUpGuide",
            "objective.analytic=false",
        ],
    )
    assert recipe.training.epochs == 3
    assert recipe.training.learning_rate == 1e-3
    assert recipe.model.init_args["latents"] == [4, 2]
    assert recipe.guide.class_path == "BottomUpGuide"
    assert recipe.objective.analytic is False


def test_values_take_their_argument_s_type() -> None:
    given = {"widths": [4, 2], "rate": "1e-3", "depth": 3, "name": None}
    checked = checked_arguments(Derived, given, "model.init_args", skip=("x_shape",))
    assert checked == {"widths": (4, 2), "rate": 1e-3, "depth": 3, "name": None}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "model.init_args: the following arguments are required: widths"),
        (
            {"widths": 3},
            r"model.init_args.widths: expected a list of int, such as \[a, b\], came 3",
        ),
        ({"widths": [1], "depht": 3}, "model.init_args.depht: unknown key: did you mean 'depth'"),
        ({"widths": [1], "x_shape": [1, 2, 3]}, "model.init_args.x_shape: unknown key"),
        ({"widths": [1], "depth": None}, "model.init_args.depth: expected int, came null"),
        ({"widths": [1], "depth": 2.5}, "model.init_args.depth: expected int, came 2.5"),
        ({"widths": [1], "name": [2]}, r"model.init_args.name: expected str or null, came \[2\]"),
        ([1], r"model.init_args: expected a mapping of names to values, came \[1\]"),
    ],
)
def test_wrong_arguments(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        checked_arguments(Derived, given, "model.init_args", skip=("x_shape",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainng": {}}, "trainng: unknown key: did you mean 'training'"),
        ({"training": {"epoch": 3}}, "training.epoch: unknown key: did you mean 'epochs'"),
        ({"training": {"optimizer": "adma"}}, "training.optimizer: unknown 'adma': did you mean"),
        ({"training": {"epochs": 0}}, "training.epochs: expected a whole number of at least 1"),
        ({"training": 3}, "training: expected a mapping"),
        ({"data": None}, "data: the following arguments are required: name"),
        ({"evaluation": {"samples": 0}}, "evaluation.samples: expected at least 1, came 0"),
        ({"model": {"init_args": {}}}, "model: the following arguments are required: class_path"),
    ],
)
def test_wrong_recipes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Recipe.from_dict(TINY | change)
    assert "\n" not in str(caught.value)


def test_missing_section() -> None:
    with pytest.raises(UsageError, match="guide: missing: every recipe has name, data, model"):
        Recipe.from_dict({key: value for key, value in TINY.items() if key != "guide"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.epochs", "expected key=value"),
        ("=3", "expected key=value"),
        ("epochs=3", "epochs: unknown key: did you mean 'training.epochs'"),
        ("training.epoch=3", "training.epoch: unknown key: did you mean 'epochs'"),
        ("trainin.epochs=3", "trainin.epochs: unknown key: did you mean 'training.epochs'"),
        ("name.first=3", "name.first: unknown key"),
        ("training.epochs.a=3", "training.epochs.a: cannot be set: the recipe has 200 above it"),
        ("training.betas=[1", "the value is not YAML: expected"),
        ("training.epochs=ten", "training.epochs: expected int, came 'ten'"),
        ("model.class_path=null", "model.class_path: expected str, came null"),
    ],
)
def test_wrong_overrides(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        recipes.read("vae-digits", [text])
    assert "\n" not in str(caught.value)


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="'lvae-digit' is unknown: did you mean 'lvae-digits'"):
        recipes.read("lvae-digit")
    with pytest.raises(UsageError, match=r"nowhere.yaml: no such file"):
        recipes.read("nowhere.yaml")


@pytest.mark.parametrize("text", ["a: [1", "\x00", "- 1\n- 2"])
def test_file_that_is_no_recipe(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        recipes.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_recipe_runs_no_code(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: !!python/object/apply:os.getcwd []\n", encoding="utf-8")
    with pytest.raises(UsageError, match="could not determine a constructor"):
        recipes.read(path)


def test_sweep_is_every_combination() -> None:
    sweep = parse_sweep(["training.seed=0,1", "model.init_args.latents=[4, 2],[8]"])
    assert [dict(chosen) for chosen in sweep] == [
        {"training.seed": seed, "model.init_args.latents": latents}
        for seed in (0, 1)
        for latents in ([4, 2], [8])
    ]
    with pytest.raises(UsageError, match="expected key=v1,v2"):
        parse_sweep(["training.seed="])


def test_differences_are_dotted_keys() -> None:
    old = Recipe.from_dict(TINY)
    new = recipes.with_changes(TINY, ["training.epochs=3", ("model.init_args.latent", 3)])
    assert recipes.differences(old, old) == []
    assert recipes.differences(old, new) == ["model.init_args.latent", "training.epochs"]


def test_unknown_class_names_the_nearest(ppl: str) -> None:
    with pytest.raises(UsageError, match="did you mean 'LadderGuide'"):
        find_class("LaderGuide", "guide", ppl)
    with pytest.raises(
        UsageError, match=f"no class 'VAEE' in models.{ppl}.vae: did you mean 'VAE'"
    ):
        find_class(f"models.{ppl}.vae.VAEE", "model", ppl)


def test_user_s_class_is_found_last_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's own is imported from the current folder, but never hides another."""
    (tmp_path / "users_models.py").write_text("class Mine:\n    def __init__(self, x_shape): ...\n")
    (tmp_path / "yaml.py").write_text("class Mine: ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert find_class("users_models.Mine", "model", "pyro").__name__ == "Mine"
    assert sys.path[-1] == str(tmp_path)
    with pytest.raises(UsageError, match="no class 'Mine' in yaml"):
        find_class("yaml.Mine", "model", "pyro")
    with pytest.raises(UsageError, match="no module 'users_guides': run from the folder"):
        find_class("users_guides.Mine", "guide", "pyro")


def test_class_of_another_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_bare.py").write_text("class Bare:\n    def __init__(self, width=3): ...\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"Bare takes no 'x_shape': a model is built as Bare"):
        find_class("users_bare.Bare", "model", "pyro")


def test_broken_module_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_broken.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        find_class("users_broken.Mine", "model", "pyro")
