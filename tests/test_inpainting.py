"""Filling in what is missing: the conditional hierarchy and its guide, and what they promise."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import test_contract as contract
import test_parity as parity
from zoo import LIKELIHOODS, PPLS, X_SHAPE, Case, images, noisy, room, side

SITES = {"z2": (3, 2, 1), "z1": (2, 3, 2)}  # of (5, 4), halved twice
ARGUMENTS = {"latents": (2, 3), "channels": (4, 6, 8)}


@dataclass(frozen=True)
class Inpainting(Case):
    """`InpaintingVAE` on images (one channel and its mask) as the contract suite asks for it."""

    model: str = "inpainting"
    guide: str = "inpainting"
    residual: bool = True

    def __str__(self) -> str:
        return f"{super().__str__()}-{'residual' if self.residual else 'own'}"

    @property
    def sites(self) -> dict[str, tuple[int, ...]]:
        return SITES

    @property
    def guide_class(self) -> str:
        return {"inpainting": "InpaintingGuide", "ladder": "LadderGuide"}[self.guide]

    @property
    def has_batch_norm(self) -> bool:
        return True

    def build(self, seed: int = 0, x_shape: tuple[int, ...] = X_SHAPE, **changes: Any) -> Any:
        model = importlib.import_module(f"models.{self.ppl}").InpaintingVAE
        guides = importlib.import_module(f"guides.{self.ppl}")
        arguments = {**ARGUMENTS, "likelihood": self.likelihood, **changes}

        def guide(model: Any, **keywords: Any) -> Any:
            options = {} if self.guide == "ladder" else {"residual": self.residual}
            return getattr(guides, self.guide_class)(model, **options, **keywords)

        return side(self.ppl).build(model, guide, x_shape, arguments, seed)


CASES = [Inpainting(ppl, residual=residual) for ppl in PPLS for residual in (True, False)]


@pytest.fixture(autouse=True)
def hasty() -> Iterator[None]:
    with side("numpyro").hasty():
        yield


# What every pair promises


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(
    "promise",
    [
        contract.test_sites_are_the_model_s,
        contract.test_every_parameter_gets_a_gradient,
        contract.test_stock_svi_moves_every_weight,
        contract.test_fit_moves_every_weight,
        contract.test_a_copied_guide_keeps_its_model,
    ],
    ids=lambda promise: promise.__name__,
)
def test_contract(promise: Callable[[Case], None], case: Case) -> None:
    promise(case)


@pytest.mark.parametrize("ppl", PPLS)
@pytest.mark.parametrize(
    "promise",
    [contract.test_shapes_of_every_answer, contract.test_stock_predictive,
     contract.test_stock_renyi_elbo, contract.test_float64_all_the_way],
    ids=lambda promise: promise.__name__,
)  # fmt: skip
def test_answers(promise: Callable[[Case], None], ppl: str) -> None:
    promise(Inpainting(ppl))


@pytest.mark.parametrize("ppl", PPLS)
def test_saved_and_loaded_it_is_the_same(ppl: str, tmp_path: Any) -> None:
    contract.test_saved_and_loaded_it_is_the_same(Inpainting(ppl), tmp_path)


@pytest.mark.parametrize("ppl", PPLS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_images_in_the_likelihood_s_range(ppl: str, likelihood: str) -> None:
    contract.test_images_in_the_likelihood_s_range(Inpainting(ppl, likelihood=likelihood))


@pytest.mark.parametrize("ppl", PPLS)
@pytest.mark.parametrize("x_shape", [(2, 7, 3), (4, 1, 1)])
def test_odd_sizes(ppl: str, x_shape: tuple[int, ...]) -> None:
    contract.test_odd_sizes(Inpainting(ppl), x_shape)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("guide", ["inpainting", "ladder"])
def test_densities_agree(guide: str, likelihood: str) -> None:
    """The same weights and draws give the same densities in both PPLs."""
    pairs = {p: Inpainting(p, guide=guide, likelihood=likelihood).build() for p in PPLS}
    weights = noisy(room("pyro").state(*pairs["pyro"]), scale=0.3)
    for precision in parity.TOLERANCE:
        with side("numpyro").precision(precision):
            for ppl, pair in pairs.items():
                if precision == "float64":
                    side(ppl).double(*pair)
                room(ppl).load_state(*pair, weights)
            for training in (False, True):
                x = images(likelihood, dtype=np.dtype(precision))
                parity.check(pairs, x, precision, training)
