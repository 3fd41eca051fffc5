"""Drawn faces: a data set in one file, for when you name no other.

The training split is biased on purpose: light skin, no glasses, no beards, no hats. The out-of-
distribution split has exactly what it lacks and shares all else (pose, light, hair, expression,
clothes, background): a prior trained on the first shows on the second what its bias costs.

Each part of a face is a signed distance (negative inside) painted with a soft edge. Arrays meet
only + - * /, square roots, minima and floors, which IEEE 754 rounds in one way only, so that a
face has the same bytes on every machine.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

Distribution = Literal["in", "out"]
Array = NDArray[np.float32]
Colour = Sequence[float] | Array  # red, green, blue in [0, 1], constant or an image (3, H, W)

LIGHT_SKIN, DARK_SKIN = (0.0, 0.25), (0.5, 1.0)  # ranges of the tone; neither has the gap
GLASSES = ("round", "square", "sunglasses")
BEARDS = ("moustache", "goatee", "full")
HATS = ("beanie", "cap", "brim")
OUT_RATES = (0.7, 0.6, 0.5, 0.5)  # of dark skin, glasses, beard and hat; each face has one or more

MINIMUM_SIZE = 8
SAMPLED_SIZE = 64  # draws smaller images at this size or more, and averages them down
PIXEL_NOISE = 1.0 / 255  # rms of the only part without structure
CONTRAST = 0.86  # a print's: its blacks are not black
EDGE = 1.8  # width of an edge in pixels: lines neither shimmer nor smear
FOCUS = 0.15  # width of an edge behind the face, out of focus (the image is 2 wide)
TURN = 0.09  # how far a turn of the head moves its features

WARM = np.array([0.85, 1.0, 1.08], np.float32)[:, None, None]  # what shade takes of each colour
SKIN = (
    (1.0, 0.86, 0.77),
    (0.94, 0.73, 0.60),
    (0.76, 0.53, 0.39),
    (0.57, 0.37, 0.25),
    (0.39, 0.24, 0.17),
    (0.27, 0.17, 0.13),
)
HAIR = (
    (0.17, 0.14, 0.14),
    (0.34, 0.24, 0.18),
    (0.48, 0.32, 0.20),
    (0.66, 0.38, 0.22),
    (0.84, 0.68, 0.44),
    (0.66, 0.66, 0.68),
)
IRIS = ((0.38, 0.55, 0.74), (0.38, 0.55, 0.42), (0.48, 0.33, 0.20), (0.30, 0.21, 0.16))
FRAMES = ((0.05, 0.05, 0.06), (0.45, 0.20, 0.10), (0.85, 0.70, 0.30))


@dataclass(frozen=True)
class Attributes:
    """What the splits differ in: the skin's tone, 0 (lightest) to 1, and "none" or one kind of
    `GLASSES`, `BEARDS` and `HATS` each."""

    skin: float
    glasses: str = "none"
    beard: str = "none"
    hat: str = "none"


def attributes(index: int, distribution: Distribution = "in", seed: int = 0) -> Attributes:
    """Choose the labels of a face, without drawing it. Raises ValueError as `render` does.

    "in": skin in `LIGHT_SKIN` and nothing else. "out": at least one, mostly two or three, of skin
    in `DARK_SKIN`, glasses, a beard and a hat.
    """
    rng = _generator(index, distribution, seed, stream=0)
    has = np.zeros(4, bool)
    while distribution == "out" and not has.any():
        has = rng.random(4) < OUT_RATES
    tone = rng.uniform(*(DARK_SKIN if has[0] else LIGHT_SKIN))
    kinds = (names[rng.integers(len(names))] for names in (GLASSES, BEARDS, HATS))
    return Attributes(tone, *(k if h else "none" for k, h in zip(kinds, has[1:], strict=True)))


def render(
    index: int, *, distribution: Distribution = "in", seed: int = 0, image_size: int = 32
) -> NDArray[np.uint8]:
    """Draw one face: a pure function of its arguments, and at any size the same face.

    Args:
        index: which face, 0 or more, without end.
        distribution: "in" (the biased training split) or "out" (what it lacks).
        seed: which population of faces, 0 or more.
        image_size: H = W in pixels, 8 or more.

    Returns:
        uint8 (H, W, 3), values in [0, 255].

    Raises:
        ValueError: an argument is outside its range.
    """
    if image_size < MINIMUM_SIZE:
        raise ValueError(f"image_size must be at least {MINIMUM_SIZE}, got {image_size}")
    labels = attributes(index, distribution, seed)
    rng = _generator(index, distribution, seed, stream=1)
    canvas = _Canvas(image_size, samples=math.ceil(SAMPLED_SIZE / image_size))
    _background(canvas, rng)
    face = _Face(canvas, labels, rng)
    for part in (
        _hair_behind,
        _clothes,
        _head,
        _nose,
        _eyes,
        _mouth,
        _beard,
        _hair,
        _hat,
        _glasses,
    ):
        part(canvas, face, rng)
    image = 0.5 + CONTRAST * (canvas.averaged() - 0.5)
    image += PIXEL_NOISE * 12**0.5 * (rng.random(image.shape, np.float32) - 0.5)
    return np.rint(255 * image.clip(0, 1)).astype(np.uint8).transpose(1, 2, 0).copy()


def faces(
    indices: Sequence[int] | range,
    *,
    distribution: Distribution = "in",
    seed: int = 0,
    image_size: int = 32,
) -> Tensor:
    """Draw the face of each index: uint8 (N, 3, H, W). Raises ValueError as `render` does."""
    images = np.empty((len(indices), image_size, image_size, 3), np.uint8)
    for k, index in enumerate(indices):
        images[k] = render(index, distribution=distribution, seed=seed, image_size=image_size)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _generator(index: int, distribution: str, seed: int, stream: int) -> Generator:
    if distribution not in ("in", "out"):
        raise ValueError(f'distribution must be "in" or "out", got {distribution!r}')
    for name, value in (("index", index), ("seed", seed)):
        if value < 0:
            raise ValueError(f"{name} must be 0 or more, got {value}")
    entropy = (seed, int(distribution == "out"), index)
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(stream,)))


class _Canvas:
    """The picture so far, and the coordinates x (right) and y (down), at first in [-1, 1]."""

    def __init__(self, image_size: int, samples: int) -> None:
        size, self.samples = image_size * samples, samples
        self.edge = EDGE * 2 / image_size
        line = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
        self.x, self.y = np.meshgrid(line, line)
        self.rgb = np.zeros((3, size, size), np.float32)

    def move(self, x: float, y: float, scale: float, roll: float) -> None:
        """From here on, draw in a frame centred at (x, y), `scale` as large, turned by `roll`."""
        cos, sin = math.cos(roll) / scale, math.sin(roll) / scale
        dx, dy = self.x - x, self.y - y
        self.x, self.y, self.edge = cos * dx + sin * dy, cos * dy - sin * dx, self.edge / scale

    def paint(self, d: Array, colour: Colour, opacity: float = 1.0, blur: float = 0.0) -> None:
        """Lay a colour wherever the distance d is negative."""
        cover = opacity * np.clip(0.5 - d * (1 / (self.edge + blur)), 0, 1)
        self.rgb += cover * (_rgb(colour) - self.rgb)

    def averaged(self) -> Array:
        """Average every samples x samples square to one pixel."""
        n = self.samples
        parts = [self.rgb[:, i::n, j::n] for i in range(n) for j in range(n)]
        total: Array = np.add.reduce(parts) * np.float32(1 / n**2)
        return total


def _rgb(colour: Colour | NDArray[np.float64]) -> Array:
    array = np.asarray(colour, np.float32)
    return array if array.ndim == 3 else array[:, None, None]


def _shaded(colour: Colour, light: float | Array) -> Array:
    return _rgb(colour) * (1 + WARM * (light - 1))


def _between(scale: Sequence[Sequence[float]], t: float) -> Array:
    """Interpolate the colour at t in [0, 1] of a scale of colours."""
    k = min(int(t * (len(scale) - 1)), len(scale) - 2)
    t = t * (len(scale) - 1) - k
    return (1 - t) * _rgb(scale[k]) + t * _rgb(scale[k + 1])


def _muted(rng: Generator, low: float, high: float) -> Array:
    """Choose a grey with a little colour in it, as most walls and clothes have."""
    return _rgb(rng.uniform(low, high) + rng.uniform(-0.13, 0.13, 3))


def _ellipse(x: Array, y: Array, a: float, b: float) -> Array:
    p, q = x * (1 / a), y * (1 / b)
    k = p * p + q * q
    return (k - np.sqrt(k)) / (np.sqrt(np.square(p * (1 / a)) + np.square(q * (1 / b))) + 1e-6)


def _box(x: Array, y: Array, a: float, b: float, rounding: float = 0.0) -> Array:
    p, q = np.abs(x) - (a - rounding), np.abs(y) - (b - rounding)
    corner = np.sqrt(np.square(np.maximum(p, 0)) + np.square(np.maximum(q, 0)))
    return corner + np.minimum(np.maximum(p, q), 0) - rounding


def _wave(t: Array) -> Array:
    """Approximate sin(2 pi t) by parabolas."""
    u = 2 * (t - np.floor(t)) - 1
    return 4 * u * (np.abs(u) - 1)


def _dots(x: Array, y: Array, rng: Generator) -> tuple[Array, Array]:
    """Put one dot somewhere in every unit square: the distance to it, and a shade in [0, 1)."""
    column, row = np.floor(x), np.floor(y)
    place = row.astype(np.intp) % 8 * 8 + column.astype(np.intp) % 8
    u, v, radius, shade = rng.random((4, 64), np.float32)[:, place]
    dx, dy = x - column - 0.3 - 0.4 * u, y - row - 0.3 - 0.4 * v
    return np.sqrt(dx * dx + dy * dy) - 0.1 - 0.25 * radius, shade


def _background(c: _Canvas, rng: Generator) -> None:
    """Paint a wall whose colour drifts and, out of focus, mostly something on it."""
    slope_x, slope_y = rng.uniform(-0.15, 0.15, 2).tolist()
    c.rgb += _muted(rng, 0.25, 0.6) + (slope_x * c.x + slope_y * c.y)
    (_horizon, _stripes, _window, _books, _leaves, _lights)[rng.integers(6)](c, rng)


def _horizon(c: _Canvas, rng: Generator) -> None:
    c.paint(rng.uniform(-0.6, 0.6) - c.y, _muted(rng, 0.3, 0.8), 0.7, blur=0.4)


def _stripes(c: _Canvas, rng: Generator) -> None:
    angle, period = rng.uniform(0, math.pi), rng.uniform(0.5, 0.9)
    t = (math.cos(angle) * c.x + math.sin(angle) * c.y) * (1 / period) + rng.random()
    stripe = (np.abs(t - np.floor(t) - 0.5) - rng.uniform(0.12, 0.28)) * period
    c.paint(stripe, _muted(rng, 0.3, 0.7), 0.6, FOCUS)


def _window(c: _Canvas, rng: Generator) -> None:
    x, y = c.x - rng.uniform(-0.6, 0.6), c.y - rng.uniform(-0.5, 0.1)
    a, b = rng.uniform(0.6, 0.9), rng.uniform(0.5, 0.8)
    panes = _box(np.abs(x) - a / 2, np.abs(y) - b / 2, a / 2 - 0.04, b / 2 - 0.04)
    hills = rng.uniform(-0.1, 0.4) + 0.1 * _wave(0.7 * x) - y
    c.paint(_box(x, y, a + 0.07, b + 0.07), (0.85, 0.84, 0.80), 0.8, FOCUS)
    c.paint(panes, _between(((0.45, 0.68, 0.92), (0.98, 0.75, 0.55)), rng.random()), 0.7, FOCUS)
    c.paint(np.maximum(panes, hills), (0.33, 0.47, 0.32), 0.8, FOCUS)


def _books(c: _Canvas, rng: Generator) -> None:
    x, y = c.x * rng.uniform(2, 3) + rng.uniform(8, 9), c.y * 1.1 + rng.uniform(4, 5)
    column, shelf = np.floor(x), np.floor(y)
    place = shelf.astype(np.intp) % 8 * 16 + column.astype(np.intp) % 16
    top, *spines = rng.uniform(0.2, 0.65, (4, 128)).astype(np.float32)[:, place]
    up = 1 - (y - shelf)  # height above the board
    c.rgb *= 0.7
    book = np.maximum(np.abs(x - column - 0.5) - 0.42, up - 0.3 - top)
    c.paint(0.4 * book, np.stack(spines), 0.6, FOCUS)
    c.paint(0.9 * (up - 0.1), (0.55, 0.42, 0.30), 1, FOCUS)


def _leaves(c: _Canvas, rng: Generator) -> None:
    hue = rng.uniform(0.1, 0.35)
    c.rgb *= 0.7
    for scale in (1.6, 2.2):
        cos, sin = scale * math.cos(scale), scale * math.sin(scale)
        d, shade = _dots(cos * c.x + sin * c.y, 1.5 * (cos * c.y - sin * c.x), rng)
        green = np.stack([hue + 0.25 * shade, 0.32 + 0.3 * shade, 0.18 + 0.15 * shade])
        c.paint((d - 0.1) * (1 / scale), green, 0.6, FOCUS)


def _lights(c: _Canvas, rng: Generator) -> None:
    cold = rng.uniform(0.3, 1)
    c.rgb *= 0.7
    for scale in (1.2, 1.8):
        d, shade = _dots(scale * c.x, scale * c.y, rng)
        glow = np.stack([0.8 + 0.2 * shade, 0.5 + 0.3 * shade, 0.2 + cold * shade])
        c.paint(d * (1 / scale), glow, 0.4, FOCUS)


class _Face:
    """What the parts of a face share: labels, pose, light, the skin and the hair."""

    def __init__(self, c: _Canvas, labels: Attributes, rng: Generator) -> None:
        uniform = rng.uniform
        c.move(uniform(-0.1, 0.1), uniform(-0.02, 0.1), uniform(1.15, 1.35), uniform(-0.16, 0.16))
        self.labels, self.yaw = labels, uniform(-1, 1)
        self.x = c.x - TURN * self.yaw  # the features' own axis
        self.a, self.b = uniform(0.46, 0.53), uniform(0.60, 0.67)
        jaw = 1 - uniform(0.1, 0.3) * np.maximum(c.y, 0)
        self.head = _ellipse(c.x / jaw, c.y, self.a, self.b)

        angle, u, v = uniform(-1.1, 1.1), c.x * (0.85 / self.a), c.y * (0.85 / self.b)
        self.side = math.sin(angle)  # from which the light comes
        depth = np.sqrt(np.maximum(1 - u * u - v * v, 0.04))  # towards us, on a ball
        lit = u * self.side - v * uniform(0.1, 0.7) + depth * math.cos(angle)
        self.shade = 0.7 + 0.32 * np.clip(lit, 0, 1)
        self.tone = _between(SKIN, labels.skin) + uniform(-0.03, 0.03) * _rgb((1, 0, -1))

        self.hair_colour, self.parting = _between(HAIR, rng.random()), uniform(-0.3, 0.3)
        self.length = (-0.05, 0.15, 0.55, 1.5)[rng.integers(4)] + uniform(-0.1, 0.1)
        falling = np.minimum(c.y, 0) + (0.25 if self.length > 0.3 else 0.8) * np.maximum(c.y, 0)
        volume = uniform(0.03, 0.13)
        self.crown = _ellipse(c.x, falling + 0.04, self.a + volume, self.b + volume)
        self.crown += uniform(0, 0.03) * _wave(3 * c.x) * _wave(3 * c.y)  # curls
        fan = (c.x - self.parting) / (c.y + 2) * uniform(5, 9)  # locks spread from the parting
        locks = _wave(fan + uniform(0, 0.3) * _wave(c.y * uniform(1, 2)) + rng.random())
        sheen = np.maximum(1 - 60 * np.square(self.crown + uniform(0.1, 0.2)), 0)
        strands = 1 + 0.14 * locks + 0.06 * _wave(2.7 * fan + rng.random())
        self.hair = self.hair_colour * (self.shade * strands + 0.2 * sheen) + 0.05 * sheen


def _hair_behind(c: _Canvas, f: _Face, rng: Generator) -> None:
    c.paint(np.maximum(f.crown, c.y - f.length), 0.75 * f.hair)


def _clothes(c: _Canvas, f: _Face, rng: Generator) -> None:
    """Paint a neck in the shadow of the chin, and a striped, a V-necked or a collared top."""
    kind, cloth, accent = rng.integers(3), _muted(rng, 0.2, 0.8), _muted(rng, 0.3, 0.8)
    side = np.abs(c.x)
    c.paint(np.maximum(side - 0.24, 0.3 - c.y), _shaded(f.tone, 0.66))
    neckline = c.y - (0.9, 0.96, 0.76)[kind] + (0.5, 1.2, 0.3)[kind] * side
    top = np.maximum(0.72 + 0.3 * c.x * c.x - c.y, -np.maximum(neckline, side - 0.3))
    c.paint(top, cloth)
    if kind == 0:
        c.paint(np.maximum(top, 0.06 - 0.2 * np.abs(_wave(3 * c.y))), accent)
    if kind == 2:
        c.paint(np.maximum(np.abs(c.y - 0.9 + 0.5 * side) - 0.06, side - 0.3), accent)


def _head(c: _Canvas, f: _Face, rng: Generator) -> None:
    """Paint ears, shaded skin, blushing cheeks, shadowed eye sockets, and freckles on some."""
    ear = _ellipse(np.abs(c.x + 0.03 * f.yaw) - f.a - 0.01, c.y - 0.04, 0.075, 0.13)
    c.paint(ear, _shaded(f.tone, 0.78))
    c.paint(ear + 0.035, _shaded(f.tone, 0.62), blur=0.02)
    c.paint(f.head, _shaded(f.tone, f.shade))
    x, blush, spots = np.abs(f.x), f.tone * _rgb((1, 0.7, 0.7)), _dots(9 * f.x, 9 * c.y, rng)[0]
    c.paint(_ellipse(x - 0.27, c.y - 0.17, 0.12, 0.09), blush, rng.uniform(0.1, 0.5), 0.12)
    c.paint(_ellipse(x - 0.2, c.y + 0.07, 0.14, 0.09), _shaded(f.tone, 0.6), 0.5, 0.1)
    if rng.random() < 0.35:
        spots = np.maximum((spots + 0.08) * (1 / 9), _ellipse(f.x, c.y - 0.14, 0.36, 0.12))
        c.paint(spots, f.tone * _rgb((0.65, 0.5, 0.45)), 0.6)


def _nose(c: _Canvas, f: _Face, rng: Generator) -> None:
    """Paint a ridge, bright on the side of the light and dark on the other, and two nostrils."""
    x, y, a = f.x - 0.5 * TURN * f.yaw, c.y - rng.uniform(0.15, 0.19), rng.uniform(0.07, 0.1)
    dark, away = _shaded(f.tone, 0.62), -1 if f.side > 0 else 1
    c.paint(_box(x - away * 0.05, y + 0.1, 0.025, 0.13), dark, 0.2 + 0.3 * abs(f.side), 0.03)
    c.paint(_ellipse(x, y, a, 0.05), dark, 0.5, 0.05)
    c.paint(_ellipse(x + away * 0.01, y + 0.05, 0.03, 0.08), _shaded(f.tone, 1.25), 0.7, 0.05)
    c.paint(_ellipse(np.abs(x) - 0.6 * a, y - 0.03, 0.025, 0.018), _shaded(f.tone, 0.3))


def _eyes(c: _Canvas, f: _Face, rng: Generator) -> None:
    """Paint almonds with lids; irises that look somewhere, pupils and a glint; brows."""
    half, tall, thick = rng.uniform((0.13, 0.06, 0.02), (0.155, 0.09, 0.045)).tolist()
    gaze, raised, slant = rng.uniform((-0.025, 0.15, -0.1), (0.025, 0.2, 0.3)).tolist()
    iris = IRIS[rng.integers(len(IRIS))]
    for side in (-1, 1):
        x, y = f.x - side * 0.21, c.y + 0.05
        profile = 1 - np.square(x * (1 / (half * (1 - 0.15 * side * f.yaw))))  # far eye: narrower
        almond = np.abs(y) - tall * profile
        ball = _ellipse(x - gaze, y, 0.065, 0.065)
        c.paint(almond - 0.012, _shaded(f.tone, 0.6))
        c.paint(almond, (0.90, 0.88, 0.86))
        c.paint(np.maximum(ball, almond), iris)
        c.paint(np.maximum(ball + 0.035, almond), (0.10, 0.08, 0.08))
        c.paint(_ellipse(x - gaze + 0.02, y + 0.025, 0.016, 0.016), (0.95, 0.95, 0.95))
        c.paint(np.maximum(almond - 0.022, y + 0.6 * tall * profile), (0.25, 0.18, 0.16))
        brow = np.abs(y + raised + 0.03 * profile - side * slant * x)
        c.paint(brow - thick * np.minimum(profile + 0.35, 1), 0.6 * f.hair_colour, 0.7)


def _mouth(c: _Canvas, f: _Face, rng: Generator) -> None:
    """Paint lips, bent into a smile or not, sometimes parted over teeth."""
    half, bend, full = rng.uniform((0.14, -0.5, 0.025), (0.2, 3, 0.045)).tolist()
    parted, rouge = max(rng.uniform(-0.06, 0.07), 0), rng.uniform(0.1, 0.6)
    x, y = f.x, c.y - 0.36
    c.paint(_ellipse(x, y - parted - 0.1, 0.1, 0.03), _shaded(f.tone, 0.65), 0.5, 0.05)
    y = y + bend * (x * x - half * half / 3)
    profile = 1 - np.square(x * (1 / half))
    lips = (1 - rouge) * f.tone * _rgb((0.85, 0.62, 0.62)) + rouge * _rgb((0.72, 0.12, 0.16))
    c.paint(np.abs(y) - (full + parted) * profile, lips)
    gap = np.maximum(np.abs(y) - (parted + 0.005) * profile, np.abs(x) - 0.85 * half)
    c.paint(gap, (0.30, 0.10, 0.10), 0.9)
    if parted > 0.02:
        c.paint(np.maximum(gap + 0.008, y - 0.3 * parted), (0.97, 0.96, 0.93))


def _beard(c: _Canvas, f: _Face, rng: Generator) -> None:
    """Paint a moustache, perhaps with a goatee round the mouth or a full beard to the ears."""
    if f.labels.beard == "none":
        return
    x = np.abs(f.x)
    grain = 1 + 0.25 * _wave(5 * f.x + 1.5 * _wave(c.y)) * _wave(2 * c.y)
    colour = 0.8 * f.hair_colour * (f.shade * grain)
    lobes = np.abs(c.y - 0.275 - 1.2 * x * x) - 0.045 * np.minimum(1.2 - 5 * x, 1)
    c.paint(lobes, colour)
    if f.labels.beard != "moustache":
        goatee = _box(f.x, c.y - 0.5, 0.2, 0.2, 0.1)
        full = 0.3 - 0.9 * np.maximum(x - 0.12, 0) - c.y
        area = np.maximum(goatee if f.labels.beard == "goatee" else full, f.head - 0.05)
        c.paint(np.maximum(area, -_ellipse(f.x, c.y - 0.37, 0.17, 0.07)), colour)


def _hair(c: _Canvas, f: _Face, rng: Generator) -> None:
    """Paint hair above a hairline that falls from the parting to the temples."""
    across = c.x - f.parting
    line = c.y + rng.uniform(0.33, 0.5) - rng.uniform(0.3, 1.4) * across * across
    c.paint(np.maximum(np.maximum(f.crown, 0.7 * line), c.y - f.length), f.hair)


def _hat(c: _Canvas, f: _Face, rng: Generator) -> None:
    """Paint a beanie with a cuff, a cap with seams and a peak, or a banded hat with a brim."""
    if f.labels.hat == "none":
        return
    cloth, trim = _muted(rng, 0.1, 0.9), _muted(rng, 0.1, 0.9)
    y = c.y - rng.uniform(-0.36, -0.28)
    dome = np.maximum(_ellipse(c.x, c.y + 0.06, f.a + 0.13, f.b + 0.14), y)
    if f.labels.hat == "beanie":
        c.paint(dome, cloth * (f.shade * (1 + 0.2 * _wave(9 * c.x / (c.y + 1.8)))))
        c.paint(_box(c.x, y + 0.02, f.a + 0.11, 0.09, 0.06), trim * (1 + 0.2 * _wave(9 * c.x)))
    elif f.labels.hat == "cap":
        c.paint(dome, cloth * f.shade)
        c.paint(np.maximum(dome, np.abs(np.abs(c.x) - 0.25 + 0.2 * c.y) - 0.012), 0.5 * cloth)
        c.paint(_ellipse(f.x - 0.05 * f.yaw, y, f.a, 0.11), 0.8 * trim)
    else:
        crown = _box(c.x, y + 0.3, f.a + 0.02, 0.32, 0.15)
        c.paint(crown, cloth * f.shade)
        c.paint(np.maximum(crown, np.abs(y + 0.1) - 0.07), trim)
        c.paint(_ellipse(c.x, y - 0.1 * c.x * c.x, 0.85, 0.09), 0.8 * cloth)


def _glasses(c: _Canvas, f: _Face, rng: Generator) -> None:
    """Paint round or square frames, or dark lenses with a reflection."""
    if f.labels.glasses == "none":
        return
    wide, tall, rim = rng.uniform((0.155, 0.11, 0.015), (0.185, 0.15, 0.035)).tolist()
    frame = _between(FRAMES, rng.random())
    x, y = np.abs(f.x) - 0.215, c.y + 0.03
    round_ = f.labels.glasses == "round"
    lens = _ellipse(x, y, wide, wide) if round_ else _box(x, y, wide, tall, 0.07)
    if f.labels.glasses == "sunglasses":
        c.paint(lens, (0.07, 0.08, 0.12), 0.95)
        c.paint(np.maximum(lens, np.abs(x + 0.7 * y) - 0.03), (0.5, 0.6, 0.7), 0.4)
    else:
        c.paint(lens, (0.85, 0.92, 1.0), 0.15)
    c.paint(np.abs(lens) - rim, frame)
    c.paint(_box(f.x, y + 0.03, 0.05, 0.018), frame)
    c.paint(np.maximum(np.abs(y + 0.05) - 0.018, np.maximum(wide - x, np.abs(c.x) - f.a)), frame)
