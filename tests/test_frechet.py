"""The Fréchet distance: what torch-fidelity is handed, and when there is no such number."""

from __future__ import annotations

import hashlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from guides.pyro import MeanFieldGuide
from models.pyro import VAE
from ppl_vae.data import Images
from ppl_vae.errors import UsageError
from ppl_vae.judging import Subject, frechet
from ppl_vae.judging.frechet import Settings, judge, ready


def subject(folder: Path, channels: int = 3, count: int = 5) -> Subject:
    x_shape = (channels, 4, 6)
    model = VAE(x_shape, latent=2, hidden=(4,), likelihood="discretized_logistic")
    pixels = np.random.default_rng(0).integers(0, 256, (count, *x_shape)).astype(np.uint8)
    return Subject(model, MeanFieldGuide(model), "pyro", Images(pixels), folder)


@pytest.fixture
def fidelity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[list[Any], Path]:
    """Stands for the package; (what it was asked, with both folders' images; the weights)."""
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"weights")
    prefix = hashlib.sha256(b"weights").hexdigest()[:8]
    asked: list[Any] = []

    def calculate_metrics(**given: Any) -> dict[str, float]:
        for side in ("input1", "input2"):
            files = sorted(Path(given[side]).glob("*.png"))
            given[side] = np.stack([np.asarray(Image.open(file)) for file in files])
        asked.append(given)
        return {"fid": 12.5}

    package = types.ModuleType("torch_fidelity")
    package.KEY_METRIC_FID, package.calculate_metrics = "fid", calculate_metrics  # type: ignore[attr-defined]
    net = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    net.URL_INCEPTION_V3 = f"https://example.org/inception-{prefix}.pth"  # type: ignore[attr-defined]
    for module in (package, net):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return asked, weights


def test_what_is_compared(
    tmp_path: Path, fidelity: tuple[list[Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frechet, "BLOCK", 3)
    asked, weights = fidelity
    whole = subject(tmp_path)
    found = judge(whole, Settings(weights=str(weights), samples=7))
    (given,) = asked
    real = whole.images.images.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(given["input2"], real)  # not a bit lost on the way
    assert given["input1"].shape == (7, 4, 6, 3)
    assert len(np.unique(given["input1"].reshape(7, -1), axis=0)) == 7  # no block drawn twice
    assert given["feature_extractor_weights_path"] == str(weights)
    assert given["feature_extractor"] == "inception-v3-compat"
    assert found.told == {"distance": 12.5, "num_samples": 7, "num_images": 5}
    assert "2048" in found.chapter.warnings[0]


def test_refused(
    tmp_path: Path, fidelity: tuple[list[Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, weights = fidelity
    other = tmp_path / "other.pth"
    other.write_bytes(b"other features")
    colour = subject(tmp_path)
    cases = [
        (colour, Settings(), "frechet.weights: expected the file inception-"),
        (colour, Settings(weights=str(tmp_path / "none.pth")), "came none at"),
        (colour, Settings(weights=str(other)), "would not be this distance"),
        (colour, Settings(weights=str(weights), samples=-1), "samples from 0"),
        (subject(tmp_path, channels=1), Settings(weights=str(weights)), "1 channels"),
    ]
    for one, settings, says in cases:
        with pytest.raises(UsageError, match=says):
            ready(one, settings)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UsageError, match="torch-fidelity, which computes it, is not installed"):
        ready(colour, Settings(weights=str(weights)))
    assert not asked
