"""Stimuli of the simulated world: one coloured shape on a coloured 1/f texture.

A scene is a few numbers (shape, colour, place, size, slant); `render` turns scenes into pictures. Because
every cause of every picture is known, we can ask what a decoder really read from the brain: the colour
but not the shape? The shape but not the place? Natural photographs never answer that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHAPES = ("disc", "ring", "square", "triangle", "star", "plus", "crescent", "heart", "hourglass", "arrow")
COLOURS = {  # sRGB in [0, 1]; equal steps of hue, so that none is an outlier for V4
    "red": (0.86, 0.16, 0.15),
    "yellow": (0.92, 0.78, 0.12),
    "green": (0.13, 0.68, 0.24),
    "blue": (0.14, 0.33, 0.88),
    "purple": (0.66, 0.20, 0.74),
}
CATEGORY_NAMES = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
NUM_CATEGORIES = len(CATEGORY_NAMES)


def category_of(shape: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Label 0..49 of a shape (0..9) and a colour (0..4)."""
    return shape * len(COLOURS) + colour


@dataclass(frozen=True)
class Scenes:
    """What is shown, one row a picture. Lengths are in half image widths, the centre is (0, 0).

    Attributes:
        shape, colour: indices into SHAPES and COLOURS, int64, shape (n,).
        x, y: centre, right and up positive, in [-0.36, 0.36].
        size: radius of the disc of the same area, in [0.36, 0.5].
        slant: counter-clockwise turn in radians, in [-0.35, 0.35].
        texture_seed: seed of the background, int64.
    """

    shape: np.ndarray
    colour: np.ndarray
    x: np.ndarray
    y: np.ndarray
    size: np.ndarray
    slant: np.ndarray
    texture_seed: np.ndarray

    def __len__(self) -> int:
        return len(self.shape)

    @property
    def label(self) -> np.ndarray:
        return category_of(self.shape, self.colour)

    def rows(self, index: np.ndarray) -> Scenes:
        return Scenes(**{name: column[index] for name, column in vars(self).items()})


def draw_scenes(labels: np.ndarray, rng: np.random.Generator) -> Scenes:
    """A random scene for each label (0..49): place, size, slant and background are drawn from `rng`."""
    labels = np.asarray(labels, dtype=np.int64)
    if len(labels) and (labels.min() < 0 or labels.max() >= NUM_CATEGORIES):
        raise ValueError(f"labels span {labels.min()}..{labels.max()}, expected 0..{NUM_CATEGORIES - 1}")
    n = len(labels)
    return Scenes(
        shape=labels // len(COLOURS),
        colour=labels % len(COLOURS),
        x=rng.uniform(-0.36, 0.36, n),
        y=rng.uniform(-0.36, 0.36, n),
        size=rng.uniform(0.36, 0.50, n),
        slant=rng.uniform(-0.35, 0.35, n),
        texture_seed=rng.integers(2**31, size=n),
    )


def render(scenes: Scenes, size: int = 32) -> np.ndarray:
    """Pictures of the scenes, uint8, shape (n, size, size, 3). Edges are anti-aliased.

    The background has low spatial frequencies only, so the same scene looks the same at any size.
    """
    if size < 16:
        raise ValueError(f"image size {size} is too small for the shapes; use 16 or more")
    pictures = np.empty((len(scenes), size, size, 3), dtype=np.uint8)
    for start in range(0, len(scenes), 512):  # bounds the memory of the intermediate fields
        part = scenes.rows(slice(start, start + 512))
        pictures[start : start + 512] = _render_batch(part, size)
    return pictures


def _render_batch(scenes: Scenes, size: int) -> np.ndarray:
    inside = coverage(scenes, size)[..., None]
    paint = np.array(list(COLOURS.values()))[scenes.colour][:, None, None, :]
    # A faint shading from the background's own texture keeps the paint from being perfectly flat.
    background = _textures(scenes.texture_seed, size)
    shading = 1.0 + 0.35 * (background.mean(-1, keepdims=True) - 0.45)
    picture = inside * np.clip(paint * shading, 0, 1) + (1 - inside) * background
    return np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)


