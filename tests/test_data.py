"""The data room: splits, binarisation, formats, downloads, and what bad files are answered."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import math
import os
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppl_vae.data import (
    Images,
    cifar10,
    dsprites,
    fetching,
    idx,
    load,
    mnist,
    names,
    omniglot,
    reading,
)
from ppl_vae.data import source as about
from ppl_vae.data.binarization import BLOCK
from ppl_vae.data.fetching import LocalFile, RemoteFile
from ppl_vae.data.reading import Joined
from ppl_vae.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the user's cache or data folder."""
    monkeypatch.delenv("PPL_VAE_DATA", raising=False)
    monkeypatch.setenv("PPL_VAE_CACHE", str(tmp_path / "cache"))


def _grey(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


# --- binarisation -----------------------------------------------------------------------------


def test_fixed_is_certain_for_black_and_white() -> None:
    values = np.where(_grey(300, 1, 5, 5) > 127, 255, 0).astype(np.uint8)
    np.testing.assert_array_equal(Images(values).fixed(3).images, values // 255)


@pytest.mark.parametrize("n", [1, 7, BLOCK, BLOCK + 1])
def test_fixed_of_the_first_images_does_not_depend_on_how_many_follow(n: int) -> None:
    every = Images(_grey(2 * BLOCK + 5, 1, 4, 4), binarization="dynamic")
    np.testing.assert_array_equal(every.take(n).fixed(1).images, every.fixed(1).images[:n])


def test_fixed_draws_with_the_right_probability() -> None:
    n, pixels = 2000, 64
    for value in (1, 51, 128, 254):
        drawn = Images(np.full((n, 1, 8, 8), value, np.uint8)).fixed(0).images
        p = value / 255
        error = math.sqrt(p * (1 - p) / (n * pixels))
        assert abs(drawn.mean() - p) < 5 * error


def test_fixed_draws_differ_between_images_blocks_and_seeds() -> None:
    half = Images(np.full((2 * BLOCK, 1, 8, 8), 128, np.uint8))
    drawn = half.fixed(0).images.reshape(2 * BLOCK, 64)
    assert len(np.unique(drawn, axis=0)) == 2 * BLOCK  # 64 fair coins each
    assert (drawn != half.fixed(1).images.reshape(2 * BLOCK, 64)).any(axis=1).all()
    np.testing.assert_array_equal(drawn, half.fixed(0).images.reshape(2 * BLOCK, 64))


def test_static_images_are_fixed_already() -> None:
    static = Images(np.ones((2, 1, 2, 2), np.uint8), binarization="static")
    assert static.fixed(7) is static


# --- load -------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_in_another_order() -> None:
    from sklearn.datasets import load_digits

    digits = load("digits")
    assert (len(digits.train), digits.valid, len(digits.test)) == (1500, None, 297)
    every = np.concatenate([digits.train.images, digits.test.images]).reshape(-1, 64)
    labels = np.concatenate([digits.train.labels, digits.test.labels])
    pixels, classes = load_digits(return_X_y=True)
    expected = np.column_stack([np.round(pixels * 255 / 16), classes])
    came = np.column_stack([every, labels])
    np.testing.assert_array_equal(came[np.lexsort(came.T)], expected[np.lexsort(expected.T)])
    assert set(labels[1500:].tolist()) == set(range(10))


def test_binarizations_and_valid() -> None:
    grey = load("digits")
    dynamic = load("digits", binarization="dynamic", valid=300, seed=4)
    assert dynamic.valid is not None
    assert (len(dynamic.train), len(dynamic.valid)) == (1200, 300)
    assert (dynamic.train.binarization, dynamic.valid.binarization) == ("dynamic", "static")
    np.testing.assert_array_equal(dynamic.train.images, grey.train.images[:1200])
    assert grey.train.labels is not None
    np.testing.assert_array_equal(dynamic.valid.labels, grey.train.labels[1200:])
    np.testing.assert_array_equal(dynamic.test.images, grey.test.fixed(4).images)
    static = load("digits", binarization="static", valid=300)
    assert static.valid is not None
    for part in (static.train, static.valid, static.test):
        assert part.binarization == "static"
        assert part.images.max() == 1
    np.testing.assert_array_equal(
        static.test.images, load("digits", binarization="dynamic").test.images
    )


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"name": "diggits"}, "did you mean 'digits'"),
        ({"name": "digits", "binarization": "dinamic"}, "did you mean 'dynamic'"),
        ({"name": "digits", "valid": 1500}, "fewer than the 1500"),
        ({"name": "digits", "valid": -1}, "0 for none"),
        ({"name": "digits", "seed": -1}, "seed"),
        ({"name": "digits", "path": "/x"}, "leave it out"),
        ({"name": "digits", "image_size": 4}, "image_size"),
        ({"name": "cifar10", "binarization": "dynamic"}, "3 channels"),
        ({"name": "cifar10", "binarization": "static"}, "3 channels"),
        ({"name": "mnist", "path": "/nowhere"}, "/nowhere"),
        ({"name": "folder"}, "path"),
        ({"name": "folder", "path": "/nowhere"}, "/nowhere"),
        ({"name": "npz"}, "path"),
        ({"name": "npz", "path": "/nowhere.npz"}, "/nowhere.npz"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_impossible_requests(request_: dict[str, Any], says: str) -> None:
    _refused(lambda: load(**request_), says)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Images(np.zeros((2, 4, 4), np.uint8)), "channels"),
        (lambda: Images(np.zeros((2, 1, 4, 4))), "float64"),  # type: ignore[arg-type]
        (lambda: Images(np.zeros((2, 1, 4, 4), np.uint8), np.zeros(3, np.int64)), "labels"),
        (lambda: Images(np.full((2, 1, 4, 4), 2, np.uint8), None, "static"), "0 and 1"),
        (lambda: Images(np.zeros((2, 1, 4, 4), np.uint8)).take(3), "1 to 2"),
    ],
)
def test_impossible_images(make: Callable[[], object], says: str) -> None:
    _refused(make, says)


