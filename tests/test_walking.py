"""What is asked of the latents in each PPL: walks with sites held, densities across images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conjugate import STAIRS, LinearGaussian
from scipy import stats
from zoo import PPLS, Case, images, noisy, room, side

from ppl_vae.errors import UsageError

X = images(n=5)
LINEAR = LinearGaussian(num_latents=3)


def walker(ppl: str, guide: str = "ladder") -> Any:
    """A pair of three sites with noisy weights, the same in both PPLs."""
    pair = Case(ppl, "hierarchy", guide).build()
    room(ppl).load_state(*pair, noisy(room(ppl).state(*pair)))
    return pair


def certain(ppl: str) -> Any:
    """The stairs' model, and a guide that puts both sites at the image's value, nearly."""
    if ppl == "pyro":
        import pyro as library
        import pyro.distributions as dist
    else:
        import numpyro as library  # type: ignore[no-redef]
        import numpyro.distributions as dist  # type: ignore[no-redef]

    def guide(x: Any) -> None:
        with library.plate("data", len(x)):
            for site in ("z2", "z1"):
                library.sample(site, dist.Normal(x.reshape(-1), 1e-12))

    return STAIRS.programs(ppl, up=False).model, guide


def test_redraw_holds_what_it_says(ppl: str) -> None:
    """Held sites keep their values, and the others are drawn given those above."""
    model, guide = walker(ppl)
    means = room(ppl).posterior_means(model, guide, X)
    held = {name: np.asarray(means[name]) for name in ("z3", "z2")}
    one, two = (room(ppl).redraw(model, held, seed=seed) for seed in (0, 1))
    for name, value in held.items():
        np.testing.assert_array_equal(one[name], value)
    assert not np.allclose(one["z1"], two["z1"])
    centre = room(ppl).redraw(model, held, at_mean=True)["z1"]
    many = {name: np.repeat(value, 4000, 0) for name, value in held.items()}
    draws = np.asarray(room(ppl).redraw(model, many)["z1"]).reshape(5, 4000, -1)
    error = draws.std(1) / 4000**0.5
    assert (np.abs(draws.mean(1) - np.asarray(centre)) < 5 * error).all()


def test_redraw_with_every_site_held_is_the_decoder(ppl: str) -> None:
    model, guide = walker(ppl)
    means = room(ppl).posterior_means(model, guide, X)
    held = {name: np.asarray(means[name]) for name in ("z3", "z2", "z1")}
    found = room(ppl).redraw(model, held, seed=7)["x_mean"]
    np.testing.assert_allclose(found, means["x_mean"], rtol=1e-5, atol=1e-6)


def test_redraw_with_nothing_held_is_the_prior(ppl: str) -> None:
    model, _ = walker(ppl)
    assert np.asarray(room(ppl).redraw(model, n=2000)["z3"]).std() == pytest.approx(1, abs=0.1)
    assert np.asarray(room(ppl).redraw(model, n=3)["x_mean"]).shape == (3, 2, 5, 4)


@pytest.mark.parametrize(
    ("held", "n", "message"),
    [
        ({"z4": np.zeros((2, 3))}, None, "held: the model has no latent site 'z4'"),
        ({"z1": np.zeros((2, 4))}, None, r"held: expected z1 of shape \(n, 3\), came \(2, 4\)"),
        ({"z1": np.zeros((2, 3)), "z2": np.zeros((3, 2))}, None, "one number of images.*came 2, 3"),
        ({}, None, "one number of images.*came none"),
    ],
)
def test_redraw_refuses(ppl: str, held: Any, n: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        room(ppl).redraw(walker(ppl)[0], held, n=n)


def test_means_of_the_stairs(ppl: str) -> None:
    """z2 = x / 3, then z1 = (z2 + x) / 2 = 2x / 3, which is the image's mean as well."""
    x = STAIRS.x.ravel()
    with side("numpyro").precision("float64"):
        found = room(ppl).posterior_means(*STAIRS.programs(ppl, up=False), STAIRS.x)
        np.testing.assert_allclose(found["z2"], x / 3, rtol=1e-12)
        np.testing.assert_allclose(found["z1"], 2 * x / 3, rtol=1e-12)
        np.testing.assert_allclose(np.ravel(found["x_mean"]), 2 * x / 3, rtol=1e-12)


