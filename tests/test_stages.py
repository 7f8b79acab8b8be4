"""Architectures of very deep nets: strings, lists of stages, and what is wrong with either."""

from __future__ import annotations

from typing import Any

import pytest

from ppl_vae import recipes
from ppl_vae.errors import UsageError
from ppl_vae.stages import Place, Pyramid, Stage, read_stages, read_widths


def pyramid(decoder: Any = "1x1,4m1,8m4,8x2", x_shape: Any = (1, 8, 8), **changes: Any) -> Pyramid:
    changes = {"width": 16, "widths": read_widths(changes.pop("widths", None)), **changes}
    return Pyramid(x_shape, read_stages(decoder, "decoder"), **changes)


def test_strings_and_lists_say_the_same() -> None:
    written = read_stages("32x11,32d2, 16x6,16", "encoder")
    stages = [Stage(32, 11), Stage(32, down=2), Stage(16, 6), Stage(16)]
    assert written == read_stages(stages, "encoder") == tuple(stages)
    as_yaml = [{"resolution": 32, "blocks": 11}, {"resolution": 32, "down": 2},
               {"resolution": 16, "blocks": 6}, {"resolution": 16}]  # fmt: skip
    assert read_stages(as_yaml, "encoder") == written
    joined = pyramid().climb((Stage(8, 3, down=2), Stage(4, 1, down=4), Stage(1)))
    assert joined == pyramid().climb(read_stages("8x2,8d2,4d4,1x1", "encoder"))
    assert joined == ((8, 1), (8, 1), (8, 2), (4, 4), (1, 1))


@pytest.mark.parametrize("text", ["8x2,8d2", "8m4,8x3", "8x1", "8d2"])
def test_a_stage_spells_itself(text: str) -> None:
    """Blocks before the mean, after the sum; and what is spelt reads back."""
    parts = read_stages(text, "encoder")
    marked = next((part for part in parts if part.down or part.up), parts[0])
    blocks = sum(part.blocks for part in parts)
    whole = Stage(parts[0].resolution, blocks, marked.down, marked.up)
    assert str(whole) == text


def test_places_of_a_published_decoder() -> None:
    """CIFAR-10's string: 43 groups, the first at each resolution taking in the one below."""
    places = pyramid("1x1,4m1,4x2,8m4,8x5,16m8,16x10,32m16,32x21", (3, 32, 32)).places
    assert len(places) == 43
    assert [i for i, place in enumerate(places) if place.up] == [1, 4, 10, 21]
    assert places[:3] == (Place(1, None), Place(4, 1), Place(4, None))


def test_sizes() -> None:
    found = pyramid(widths="4:24,1:32", max_bias=4, bottleneck=0.3)
    assert [found.channels(side) for side in (1, 4, 8)] == [32, 24, 16]
    assert [found.inner(side) for side in (1, 4, 8)] == [9, 7, 4]  # rounded down
    assert found.biases == (1, 4)
    assert [str(stage) for stage in pyramid().default_encoder()] == ["8x2,8d2", "4d4", "1x1"]
    assert pyramid(x_shape=(2, 5, 7)).margins == ((1, 2), (0, 1))


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        ("1x1,4m1,8y4", r"decoder: piece 3, '8y4': expected such as 32x11, 32m16 or 32"),
        ("1x1,,8m1", r"decoder: piece 2, '': expected such as"),
        ("1x0,8m1", r"decoder: piece 1, '1x0': expected numbers from 1"),
        ("1x1,8x2", r"decoder: piece 2, '8x2': nothing leads .* resolution 8: write 8m1"),
        ("1x1,8m4", r"decoder: piece 2, '8m4': there is no state at resolution 4 .* there is 1"),
        ("2m1,8m2", r"decoder: piece 1, '2m1': there is no state .* there is none"),
        ("1x1,3m1,8m3", r"decoder: piece 3, '8m3': 8 is no multiple of 3"),
        ("1x1,8m1,4m1", r"decoder: piece 3, '4m1': a decoder's resolutions never fall"),
        ("1x1,8d2", r"decoder: piece 2, '8d2': 'd' is an encoder's: write 8x1"),
        ("1x1,4m1", r"decoder: ends at resolution 4, which .* 8 × 8 pixels exceed: end it at 8"),
        ([], r"decoder: expected at least one stage"),
        ([{"resolution": 8, "block": 2}], r"decoder: stage 1, .*: expected resolution, blocks"),
        ([{"resolution": 8, "blocks": 0}], r"decoder: stage 1, .*: expected numbers from 1"),
        ([8], r"decoder: stage 1: expected a Stage, came 8"),
    ],
)
def test_wrong_decoders_point_at_the_piece(decoder: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        pyramid(decoder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("8x2,8d2,2x1", r"encoder: piece 3, '2x1': what stands before it leads to resolution 4"),
        ("4x1,4d4,1x1", r"encoder: piece 1, '4x1': .* leads to resolution 8: start from 8"),
        ("8x1,8d3", r"encoder: piece 2, '8d3': 8 does not divide into squares of 3"),
        ("8x1,8m4", r"encoder: piece 2, '8m4': 'm' is a decoder's: write 8x1"),
        ("8x2,8d8,1x1", r"decoder: piece 2, '4m1': the encoder has no maps at resolution 4.* 1, 8"),
    ],
)
def test_wrong_encoders_point_at_the_piece(encoder: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pyramid().climb(read_stages(encoder, "encoder"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": "4=24"}, r"widths: piece 1, '4=24': expected resolution:channels"),
        ({"widths": "4:24,4:8"}, r"widths: '4:24,4:8' names a resolution twice"),
        ({"widths": {8: 12}}, r"widths: expected 16 channels .* at the image's resolution 8"),
        (
            {"widths": "4:8"},
            r"piece 3, '8m4': widths grow from 8 channels at 4 to 16 at 8",
        ),
        ({"bottleneck": 0.01}, r"bottleneck: 0.01 of 16 channels at resolution 1 leaves none"),
        ({"latent_channels": 0}, r"latent_channels: expected at least 1, came 0"),
    ],
)
def test_wrong_sizes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pyramid(**changes)


def test_an_encoder_only_widens() -> None:
    with pytest.raises(UsageError, match=r"widths narrow from 16 to 12 channels"):
        pyramid("8x1", widths="4:12").climb(read_stages("8d2,4x1", "encoder"))


def test_recipes_take_lists_of_stages(ppl: str) -> None:
    """As YAML has them: in a guide's arguments, and widths by resolution in the model's."""
    stages = [{"resolution": 8, "blocks": 2, "down": 2}, {"resolution": 4, "down": 4},
              {"resolution": 1}]  # fmt: skip
    tree: dict[str, Any] = {
        "name": "listed",
        "data": {"name": "digits"},
        "model": {
            "class_path": "VeryDeepVAE",
            "init_args": {"decoder": "1x1,4m1,8m4", "width": 8, "widths": {4: 12, 1: 12}},
        },
        "guide": {"class_path": "VeryDeepGuide", "init_args": {"encoder": stages}},
    }
    model, guide = recipes.build(tree, ppl, (1, 8, 8))
    assert guide.tower.path == ((8, 1), (8, 2), (4, 4), (1, 1))
    assert model.pyramid.channels(1) == 12
    tree["guide"]["init_args"]["encoder"][1]["resolution"] = "four"
    with pytest.raises(UsageError, match=r"guide\.init_args\.encoder: expected"):
        recipes.build(tree, ppl, (1, 8, 8))
