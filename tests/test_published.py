"""Authors' weights: every key has its place, and the nets compute what the authors' would."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import nvae_by_hand
import pytest
from zoo import PPLS, room, side

from ppl_vae import cli, published, runs
from ppl_vae.errors import UsageError

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference" / "nvae_parameters.json"
NAMES = ("nvae_mnist_nf1", "nvae_rgb_nonf")


def reference(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(weights in the authors' names and shapes, settings); float32 values, drawn anew."""
    if not REFERENCE.exists():
        pytest.skip(f"needs the authors' names and shapes, {REFERENCE}")
    found = json.loads(REFERENCE.read_text(encoding="utf-8"))[name]
    rng = np.random.default_rng(0)
    arrays = {
        key: np.asarray(0.3 * rng.standard_normal(shape), np.float32)
        for key, shape in found["state_dict"].items()
    }
    for key, value in arrays.items():
        if key.endswith("running_var"):
            arrays[key] = np.exp(value)
        if key.endswith("weight_normalized"):
            arrays[key] = arrays[key.removesuffix("_normalized")]
        if key.endswith("num_batches_tracked"):
            arrays[key] = np.asarray(7)
        if ".mu.conv_0.log_weight_norm" in key:
            arrays[key] = value - 2  # shifts that a draw by hand can undo
    return arrays, found["config"]


BOTH = [*((name, "pyro") for name in NAMES), (NAMES[1], "numpyro")]


@pytest.mark.parametrize(("name", "ppl"), BOTH)
def test_every_key_has_its_place(name: str, ppl: str) -> None:
    """The pair holds each weight once, bit for bit, and nothing that was not given."""
    arrays, config = reference(name)
    state = room(ppl).state(*published.nvae(arrays, config, ppl))
    kept = {k: v for k, v in arrays.items() if not k.endswith(("normalized", "tracked"))}
    assert sorted(v.tobytes() for v in state.values()) == sorted(v.tobytes() for v in kept.values())


@pytest.mark.parametrize(("name", "ppl"), BOTH)
def test_the_nets_are_the_authors(name: str, ppl: str) -> None:
    """Divergences and log likelihood equal those worked out by hand from the authors' names."""
    arrays, config = reference(name)
    with side(ppl).precision("float64"):
        pair = published.nvae(arrays, config, ppl)
        side(ppl).double(*pair)
        levels = np.random.default_rng(1).integers(0, 256, (2, *pair[0].x_shape))
        x = (levels > 127) * 1.0 if config["dataset"] == "mnist" else levels / 255
        found, latents = side(ppl).densities(*pair, x)
    draws = [latents[site] for site in pair[1].sites]
    parameters, kl = nvae_by_hand.terms(arrays, config, x, draws)
    for site, expected in zip(pair[1].sites, kl, strict=True):
        np.testing.assert_allclose(found[f"kl({site})"], expected, rtol=1e-9, err_msg=site)
    with np.errstate(over="ignore", divide="ignore"):  # in branches that are not taken
        expected = nvae_by_hand.log_likelihood(config, parameters, x)
    np.testing.assert_allclose(found["log p(x)"], expected, rtol=1e-9)


def test_bilinear_by_hand_keeps_a_plane() -> None:
    rows, columns = np.arange(3.0)[:, None], np.arange(4.0)
    found = nvae_by_hand.bilinear((1 + 2 * rows + 3 * columns)[None, None])[0, 0]
    rows, columns = np.arange(6)[:, None] * 2 / 5, np.arange(8) * 3 / 7
    np.testing.assert_allclose(found, 1 + 2 * rows + 3 * columns, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("enc_tower.3.conv.bias", None), "state_dict: enc_tower.3.conv.bias is missing"),
        (("prior_ftr0", None), "state_dict: prior_ftr0 is missing"),
        (("nf_cells.8.cell1.mu.conv_0.bias", (4,)), "nf_cells.8.cell1.mu.conv_0.bias is not known"),
        (("stem.weight_normalized", (8, 1, 3, 3)), "stem.weight_normalized is not known"),
        (("enc0.1.weight", (32, 31, 1, 1)), r"enc0.1.weight expected shape \(32, 32, 1, 1\)"),
        (("dec_tower.4.se.se.0.bias", None), "dec_tower.4.se.se.0.bias is missing"),
    ],
)
def test_a_key_that_does_not_fit_is_named(change: tuple[str, Any], message: str) -> None:
    arrays, config = reference("nvae_mnist_nf1")
    key, shape = change
    arrays.pop(key, None)
    if shape is not None:
        arrays[key] = np.zeros(shape, np.float32)
    with pytest.raises(UsageError, match=message) as caught:
        published.nvae(arrays, config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_groups_per_scale": 3}, "is missing"),
        ({"num_nf": 0}, "nf_cells.0.* is not known"),
        ({"use_se": False}, "se.0.weight is not known"),
        ({"arch_instance": "res_elu"}, "config.arch_instance: expected 'res_mbconv'"),
        ({"dataset": "stacked_mnist"}, "config.dataset: unknown 'stacked_mnist'"),
        ({"num_preprocess_blocks": 2}, "config.num_preprocess_blocks: expected 1"),
        ({"num_latent_scales": "2"}, "config.num_latent_scales: expected a whole number, came '2'"),
        ({"num_channels_enc": None}, "config.num_channels_enc"),
    ],
)
def test_settings_that_do_not_fit_are_named(change: dict[str, Any], message: str) -> None:
    arrays, config = reference("nvae_mnist_nf1")
    with pytest.raises(UsageError, match=message):
        published.nvae(arrays, {**config, **change})