def test_interpolation_of_the_stairs_is_a_line(ppl: str) -> None:
    """Every posterior mean is linear in x, so the walk is the line between the two images."""
    x = STAIRS.x.ravel()
    with side("numpyro").precision("float64"):
        pair = STAIRS.programs(ppl, up=False)
        found = room(ppl).interpolate(*pair, STAIRS.x, [(0, 2), (1, 0)], num_steps=5)
    t = np.linspace(0, 1, 5)[:, None]
    line = (1 - t) * x[[0, 1]] + t * x[[2, 0]]
    np.testing.assert_allclose(found["z1"], 2 * line / 3, rtol=1e-12, atol=1e-12)
    assert np.shape(found["x_mean"]) == (5, 2, 1, 1, 1)


@pytest.mark.parametrize("guide", ["ladder", "bottom-up"])
def test_interpolation_ends_in_the_reconstructions(ppl: str, guide: str) -> None:
    pair = walker(ppl, guide)
    means = room(ppl).posterior_means(*pair, X)
    found = room(ppl).interpolate(*pair, X, [(0, 3), (4, 1)], num_steps=3)
    for name in ("z3", "z1", "x_mean"):
        ends = np.asarray(means[name])[[[0, 4], [3, 1]]]
        np.testing.assert_allclose(np.asarray(found[name])[[0, -1]], ends, rtol=1e-4, atol=1e-5)


def test_traversal_moves_one_unit(ppl: str) -> None:
    """z2's second unit takes the values; z3 and the first stay, z1 is at its prior's mean."""
    pair = walker(ppl)
    means = room(ppl).posterior_means(*pair, X[:2])
    found = room(ppl).traverse(*pair, X[:2], "z2", [0, 1], [-1.0, 0.5, 2.0])
    np.testing.assert_allclose(np.asarray(found["z2"])[0, :, 0, 0], [-1.0, 0.5, 2.0])
    found = {name: np.asarray(value)[1] for name, value in found.items()}
    z2 = np.asarray(found["z2"])
    np.testing.assert_allclose(z2[..., 1], [[-1.0] * 2, [0.5] * 2, [2.0] * 2])
    for same in (z2[..., 0], np.asarray(found["z3"])[..., 0]):
        assert np.ptp(same, axis=0).max() == 0
    np.testing.assert_allclose(z2[0, :, 0], np.asarray(means["z2"])[:, 0], rtol=1e-6)
    held = {name: np.asarray(found[name])[2] for name in ("z3", "z2")}
    below = room(ppl).redraw(pair[0], held, at_mean=True)
    np.testing.assert_allclose(np.asarray(found["z1"])[2], below["z1"], rtol=1e-5, atol=1e-6)
    with pytest.raises(UsageError, match=r"units: expected 0 to 1, those of z2, came \[2\]"):
        room(ppl).traverse(*pair, X[:2], "z2", [2], [0.0])


def test_divergence_by_unit_of_the_linear_model(ppl: str) -> None:
    """KL(N(m_u, S_uu), N(0, 1)), and of a bottom-up walk its estimate from the one draw."""
    mean = (LINEAR.x.reshape(5, 4) - LINEAR.bias) @ LINEAR.gain.T
    variance = np.diag(LINEAR.covariance)
    expected = (0.5 * (mean**2 + variance - 1 - np.log(variance))).mean(0)
    with side("numpyro").precision("float64"):
        found = room(ppl).unit_kl(*LINEAR.programs(ppl), LINEAR.x, block=2)
    np.testing.assert_allclose(found["z1"], expected, rtol=1e-10)


@pytest.mark.parametrize("guide", ["ladder", "mean-field", "bottom-up"])
@pytest.mark.filterwarnings("ignore:.*samples its sites in another order")
def test_units_add_up_to_the_site(ppl: str, guide: str) -> None:
    pair = walker(ppl, guide)
    units = room(ppl).unit_kl(*pair, X)
    whole = room(ppl).site_terms(*pair, X)["kl"]
    assert set(units) == ({"z3"} if guide == "bottom-up" else set(whole))
    for site, kl in units.items():
        assert kl.sum() == pytest.approx(whole[site].mean(), rel=1e-4)


