"""Grids of images as one PNG, with labels that a reader needs to make sense of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from reverie.reports.figures import CLASSES, FAINT, INK, cut

TILE = 56  # pixels, about: the side that an image is enlarged to, by a whole number
GAP, FRAME, MARGIN = 6, 3, 16  # pixels between tiles, around a coloured one, and around the picture and its blocks
WIDTH = 1200  # pixels: blocks that would go beyond it stand below
NARROWEST = 420  # pixels, so that captions are not torn to pieces
LINE, SMALL_LINE = 20, 15  # pixels a line of text
TEXT, SMALL_TEXT = 14, 11  # pixels, of letters
MOST_LETTERS = 28  # of a row's label


@dataclass(frozen=True)
class Block:
    """images: (rows, columns, 1 or 3, H, W) in [0, 1] (values beyond are clipped, for display alone); NaN where a place is empty. rows, columns:
    labels beside and above. notes: words below each tile. frames: numbers of the colours around each tile."""

    images: Tensor
    title: str = ""
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    notes: Sequence[Sequence[str]] = ()
    frames: Sequence[Sequence[int]] = ()

    @property
    def shape(self) -> tuple[int, int]:
        return self.images.shape[0], self.images.shape[1]


@dataclass(frozen=True)
class Layout:
    """Where the parts of a block are, in pixels: the width of its labels, the head above the tiles, from tile to tile, and the size of the
    whole. scale: how much images are enlarged."""

    scale: int
    label: int
    head: int
    across: int
    down: int
    size: tuple[int, int]


def draw_grid(blocks: Sequence[Block], caption: str) -> bytes:
    """A PNG. Blocks stand side by side as far as they fit; the caption stands below them, and in the file as its description."""
    if blocks[0].images.shape[2] not in (1, 3):
        raise ValueError(f"{blocks[0].images.shape[2]} channels: an image has 1 or 3")
    layouts = [layout(block) for block in blocks]
    places, (width, height) = _places([found.size for found in layouts])
    width = max(width, NARROWEST)
    lines = wrapped(caption, width - 2 * MARGIN)
    picture = Image.new("RGB", (width, height + LINE * len(lines) + MARGIN), "white")
    pen = ImageDraw.Draw(picture)
    for block, found, place in zip(blocks, layouts, places, strict=True):
        _paint(picture, pen, block, found, place)
    for number, line in enumerate(lines):
        pen.text((MARGIN, height + LINE * number), line, INK, _font(TEXT))
    return _encoded(picture, caption)


def layout(block: Block) -> Layout:
    rows, columns = block.shape
    high, wide = block.images.shape[3:]
    scale = max(1, round(TILE / max(high, wide)))
    label = max((round(_font(TEXT).getlength(_label(name))) for name in block.rows), default=0)
    label += 2 * GAP if label else 0
    head = (
        (LINE if block.title else 0)
        + (SMALL_LINE if block.columns else 0)
        + (GAP if block.title or block.columns else 0)
    )
    notes = max((round(_font(SMALL_TEXT).getlength(note)) for row in block.notes for note in row), default=0)
    border = 2 * FRAME if block.frames else 0
    across = max(wide * scale + border, notes) + GAP
    down = high * scale + border + GAP + (SMALL_LINE if block.notes else 0)
    size = label + columns * across - GAP, head + rows * down - GAP
    if block.title:
        size = max(size[0], round(_font(TEXT).getlength(block.title))), size[1]
    return Layout(scale, label, head, across, down, size)


def _places(sizes: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """The upper left corner of every block, and the size of all, with margins."""
    places = []
    left, top, below, width = MARGIN, MARGIN, MARGIN, 0
    for wide, high in sizes:
        if left > MARGIN and left + wide + MARGIN > WIDTH:
            left, top = MARGIN, below
        places.append((left, top))
        left += wide + 2 * MARGIN
        below = max(below, top + high + MARGIN)
        width = max(width, left - MARGIN)
    return places, (width, below)


def _paint(picture: Image.Image, pen: ImageDraw.ImageDraw, block: Block, found: Layout, place: tuple[int, int]) -> None:
    x0, y0 = place
    pixels = _pixels(block.images, found.scale)
    rows, columns = block.shape
    high, wide = pixels.shape[2:4]
    if block.title:
        pen.text((x0 + found.label, y0), block.title, INK, _font(TEXT, bold=True))
    for column, name in enumerate(block.columns):
        x = x0 + found.label + column * found.across + wide // 2
        pen.text((x, y0 + found.head - GAP // 2), name, INK, _font(SMALL_TEXT), anchor="mb")
    for row in range(rows):
        y = y0 + found.head + row * found.down
        if block.rows:
            pen.text((x0, y + high // 2), _label(block.rows[row]), INK, _font(TEXT), anchor="lm")
        for column in range(columns):
            if torch.isnan(block.images[row, column]).any():
                continue
            x = x0 + found.label + column * found.across
            if block.frames:
                colour = CLASSES[block.frames[row][column] % len(CLASSES)]
                pen.rectangle((x - FRAME, y - FRAME, x + wide + FRAME - 1, y + high + FRAME - 1), colour)
            else:
                pen.rectangle((x - 1, y - 1, x + wide, y + high), FAINT)
            picture.paste(Image.fromarray(pixels[row, column]), (x, y))
            if block.notes:
                pen.text(
                    (x + wide // 2, y + high + FRAME + 1), block.notes[row][column], INK, _font(SMALL_TEXT), anchor="mt"
                )


def _pixels(images: Tensor, scale: int) -> np.ndarray:
    """(rows, columns, H, W, 3) uint8, enlarged."""
    bytes_ = (images.nan_to_num(1.0).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()
    return np.ascontiguousarray(
        np.broadcast_to(
            bytes_.repeat(scale, 2).repeat(scale, 3),
            (*bytes_.shape[:2], bytes_.shape[2] * scale, bytes_.shape[3] * scale, 3),
        )
    )


def _label(name: str) -> str:
    return cut(name, MOST_LETTERS)


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` pixels, but for a single longer word."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and _font(TEXT).getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def _encoded(picture: Image.Image, caption: str) -> bytes:
    information = PngInfo()
    information.add_itxt("Description", caption)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=information)
    return buffer.getvalue()
