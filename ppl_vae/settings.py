"""What training is told: typed, checked at construction, written into every run."""

from __future__ import annotations

__all__ = ["ObjectiveSettings", "TrainingSettings"]

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from ppl_vae.errors import UsageError, nearest
from ppl_vae.seeds import check_seed


def _require(condition: bool, name: str, expected: str, came: object) -> None:
    if not condition:
        raise UsageError(f"{name}: expected {expected}, came {came!r}")


@dataclass(frozen=True)
class ObjectiveSettings:
    r"""The function of the per-site terms that training maximises.

    .. math:: E_q[\log p(x | z)] - w(t)\, \beta \sum_l \max(\lambda, KL_l)

    Args:
        beta: weight of the divergence (Higgins et al. 2017); 0 makes a plain autoencoder.
        beta_norm: the same, normalised: beta = beta_norm · N / M for N data dimensions and
            M latent ones (Higgins et al. 2017, section 4.2); takes the place of `beta`.
        warmup_epochs: w(t) rises linearly from 0 to 1 over this many epochs (Sønderby et al. 2016).
        delay_epochs: epochs at w = 0 before it starts to rise.
        free_bits: λ, nats per site; the batch mean of a site's divergence counts at least this
            much (Kingma et al. 2016, section 5.2 / appendix C.8).
        num_samples: k of the importance-weighted objective (Burda et al. 2016); 1 is the ELBO.
        weighted: False takes the ELBO of k draws an image in its place, their plain mean ("VAE, k"
            of the same paper).
        analytic: closed-form divergences where they are registered and right; False takes
            log q - log p of the one draw everywhere.
        warmup_floor: w(t) is never below this (Vahdat & Kautz 2020 take 1e-4).
        balance: while w(t) < 1, each site's divergence is weighted by its own size against the
            others', so that none is given up early (Vahdat & Kautz 2020, appendix A); sites of
            larger maps count for more, those of a scale with many sites for less each.
        spectral_weight: λ of the sum of the weights' largest singular values; 0 leaves it out.
        spectral_layers: "conv", or "all" for linear layers too.
        batch_norm_weight: λ of the sum of batch norm's largest scales, max |γ| of each layer.
        annealed_from: both λ go geometrically from this to what they are as w(t) goes to 1;
            None keeps them constant.
    """

    beta: float = 1.0
    beta_norm: float | None = None
    warmup_epochs: float = 0.0
    delay_epochs: float = 0.0
    free_bits: float = 0.0
    num_samples: int = 1
    weighted: bool = True
    analytic: bool = True
    warmup_floor: float = 0.0
    balance: bool = False
    spectral_weight: float = 0.0
    spectral_layers: Literal["conv", "all"] = "conv"
    batch_norm_weight: float = 0.0
    annealed_from: float | None = None

    def __post_init__(self) -> None:
        for name in (
            "beta", "beta_norm", "warmup_epochs", "delay_epochs", "free_bits", "warmup_floor",
            "spectral_weight", "batch_norm_weight",
        ):  # fmt: skip
            value = getattr(self, name)
            none = name == "beta_norm" and value is None
            _require(
                none or 0 <= value < math.inf, f"objective.{name}", "a finite number >= 0", value
            )
        _require(self.num_samples >= 1, "objective.num_samples", "at least 1", self.num_samples)
        _require(self.warmup_floor <= 1, "objective.warmup_floor", "at most 1", self.warmup_floor)
        begun = self.annealed_from
        if begun is not None:
            _require(
                0 < begun < math.inf, "objective.annealed_from", "a finite number above 0", begun
            )
        if self.spectral_layers not in ("conv", "all"):
            known = nearest(str(self.spectral_layers), ("conv", "all"))
            raise UsageError(
                f"objective.spectral_layers: unknown {self.spectral_layers!r}: {known}"
            )
        for name, off in (("free_bits", 0), ("balance", False)):
            if self.importance_weighted and getattr(self, name):
                raise UsageError(
                    f"objective.{name}: expected {off} with num_samples > 1, because the "
                    "importance-weighted bound has no divergence per site: set one of them back, "
                    "or objective.weighted to false"
                )

    @property
    def importance_weighted(self) -> bool:
        """Whether the bound is L_k for a k above 1."""
        return self.weighted and self.num_samples > 1

    def full_weight(self, num_data_dims: int, num_latent_dims: float) -> float:
        """β once warm-up is over, for N data and M latent dimensions."""
        if self.beta_norm is None:
            return self.beta
        return self.beta_norm * num_data_dims / num_latent_dims

    @property
    def penalised(self) -> bool:
        """Whether anything is added to the bound."""
        return bool(self.spectral_weight or self.batch_norm_weight)

    def annealed(self, weight: float, share: Any) -> Any:
        """A penalty's weight when the divergences have `share` of theirs, 0 to 1."""
        if self.annealed_from is None:
            return weight
        return self.annealed_from ** (1 - share) * weight**share