def coverage(scenes: Scenes, size: int) -> np.ndarray:
    """How much of each pixel the shape covers, in [0, 1], shape (n, size, size)."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    dx = axis[None, None, :] - scenes.x[:, None, None]
    dy = -axis[None, :, None] - scenes.y[:, None, None]
    cos, sin = np.cos(scenes.slant)[:, None, None], np.sin(scenes.slant)[:, None, None]
    scale = scenes.size[:, None, None]
    u = (cos * dx + sin * dy) / scale
    v = (-sin * dx + cos * dy) / scale
    depth = np.empty(u.shape)
    for index, name in enumerate(SHAPES):
        rows = scenes.shape == index
        if rows.any():
            depth[rows] = _depth(name, u[rows], v[rows])
    return np.clip(0.5 + depth * scale * size / 2, 0, 1)


def _depth(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Distance to the outline, positive inside; every shape has the area of the unit disc (ring: less)."""
    r = np.hypot(u, v)
    if shape == "disc":
        return 1.0 - r
    if shape == "ring":
        return 0.30 - np.abs(r - 0.95)
    if shape == "crescent":
        return np.minimum(1.22 - np.hypot(u - 0.1, v), np.hypot(u - 0.62, v) - 0.93)
    return _polygon_depth(_POLYGONS[shape], u, v)


def _polygon_depth(corners: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    nearest = np.full(u.shape, np.inf)
    inside = np.zeros(u.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        ex, ey, px, py = bx - ax, by - ay, u - ax, v - ay
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, (px - along * ex) ** 2 + (py - along * ey) ** 2)
        if ay != by:
            crosses = (ay > v) != (by > v)
            inside ^= crosses & (px < ex * py / ey)
    return np.where(inside, 1.0, -1.0) * np.sqrt(nearest)


def _polygons() -> dict[str, np.ndarray]:
    turn = np.arange(5) * 2 * np.pi / 5 + np.pi / 2
    spikes = np.stack([np.cos(turn), np.sin(turn)], 1)
    valleys = 0.42 * np.stack([np.cos(turn + np.pi / 5), np.sin(turn + np.pi / 5)], 1)
    t = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    heart_y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    outlines = {
        "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        "triangle": [(-1, -0.75), (1, -0.75), (0, 1)],
        "star": np.stack([spikes, valleys], 1).reshape(10, 2),
        "plus": [
            *[(-0.34, -1), (0.34, -1), (0.34, -0.34), (1, -0.34), (1, 0.34), (0.34, 0.34)],
            *[(0.34, 1), (-0.34, 1), (-0.34, 0.34), (-1, 0.34), (-1, -0.34), (-0.34, -0.34)],
        ],
        "heart": np.stack([16 * np.sin(t) ** 3, heart_y + 2.5], 1),
        "hourglass": [(-0.85, -1), (0.85, -1), (0.16, 0), (0.85, 1), (-0.85, 1), (-0.16, 0)],
        "arrow": [(-1, -0.33), (0.05, -0.33), (0.05, -0.95), (1, 0), (0.05, 0.95), (0.05, 0.33), (-1, 0.33)],
    }
    return {name: _unit_disc_area(np.array(corners, dtype=float)) for name, corners in outlines.items()}


def _unit_disc_area(corners: np.ndarray) -> np.ndarray:
    """Scaled so that the polygon covers pi: no shape betrays itself by its size."""
    x, y = corners.T
    area = 0.5 * abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))
    return corners * np.sqrt(np.pi / area)


_POLYGONS = _polygons()


def _textures(seeds: np.ndarray, size: int) -> np.ndarray:
    """1/f textures with a tint, float in [0, 1], shape (n, size, size, 3)."""
    cutoff = 3  # cycles an image: soft, like a background out of focus
    frequency = np.arange(-cutoff, cutoff + 1)
    radius = np.hypot(frequency[:, None], frequency[None, :])
    amplitude = np.where((radius > 0) & (radius <= cutoff), 1 / np.maximum(radius, 1) ** 1.2, 0.0)
    axis = np.arange(size) / size
    wave = np.exp(2j * np.pi * axis[:, None] * frequency[None, :])  # (size, frequencies)
    noise = np.empty((len(seeds), 3, len(frequency), len(frequency)), dtype=np.complex64)
    tint = np.empty((len(seeds), 3))
    for row, seed in enumerate(seeds):
        rng = np.random.default_rng(seed)
        drawn = rng.standard_normal((2, *noise.shape[1:]), dtype=np.float32)
        noise[row] = drawn[0] + 1j * drawn[1]
        tint[row] = rng.uniform(0.32, 0.58) + rng.uniform(-0.07, 0.07, 3)
    # Channels share most of their texture: natural backgrounds vary more in lightness than in hue.
    noise = 0.9 * noise.mean(1, keepdims=True) * np.sqrt(3) + 0.3 * noise
    field = np.einsum("xf,ncfg,yg->nxyc", wave, noise * amplitude, wave, optimize=True).real
    field *= 0.065 / np.sqrt((amplitude**2).sum())  # root-mean-square contrast
    return np.clip(tint[:, None, None, :] + field, 0, 1)
