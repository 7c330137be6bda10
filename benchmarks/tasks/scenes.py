"""Drawn data with exact labels: shapes, lit surfaces, small and large pictures, figures, lines of text, notes."""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["KEYPOINTS", "SIDE", "Arrays", "figures", "notes", "pictures", "shapes", "surfaces", "text_lines"]

Arrays = dict[str, Any]
"""Inputs as `x`, and labels."""

SIDE = 48
KEYPOINTS = 6  # head, hips, hands and feet
_SCALE = 4  # drawn larger, for smooth edges
_FRAMES, _PITCHES, _LOWEST, _RATE = 172, 88, 27.5, 22050


def shapes(count: int, seed: int) -> Arrays:
    """Return squares, circles and triangles of any colour on gradients, and the class of every pixel."""
    rng = np.random.default_rng([seed, 1])
    x, y = np.zeros((count, 3, SIDE, SIDE), np.float32), np.zeros((count, SIDE, SIDE), np.int64)
    for row in range(count):
        image, mask = Image.new("RGB", (SIDE, SIDE), _colour(rng)), Image.new("L", (SIDE, SIDE))
        for _ in range(int(rng.integers(1, 5))):
            _shape(rng, int(rng.integers(1, 4)), ImageDraw.Draw(image), ImageDraw.Draw(mask))
        x[row] = np.asarray(image, np.float32).transpose(2, 0, 1) / 255
        x[row] += rng.uniform(-0.2, 0.2) * np.linspace(-1, 1, SIDE) + 0.04 * rng.standard_normal((3, SIDE, SIDE))
        y[row] = np.asarray(mask)
    return {"x": x, "y": y}


def _shape(rng: np.random.Generator, kind: int, image: ImageDraw.ImageDraw, mask: ImageDraw.ImageDraw) -> None:
    (left, top), size = rng.uniform(0, 34, 2), rng.uniform(12, 22)
    box, colour = (left, top, left + size, top + size), _colour(rng)
    corners = [(left, top + size), (left + size, top + size), (left + size / 2, top)]
    for draw, fill in ((image, colour), (mask, kind)):
        if kind == 1:
            draw.rectangle(box, fill=fill)
        elif kind == 2:
            draw.ellipse(box, fill=fill)
        else:
            draw.polygon(corners, fill=fill)


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


def surfaces(count: int, seed: int) -> Arrays:
    """Return hills lit from one side, darker with the distance, and the distance of every pixel."""
    rng = np.random.default_rng([seed, 2])
    across, down = np.meshgrid(np.linspace(0, 1, SIDE), np.linspace(0, 1, SIDE))
    x, y = (np.zeros((count, 1, SIDE, SIDE), np.float32) for _ in range(2))
    for row in range(count):
        height = sum(
            rng.uniform(0.2, 0.6) * np.exp(-((across - u) ** 2 + (down - v) ** 2) / (2 * rng.uniform(0.08, 0.2) ** 2))
            for u, v in rng.uniform(0, 1, (int(rng.integers(1, 5)), 2))
        )
        depth = 2.5 - down - height
        slopes = np.stack(np.gradient(height, 1 / SIDE))
        light = (1 + slopes[0] - 0.5 * slopes[1]) / np.sqrt(2.25 * (1 + (slopes**2).sum(0)))
        x[row, 0] = light.clip(0) / depth + 0.02 * rng.standard_normal((SIDE, SIDE))
        y[row, 0] = depth
    return {"x": x, "y": y}


