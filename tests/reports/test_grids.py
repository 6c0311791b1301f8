"""Pictures of images with labels: every pixel of a tile is where it belongs."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reverie.reports.dream_figures import histograms, scatter
from reverie.reports.figures import CLASSES
from reverie.reports.grids import FRAME, GAP, MARGIN, WIDTH, Block, draw_grid, layout, wrapped


def opened(png: bytes) -> tuple[np.ndarray, str]:
    with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
        return np.asarray(picture.convert("RGB")), str(picture.info["Description"])


def images(rows: int, columns: int, channels: int = 1, side: int = 8) -> Tensor:
    return torch.rand(rows, columns, channels, side, side, generator=torch.Generator().manual_seed(0))


def tile(
    pixels: np.ndarray, block: Block, row: int, column: int, place: tuple[int, int] = (MARGIN, MARGIN)
) -> np.ndarray:
    """Of a block that stands at ``place``: one image, at its own resolution."""
    found = layout(block)
    high, wide = block.images.shape[3:]
    left, top = place[0] + found.label + column * found.across, place[1] + found.head + row * found.down
    return pixels[top : top + high * found.scale : found.scale, left : left + wide * found.scale : found.scale]


def expected(image: Tensor) -> np.ndarray:
    bytes_ = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return np.broadcast_to(bytes_, (*bytes_.shape[:2], 3))


def test_tiles_are_the_images_enlarged() -> None:
    for channels, side, scale in ((1, 8, 7), (3, 28, 2), (1, 64, 1)):
        block = Block(images(2, 3, channels, side), "title", ["first", "second"], ["a", "b", "c"])
        pixels, description = opened(draw_grid([block], "what is shown"))
        assert layout(block).scale == scale
        assert description == "what is shown"
        for row in range(2):
            for column in range(3):
                assert np.array_equal(tile(pixels, block, row, column), expected(block.images[row, column]))


def test_values_beyond_the_range_are_clipped_and_missing_images_left_blank() -> None:
    x = images(1, 3)
    x[0, 0] = 7.0
    x[0, 1] = float("nan")
    block = Block(x)
    pixels, _ = opened(draw_grid([block], ""))
    assert tile(pixels, block, 0, 0).min() == 255
    left = MARGIN + layout(block).across - 1
    assert pixels[MARGIN - 1 : MARGIN + 57, left : left + 58].min() == 255, "not even a border"


def test_frames_have_the_colour_of_their_number() -> None:
    block = Block(images(1, 2), notes=[["a rather long note", "b"]], frames=[[1, 12]])
    pixels, _ = opened(draw_grid([block], "caption"))
    for column, number in enumerate((1, 2)):
        x = MARGIN + column * layout(block).across - FRAME
        colour = tuple(int(CLASSES[number][k : k + 2], 16) for k in (1, 3, 5))
        assert tuple(pixels[MARGIN + 20, x]) == colour
    assert layout(block).across > 56 + 2 * FRAME + GAP, "room for the note"


def test_blocks_stand_side_by_side_while_they_fit() -> None:
    block = Block(images(2, 8))
    wide, high = layout(block).size
    two, _ = opened(draw_grid([block] * 2, ""))
    three, _ = opened(draw_grid([block] * 3, ""))
    assert two.shape[:2] == (high + 3 * MARGIN, 2 * wide + 4 * MARGIN)
    assert three.shape[:2] == (2 * high + 4 * MARGIN, two.shape[1])
    assert np.array_equal(tile(three, block, 1, 3, (MARGIN, 2 * MARGIN + high)), expected(block.images[1, 3]))
    one, _ = opened(draw_grid([Block(images(1, 40))], ""))
    assert one.shape[1] > WIDTH, "a single block is not broken up"


def test_captions_wrap() -> None:
    lines = wrapped("one two three four " * 9, 300)
    assert len(lines) > 2
    assert " ".join(lines) == " ".join(("one two three four " * 9).split())
    assert wrapped("", 300) == []


def test_a_scatter_plot_of_any_classes() -> None:
    points = np.random.default_rng(0).normal(size=(60, 2))
    domains = ["here"] * 30 + ["there, $x_1$"] * 30
    for names in (["0", "1"], ["T-shirt/top", "$Trouser"], []):
        classes = [names[k % 2] for k in range(60)] if names else []
        pixels, description = opened(scatter(points, domains, classes, "title", ("first", "second"), "caption $ here"))
        assert pixels.shape == (696, 1008, 3)
        assert description == "caption $ here"
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_histograms_of_several_groups_and_of_equal_values() -> None:
    values = {
        "error": {"a": np.arange(10.0), "b": np.arange(3.0)},
        "entropy": {"a": np.zeros(10), "b": np.zeros(3)},
    }
    pixels, _ = opened(histograms(values, "caption"))
    assert pixels.shape == (480, 864, 3)