@dataclass(frozen=True)
class TrainingSettings:
    """How the weights are found.

    Args:
        epochs: passes over the training images.
        batch_size: images a step; what is left of an epoch after whole batches waits for the
            next shuffle.
        optimizer: "adam", "adamw" (decoupled weight decay) or "adamax".
        learning_rate: at its highest.
        schedule: "constant"; "cosine" or "linear" from `learning_rate` to `final_fraction` of it
            over `decay_epochs`, after `decay_delay_epochs`; "burda": 3^i passes at
            learning_rate · 10^(-i/7), i = 0..7.
        decay_epochs: length of the decay, a number of its own so that a run can be prolonged.
        decay_delay_epochs: epochs before it starts, such as those of the warm-up.
        decay_by_epoch: the decay goes on once an epoch, not in every step.
        lr_warmup_epochs: linear rise from 0; it multiplies what the schedule says.
        betas, eps, weight_decay: the optimiser's (weight decay is L2 but for "adamw").
        clip_norm: cap of the global gradient norm; clip_value: then element-wise.
        skip_norm: a step whose gradient norm is above this, or not finite, is left out.
        max_skips: that many skipped steps in a row end the run loudly.
        ema: decay of the averaged weights, such as 0.999; None keeps none.
        precision: "float32", "bfloat16" (matrix products only) or "float64".
        seed: of initial weights, shuffling, binarisation and noise.
        patience: epochs without a better validation ELBO before stopping.
        checkpoint_seconds: a checkpoint at the first epoch's end after this long.
        checkpoint_steps: an epoch may be left for a checkpoint after each so many of its steps;
            None, at its end alone. For epochs that last hours.
        device: "cpu", "cuda" or "gpu"; None takes the accelerator where there is one.
        threads: torch's threads on the CPU; stored, because another number gives other bits.
        cuda_graph: Pyro on CUDA: record a whole step once, and replay it; None does where it can
            be done. What keeps it from being done is told, and training goes on without.
        compile: Pyro: nets go through `torch.compile`, block by block. NumPyro compiles all that
            it runs, whatever this says.
        devices: "one", or "all" to share each batch out among all of them (docs/many_devices.md).
            In Pyro each takes a process of torchrun's; several processes share it in any case.
        sync_batch_norm: batch norm sees the whole batch, not each process its share. NumPyro
            knows nothing else.
        sharded_optimizer: each of several devices keeps its part of the optimiser's state alone,
            in NumPyro of the averaged weights too. One device has all of it, whatever this says.
        backend: of torch's processes, "gloo" or "nccl"; None takes the device's.
    """

    epochs: int = 60
    batch_size: int = 256
    optimizer: Literal["adam", "adamw", "adamax"] = "adam"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine", "linear", "burda"] = "constant"
    decay_epochs: float | None = None
    decay_delay_epochs: float = 0.0
    decay_by_epoch: bool = False
    lr_warmup_epochs: float = 0.0
    final_fraction: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    clip_value: float | None = None
    skip_norm: float | None = None
    max_skips: int = 100
    ema: float | None = None
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    seed: int = 0
    patience: int | None = None
    checkpoint_seconds: float = 30.0
    checkpoint_steps: int | None = None
    device: str | None = None
    threads: int | None = None
    cuda_graph: bool | None = None
    compile: bool = False
    devices: Literal["one", "all"] = "one"
    sync_batch_norm: bool = True
    sharded_optimizer: bool = False
    backend: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        known = {
            "optimizer": ("adam", "adamw", "adamax"),
            "schedule": ("constant", "cosine", "linear", "burda"),
            "precision": ("float32", "bfloat16", "float64"),
            "devices": ("one", "all"),
            "backend": ("gloo", "nccl", "null"),
        }
        for name, names in known.items():
            value = getattr(self, name)
            if (name, value) != ("backend", None) and value not in names:
                raise UsageError(
                    f"training.{name}: unknown {value!r}: {nearest(str(value), names)}"
                )
        may_be_none = ("checkpoint_steps", "patience", "threads")
        for name in ("epochs", "batch_size", "max_skips", *may_be_none):
            value = getattr(self, name)
            none = name in may_be_none and value is None
            _require(
                none or (isinstance(value, int) and value >= 1),
                f"training.{name}", "a whole number of at least 1", value,
            )  # fmt: skip
        check_seed(self.seed, "training.seed")
        rate = self.learning_rate
        _require(0 < rate < math.inf, "training.learning_rate", "a finite number above 0", rate)
        pair = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        _require(pair, "training.betas", "two numbers of at least 0 and below 1", [*self.betas])
        for name in (
            "decay_delay_epochs", "lr_warmup_epochs", "final_fraction", "eps", "weight_decay",
        ):  # fmt: skip
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"training.{name}", "a finite number >= 0", value)
        wait = self.checkpoint_seconds
        _require(wait >= 0, "training.checkpoint_seconds", "a number >= 0", wait)
        for name in ("clip_norm", "clip_value", "skip_norm", "decay_epochs"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"training.{name}", "above 0 or null", value)
        if self.ema is not None:
            _require(0 < self.ema < 1, "training.ema", "between 0 and 1", self.ema)
        if self.schedule in ("cosine", "linear") and self.decay_epochs is None:
            raise UsageError(
                f"training.decay_epochs: expected a number of epochs for schedule "
                f"{self.schedule!r}, came null: set it, usually to training.epochs"
            )

    @classmethod
    def from_keywords(cls, settings: dict[str, Any]) -> Self:
        """Settings from `fit`'s keywords; an unknown one is refused with its nearest match."""
        names = [field.name for field in fields(cls)]
        for name in settings:
            if name not in names:
                raise UsageError(f"fit: unknown argument {name!r}: {nearest(name, names)}")
        return cls(**settings)