def _refused(call: Callable[[], object], *says: str) -> None:
    """`call` is refused in one line that holds every one of `says`."""
    with pytest.raises(UsageError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert ": " in message
    for part in says:
        assert part in message


# --- formats, from tiny files -----------------------------------------------------------------


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("compress", [gzip.compress, bytes], ids=["gzip", "plain"])
def test_idx(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    pixels, labels = _grey(5, 28, 28), np.arange(5, dtype=np.uint8)
    suffix = ".gz" if compress is gzip.compress else ""
    (tmp_path / f"images{suffix}").write_bytes(compress(_idx(pixels)))
    (tmp_path / f"labels{suffix}").write_bytes(compress(_idx(labels)))
    files = [RemoteFile(f"{name}.gz", (), None) for name in ("images", "labels")]
    read = idx.read_split("any", files[0], files[1], 5, path=tmp_path)
    np.testing.assert_array_equal(read.images[:, 0], pixels)
    np.testing.assert_array_equal(read.labels, labels)


_IDX = _idx(_grey(3, 28, 28))


@pytest.mark.parametrize(
    ("content", "sha256", "says"),
    [
        (gzip.compress(_IDX)[:-100], None, "whole file"),
        (b"", None, "nothing"),
        (b"<html>not found</html>", None, "IDX"),
        (_IDX[:10], None, "header of 16"),
        (_IDX[:-1], None, "2,368 bytes"),
        (_IDX + b"0", None, "2,368 bytes"),
        (_idx(_grey(4, 28, 28)), None, "(4, 28, 28)"),
        (_IDX, hashlib.sha256(b"another").hexdigest(), "SHA-256"),
    ],
    ids=["cut-gzip", "empty", "page", "cut-header", "cut", "longer", "shape", "content"],
)
def test_damaged_idx(tmp_path: Path, content: bytes, sha256: str | None, says: str) -> None:
    file = tmp_path / "damaged-idx"
    file.write_bytes(content)
    _refused(
        lambda: idx.read_idx(LocalFile(file, "replace it"), (3, 28, 28), sha256),
        "damaged-idx",
        "expected",
        says,
        "replace it",
    )


def test_packed_static_mnist_of_another_content(tmp_path: Path) -> None:
    rows = {split: np.zeros((n, 98), np.uint8) for split, n in mnist._SPLITS.items()}
    np.savez_compressed(tmp_path / "binarized_mnist.npz", **rows)  # type: ignore[arg-type]
    _refused(
        lambda: load("mnist", binarization="static", path=tmp_path),
        "binarized_mnist.npz",
        "SHA-256",
    )


def test_static_mnist_as_text_and_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"train": 5, "valid": 3, "test": 4}
    pixels = {split: _grey(n, 784, seed=n) // 128 for split, n in counts.items()}
    texts = {
        s: "".join(" ".join(map(str, r)) + "\n" for r in p).encode() for s, p in pixels.items()
    }
    monkeypatch.setattr(mnist, "_SPLITS", counts)
    monkeypatch.setattr(
        mnist, "_TEXTS", {split: hashlib.sha256(text).hexdigest() for split, text in texts.items()}
    )
    (tmp_path / "text").mkdir()
    (tmp_path / "packed").mkdir()
    for split, text in texts.items():
        (tmp_path / "text" / f"binarized_mnist_{split}.amat").write_bytes(text)
    packed = {split: np.packbits(rows, axis=1) for split, rows in pixels.items()}
    np.savez(tmp_path / "packed" / "binarized_mnist.npz", **packed)  # type: ignore[arg-type]
    for folder in ("text", "packed"):
        static = load("mnist", binarization="static", valid=3, path=tmp_path / folder)
        for split, images in (
            ("train", static.train),
            ("valid", static.valid),
            ("test", static.test),
        ):
            assert images is not None
            rows, expected = images.images.reshape(-1, 784), pixels[split]
            if split == "test":  # sorted by digit in the file, and so not here
                assert not np.array_equal(rows, expected)
                rows, expected = (np.array(sorted(map(tuple, r))) for r in (rows, expected))
            np.testing.assert_array_equal(rows, expected)
        assert static.about.num_levels == 2


def _cifar_files() -> tuple[dict[str, bytes], np.ndarray]:
    records = _grey(12, 3073)
    records[:, 0] %= 10
    batches = [*cifar10._TRAIN, cifar10._TEST]
    return {name: records[2 * i : 2 * i + 2].tobytes() for i, name in enumerate(batches)}, records


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("packed", [True, False])
def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    files, records = _cifar_files()
    monkeypatch.setattr(cifar10, "_BATCH", 2)
    if packed:
        archive = _tar(files)
        monkeypatch.setattr(cifar10, "_MD5", hashlib.md5(archive).hexdigest())
        (tmp_path / "cifar-10-binary.tar.gz").write_bytes(archive)
    else:
        (tmp_path / "cifar-10-batches-bin").mkdir()
        for name, content in files.items():
            (tmp_path / "cifar-10-batches-bin" / name).write_bytes(content)
    cifar = load("cifar10", path=tmp_path)
    assert (len(cifar.train), len(cifar.test), cifar.x_shape) == (10, 2, (3, 32, 32))
    np.testing.assert_array_equal(cifar.train.labels, records[:10, 0])
    np.testing.assert_array_equal(cifar.test.images[1, 2, 5], records[11, 1 + 2048 + 160 :][:32])


def test_damaged_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = _cifar_files()
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.write_bytes(_tar(files))
    _refused(lambda: load("cifar10", path=tmp_path), "cifar-10-binary.tar.gz", "md5")
    monkeypatch.setattr(cifar10, "_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    _refused(lambda: load("cifar10", path=tmp_path), "30,730,000 bytes")
    monkeypatch.setattr(cifar10, "_BATCH", 2)
    files.pop("data_batch_3.bin")
    archive.write_bytes(_tar(files))
    monkeypatch.setattr(cifar10, "_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    _refused(lambda: load("cifar10", path=tmp_path), "data_batch_3.bin")


def _chardata(path: Path, **changes: np.ndarray) -> np.ndarray:
    """A tiny chardata.mat: values in 1/255, columns first, alphabet i % 50. Returns the pixels."""
    from scipy.io import savemat

    pixels = _grey(10, 28, 28)
    columns = pixels.transpose(0, 2, 1).reshape(10, 784).T / 255.0
    target = np.eye(50)[:, :10]
    arrays = {"data": columns[:, :7], "testdata": columns[:, 7:], "target": target[:, :7],
              "testtarget": target[:, 7:]} | changes  # fmt: skip
    savemat(path, arrays)
    return pixels


def test_omniglot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omniglot, "_COUNTS", {"": 7, "test": 3})
    pixels = _chardata(tmp_path / "chardata.mat")
    omni = load("omniglot", binarization="none", path=tmp_path)
    assert omni.train.labels is not None
    assert sorted(omni.train.labels) == list(range(7))
    np.testing.assert_array_equal(omni.train.images[:, 0], pixels[omni.train.labels])
    np.testing.assert_array_equal(omni.test.images[:, 0], pixels[7:])
    np.testing.assert_array_equal(omni.test.labels, [7, 8, 9])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-2000]), "MATLAB"),
        (lambda file: file.write_bytes(b"<!DOCTYPE html>" * 99), "MATLAB"),
        (lambda file: file.write_bytes(b""), "MATLAB"),
        (lambda file: _chardata(file, data=np.zeros((784, 6))), "(784, 7)"),
        (lambda file: _chardata(file, testdata=np.full((784, 3), np.nan)), "[0, 1]"),
        (lambda file: _chardata(file, testdata=np.full((784, 3), 2.0)), "[0, 1]"),
    ],
    ids=["cut", "page", "empty", "shape", "nan", "range"],
)
def test_damaged_omniglot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object], says: str
) -> None:
    monkeypatch.setattr(omniglot, "_COUNTS", {"": 7, "test": 3})
    _chardata(tmp_path / "chardata.mat")
    damage(tmp_path / "chardata.mat")
    _refused(lambda: load("omniglot", path=tmp_path), "chardata.mat", says, "replace it")


