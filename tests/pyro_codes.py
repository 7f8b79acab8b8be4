"""What the tests of discrete codes ask of Pyro; `numpyro_codes.py` has the same names."""

from __future__ import annotations

__all__ = [
    "PPL", "bounded", "codebook", "joint", "joint_of_two", "learn", "penalty", "prior", "quantised",
    "relaxed", "start", "three_terms", "vectors",
]  # fmt: skip

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import kl_divergence

from guides.pyro import NoLatentsGuide, VectorQuantizerGuide
from models.pyro import CodePrior, CodePrior2
from ppl_vae.pyro import Objective
from ppl_vae.pyro.codes import Codes, NearestCode, RelaxedCodes, embed, nearest
from ppl_vae.pyro.nets.codebook import Codebook

PPL = "pyro"


def quantised(z: np.ndarray, vectors: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """A draw's value, its slopes under `weights`, its divergence from uniform codes."""
    out, book = torch.tensor(z, requires_grad=True), torch.tensor(vectors, requires_grad=True)
    q = NearestCode(out, book)
    value = q.rsample()
    (torch.tensor(weights) * value).sum().backward()
    slope = torch.zeros_like(book) if book.grad is None else book.grad
    assert out.grad is not None
    found = {
        "indices": q.indices, "value": value.detach(), "slope_z": out.grad, "slope_vectors": slope,
        "kl": kl_divergence(q, Codes.uniform(book.detach(), len(z), z.shape[2:])),
        "log_prob": q.log_prob(value.detach()),
        "log_prob_of_others": q.log_prob(value.detach().flip(-1)),
    }  # fmt: skip
    return {name: part.detach().numpy() for name, part in found.items()}


def relaxed(vectors: np.ndarray, logits: np.ndarray, temperature: float, draws: int) -> Any:
    """Draws of relaxed codes, warm and hard, and what they promise of hard ones."""
    book, h = torch.tensor(vectors), torch.tensor(logits, requires_grad=True)
    torch.manual_seed(0)
    q, hard = RelaxedCodes(book, h, temperature), RelaxedCodes(book, h)
    value = q.rsample((draws,))
    (slope,) = torch.autograd.grad(RelaxedCodes(book, h, 1.0).rsample((8,)).square().sum(), h)
    found = {
        "kl": kl_divergence(q, Codes.uniform(book, 1, (1, 1))), "indices": q.indices,
        "loc": q.loc, "scale": q.scale, "relaxed": value, "hard": hard.rsample((draws,)),
        "slope": slope,
    }  # fmt: skip
    return {name: part.detach().numpy() for name, part in found.items()}


def three_terms(z: np.ndarray, vectors: np.ndarray, beta: float) -> dict[str, Any]:
    """Penalties, and slopes of the loss, of one position whose image is at -|z|^2 / 2."""
    book = codebook(vectors, update="gradient", start="random", restart=0.0)
    out = nn.Parameter(torch.tensor(z, dtype=torch.float32).reshape(1, 2, 1, 1))

    class Model(nn.Module):
        x_shape, codebook = (2, 1, 1), book

        def forward(self, x: Any = None, *, n: Any = None) -> Any:
            with pyro.plate("data", n or len(x)):
                fn = Codes.uniform(book.vectors, n or len(x), (1, 1))
                value = pyro.sample("z1", fn, infer={"context": book})
                return pyro.sample("x", dist.Normal(value, 1.0).to_event(3), obs=x)

    guide = VectorQuantizerGuide(Model(), commitment=beta, hidden=(1,))
    guide.encode = lambda x: out  # type: ignore[method-assign]
    x = torch.zeros(1, 2, 1, 1)
    objective = Objective()
    terms = objective.terms(guide.model, guide, x)
    loss, _ = objective.loss_and_means(guide.model, guide, x)
    loss.backward()
    assert out.grad is not None
    assert book.weight is not None
    return {
        "penalties": {name: part.item() for name, part in terms.penalties.items()},
        "slope_z": out.grad.flatten().numpy(),
        "slope_vectors": np.asarray(book.weight.grad),
    }


def penalty(model: Any, guide: Any, x: Any) -> float:
    with torch.no_grad():
        return float(Objective().terms(model, guide, torch.as_tensor(x)).means().penalty)


@torch.no_grad()
def joint(model: Any, maps: np.ndarray, x: Any, label: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """((maps,), (maps, n)): log p of maps of codes (of a label), and of images given each."""
    given = {} if label is None else {"label": label}
    values = embed(torch.as_tensor(maps), model.codebook.vectors)
    held = pyro.poutine.condition(model, {"z1": values})
    seen = pyro.poutine.trace(held).get_trace(n=len(maps), **given)
    prior = seen.nodes["z1"]["fn"].log_prob(values)
    images = torch.as_tensor(x)
    of_x = [model.likelihood(model.decoder(values)).log_prob(one.expand(len(maps), *one.shape))
            for one in images]  # fmt: skip
    return prior.numpy(), torch.stack(of_x, 1).numpy()


@torch.no_grad()
def joint_of_two(model: Any, maps: Any, x: Any) -> tuple[np.ndarray, np.ndarray]:
    """((maps,), (maps, n)): of both maps of codes, and of images given each."""
    values = {
        site: embed(torch.as_tensor(indices), model.codebooks[int(site[1]) - 1].vectors)
        for site, indices in maps.items()
    }
    n = len(maps["z1"])
    held = pyro.poutine.condition(model, values)
    seen = pyro.poutine.trace(held).get_trace(n=n).nodes
    prior = sum(seen[site]["fn"].log_prob(value) for site, value in values.items())
    of_x = [seen["x"]["fn"].log_prob(one.expand(n, *one.shape)) for one in torch.as_tensor(x)]
    return np.asarray(prior), torch.stack(of_x, 1).numpy()


def codebook(start_at: np.ndarray, **arguments: Any) -> Any:
    book = Codebook(*start_at.shape, **arguments)
    values = torch.as_tensor(start_at).float()
    with torch.no_grad():
        (book.running_vectors if book.weight is None else book.weight).copy_(values)
        if book.weight is None:
            book.running_sums.copy_(values)
    return book


def vectors(book: Any) -> np.ndarray:
    return book.vectors.detach().numpy().copy()


def start(book: Any, z: np.ndarray) -> None:
    book.start(torch.as_tensor(z).float())


def learn(book: Any, z: np.ndarray) -> np.ndarray:
    """Indices of the codes that z (n, d, h, w) went to, and a step of the averages."""
    values = torch.as_tensor(z).float()
    indices = nearest(values, book.vectors.detach())
    book.learn(values, indices)
    return indices.numpy()


@torch.no_grad()
def bounded(model: Any, guide: Any, x: Any) -> np.ndarray:
    return model.codebook.bound(guide.encode(torch.as_tensor(x))).numpy()


def prior(x_shape: Any, num_codes: int, labels: int = 0) -> tuple[Any, Any]:
    kind = CodePrior if x_shape[0] == 1 else CodePrior2
    model = kind(x_shape, num_codes, channels=2, layers=1, labels=labels)
    return model, NoLatentsGuide(model)