def test_one_normal_in_place_of_the_mixture() -> None:
    """num_mixture_dec 1 is NVAE's own Normal, six channels of it."""
    arrays, config = reference("nvae_rgb_nonf")
    for part in ("weight", "bias", "log_weight_norm"):
        key = f"image_conditional.1.{part}"
        arrays[key] = arrays[key][:6]
    model, _ = published.nvae(arrays, {**config, "num_mixture_dec": 1})
    assert model.likelihood.name == "normal"


# ppl-vae convert


def checkpoint(path: Path, **extra: Any) -> Path:
    """The MNIST configuration as the authors' training would write it."""
    import torch

    arrays, config = reference("nvae_mnist_nf1")
    settings = argparse.Namespace(**config, learning_rate=np.float64(1e-2), seed=np.int64(1))
    state = {key: torch.as_tensor(value) for key, value in arrays.items()}
    torch.save({"epoch": 400, "state_dict": state, "args": settings, **extra}, path)
    return path


def test_a_checkpoint_becomes_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that `load` takes in both PPLs, with the weights of the file."""
    path = checkpoint(tmp_path / "checkpoint.pt")
    assert cli.main(["convert", "nvae", str(path), "--out", str(tmp_path / "run")]) == 0
    assert "28, 28" in capsys.readouterr().out
    arrays, config = reference("nvae_mnist_nf1")
    expected = room("pyro").state(*published.nvae(arrays, config))
    for ppl in PPLS:
        found = room(ppl).state(*runs.load(tmp_path / "run", ppl))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert cli.main(["convert", "nvae", str(path), "--out", str(tmp_path / "run")]) == 2


@pytest.mark.slow
def test_a_converted_run_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As any run, its numbers among the JSON object's, though it has no history."""
    if "PPL_VAE_DATA" not in os.environ:
        pytest.skip("needs MNIST at hand: set PPL_VAE_DATA")
    path = checkpoint(tmp_path / "checkpoint.pt")
    assert cli.main(["convert", "nvae", str(path), "--out", str(tmp_path / "run")]) == 0
    argv = ("--samples", "2", "--images", "4", "--json")
    assert cli.main(["evaluate", str(tmp_path / "run"), *argv]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert np.isfinite(told["nll"])
    assert sorted(told["kl"]) == ["z1", "z2", "z3", "z4"]


class Command:
    def __reduce__(self) -> Any:
        return os.mkdir, ("should-not-be-made",)


def test_a_checkpoint_cannot_run_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = checkpoint(tmp_path / "checkpoint.pt", extra=Command())
    assert cli.main(["convert", "nvae", str(path), "--out", "run"]) == 2
    assert "mkdir" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint.pt"]


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("nave", "junk.pt", "convert: unknown 'nave': did you mean 'nvae'"),
        ("nvae", "none.pt", "none.pt: no such file"),
        ("nvae", "junk.pt", "junk.pt: not a torch file"),
        ("nvae", "bare.pt", "bare.pt: expected a mapping with 'state_dict'"),
        ("nvae", "lone.pt", "lone.pt: expected one argparse Namespace beside 'state_dict', came 0"),
    ],
)
def test_what_is_no_checkpoint(
    kind: str, name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    (tmp_path / "junk.pt").write_text("hello")
    torch.save([1, 2], tmp_path / "bare.pt")
    torch.save({"state_dict": {}}, tmp_path / "lone.pt")
    run = tmp_path / "run"
    assert cli.main(["convert", kind, str(tmp_path / name), "--out", str(run)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not run.exists()
