"""Very Deep VAE's published weights: every key has its place, and the nets are the authors'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from vdvae_by_hand import divergences, shapes
from zoo import room, side

import ppl_vae
from ppl_vae import cli
from ppl_vae.errors import UsageError
from ppl_vae.published_vdvae import SOURCES, vdvae, vdvae_arrays, vdvae_config, vdvae_recipe
from ppl_vae.runs import Run

SMALL = {
    "image_size": 8, "image_channels": 3, "width": 16, "zdim": 4, "bottleneck_multiple": 0.25,
    "enc_blocks": "8x1,8d2,4x1,4d4,1x1", "dec_blocks": "1x1,4m1,4x1,8m4,8x1",
    "custom_width_str": "", "no_bias_above": 4, "num_mixtures": 3, "dataset": "cifar10",
}  # fmt: skip
WIDTHS = {
    "image_size": 16, "image_channels": 3, "width": 8, "zdim": 4, "bottleneck_multiple": 0.5,
    "enc_blocks": "16x1,16d2,8d2,4x1,4d4,1x1", "dec_blocks": "1x2,4m1,8m4,8x1,16m8,16x1",
    "custom_width_str": "8:16,4:24,1:24", "no_bias_above": 64, "num_mixtures": 2,
    "dataset": "cifar10",
}  # fmt: skip


def weights_of(config: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """Small weights under the authors' names, no bias zero."""
    rng = np.random.default_rng(seed)
    return {
        name: 0.5 * rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
        for name, shape in shapes(config).items()
    }


@pytest.mark.parametrize(
    ("config", "ppl"),
    [(SMALL, "pyro"), (WIDTHS, "pyro"), (SMALL, "numpyro")],
    ids=["small-pyro", "widths-pyro", "small-numpyro"],
)
def test_the_nets_are_the_authors(config: dict[str, Any], ppl: str) -> None:
    """Each group's divergence and the images' log likelihood, at one draw, in float64."""
    weights = weights_of(config)
    x = np.random.default_rng(1).integers(0, 256, (2, 3, *[config["image_size"]] * 2)) / 255
    with side(ppl).precision("float64"):
        pair = vdvae(weights, config, ppl)
        side(ppl).double(*pair)
        room(ppl).load_state(*pair, vdvae_arrays(weights, room(ppl).state(*pair)))
        found, drawn = side(ppl).densities(*pair, x)
    sites = sorted(drawn, key=lambda name: -int(name[1:]))
    by_name = {name: torch.as_tensor(value) for name, value in weights.items()}
    source = SOURCES["cifar10"]
    inputs = torch.as_tensor((255 * x - source.input_mean) / source.input_scale)
    latents = [torch.as_tensor(np.array(drawn[z])) for z in sites]
    expected, out = divergences(by_name, config, inputs, latents)
    for site, kl in zip(sites, expected, strict=True):
        np.testing.assert_allclose(found[f"kl({site})"], kl, rtol=1e-9, err_msg=site)
    likelihood = mixture_by_hand(out, torch.as_tensor(2 * x - 1), config["num_mixtures"])
    np.testing.assert_allclose(found["log p(x)"], likelihood, rtol=1e-9)


def mixture_by_hand(out: torch.Tensor, x: torch.Tensor, count: int) -> torch.Tensor:
    """Nats per image of x on [-1, 1] under the authors' mixture: logits, then R, G, B tables."""
    logits, tables = out[:, :count], out[:, count:].reshape(len(out), 3, 3, count, *out.shape[2:])
    mean, log_scale, lean = tables[:, :, 0], tables[:, :, 1].clamp(min=-7), tables[:, :, 2].tanh()
    red, green = x[:, 0, None], x[:, 1, None]
    moved = [
        mean[:, 0],
        mean[:, 1] + lean[:, 0] * red,
        mean[:, 2] + lean[:, 1] * red + lean[:, 2] * green,
    ]
    off = x[:, :, None] - torch.stack(moved, 1)
    sharp = torch.exp(-log_scale)
    mass = torch.sigmoid((off + 1 / 255) * sharp) - torch.sigmoid((off - 1 / 255) * sharp)
    dense = off * sharp - log_scale - 2 * torch.nn.functional.softplus(off * sharp)
    inside = torch.where(mass > 1e-5, mass.clamp(min=1e-12).log(), dense - np.log(127.5))
    low = torch.nn.functional.logsigmoid((off + 1 / 255) * sharp)
    high = -torch.nn.functional.softplus((off - 1 / 255) * sharp)
    at = x[:, :, None]
    log_mass = torch.where(at < -0.999, low, torch.where(at > 0.999, high, inside))
    return (log_mass.sum(1) + logits.log_softmax(1)).logsumexp(1).sum((1, 2))