_GRID = (1, 3, 2, 2, 5, 2)


def _dsprites(folder: Path, **changes: np.ndarray) -> dict[str, np.ndarray]:
    n = math.prod(_GRID)
    classes = np.stack(np.unravel_index(np.arange(n), _GRID), axis=1)
    arrays = {"imgs": _grey(n, 64, 64) // 128, "latents_classes": classes,
              "latents_values": classes / 7.0} | changes  # fmt: skip
    pickled = np.array({"date": "pickled"}, dtype=object)
    np.savez_compressed(folder / dsprites._FILE.name, metadata=pickled, **arrays)  # type: ignore[arg-type]
    return arrays


def test_dsprites_keep_images_and_factors_together(tmp_path: Path) -> None:
    arrays = _dsprites(tmp_path)
    train, test = dsprites.read(tmp_path, grid=_GRID)
    assert (len(train), len(test)) == (108, 12)
    seen = []
    for part in (train, test):
        assert part.binarization == "static"
        assert part.factors is not None
        rows = np.ravel_multi_index(tuple(part.factors.classes.T), _GRID)
        assert (np.diff(rows) > 0).all() == (part is train)  # the first test images: any shape
        np.testing.assert_array_equal(part.images[:, 0], arrays["imgs"][rows])
        np.testing.assert_array_equal(part.factors.values, arrays["latents_values"][rows])
        np.testing.assert_array_equal(part.labels, part.factors.classes[:, 1])
        seen += rows.tolist()
    assert sorted(seen) == list(range(120))


