r"""What the latents tell of the image, and what that costs: mutual information and bits back.

For N images the divergence of a guide falls into two parts (Hoffman & Johnson 2016, ELBO surgery,
section 2; NIPS workshop on advances in approximate Bayesian inference):

.. math:: \frac1N \sum_n KL(q(z|x_n), p(z)) = I_q(x; z) + KL(q(z), p(z)), \qquad
    q(z) = \frac1N \sum_n q(z | x_n)

What is paid beyond I_q buys no information: it is the distance of the aggregate posterior from the
prior.
"""

from __future__ import annotations

__all__ = ["bits_back", "mutual_information"]

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy.special import logsumexp

from evaluation._reading import in_order
from ppl_vae.errors import UsageError

Array: TypeAlias = npt.NDArray[Any]

NATS = "nats per image"


def mutual_information(log_q: Mapping[str, Any], kl: Mapping[str, Any] | None = None) -> xr.Dataset:
    r"""I(x; z) under the guide, between two bounds, by site as the guide samples them.

    With z_n ~ q(z | x_n) and N images as a stratified sample of the data,

    .. math::
        \text{lower} = \frac1N \sum_n \log \frac{q(z_n | x_n)}{\frac1N \sum_m q(z_n | x_m)}
            \le \log N, \\
        \text{upper} = \frac1N \sum_n
            \log \frac{q(z_n | x_n)}{\frac1{N-1} \sum_{m \ne n} q(z_n | x_m)}

    In expectation they are on either side of I(x; z) for images drawn from the data's distribution
    (Poole et al. 2019, On variational bounds of mutual information, arXiv 1905.06922: the bounds
    for a known conditional, its own posterior inside the mean, and left out). The lower bound
    cannot exceed log N, its `ceiling`: where it comes near, more images are needed to say more.
    It is Hoffman & Johnson's I_q for the N images as the whole data set.

    Args:
        log_q: {site: (draw, image)}, nats, from `cross_log_prob`: entry (i, j) is the density of
            image i's draw under the posterior of image j given the sites before. Order matters.
        kl: {site: nats per image}, numbers or one value an image, E_q[log q - log p]: I(x; z) of
            all sites together is not above their sum, which replaces an upper bound beyond it.
            Sums of some sites alone bound nothing where the guide goes up the hierarchy.

    Returns:
        `lower`, `upper`: (site,), nats, of the sites up to this one together, as the guide samples
        them; `lower_se`: (site,), standard error over images; `gain`: (site,), what the site adds
        to the lower bound; `kl`: (site,), the running sum, if given; `ceiling`: log N.

    >>> alike = mutual_information({"z1": np.zeros((4, 4))})
    >>> float(alike.lower[0]), float(alike.upper[0])
    (0.0, 0.0)
    >>> apart = mutual_information({"z1": -1e3 * (1 - np.eye(4))})
    >>> bool(np.isclose(apart.lower[0], apart.ceiling))
    True
    """
    if not log_q:
        raise UsageError("log_q: expected {site: (draw, image)} log densities, came no site")
    joint: Array = np.zeros(())
    rows = []
    for site, values in log_q.items():
        joint = joint + _square(site, values)
        rows.append(_bounds(joint))
    num_images = len(joint)
    lower, error, upper = (np.array(part) for part in zip(*rows, strict=True))
    data: dict[str, Any] = {
        "lower": ("site", lower, _about("mutual information of x and the sites so far, at least")),
        "lower_se": ("site", error, _about("standard error of lower, over images")),
        "gain": ("site", np.diff(lower, prepend=0.0), _about("what the site adds to lower")),
    }
    if kl is not None:
        spent = np.cumsum([_mean(kl, site) for site in log_q])
        upper[-1] = min(upper[-1], spent[-1])
        data["kl"] = ("site", spent, _about("mean log q - log p of the sites so far"))
    data["upper"] = ("site", upper, _about("mutual information of x and the sites so far, at most"))
    data["ceiling"] = ((), np.log(num_images), _about("log N, which lower cannot exceed"))
    return xr.Dataset(
        data,
        coords={"site": list(log_q)},
        attrs={"num_images": num_images, "reference": "Hoffman & Johnson 2016; Poole et al. 2019"},
    )


