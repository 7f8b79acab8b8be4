"""Where each of NVAE's published weights stands in the zoo's model and guide."""

from __future__ import annotations

__all__ = ["names"]

from collections.abc import Mapping
from typing import Any

from ppl_vae.scales import Scales, groups_per_scale

BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def names(model: Mapping[str, Any], guide: Mapping[str, Any]) -> tuple[dict[str, str], set[str]]:
    """({the authors' key: our name}, keys that are left aside).

    Args:
        model: arguments of `NVAE`, all of them spelled out but x_shape.
        guide: arguments of `NVAEGuide`, likewise.
    """
    found = Names(gated=model["squeeze_excite"])
    groups = groups_per_scale(
        model["scales"], model["groups"], model["adaptive_groups"], model["min_groups"]
    )
    scales = Scales((1, 1, 1), groups, model["blocks"]).of_groups
    _encoder(found, scales, guide, model["blocks"])
    _decoder(found, scales, model)
    _sampling(found, len(scales), guide["flows"])
    return found.ours, found.ignored


class Names:
    """The mapping as it grows: one method for each kind of layer and cell."""

    def __init__(self, gated: bool) -> None:
        self.ours: dict[str, str] = {}
        self.ignored: set[str] = set()
        self.gated = gated

    def put(self, theirs: str, ours: str, *parts: str) -> None:
        for part in parts:
            self.ours[f"{theirs}.{part}"] = f"{ours}.{part}"

    def conv(self, theirs: str, ours: str, bias: bool = True) -> None:
        self.put(theirs, ours, "weight", *["bias"] * bias, "log_weight_norm")

    def plain(self, theirs: str, ours: str) -> None:
        self.put(theirs, ours, "weight")
        self.ignored.add(f"{theirs}.weight_normalized")

    def norm(self, theirs: str, ours: str) -> None:
        self.put(theirs, ours, *BATCH_NORM)
        self.ignored.add(f"{theirs}.num_batches_tracked")

    def gate(self, theirs: str, ours: str) -> None:
        if self.gated:
            self.put(f"{theirs}.se.se.0", f"{ours}.gate.squeeze", "weight", "bias")
            self.put(f"{theirs}.se.se.2", f"{ours}.gate.excite", "weight", "bias")

    def residual_cell(self, theirs: str, ours: str, down: bool) -> None:
        for i in range(2):
            self.norm(f"{theirs}._ops.{i}.bn_act", f"{ours}.norms.{i}")
            self.conv(f"{theirs}._ops.{i}.conv_0", f"{ours}.convs.{i}")
        for i in range(4 if down else 0):
            self.conv(f"{theirs}.skip.conv_{i + 1}", f"{ours}.skip.convs.{i}")
        self.gate(theirs, ours)

    def inverted_cell(self, theirs: str, ours: str, up: bool) -> None:
        inside = [f"{theirs}._ops.0.conv.{i + up}" for i in range(5)]  # upsampling counts as 0
        self.norm(f"{inside[0]}.bn", f"{ours}.norms.0")
        for i in (1, 2):
            self.plain(f"{inside[i]}.conv.0", f"{ours}.convs.{i - 1}")
            self.norm(f"{inside[i]}.conv.1", f"{ours}.norms.{i}")
        self.plain(inside[3], f"{ours}.convs.2")
        self.norm(f"{inside[4]}.bn", f"{ours}.norms.3")
        if up:
            self.conv(f"{theirs}.skip.1", f"{ours}.skip.conv", bias=False)
        self.gate(theirs, ours)


def _encoder(found: Names, scales: tuple[int, ...], guide: Mapping[str, Any], blocks: int) -> None:
    """The tower runs from the last group, the finest, to the first; so do its combiners."""
    found.conv("stem", "guide.tower.stem")
    cells = guide["block_cells"]
    for i in range(blocks * cells):
        found.residual_cell(f"pre_process.{i}", f"guide.tower.pre.{i}", (i + 1) % cells == 0)
    at = 0
    for i, scale in enumerate(reversed(scales)):
        group = len(scales) - 1 - i
        down = i > 0 and scale != scales[group + 1]
        for j in range(down + guide["group_cells"]):
            ours = f"guide.tower.groups.{i}.{j}"
            found.residual_cell(f"enc_tower.{at}", ours, down and j == 0)
            at += 1
        if group:
            found.conv(f"enc_tower.{at}.conv", f"guide.combine.{group - 1}")
            at += 1
    found.conv("enc0.1", "guide.tower.top")


def _decoder(found: Names, scales: tuple[int, ...], model: Mapping[str, Any]) -> None:
    found.ours["prior_ftr0"] = "model.top"
    at = 0
    for i, scale in enumerate(scales):
        up = i > 0 and scale != scales[i - 1]
        for j in range(up + model["group_cells"] if i else 0):
            ours = f"model.groups.{i}.cells.{j}"
            found.inverted_cell(f"dec_tower.{at}", ours, up and j == 0)
            at += 1
        found.conv(f"dec_tower.{at}.conv", f"model.groups.{i}.combine")
        at += 1
    cells = model["block_cells"]
    for i in range(model["blocks"] * cells):
        found.inverted_cell(f"post_process.{i}", f"model.post.{i}", i % cells == 0)
    found.conv("image_conditional.1", "model.out")


def _sampling(found: Names, num_groups: int, flows: int) -> None:
    """Heads and flows, all in the decoder's order."""
    for i in range(num_groups):
        found.conv(f"enc_sampler.{i}", f"guide.heads.{i}")
        if i:
            found.conv(f"dec_sampler.{i - 1}.1", f"model.groups.{i}.head")
        for j in range(2 * flows):
            theirs = f"nf_cells.{i * flows + j // 2}.cell{j % 2 + 1}"
            ours = f"guide.flows.{i}.{j}.convs"
            found.conv(f"{theirs}.conv.convz.0", f"{ours}.0", bias=False)
            found.conv(f"{theirs}.conv.convz.2", f"{ours}.1", bias=False)
            found.conv(f"{theirs}.mu.conv_0", f"{ours}.2")