def test_dsprites_as_grey_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _dsprites(tmp_path)
    monkeypatch.setattr(dsprites.read, "__kwdefaults__", {"grid": _GRID})
    static = load("dsprites", binarization="static", valid=8, path=tmp_path)
    grey = load("dsprites", valid=8, path=tmp_path)
    assert static.valid is not None
    assert grey.valid is not None
    np.testing.assert_array_equal(grey.train.images, 255 * static.train.images)
    np.testing.assert_array_equal(grey.valid.images, 255 * static.valid.images)
    assert grey.valid.factors is not None
    assert len(grey.valid.factors.classes) == 8
    _refused(lambda: load("dsprites", binarization="dynamic", valid=108, path=tmp_path), "108")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"imgs": np.zeros((119, 64, 64), np.uint8)}, "(120, 64, 64)"),
        ({"imgs": np.zeros((120, 64, 64))}, "uint8"),
        ({"imgs": np.full((120, 64, 64), 255, np.uint8)}, "0 and 1"),
        ({"latents_classes": np.zeros((120, 6), np.int64)}, "grid"),
        ({"latents_values": np.array([{"pickled": 1}], dtype=object)}, "latents_values"),
    ],
    ids=["shape", "type", "range", "grid", "pickle"],
)
def test_foreign_dsprites(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    _dsprites(tmp_path, **changes)
    _refused(lambda: dsprites.read(tmp_path, grid=_GRID), dsprites._FILE.name, says)


def test_cut_dsprites(tmp_path: Path) -> None:
    _dsprites(tmp_path)
    file = tmp_path / dsprites._FILE.name
    file.write_bytes(file.read_bytes()[:-500])
    _refused(lambda: dsprites.read(tmp_path, grid=_GRID), dsprites._FILE.name, "replace it")


# --- real MNIST, where it is at hand ----------------------------------------------------------


def _data_folder() -> Path:
    named = os.environ.get("PPL_VAE_DATA")
    return Path(named) if named else ROOT.parent / "shared" / "data"


_MNIST = _data_folder()


def _needs(folder: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not (_MNIST / folder).is_dir(),
        reason=f"no {folder}/ in PPL_VAE_DATA or ../shared/data: set PPL_VAE_DATA to run it",
    )


@_needs("mnist")
def test_real_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPL_VAE_DATA", str(_MNIST))
    real = load("mnist", valid=10_000)
    assert real.valid is not None
    assert (len(real.train), len(real.valid), len(real.test)) == (50_000, 10_000, 10_000)
    assert real.test.labels is not None
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # of the digits, well known
    assert np.bincount(real.test.labels).tolist() == counts
    both = (real.train.images.sum(dtype=np.int64) + real.valid.images.sum(dtype=np.int64)) / 255
    assert both / (60_000 * 784) == pytest.approx(0.1307, abs=5e-5)  # mean of the 60,000


@_needs("static_mnist")
def test_real_static_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPL_VAE_DATA", str(_MNIST))
    real = load("mnist", binarization="static", valid=10_000)
    assert real.valid is not None
    assert (len(real.train), len(real.valid), len(real.test)) == (50_000, 10_000, 10_000)
    means = [part.images.mean() for part in (real.train, real.valid, real.test)]
    assert means == pytest.approx([0.1306, 0.1311, 0.1325], abs=5e-5)
    pixels = real.test.images.reshape(10_000, -1).mean(1)
    for n in (300, 1000, 5000):  # as many of each digit as in all, near enough
        error = pixels.std() / np.sqrt(n)
        assert abs(pixels[:n].mean() - pixels.mean()) < 3 * error


# --- one's own images -------------------------------------------------------------------------


def _png(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_folder(tmp_path: Path) -> None:
    pixels = _grey(20, 6, 4)
    for i in range(20):
        _png(tmp_path / ("ab"[i % 2]) / f"{i:02}.png", pixels[i])
    (tmp_path / ".hidden").write_text("clutter")
    own = load("folder", path=tmp_path, valid=3)
    assert own.valid is not None
    assert (len(own.train), len(own.valid), len(own.test)) == (15, 3, 2)
    assert own.x_shape == (1, 6, 4)
    seen = []
    for part in (own.train, own.valid, own.test):
        assert part.labels is not None
        for image, label in zip(part.images, part.labels, strict=True):
            (number,) = [i for i in range(20) if np.array_equal(pixels[i], image[0])]
            assert label == number % 2
            seen.append(number)
    assert sorted(seen) == list(range(20))
    np.testing.assert_array_equal(load("folder", path=tmp_path).test.images, own.test.images)


def test_folder_with_a_split_of_its_own(tmp_path: Path) -> None:
    for part, first in (("train", 0), ("valid", 100), ("test", 200)):
        for i in range(3):
            _png(tmp_path / part / f"{i}.png", np.full((2, 2), first + i, np.uint8))
    own = load("folder", path=tmp_path, valid=3)
    assert own.valid is not None
    assert {int(image.max()) for image in own.train.images} == {0, 1, 2}
    assert [int(image.max()) for image in own.valid.images] == [100, 101, 102]
    assert [int(image.max()) for image in own.test.images] == [200, 201, 202]
    assert own.train.labels is None


def test_folder_in_colour(tmp_path: Path) -> None:
    colour, grey = _grey(1, 5, 5, 3)[0], _grey(1, 5, 5)[0]
    _png(tmp_path / "train" / "a.png", colour)
    _png(tmp_path / "test" / "b.png", grey)
    own = load("folder", path=tmp_path)
    np.testing.assert_array_equal(own.train.images[0], colour.transpose(2, 0, 1))
    np.testing.assert_array_equal(own.test.images[0], np.stack([grey] * 3))
    _refused(lambda: load("folder", path=tmp_path, binarization="dynamic"), "3 channels")


def test_folder_cropped_and_rescaled(tmp_path: Path) -> None:
    wide = np.zeros((8, 16), np.uint8)
    wide[:, 4:12] = 200  # the middle square
    for i in range(2):
        _png(tmp_path / f"{i}.png", wide if i else wide.T)
    own = load("folder", path=tmp_path, image_size=4)
    assert own.x_shape == (1, 4, 4)
    for part in (own.train, own.test):
        np.testing.assert_array_equal(part.images, np.full((1, 1, 4, 4), 200))


def test_folder_of_sideways_photographs(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16), np.uint8)
    pixels[:, :8] = 250  # white on the left: on top once turned clockwise
    mark = Image.Exif()
    mark[0x0112] = 6
    for i in range(2):
        Image.fromarray(pixels).save(tmp_path / f"{i}.jpg", exif=mark)
    own = load("folder", path=tmp_path)
    assert own.x_shape == (1, 16, 8)
    assert own.train.images[0, 0, :8].min() > 240
    assert own.train.images[0, 0, 8:].max() < 10


def _two(folder: Path) -> list[Path]:
    return [_png(folder / f"{i}.png", _grey(1, 40, 40, seed=i)[0]) for i in range(2)]


def _cut(path: Path) -> int:
    return path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda folder: None, "came 0"),
        (lambda folder: _png(folder / "a.png", _grey(1, 4, 4)[0]), "came 1"),
        (lambda folder: (_two(folder), (folder / "a.txt").write_text("no")), "a.txt"),
        (lambda folder: (_two(folder), (folder / "z.png").write_text("no")), "z.png"),
        (lambda folder: (_two(folder), _cut(folder / "1.png")), "1.png"),
        (lambda folder: (_two(folder), (folder / "1.png").write_bytes(b"")), "1.png"),
        (lambda folder: (_two(folder), _png(folder / "z.png", _grey(1, 4, 4)[0])), "z.png"),
        (lambda folder: _two(folder / "train"), "train/ alone"),
        (lambda folder: (_two(folder / "train"), (folder / "test").mkdir()), "came 0"),
        (lambda folder: (_two(folder), _png(folder / "z.png", _grey(1, 40, 40, 4)[0])), "z.png"),
        (lambda folder: _png(folder / "a.tif", np.zeros((4, 4), np.uint16)), "8 bits"),
    ],
    ids=["empty", "one", "text", "fake", "cut", "nothing", "size", "no-test", "empty-test", "alpha",
         "16-bit"],
)  # fmt: skip
def test_bad_folder(tmp_path: Path, prepare: Callable[[Path], object], says: str) -> None:
    prepare(tmp_path)
    if says == "8 bits":
        prepare(tmp_path / "more")
    _refused(lambda: load("folder", path=tmp_path), str(tmp_path), "expected", says)