@pytest.mark.parametrize("up", [True, False])
def test_density_across_images(ppl: str, up: bool) -> None:
    """Sites in the guide's order; the densities of the exact posterior, at draws of its own.

    The joint q(z1, z2 | x) = p(z2) p(z1 | z2) p(x | z1) / p(x) does not care about the order, and
    its ratio between two images at one z is that of p(x | z1) / p(x).
    """
    with side("numpyro").precision("float64"):
        found = room(ppl).cross_log_prob(*STAIRS.programs(ppl, up), STAIRS.x, block=4)
    assert list(found) == (["z1", "z2"] if up else ["z2", "z1"])
    joint, x = found["z1"] + found["z2"], STAIRS.x.ravel()
    # log p(x_j | z1) - log p(x_j) is quadratic in x_j with known square: -(1 - 1/3) / 2.
    slope = joint + x**2 / 3
    per_x = (slope[:, 1:] - slope[:, :1]) / (x[1:] - x[0])  # z1 of each draw, whatever the image
    np.testing.assert_allclose(per_x[:, 0], per_x[:, 1], rtol=1e-8)


def test_what_a_blind_model_gives_without_its_latents(ppl: str) -> None:
    """Pixels that do not look at z1: the same without it, D log(1 / (1 + e^-logit))."""
    x = np.ones((4, 1, 2, 2), np.float32)
    found = room(ppl).latent_free_log_prob(*side(ppl).blind(0.7), x, num_draws=3)
    np.testing.assert_allclose(found, -4 * np.log1p(np.exp(-0.7)), rtol=1e-5)


def test_latent_free_is_the_mixture_of_the_other_images(ppl: str) -> None:
    """x_i under N(z1 of another image, 1), one pixel each, three images: by hand from the draws."""
    with side("numpyro").precision("float64"):
        found = room(ppl).latent_free_log_prob(*certain(ppl), STAIRS.x)
    x = STAIRS.x.ravel()
    others = np.array([np.delete(x, i) for i in range(3)])
    expected = np.logaddexp.reduce(stats.norm(others, 1).logpdf(x[:, None]), axis=1) - np.log(2)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_an_image_alone_has_no_others(ppl: str) -> None:
    """Neither one image nor one draw leaves latents of others; no images have no densities."""
    x, ask = np.ones((3, 1, 2, 2), np.float32), room(ppl).latent_free_log_prob
    with pytest.raises(UsageError, match=r"num_draws: expected at least 2.*came 1 for 3"):
        ask(*side(ppl).blind(0.7), x, num_draws=1)
    with pytest.raises(UsageError, match="as many images, came 100 for 1"):
        ask(*side(ppl).blind(0.7), x[:1])
    with pytest.raises(UsageError, match="x: expected at least one image, came none"):
        room(ppl).cross_log_prob(*STAIRS.programs(ppl, True), STAIRS.x[:0])


def test_density_across_images_is_the_same_in_any_blocks(ppl: str) -> None:
    """A guide that is a module encodes the images once, whatever passes through the nets."""
    pair = Case(ppl, "vae", "mean-field").build()
    whole = room(ppl).cross_log_prob(*pair, X)["z1"]
    cut = room(ppl).cross_log_prob(*pair, X, block=2 * len(X))["z1"]
    assert whole.shape == (len(X), len(X))
    np.testing.assert_allclose(cut, whole, rtol=1e-5)


def test_automatic_guides_are_refused(ppl: str) -> None:
    model, _ = STAIRS.programs(ppl, up=True)
    guide = side(ppl).automatic(model)
    with pytest.raises(UsageError, match=r"cross_log_prob: AutoNormal keeps one posterior"):
        room(ppl).cross_log_prob(model, guide, STAIRS.x)


def test_both_ppls_agree() -> None:
    """Same weights, nothing random: the walks, float64."""
    found: dict[str, Any] = {}
    with side("numpyro").precision("float64"):
        weights = noisy(room("pyro").state(*Case("pyro", "hierarchy", "ladder").build()))
        for ppl in PPLS:
            pair = Case(ppl, "hierarchy", "ladder").build()
            side(ppl).double(*pair)
            room(ppl).load_state(*pair, weights)
            x = X.astype(float)
            found[ppl] = [
                room(ppl).posterior_means(*pair, x),
                room(ppl).interpolate(*pair, x, [(0, 1)], num_steps=3),
                room(ppl).traverse(*pair, x, "z2", [0, 1], [[-1.0, 1.0], [0.0, 2.0]]),
            ]
    for ours, theirs in zip(*found.values(), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-9, err_msg=name)
