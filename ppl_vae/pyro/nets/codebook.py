r"""Codebooks: learned by gradient, or by moving averages of what is assigned, or a fixed grid.

Moving averages (van den Oord et al. 2017, appendix A.1), with Laplace-smoothed counts:

.. math:: N_k \leftarrow \gamma N_k + (1 - \gamma)\, n_k, \quad
          m_k \leftarrow \gamma m_k + (1 - \gamma) \sum_{z \to k} z, \quad
          e_k = m_k \Big/ \frac{N_k + \epsilon}{N + K \epsilon} N
"""

from __future__ import annotations

__all__ = ["Codebook", "Grid"]

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ppl_vae.codebooks import EPSILON, ROUNDS, check_codebook, check_levels, grid
from ppl_vae.pyro.sharing import whole


class Codebook(nn.Module):
    """K vectors of `dim` numbers: `vectors` (K, dim).

    Args:
        num_codes: K.
        dim: of a vector.
        update: "ema", by moving averages; "gradient", by the loss of whoever assigns.
        decay: γ of the averages.
        start: "kmeans", at the first training batch; "random".
        restart: a code whose averaged count is below this share of the mean is put where the
            batch is served worst; 0 leaves dead codes dead.

    The averages are `running_` buffers, which belong to the weights as batch norm's do. Processes
    that share a batch all learn from the whole of it.
    """

    running_vectors: Tensor
    running_counts: Tensor
    running_sums: Tensor
    running_started: Tensor

    def __init__(
        self,
        num_codes: int,
        dim: int,
        update: str = "ema",
        decay: float = 0.99,
        start: str = "kmeans",
        restart: float = 0.01,
    ) -> None:
        super().__init__()
        check_codebook(num_codes, dim, update, decay, start, restart)
        self.decay, self.restart = decay, restart
        begun = torch.empty(num_codes, dim).uniform_(-1 / num_codes, 1 / num_codes)
        self.weight = nn.Parameter(begun) if update == "gradient" else None
        moved = torch.zeros(num_codes, dim) if update == "gradient" else begun
        self.register_buffer("running_vectors", moved)
        self.register_buffer("running_counts", torch.ones(num_codes))
        self.register_buffer("running_started", torch.tensor(float(start == "random")))
        if update == "ema":
            self.register_buffer("running_sums", begun.clone())
        self._begins: bool | None = None

    @property
    def vectors(self) -> Tensor:
        moved = self.running_vectors
        return moved if self.weight is None else self.weight + moved

    @property
    def is_learning(self) -> bool:
        """Whether `start` and `learn` are to be called, and penalties to be counted."""
        return self.training

    @property
    def by_gradient(self) -> bool:
        return self.weight is not None

    def bound(self, z: Tensor) -> Tensor:
        """The encoder's output (n, dim, h, w) as it is compared with the codes."""
        return z

    @torch.no_grad()
    def start(self, z: Tensor) -> None:
        """k-means of z (n, dim, h, w), once."""
        if self._begins is None:  # asked once: it would wait for the device
            self._begins = not bool(self.running_started)
        if not self._begins:
            return
        self._begins = False
        centres = kmeans(whole(_rows(z)).to(self.vectors.dtype), len(self.vectors))
        self._place(centres, torch.ones_like(self.running_counts, dtype=torch.bool))
        if self.weight is None:
            self.running_sums.copy_(centres)
        self.running_counts.fill_(1.0)
        self.running_started.fill_(1.0)

    @torch.no_grad()
    def learn(self, z: Tensor, indices: Tensor) -> None:
        """Averages of z (n, dim, h, w), assigned to codes `indices` (n, h, w); restarts."""
        rows, chosen = whole(_rows(z)).to(self.vectors.dtype), whole(indices.flatten())
        counts = torch.zeros_like(self.running_counts).index_add_(
            0, chosen, torch.ones_like(rows[:, 0])
        )
        away = (rows - self.vectors[chosen]).square().sum(-1)
        self.running_counts.lerp_(counts, 1 - self.decay)
        if self.weight is None:
            sums = torch.zeros_like(self.running_sums).index_add_(0, chosen, rows)
            self.running_sums.lerp_(sums, 1 - self.decay)
            total = self.running_counts.sum()
            share = (self.running_counts + EPSILON) / (total + len(counts) * EPSILON)
            self.running_vectors.copy_(self.running_sums / (share * total)[:, None])
        if self.restart:
            self._restart(rows, away)

    def _restart(self, rows: Tensor, away: Tensor) -> None:
        """Codes too little used onto rows drawn by their squared distance from their codes."""
        least = self.restart * self.running_counts.mean()
        dead = self.running_counts < least
        put = rows[_draw(away, len(dead))]
        self._place(put, dead)
        self.running_counts.copy_(torch.where(dead, least, self.running_counts))
        if self.weight is None:
            sums = torch.where(dead[:, None], put * least, self.running_sums)
            self.running_sums.copy_(sums)

    def _place(self, put: Tensor, where: Tensor) -> None:
        moved = put if self.weight is None else put - self.weight
        self.running_vectors.copy_(torch.where(where[:, None], moved, self.running_vectors))


class Grid(nn.Module):
    r"""A fixed codebook, the product of evenly spaced levels in [-1, 1] (Mentzer et al. 2023, FSQ).

    .. math:: K = \prod_i L_i, \qquad z = \mathrm{round}(\tanh z_e)

    Each number goes to the nearest of its own levels, which is the nearest vector. The paper
    stretches tanh a little, so that all levels have the same share of its range; here the two
    outer ones have half.

    Args:
        levels: L_i of each number, at least 2.
    """

    by_gradient = is_learning = False
    like: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        check_levels(levels)
        self.levels = tuple(levels)
        self.register_buffer("like", torch.zeros(()), persistent=False)
        self._vectors: Tensor | None = None

    @property
    def vectors(self) -> Tensor:
        made, like = self._vectors, self.like
        if made is None or (made.dtype, made.device) != (like.dtype, like.device):
            # Once: the way to a device waits for it.
            made = torch.as_tensor(grid(self.levels), dtype=like.dtype, device=like.device)
            self._vectors = made
        return made

    def bound(self, z: Tensor) -> Tensor:
        return torch.tanh(z)


def kmeans(rows: Tensor, count: int) -> Tensor:
    """Centres (count, d): seeded by distance (Arthur & Vassilvitskii 2007), then Lloyd's rounds."""
    centres = rows[_draw(torch.ones_like(rows[:, 0]), 1)].expand(count, -1).clone()
    away = (rows - centres[0]).square().sum(-1)
    for k in range(1, count):
        centres[k] = rows[_draw(away, 1)[0]]
        away = torch.minimum(away, (rows - centres[k]).square().sum(-1))
    for _ in range(ROUNDS):
        nearest = (centres.square().sum(-1) - 2 * rows @ centres.T).argmin(-1)
        counts = torch.zeros_like(centres[:, 0]).index_add_(0, nearest, torch.ones_like(rows[:, 0]))
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        means = sums / counts.clamp(min=1.0)[:, None]
        centres = torch.where(counts[:, None] > 0, means, centres)
    return centres


def _draw(weights: Tensor, count: int) -> Tensor:
    """(count,) positions, each drawn with probability in proportion to `weights`."""
    floor = torch.finfo(weights.dtype).tiny
    return torch.multinomial(weights.clamp(min=floor), count, replacement=True)


def _rows(z: Tensor) -> Tensor:
    return z.detach().movedim(1, -1).flatten(0, -2)