@pytest.mark.parametrize(
    ("array", "grey"),
    [
        (lambda p: p, lambda p: p[:, None]),
        (lambda p: p[:, None], lambda p: p[:, None]),
        (lambda p: p[..., None], lambda p: p[:, None]),
        (lambda p: np.stack([p] * 3, axis=-1), lambda p: np.stack([p] * 3, axis=1)),
        (lambda p: (p / 255).astype(np.float32), lambda p: p[:, None]),
        (lambda p: p > 127, lambda p: np.where(p > 127, 255, 0)[:, None]),
        (lambda p: p // 128, lambda p: np.where(p > 127, 255, 0)[:, None]),
    ],
    ids=["nhw", "nchw", "nhwc", "colour", "float", "bool", "binary"],
)
def test_array(tmp_path: Path, array: Callable[..., Any], grey: Callable[..., Any]) -> None:
    pixels = _grey(4, 6, 5)
    np.savez(tmp_path / "own.npz", train=array(pixels[:3]), test=array(pixels[3:]))
    own = load("npz", path=tmp_path / "own.npz", valid=1)
    assert own.valid is not None
    came = np.concatenate([own.train.images, own.valid.images, own.test.images])
    np.testing.assert_array_equal(came, grey(pixels))


def test_single_array_is_split_and_keeps_its_labels(tmp_path: Path) -> None:
    pixels = np.arange(30, dtype=np.uint8).reshape(30, 1, 1) * np.ones((1, 2, 2), np.uint8)
    np.save(tmp_path / "own.npy", pixels)
    np.savez(tmp_path / "own.npz", anything=pixels, labels=np.arange(30))
    for file in ("own.npy", "own.npz"):
        own = load("npy", path=tmp_path / file)
        assert (len(own.train), len(own.test)) == (27, 3)
        values = np.concatenate([own.train.images, own.test.images])[:, 0, 0, 0]
        assert sorted(values.tolist()) == list(range(30))
        if file == "own.npz":
            np.testing.assert_array_equal(own.test.labels, own.test.images[:, 0, 0, 0])


def test_folder_of_npy_stays_on_disk(tmp_path: Path) -> None:
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}.npy", _grey(4, 1, 3, 3))
    own = load("npy", path=tmp_path, valid=1)
    assert isinstance(own.train.images, np.memmap)
    (tmp_path / "test.npy").unlink()
    _refused(lambda: load("npy", path=tmp_path), "test.npy")


