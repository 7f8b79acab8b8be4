"""The large colour sets: from a folder, by a stand-in for the hub, through the cache, refused."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppl_vae import experiment, recipes
from ppl_vae.data import load, shards
from ppl_vae.data.colour import SETS
from ppl_vae.errors import UsageError

SIDE = 8


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own, no data of the user's, no package `datasets`, small faces."""
    monkeypatch.setenv("PPL_VAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PPL_VAE_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", None)


def pixels(n: int, *, height: int = SIDE, width: int = SIDE, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, height, width, 3)).astype(np.uint8)


def small(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> None:
    """The set with images of SIDE pixels."""
    import dataclasses

    about = dataclasses.replace(SETS[name].SOURCE, size=(3, SIDE, SIDE))
    monkeypatch.setitem(SETS, name, dataclasses.replace(SETS[name], SOURCE=about, **changes))


class Rows:
    """Stands for a split of the package's that knows its place."""

    def __init__(self, rows: Any) -> None:
        self.rows, self.at = rows, 0

    def __iter__(self) -> Any:
        for i, row in enumerate(self.rows):
            if i >= self.at:
                self.at += 1
                yield row

    def state_dict(self) -> Any:
        return {"at": self.at}

    def load_state_dict(self, state: Any) -> None:
        self.at = state["at"]


def hub(
    monkeypatch: pytest.MonkeyPatch,
    repositories: dict[str, dict[str, Any]],
    kind: Callable[[Any], Any] = iter,
) -> list[Any]:
    """Stands for the package: {repository: {split: images}}; what is asked for is listed."""
    asked: list[Any] = []

    def splits(repository: str, config: str | None = None) -> list[str]:
        if repository not in repositories:
            raise FileNotFoundError(f"{repository} is a gated dataset")
        return list(repositories[repository])

    def dataset(repository: str, config: str | None, *, split: str, streaming: bool) -> Any:
        assert streaming
        asked.append((repository, split))
        return kind({"image": Image.fromarray(x)} for x in repositories[repository][split])

    package = types.SimpleNamespace(get_dataset_split_names=splits, load_dataset=dataset)
    monkeypatch.setitem(sys.modules, "datasets", package)
    return asked


def refused(call: Callable[[], object], *says: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert "\n" not in str(caught.value)
    for part in says:
        assert part in str(caught.value)


def test_from_the_hub_and_from_the_cache_ever_after(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, "celeba64", crop=None)
    train, valid, test = pixels(5), pixels(2, seed=1), pixels(3, seed=2)
    asked = hub(monkeypatch, {"flwrlabs/celeba": {"train": train, "valid": valid, "test": test}})
    faces = load("celeba64", valid=2)
    assert faces.valid is not None
    np.testing.assert_array_equal(faces.train.images, train.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(faces.valid.images, valid.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(faces.test.images, test.transpose(0, 3, 1, 2))
    assert all(isinstance(part.images, np.memmap) for part in (faces.train, faces.test))
    assert [split for _, split in asked] == ["train", "valid", "test"]
    monkeypatch.setitem(sys.modules, "datasets", None)
    np.testing.assert_array_equal(load("celeba64").test.images, faces.test.images)


def test_one_split_gives_up_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, "ffhq256", held_out=2)
    every = pixels(7)
    hub(monkeypatch, {"merkol/ffhq-256": {"train": every}})
    found = load("ffhq256")
    np.testing.assert_array_equal(found.train.images, every[:5].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(found.test.images, every[5:].transpose(0, 3, 1, 2))
    assert isinstance(found.train.images, np.memmap)


def test_another_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, "imagenet32")
    hub(
        monkeypatch,
        {"mine/small": {"train": pixels(3), "test": pixels(1), "validation": pixels(2)}},
    )
    assert len(load("imagenet32", repository="mine/small").test) == 2
    refused(lambda: load("imagenet32", repository="mine/other"), "mine/other", "gated", "hf auth")
    refused(lambda: load("digits", repository="mine/small"), "repository", "digits", "celeba64")
    hub(monkeypatch, {"mine/half": {"test": pixels(3)}})
    refused(
        lambda: load("imagenet32", repository="mine/half"), "'train'", "test", "data.repository"
    )


def test_originals_are_cropped_and_rescaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A white square on black: with its surroundings cropped away nothing but white is left."""
    original = np.zeros((1, 26, 20, 3), np.uint8)
    original[:, 5:21, 2:18] = 255
    small(monkeypatch, "celeba64", crop=16)
    hub(monkeypatch, {"flwrlabs/celeba": {"train": original, "test": original}})
    assert load("celeba64").train.images.min() == 255


@pytest.mark.parametrize("split", [True, False])
def test_from_a_folder_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: bool
) -> None:
    small(monkeypatch, "ffhq256")
    images = pixels(20)
    for i, image in enumerate(images):
        part = tmp_path / "mine" / (("test" if i < 2 else "train") if split else "")
        part.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(part / f"{i:02}.png")
    found = load("ffhq256", path=tmp_path / "mine")
    plain = load("folder", path=tmp_path / "mine")
    for one, other in ((found.train, plain.train), (found.test, plain.test)):
        np.testing.assert_array_equal(one.images, other.images)
        assert isinstance(one.images, np.memmap)
    Image.fromarray(images[0]).save(tmp_path / "mine" / ("train" if split else "") / "more.png")
    again = load("ffhq256", path=tmp_path / "mine")  # the folder has changed, the cache has not
    assert len(again.train) + len(again.test) == 21


def test_from_arrays_where_the_data_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, "imagenet64")
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path))
    place = tmp_path / "imagenet64"
    place.mkdir()
    np.save(place / "train.npy", pixels(4))
    np.save(place / "test.npy", pixels(2, seed=1))
    found = load("imagenet64")
    np.testing.assert_array_equal(found.test.images, pixels(2, seed=1).transpose(0, 3, 1, 2))
    np.save(place / "train.npy", pixels(4, width=SIDE + 1))
    np.save(place / "test.npy", pixels(2, width=SIDE + 1))
    refused(lambda: load("imagenet64"), "imagenet64", f"(3, {SIDE}, {SIDE})")


@pytest.mark.parametrize("name", sorted(SETS))
def test_nowhere(name: str) -> None:
    """Every set says on what terms it can be had, and how."""
    wanted = "datasets" if SETS[name].repository else "data.repository"
    refused(lambda: load(name), wanted, "data.path", SETS[name].terms)
    assert "non-commercial" in SETS[name].terms
    refused(lambda: load(name, binarization="dynamic"), "3 channels")


class Broken:
    """Images that end with a lost connection after `whole` of them, the first time."""

    def __init__(self, images: np.ndarray, whole: int) -> None:
        self.values, self.whole, self.at, self.asked = images, whole, 0, list[Any]()

    def images(self, place: Any = None) -> Any:
        self.asked.append(place)
        for number in range(place or 0, len(self.values)):
            if number == self.whole and len(self.asked) == 1:
                raise ConnectionError("gone")
            self.at = number + 1
            yield self.values[number]

    def place(self) -> int:
        return self.at


def test_what_is_cut_off_is_no_set_and_is_gone_on_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two images a shard, and the connection is lost after five of seven: from the fifth on."""
    monkeypatch.setattr(shards, "SHARD", 2 * 3 * SIDE * SIDE)
    shape, whole = (3, SIDE, SIDE), pixels(7).transpose(0, 3, 1, 2)
    source = Broken(whole, 5)
    refused(lambda: shards.write(tmp_path / "x", {"all": source}, shape), "gone")
    assert shards.parts(tmp_path / "x", ["all"]) is None
    left = {file.name for file in (tmp_path / "x").iterdir()}
    assert left == {"all-00000.npy", "all-00001.npy", "all.place.json"}
    found = shards.write(tmp_path / "x", {"all": source}, shape)["all"]
    assert source.asked == [None, 4]
    np.testing.assert_array_equal(found, whole)
    again = shards.parts(tmp_path / "x", ["all"])
    assert again is not None
    np.testing.assert_array_equal(again["all"][np.array([6, 0])], whole[[6, 0]])
    (tmp_path / "x" / "all-00002.npy").unlink()
    refused(lambda: shards.parts(tmp_path / "x", ["all"]), "all-00002.npy", "all.json")


def test_what_is_no_set(tmp_path: Path) -> None:
    def write(values: np.ndarray) -> Any:
        return shards.write(tmp_path / "x", {"train": Broken(values, 9)}, (3, SIDE, SIDE))

    refused(lambda: write(pixels(0).transpose(0, 3, 1, 2)), "none")
    refused(lambda: write(pixels(2, width=3).transpose(0, 3, 1, 2)), "image 0", "shape")


@pytest.mark.parametrize("kind", [iter, Rows], ids=["counted", "placed"])
def test_the_hub_is_taken_up_where_it_was_left(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two splits in shards of two images; the second split breaks off at its third image."""
    monkeypatch.setattr(shards, "SHARD", 2 * 3 * SIDE * SIDE)
    small(monkeypatch, "celeba64", crop=None)
    train, valid, test = pixels(3), pixels(4, seed=1), pixels(3, seed=2)

    def breaking() -> Any:
        yield from valid[:2]
        raise ConnectionError("reset by peer")

    name = "flwrlabs/celeba"
    hub(monkeypatch, {name: {"train": train, "valid": breaking(), "test": test}}, kind)
    refused(lambda: load("celeba64"), "reset by peer", "goes on from there")
    asked = hub(monkeypatch, {name: {"train": train, "valid": valid, "test": test}}, kind)
    every = np.concatenate([train, valid]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(load("celeba64").train.images, every)
    assert [split for _, split in asked] == ["valid", "test"]


def test_a_folder_in_a_repository_s_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of one name seen from two folders, and with other files than before."""
    many = {str(tmp_path / name / "parquet"): pixels(3, seed=i) for i, name in enumerate("ab")}
    for folder in many:
        Path(folder).mkdir(parents=True)
        (Path(folder) / "train.parquet").write_text("stands for images")
    asked = hub(monkeypatch, {name: {"train": x, "test": x} for name, x in many.items()})
    for folder, x in many.items():
        monkeypatch.chdir(Path(folder).parent)
        found = load("hub", repository="parquet", image_size=SIDE)
        np.testing.assert_array_equal(found.test.images, x.transpose(0, 3, 1, 2))
    assert len(asked) == 4
    load("hub", repository="parquet", image_size=SIDE)
    assert len(asked) == 4  # kept
    (Path(folder) / "more.parquet").write_text("stands for more")
    load("hub", repository="parquet", image_size=SIDE)
    assert len(asked) == 6
    recipe = recipes.read("vae-digits", ["data.name=hub", "data.repository=parquet"])
    assert experiment.at_home(recipe).data.repository == folder


def test_any_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = pixels(10)
    hub(monkeypatch, {"mine/small": {"train": images}})
    found = load("hub", repository="mine/small", image_size=SIDE, valid=2)
    np.testing.assert_array_equal(found.train.images, images[:7].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(found.test.images, images[9:].transpose(0, 3, 1, 2))
    assert load("hub", repository="mine/small", image_size=4).x_shape == (3, 4, 4)
    refused(lambda: load("hub", image_size=SIDE), "repository", "owner/name")
    refused(lambda: load("hub", repository="mine/small"), "image_size")
    refused(lambda: load("hub", repository="a/b", image_size=4, path=tmp_path), "'folder'")
