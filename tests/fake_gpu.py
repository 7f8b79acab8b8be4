"""Steps on a device that is not there: `python fake_gpu.py OUT` writes {trial: what went wrong}.

Tensors of torch's FakeTensorMode have a shape and a device, but no values, so a step under it can
neither ask for a value nor mix devices; what would go from one device to another is refused here.
That is what recording a CUDA graph needs of a step. Where torch has no CUDA, a backend with nothing
in it stands for it, which a process keeps for good: the script has one of its own.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from zoo import Case, images

from ppl_vae.data import Images
from ppl_vae.pyro.captured import StaticSteps
from ppl_vae.pyro.optimizers import optimizer_of
from ppl_vae.pyro.trainer import PyroTrainer
from ppl_vae.pyro.training import _surroundings
from ppl_vae.settings import ObjectiveSettings, TrainingSettings


@dataclass(frozen=True)
class Trial:
    """A pair and what it is trained with."""

    model: str
    guide: str
    objective: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)


WHOLE = {"clip_norm": 1.0, "clip_value": 1.0, "skip_norm": 9.0, "ema": 0.9}
SMOOTH = {"spectral_weight": 0.1, "batch_norm_weight": 0.1, "annealed_from": 10.0}
LEARNS = {"update": "ema", "start": "kmeans", "restart": 0.5}
TRIALS = {
    "ladder": Trial("hierarchy", "ladder", {"free_bits": 0.2}, WHOLE),
    "importance-weighted": Trial("hierarchy-conv", "bottom-up", {"num_samples": 3}),
    "iaf": Trial("hierarchy", "iaf", {"num_samples": 3, "weighted": False}),
    "nvae": Trial(
        "nvae", "nvae", {"balance": True, "warmup_epochs": 3.0},
        {"optimizer": "adamax", "weight_decay": 1e-3},
    ),
    "very-deep": Trial("very-deep", "very-deep", {}, {"optimizer": "adamw"}, {"recompute": True}),
    "mixture": Trial(
        "very-deep", "very-deep", {}, {}, {"likelihood": "discretized_logistic_mixture"}
    ),
    "vq-vae": Trial("vq-vae", "vector-quantizer", {}, {}, LEARNS),
    "levels": Trial("vq-vae", "vector-quantizer", {}, {}, {"levels": (3, 2)}),
    "relaxed": Trial("vq-vae", "gumbel-softmax"),
    "pixels": Trial("pixel", "mean-field", SMOOTH),
}  # fmt: skip


def trainer_of(trial: Trial, **training: Any) -> PyroTrainer:
    """Of six images of whatever shape, stored as bytes, dynamically binarised, on the CPU."""
    settings = TrainingSettings(**{"batch_size": 3, "device": "cpu", **trial.training, **training})
    pair = Case("pyro", trial.model, trial.guide).build(**trial.arguments)
    grey = (255 * images("normal")).astype(np.uint8)
    data = Images(grey, binarization="dynamic")
    return PyroTrainer(*pair, data, None, ObjectiveSettings(**trial.objective), settings)


class Apart(TorchDispatchMode):
    """Refuses whatever goes from one device to another, and draws that look at their weights."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name in ("aten::_fused_adam_", "aten::_fused_adamw_"):
            found = None  # in place; with a rate that is a tensor it says nothing of its shapes
        else:
            found = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, found)) if isinstance(t, Tensor)]
        places = {t.device.type for t in tensors}
        if len(places) > 1:
            raise RuntimeError(f"{name} between {sorted(places)}")
        if name == "aten::multinomial" and args[1] == 1:
            raise RuntimeError("multinomial of one draw asks whether its weights add up")
        return found


def checked(trial: Trial) -> None:
    """A step as it would be recorded."""
    with _surroundings(TrainingSettings(device="cpu")):
        trainer = trainer_of(trial)
        trainer.step(trainer.train.batch(slice(0, 3)), 1.0, 1e-3)  # codebooks have begun
        with to_nowhere(trainer):
            steps = StaticSteps(trainer, capture=False)
            with Apart():
                steps.step()


def to_nowhere(trainer: PyroTrainer) -> FakeTensorMode:
    """The mode in which the trainer's tensors are on the device that is not there."""
    mode, known = FakeTensorMode(), {}

    def moved(tensor: Tensor) -> Tensor:
        if id(tensor) not in known:
            held = tensor.detach()
            with mode:
                new = mode.from_tensor(held).to(DEVICE)
                known[id(tensor)] = nn.Parameter(new) if tensor.requires_grad else new
        return known[id(tensor)]

    for module in [part for top in (trainer.model, trainer.guide) for part in top.modules()]:
        for held in (module._parameters, module._buffers):
            held.update({name: moved(t) for name, t in held.items() if t is not None})
        if isinstance(getattr(module, "_vectors", None), Tensor):  # a grid's, once made
            module._vectors = moved(module._vectors)
    trainer.parameters = {name: moved(p) for name, p in trainer.parameters.items()}
    if trainer.averaged is not None:
        trainer.averaged = {name: moved(p) for name, p in trainer.averaged.items()}
    if trainer.penalty is not None:
        penalty = trainer.penalty
        penalty.vectors = {name: moved(vector) for name, vector in penalty.vectors.items()}
        penalty.gains = [moved(gain) for gain in penalty.gains]
    trainer.train.values = moved(trainer.train.values)
    trainer.device = trainer.train.device = torch.device(DEVICE)
    parameters = list(trainer.parameters.values())
    trainer.optimizer = optimizer_of(parameters, trainer.settings, capturable=True)
    return mode


OFFENCES: dict[str, Callable[[Tensor], Any]] = {
    "a value asked for": lambda x: x.sum().item(),
    "a choice by a value": lambda x: bool(x.sum() > 0),
    "a place by a value": lambda x: x[x.argmax()],
    "as many as there are": lambda x: x[x > 0],
    "to the host": lambda x: x.cpu(),
    "a number from the host": lambda x: x + torch.tensor(1.0, device=x.device),
    "numbers from the host": lambda x: x + torch.ones(3),
    "one draw": lambda x: torch.multinomial(x, 1),
}


def caught(offence: Callable[[Tensor], Any]) -> None:
    """RuntimeError, or an error of FakeTensorMode's, for what a recording cannot have."""
    with FakeTensorMode():
        x = torch.ones(3).to(DEVICE)
        with Apart():
            offence(x)


class _Nowhere(backend_registration._DummyBackendModule):
    """What torch asks of a backend's module."""

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.zeros(0)

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


DEVICE = "cuda:0" if torch.cuda.is_available() else "nowhere:0"


def main(out: Path) -> None:
    if not torch.cuda.is_available():
        backend_registration._setup_privateuseone_for_python_backend("nowhere", _Nowhere())
    tasks: dict[str, Callable[[], None]] = {
        **{name: lambda trial=trial: checked(trial) for name, trial in TRIALS.items()},
        **{name: lambda act=act: caught(act) for name, act in OFFENCES.items()},
    }
    found = {}
    for name, task in tasks.items():
        try:
            task()
            found[name] = ""
        except Exception:  # each is told, and none ends the others
            found[name] = traceback.format_exc()
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