def test_folder_of_several_npy_stays_on_disk(tmp_path: Path) -> None:
    """Files of two layouts, in the order of their names, as the array that they are parts of."""
    every = _grey(9, 5, 4)
    np.save(tmp_path / "train-1.npy", every[4:, ..., None])
    np.save(tmp_path / "train-0.npy", every[:4])
    np.save(tmp_path / "test.npy", every[:2])
    own = load("npy", path=tmp_path, valid=2)
    assert own.valid is not None
    for part, expected in ((own.train, every[:7]), (own.valid, every[7:])):
        assert isinstance(part.images, Joined)
        np.testing.assert_array_equal(np.asarray(part.images)[:, 0], expected)
    np.testing.assert_array_equal(own.train.images[np.array([[5, 0]])], every[None, [5, 0], None])
    np.testing.assert_array_equal(own.train.images[3:6][-1], every[5, None])
    np.testing.assert_array_equal(
        own.train.fixed(0).images, Images(every[:7, None]).fixed(0).images
    )
    np.save(tmp_path / "train-2.npy", _grey(2, 5, 5))
    _refused(lambda: load("npy", path=tmp_path), "train-2.npy", "(1, 5, 4)")


@pytest.mark.parametrize("layout", ["channels first", "channels last"])
def test_rows_read_ahead_are_those_of_the_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """Some steps at a time, all of one length where they divide, from views and from files."""
    array = np.random.default_rng(0).integers(0, 256, (50, 30, 40, 3)).astype(np.uint8)
    np.save(tmp_path / "a.npy", array)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    if layout == "channels last":
        array, mapped = (part.transpose(0, 3, 1, 2) for part in (array, mapped))
    places = np.random.default_rng(1).integers(0, 40, (12, 4))
    monkeypatch.setattr(reading, "PART", 5 * 4 * 3600)
    for values in (mapped[5:-5], Joined([mapped[5:20], mapped[20:21], mapped[21:-5]])):
        parts = list(reading.parts_ahead(values, places))
        assert [len(part) for part in parts] == [4, 4, 4]  # five would not come out even
        np.testing.assert_array_equal(np.concatenate(parts), array[5:-5][places])
        assert all(part.flags.c_contiguous for part in parts)