@pytest.mark.parametrize("config", [SMALL, WIDTHS], ids=["small", "widths"])
def test_no_weight_is_left_over(config: dict[str, Any]) -> None:
    """Numbers of keys as in the authors' own checkpoints; each value arrives somewhere, once."""
    weights = {
        name: np.full(value.shape, i, np.float32)
        for i, (name, value) in enumerate(weights_of(config).items())
    }
    assert len(weights) == {8: 178, 16: 240}[config["image_size"]]
    arrays = room("pyro").state(*vdvae({f"module.{k}": v for k, v in weights.items()}, config))
    found = sorted(float(value.flat[0]) for value in arrays.values())
    assert found == sorted(float(value.flat[0]) for value in weights.values())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w.pop("decoder.gain"), "decoder.gain is missing: give it whole"),
        (lambda w: w.pop("encoder.enc_blocks.0.c2.bias"), "encoder.enc_blocks.0.c2.bias is miss"),
        (lambda w: w.update({"decoder.extra": np.zeros(1)}), "decoder.extra is not known"),
        (
            lambda w: w.update({"decoder.gain": np.zeros((1, 8, 1, 1))}),
            r"decoder.gain expected shape \(1, 16, 1, 1\), came \(1, 8, 1, 1\)",
        ),
    ],
)
def test_keys_that_do_not_fit_are_named(spoil: Any, message: str) -> None:
    weights = weights_of(SMALL)
    spoil(weights)
    with pytest.raises(UsageError, match=message):
        vdvae(weights, SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "cifar100"}, "config.dataset: unknown 'cifar100': did you mean 'cifar10'"),
        ({"width": None}, "config.width: missing"),
        ({"enc_blocks": "8x1,8d2,2x1"}, r"encoder: piece 3, '2x1': .* leads to resolution 4"),
    ],
)
def test_settings_that_do_not_fit_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        vdvae(weights_of(SMALL), SMALL | change)


def test_five_bits_are_the_authors() -> None:
    """FFHQ-256 is scored at 8 floor(grey / 8), while the nets see all 8 bits."""
    config = SMALL | {"dataset": "ffhq_256"}
    model, _ = vdvae(weights_of(config), config)
    grey = torch.arange(256)
    target = model.target(grey.float() / 255)
    torch.testing.assert_close(target * 255, 8.0 * (grey // 8), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SOURCES)
def test_published_settings_have_a_recipe(name: str) -> None:
    config = {key: value for key, value in SMALL.items() if key != "image_size"}
    recipe, x_shape = vdvae_recipe(config | {"dataset": name})
    assert x_shape == (3, SOURCES[name].image_size, SOURCES[name].image_size)
    assert recipe.model.init_args["input_mean"] == SOURCES[name].input_mean


@pytest.mark.parametrize(
    ("name", "millions"),
    [("cifar10", 39), ("imagenet32", 119), ("imagenet64", 125), ("ffhq_256", 115)],
)
def test_published_nets_have_the_published_size(name: str, millions: int) -> None:
    """By a data set's name alone: as many millions of weights as the authors say."""
    config = SMALL | {"no_bias_above": 64, "num_mixtures": 10}
    config |= {key: value for key, value in vdvae_config(name).items() if value is not None}
    assert round(sum(np.prod(shape) for shape in shapes(config).values()) / 1e6) == millions


def test_checkpoints_become_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`ppl-vae convert vdvae`: trained and averaged weights, each where `load` looks for it."""
    monkeypatch.chdir(tmp_path)
    weights, averaged = weights_of(SMALL), weights_of(SMALL, seed=1)
    for file, held in (("model.th", weights), ("ema.th", averaged)):
        tensors = {k: torch.as_tensor(v, dtype=torch.float32) for k, v in held.items()}
        torch.save({f"module.{k}": v for k, v in tensors.items()}, file)
    Path("config.yaml").write_text(yaml.safe_dump(SMALL))
    argv = ["convert", "vdvae", "model.th", "--ema", "ema.th", "--data", "there", "--out", "run"]
    assert cli.main([*argv, "--config", "config.yaml"]) == 0
    assert Run.open("run").recipe["data"]["path"] == "there"
    for which, held in (("last", weights), ("ema", averaged)):
        gain = room("pyro").state(*ppl_vae.load("run", weights=which))["model.gain"]
        np.testing.assert_allclose(gain, held["decoder.gain"], rtol=1e-6)
    torch.save({"optimizer": [1, 2]}, "other.th")
    capsys.readouterr()
    for wrong, message in (
        ((), "--config: expected Very Deep VAE's settings"),
        (("--config", "cifar"), "config: unknown 'cifar': did you mean 'cifar10'"),
        (("--config", "cifar10"), "is missing (and"),
        (("--config", "none.yaml"), "none.yaml: not whole"),
    ):
        assert cli.main([*argv[:-1], "other", *wrong]) == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1
    argv = ["convert", "vdvae", "other.th", "--out", "other", "--config", "config.yaml"]
    assert cli.main(argv) == 2
    assert "expected a state_dict" in capsys.readouterr().err