def pictures(count: int, seed: int) -> Arrays:
    """Return pictures of 24 pixels, and the same of 48 pixels."""
    rng = np.random.default_rng([seed, 3])
    y = np.zeros((count, 1, SIDE, SIDE), np.float32)
    for row in range(count):
        side = _SCALE * SIDE
        image = Image.new("L", (side, side), int(rng.integers(0, 256)))
        draw = ImageDraw.Draw(image)
        for _ in range(12):
            ends, tone = rng.uniform(0, side, (3, 2)), int(rng.integers(0, 256))
            if rng.random() < 0.5:
                draw.polygon([tuple(end) for end in ends.tolist()], fill=tone)
            else:
                draw.line([tuple(end) for end in ends[:2].tolist()], fill=tone, width=int(rng.integers(4, 14)))
        y[row, 0] = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32) / 255
    return {"x": y.reshape(count, 1, SIDE // 2, 2, SIDE // 2, 2).mean((3, 5)), "y": y}


def figures(count: int, seed: int) -> Arrays:
    """Return drawn persons, and their keypoints (x, y, visible)."""
    rng = np.random.default_rng([seed, 4])
    x, keypoints = np.zeros((count, 1, SIDE, SIDE), np.float32), np.ones((count, KEYPOINTS, 3), np.float32)
    for row in range(count):
        middle, size = rng.uniform((16, 18), (32, 26)), rng.uniform(0.7, 1.1)
        hips = middle + size * np.array([rng.uniform(-2, 2), 8])
        head = middle + size * np.array([rng.uniform(-2, 2), -9])
        hands = [middle + size * np.array([side * rng.uniform(5, 11), rng.uniform(-8, 8)]) for side in (-1, 1)]
        feet = [hips + size * np.array([side * rng.uniform(2, 8), rng.uniform(8, 12)]) for side in (-1, 1)]
        points = np.stack([head, hips, *hands, *feet]).clip(1, SIDE - 2)
        image = Image.new("L", (SIDE, SIDE), int(rng.integers(120, 256)))
        draw, ink = ImageDraw.Draw(image), int(rng.integers(0, 90))
        lines = [
            (middle, points[1]),
            *((middle, hand) for hand in points[2:4]),
            *((points[1], foot) for foot in points[4:]),
        ]
        for start, end in lines:
            draw.line([*start.tolist(), *end.tolist()], fill=ink, width=2)
        draw.ellipse([*(points[0] - 3.5 * size).tolist(), *(points[0] + 3.5 * size).tolist()], fill=ink)
        x[row, 0] = np.asarray(image, np.float32) / 255 + 0.06 * rng.standard_normal((SIDE, SIDE))
        keypoints[row, :, :2] = points
    return {"x": x, "keypoints": keypoints}


def text_lines(count: int, seed: int) -> Arrays:
    """Return lines of letters and digits as PP-OCR reads them, [n, 3, 48, 320], and their texts."""
    rng = np.random.default_rng([seed, 5])
    x, texts = np.zeros((count, 3, 48, 320), np.float32), []
    for row in range(count):
        letters = list("ABCDEFGHKLMNPRSTUXYZabcdefghkmnprstuxyz23456789")
        text = "".join(rng.choice(letters, int(rng.integers(6, 15))))
        paper, ink = (235, 30) if rng.random() < 0.7 else (40, 220)
        image = Image.new("L", (320, 48), int(paper + rng.integers(-20, 20)))
        font = ImageFont.load_default(int(rng.integers(24, 34)))
        ImageDraw.Draw(image).text(
            (rng.uniform(4, 14), rng.uniform(2, 8)), text, fill=int(ink + rng.integers(-20, 20)), font=font
        )
        pixels = np.asarray(image, np.float32) / 255 + 0.05 * rng.standard_normal((48, 320))
        x[row] = (pixels - 0.5) / 0.5
        texts.append(text)
    return {"x": x, "y": np.array(texts)}


def notes(count: int, seed: int) -> Arrays:
    """Return two seconds of plucked notes [n, 43844, 1], and which of 88 keys sounds in each of 172 frames."""
    rng = np.random.default_rng([seed, 6])
    length = 43844
    x, roll = np.zeros((count, length, 1), np.float32), np.zeros((count, _FRAMES, _PITCHES), np.int64)
    time = np.arange(length) / _RATE
    for row in range(count):
        for key in rng.choice(np.arange(24, 64), int(rng.integers(2, 7)), replace=False).tolist():
            start = rng.uniform(0, 1.3)
            stop = start + rng.uniform(0.3, 0.7)
            on = (time >= start) & (time < stop)
            pitch = _LOWEST * 2 ** (key / 12)
            tone = sum(0.6**part * np.sin(2 * np.pi * part * pitch * time) for part in range(1, 7))
            x[row, on, 0] += (0.15 * tone * np.exp(-2 * (time - start)))[on]
            roll[row, int(start * _RATE / 256) : int(stop * _RATE / 256), key] = 1
        x[row, :, 0] += 0.002 * rng.standard_normal(length)
    return {"x": x, "notes": roll}


Scenes = Callable[[int, int], Arrays]
"""``scenes(count, seed)``: as many samples."""