def test_rows_beyond_two_gigabytes(tmp_path: Path) -> None:
    """At places of 32 bits, as JAX has them; the file is all holes but for its last row."""
    shape = (300_000, 1, 100, 100)
    mapped = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", dtype=np.uint8, shape=shape)
    mapped[-1] = 7
    (found,) = reading.parts_ahead(mapped, np.array([[299_999, 0, 299_998]], np.int32))
    np.testing.assert_array_equal(found[0, :, 0, 0, 0], [7, 0, 0])


def test_reading_ahead_stays_in_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more parts under way than they may take, and a failed one raises in its turn."""
    monkeypatch.setattr(reading, "HELD", 250)
    begun: list[int] = []

    def read(job: int) -> int:
        begun.append(job)
        if job == 7:
            raise OSError("damaged")
        return job

    used = reading.ahead(read, iter(range(20)), 100, readers=9)
    for expected in range(7):
        assert next(used) == expected
        assert len(begun) <= expected + 1 + 2
    with pytest.raises(OSError, match="damaged"):
        next(used)


def test_shuffles_are_orders_of_seed_and_epoch() -> None:
    """Each image once; every place equally often first (chi-square over 10, 3000 epochs)."""
    orders = np.array([reading.shuffled(10, 3, epoch) for epoch in range(3000)])
    assert (np.sort(orders, axis=1) == np.arange(10)).all()
    counts = np.bincount(orders[:, 0], minlength=10)
    assert ((counts - 300) ** 2 / 300).sum() < 33.7  # exceeded once in 10,000
    assert (reading.shuffled(10, -1, 0) != reading.shuffled(10, 3, 0)).any()
    np.testing.assert_array_equal(reading.shuffled(10, 3, 5), orders[5])


def test_valid_array_is_given_back(tmp_path: Path) -> None:
    parts = {"train": _grey(4, 3, 3), "valid": _grey(2, 3, 3, seed=1), "test": _grey(1, 3, 3)}
    np.savez(tmp_path / "own.npz", **parts)  # type: ignore[arg-type]
    own = load("npz", path=tmp_path / "own.npz", valid=2)
    assert own.valid is not None
    np.testing.assert_array_equal(own.valid.images[:, 0], parts["valid"])
    assert len(load("npz", path=tmp_path / "own.npz").train) == 6


def _float(value: float) -> np.ndarray:
    array = np.zeros((3, 4, 4))
    array[1, 2, 2] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"images": _float(np.nan)}, ("nan in image 1",)),
        ({"images": _float(np.inf)}, ("inf in image 1",)),
        ({"images": _float(-0.1)}, ("-0.1 in image 1",)),
        ({"images": _float(255.0)}, ("255.0 in image 1",)),
        ({"images": np.zeros((3, 4, 4), np.int64)}, ("int64", ".astype(numpy.uint8)")),
        ({"images": np.zeros((3, 16), np.uint8)}, ("(3, 16)",)),
        ({"images": np.zeros((3, 2, 4, 4), np.uint8)}, ("(3, 2, 4, 4)",)),
        ({"images": np.zeros((0, 4, 4), np.uint8)}, ("(0, 4, 4)",)),
        ({"images": np.zeros((1, 4, 4), np.uint8)}, ("at least 2",)),
        ({"images": np.array([{}, {}])}, ("whole .npy or .npz",)),
        ({"train": _grey(3, 4, 4)}, ("'test'",)),
        ({"one": _grey(3, 4, 4), "two": _grey(3, 4, 4)}, ("one, two",)),
        ({"train": _grey(3, 4, 4), "test": _grey(3, 5, 5)}, ("(1, 5, 5)",)),
        ({"images": _grey(3, 4, 4), "labels": np.zeros(2, int)}, ("labels",)),
    ],
    ids=["nan", "inf", "negative", "float-255", "int64", "flat", "channels", "empty", "one",
         "pickle", "no-test", "unclear", "sizes", "labels"],
)  # fmt: skip
def test_bad_arrays(tmp_path: Path, arrays: dict[str, Any], says: tuple[str, ...]) -> None:
    np.savez(tmp_path / "own.npz", **arrays)
    _refused(lambda: load("npz", path=tmp_path / "own.npz"), "own.npz", "expected", *says)


@pytest.mark.parametrize("name", ["own.npy", "own.npz"])
@pytest.mark.parametrize("length", [0, 3, 50, -10])
def test_damaged_arrays(tmp_path: Path, name: str, length: int) -> None:
    file = tmp_path / name
    (np.save if name == "own.npy" else np.savez)(file, _grey(9, 8, 8))
    file.write_bytes(file.read_bytes()[:length])
    _refused(lambda: load("npy", path=file), name, "expected")


# --- downloads --------------------------------------------------------------------------------

_CONTENT = _grey(1, 200_000).tobytes()
_MD5 = "md5:" + hashlib.md5(_CONTENT).hexdigest()


class _Server(http.server.BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(_CONTENT)))
        self.end_headers()
        content = _CONTENT[: 1000 if self.path == "/cut" else None]
        self.wfile.write(content if self.path != "/wrong" else content[::-1])

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    _Server.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as httpd:
        threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


def _fetch(*urls: str, checksum: str | None = _MD5) -> LocalFile:
    return fetching.fetch("some_set", RemoteFile("file.bin", urls, checksum))


def test_download_once(server: str, tmp_path: Path) -> None:
    for _ in range(2):
        assert _fetch(f"{server}/good").path == tmp_path / "cache" / "some_set" / "file.bin"
    assert _fetch(f"{server}/good").path.read_bytes() == _CONTENT
    assert _Server.asked == ["/good"]


def test_download_shows_progress(
    server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetching, "_PATIENCE", 0.0)
    _fetch(f"{server}/good")
    shown = capsys.readouterr().err
    assert "file.bin" in shown
    assert "100%" in shown


@pytest.mark.parametrize("first", ["missing", "wrong", "cut"])
def test_download_goes_on_to_the_next_address(server: str, first: str) -> None:
    assert _fetch(f"{server}/{first}", f"{server}/good").path.read_bytes() == _CONTENT


@pytest.mark.parametrize(
    ("what", "checksum"),
    [("missing", _MD5), ("missing", None), ("wrong", _MD5), ("cut", _MD5), ("cut", None)],
)
def test_bad_download_leaves_nothing_behind(
    server: str, tmp_path: Path, what: str, checksum: str | None
) -> None:
    _refused(
        lambda: _fetch(f"{server}/{what}", checksum=checksum),
        "file.bin",
        f"{server}/{what}",
        "PPL_VAE_DATA",
        "some_set/",
    )
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_damaged_cache_is_fetched_again(server: str, tmp_path: Path) -> None:
    file = tmp_path / "cache" / "some_set" / "file.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(_CONTENT[:500])
    assert _fetch(f"{server}/good").path.read_bytes() == _CONTENT


def test_no_place_for_the_cache(server: str, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    _refused(lambda: _fetch(f"{server}/good"), "PPL_VAE_CACHE", str(tmp_path / "cache"))


def test_full_disk(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pooch.retrieve", full)
    _refused(lambda: _fetch(f"{server}/good"), "No space left", "PPL_VAE_CACHE")


def test_no_connection() -> None:
    _refused(lambda: _fetch("http://127.0.0.1:9/file.bin"), "file.bin", "connection")


def test_folders_are_looked_at_before_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "some_set").mkdir(parents=True)
    (tmp_path / "data" / "some_set" / "file.bin").write_text("mine")
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path / "data"))
    assert _fetch("http://127.0.0.1:9/").path.read_text() == "mine"
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path / "absent"))
    _refused(lambda: _fetch("http://127.0.0.1:9/"), "PPL_VAE_DATA", "absent")
    remote = RemoteFile("file.bin", ("http://127.0.0.1:9/",), None)
    _refused(lambda: fetching.fetch("some_set", remote, path=tmp_path), "file.bin", "path")


# --- what is written about them ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "row_name", "binarization"),
    [*((name, f"`{name}`", "none") for name in names()), ("mnist", "`mnist`, `static`", "static")],
)
def test_documentation_agrees_with_the_code(name: str, row_name: str, binarization: str) -> None:
    (row,) = [
        line for line in (ROOT / "docs" / "data.md").read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| {row_name} |")
    ]  # fmt: skip
    said = about(name, binarization)
    for part in (said.split, said.licence, said.checksum, said.url):
        assert part in row
    if said.size is not None:
        assert " × ".join(map(str, said.size)) in row