def bits_back(log_likelihood: Any, latent_free: Any, kl: Mapping[str, Any]) -> xr.Dataset:
    r"""What the latents cost and what they save, as a code for images would count it.

    A code that sends z by q and then x by p(x | z) gets log q's bits back, so z costs the
    divergence KL(q(z | x), p(z)) (Hinton & van Camp 1993; Chen et al. 2017, Variational lossy
    autoencoder, arXiv 1611.02731, section 2). What it saves is what x costs less than without z:

    .. math:: \text{saved} = E_q[\log p(x | z)] - \log \bar p(x), \qquad
        \text{net} = \text{saved} - KL

    A collapsed latent costs and saves nothing; an autoencoder's may cost more than it saves.

    Args:
        log_likelihood: (images,), E_q[log p(x | z)], nats (`site_terms`).
        latent_free: (images,), log p̄(x), nats (`latent_free_log_prob`).
        kl: {site: (images,)}, nats.

    Returns:
        `reconstruction`, `latent_free`: nats per image, -log p, lower is better; `cost`, `saved`,
        `net`: nats per image; each with dimension image. `cost_by_site`: (site,), means.

    >>> told = bits_back([-3.0, -5.0], [-10.0, -10.0], {"z1": [2.0, 2.0]})
    >>> told.net.values
    array([5., 3.])
    """
    likelihood, free = (
        _images(log_likelihood, "log_likelihood"),
        _images(latent_free, "latent_free"),
    )
    parts = {site: _images(value, f"kl: site {site}") for site, value in kl.items()}
    counts = {len(likelihood), len(free), *map(len, parts.values())}
    if len(counts) != 1 or not parts:
        raise UsageError(
            "bits_back: expected as many images in log_likelihood, latent_free and every site of "
            f"kl, came {', '.join(map(str, sorted(counts)))} and {len(parts)} sites"
        )
    cost = np.sum(list(parts.values()), axis=0)
    saved = likelihood - free
    return xr.Dataset(
        {
            "latent_free": ("image", -free, _about("-log p(x) without the latents")),
            "reconstruction": ("image", -likelihood, _about("-log p(x | z)")),
            "saved": ("image", saved, _about("what the latents save")),
            "cost": ("image", cost, _about("what the latents cost, their divergence")),
            "net": ("image", saved - cost, _about("saved less cost")),
            "cost_by_site": (
                "site",
                [part.mean() for part in parts.values()],
                _about("divergence"),
            ),
        },
        coords={"site": list(parts)},
    )


def _bounds(joint: Array) -> tuple[float, float, float]:
    """(lower, its standard error, upper) of one matrix of joint densities."""
    num = len(joint)
    own = np.diagonal(joint)
    lower = own - logsumexp(joint, axis=1) + np.log(num)
    others = joint.copy()
    np.fill_diagonal(others, -np.inf)
    upper = own - logsumexp(others, axis=1) + np.log(num - 1)
    return float(lower.mean()), float(lower.std(ddof=1) / np.sqrt(num)), float(upper.mean())


def _square(site: str, values: Any) -> Array:
    values = in_order(values, ("draw", "image"), f"log_q: site {site}")
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or len(array) < 2:
        raise UsageError(
            f"log_q: site {site}: expected (draw, image) of two images or more, "
            f"came shape {array.shape}"
        )
    if not np.isfinite(np.diagonal(array)).all() or np.isnan(array).any():
        raise UsageError(
            f"log_q: site {site}: an image's own log density is not finite: "
            "evaluate weights from before training went wrong"
        )
    return array


def _mean(kl: Mapping[str, Any], site: str) -> float:
    if site not in kl:
        raise UsageError(f"kl: site {site} is missing, came {', '.join(kl) or 'nothing'}")
    return float(np.mean(np.asarray(kl[site], dtype=np.float64)))


def _images(values: Any, argument: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise UsageError(f"{argument}: expected finite numbers (images,), came {array.shape}")
    return array


def _about(long_name: str) -> dict[str, str]:
    return {"units": NATS, "long_name": long_name}
