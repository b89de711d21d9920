"""The drawing board of the generated streets: a camera, a light, and shapes painted onto image and labels at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from segwright.imageio import UInt8Array

Floats = npt.NDArray[np.floating[Any]]  # float32 all through; numpy's stubs widen it in mixed arithmetic
Bools = npt.NDArray[np.bool_]
Color = Sequence[float]
T = TypeVar("T")
SCALE = 2  # drawn at twice the size, halved at the end


@dataclass(frozen=True)
class Scene:
    """One street: camera, layout in metres, light. Pixels are those of the enlarged drawing."""

    height: int
    width: int
    seed: int
    horizon: float  # row
    vanish_x: float  # column where the street ends
    slope: float  # columns from there to the middle of the road at the lower edge
    metre: float  # pixels a metre at nearness 1
    depth: float  # metres from the camera at nearness 1
    kerb: float  # metres from the road's middle to the kerb
    wall: float  # … and to the houses
    crossing: float  # metres from the camera to the zebra crossing; far beyond sight where there is none
    edge_lines: bool
    phase: float
    stone: tuple[float, float, float]
    asphalt: tuple[float, float, float]
    zenith: tuple[float, float, float]
    haze: tuple[float, float, float]
    light: tuple[float, float, float]
    sun: float  # -0.34…0.34: how much brighter the right-hand walls are
    exposure: float

    @classmethod
    def random(
        cls,
        rng: Random,
        size: tuple[int, int],
        skies: Sequence[tuple[tuple[int, int, int], tuple[int, int, int], tuple[float, float, float], float]],
    ) -> Scene:
        height, width = size[0] * SCALE, size[1] * SCALE
        zenith, haze, light, sun = pick(rng, skies)
        kerb = 3.2 + 1.4 * rng.random()
        gray = 78 + 44 * rng.random()
        stone = 150 + 36 * rng.random()
        return cls(
            height=height,
            width=width,
            seed=int(rng.random() * 2**48),
            horizon=height * (0.36 + 0.1 * rng.random()),
            vanish_x=width * (0.38 + 0.24 * rng.random()),
            slope=width * 0.22 * (rng.random() - 0.5),
            metre=width * (0.115 + 0.03 * rng.random()),
            depth=5.0 + rng.random(),
            kerb=kerb,
            wall=kerb + 2.2 + 1.8 * rng.random(),
            crossing=8 + 10 * rng.random() if rng.random() < 0.35 else 1e6,
            edge_lines=rng.random() < 0.5,
            phase=rng.random(),
            stone=(stone, stone - 4, stone - 14),
            asphalt=(gray, gray, gray + 5),
            zenith=zenith,
            haze=haze,
            light=light,
            sun=sun if rng.random() < 0.5 else -sun,
            exposure=0.78 + 0.4 * rng.random(),
        )

    @property
    def drop(self) -> float:
        """Rows from the horizon to the lower edge."""
        return self.height - self.horizon

    def ground(self, nearness: Any) -> Any:
        """The row of the ground at a nearness."""
        return self.horizon + self.drop * nearness

    def middle(self, nearness: Floats) -> Floats:
        """The column of the road's middle at a nearness."""
        return self.vanish_x + self.slope * nearness

    def place(self, metres: float, nearness: float) -> tuple[float, float, float]:
        """Column and row of a point on the ground, and the pixels a metre there."""
        unit = self.metre * nearness
        return self.vanish_x + self.slope * nearness + metres * unit, self.horizon + self.drop * nearness, unit


@dataclass(frozen=True)
class Box:
    """Whole pixels [top, bottom) × [left, right) inside the drawing."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def grid(self) -> tuple[Floats, Floats]:
        """Pixel centers: rows (h, 1) and columns (1, w)."""
        rows = np.arange(self.top, self.bottom, dtype=np.float32)[:, None] + np.float32(0.5)
        columns = np.arange(self.left, self.right, dtype=np.float32)[None] + np.float32(0.5)
        return rows, columns


class Canvas:
    """Image (3, H, W) in float (planes: numpy is quickest along rows) and labels (H, W), both enlarged."""

    def __init__(self, scene: Scene, void: int) -> None:
        self.scene, self.void = scene, void
        self.height, self.width = scene.height, scene.width
        self.image = np.zeros((3, self.height, self.width), np.float32)
        self.labels = np.full((self.height, self.width), void, np.uint8)
        bits = np.random.PCG64(scene.seed)
        cells = (24, 5, 3, 70)
        self.textures = [_texture(bits, (self.height, self.width), cell) for cell in cells]

    def texture(self, index: int, box: Box | None = None) -> Floats:
        """A smooth random field in 0…1: 0 clouds, 1 leaves, 2 grain, 3 broad light."""
        field = self.textures[index]
        return field if box is None else field[box.slices]

    def box(self, left: float, top: float, right: float, bottom: float) -> Box | None:
        """The part of a rectangle that is inside the drawing."""
        found = Box(
            max(0, int(top)), min(self.height, int(bottom) + 1), max(0, int(left)), min(self.width, int(right) + 1)
        )
        return found if found.top < found.bottom and found.left < found.right else None

    def paint(self, box: Box, where: Bools | None, color: Floats, label: int) -> None:
        """Color (3, h, w), or what broadcasts to it, and the label onto the pixels of ``box`` that ``where`` names."""
        rows, columns = box.slices
        if where is None:
            self.image[:, rows, columns] = color
            self.labels[rows, columns] = label
            return
        np.copyto(self.image[:, rows, columns], color, where=where)
        np.copyto(self.labels[rows, columns], np.uint8(label), where=where)

    def shadow(self, x: float, y: float, wide: float, high: float) -> None:
        """Darkens the ground under a thing; labels stay."""
        box = self.box(x - wide, y - high, x + wide, y + high)
        if box is None:
            return
        rows, columns = box.grid()
        inside = ((columns - x) / max(wide, 1e-3)) ** 2 + ((rows - y) / max(high, 1e-3)) ** 2
        rows_, columns_ = box.slices
        self.image[:, rows_, columns_] *= (0.5 + 0.5 * inside).clip(0, 1)

    def ellipse(
        self,
        center: tuple[float, float],
        wide: float,
        high: float,
        color: Color,
        label: int,
        *,
        grain: float = 0.0,
        ragged: float = 0.0,
    ) -> None:
        """A filled ellipse; ``ragged`` lets the leaf texture eat into its edge."""
        x, y = center
        box = self.box(x - wide, y - high, x + wide, y + high)
        if box is None:
            return
        rows, columns = box.grid()
        inside = ((columns - x) / max(wide, 1e-3)) ** 2 + ((rows - y) / max(high, 1e-3)) ** 2
        texture = self.texture(1, box)
        limit = 1.0 - ragged * texture if ragged else np.float32(1)
        self.paint(box, inside < limit, shade(color, texture, grain), label)

    def quad(
        self,
        left: float,
        right: float,
        top: float,
        bottom: float,
        color: Color,
        label: int,
        *,
        grain: float = 0.0,
        taper: float = 1.0,
        lean: float = 0.0,
    ) -> None:
        """A trapezium: ``taper`` is the upper width as a share of the lower, ``lean`` shifts the lower edge."""
        box = self.box(left - abs(lean), top, right + abs(lean), bottom)
        if box is None:
            return
        rows, columns = box.grid()
        down = ((rows - top) / max(bottom - top, 1e-3)).clip(0, 1)
        middle, half = (left + right) / 2 + lean * down, (right - left) / 2 * (taper + (1 - taper) * down)
        where = (np.abs(columns - middle) < half) & (rows >= top) & (rows < bottom)
        self.paint(box, where, shade(color, self.texture(2, box), grain), label)

    def diamond(self, center: tuple[float, float], radius: float, color: Color, label: int) -> None:
        x, y = center
        box = self.box(x - radius, y - radius, x + radius, y + radius)
        if box is not None:
            rows, columns = box.grid()
            where = np.abs(columns - x) + np.abs(rows - y) < radius
            self.paint(box, where, planes(color), label)

    def render(self, rng: Random) -> tuple[UInt8Array, UInt8Array]:
        """Light, halving, sensor noise: the image and its labels at the wanted size."""
        scene = self.scene
        lit = self.image
        small = lit[:, 0::2, 0::2] + lit[:, 0::2, 1::2] + lit[:, 1::2, 0::2] + lit[:, 1::2, 1::2]
        small *= planes(scene.light) * np.float32(0.25 * scene.exposure)
        strength = np.float32(2 + 7 * rng.random())
        raw = np.random.PCG64(scene.seed + 1).random_raw((small.size + 3) // 4).astype("<u8").view(np.uint8)
        noise = raw.reshape(2, -1).astype(np.float32).sum(axis=0) * np.float32(1 / 255) - 1  # a triangle on -1…1
        small += noise[: small.size].reshape(small.shape) * strength
        image = np.ascontiguousarray((small + np.float32(0.5)).clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
        first = self.labels[0::2, 0::2]
        same = (
            (first == self.labels[0::2, 1::2]) & (first == self.labels[1::2, 0::2]) & (first == self.labels[1::2, 1::2])
        )
        return image, np.where(same, first, np.uint8(self.void))


def fraction(values: Floats) -> Floats:
    """The fractional part; ``% 1`` is ten times slower."""
    return values - np.floor(values)


def pick(rng: Random, options: Sequence[T]) -> T:
    """One of them. ``Random.choice`` promises no fixed stream across Python versions; ``Random.random`` does."""
    return options[int(rng.random() * len(options))]


def planes(color: Color) -> Floats:
    """A color as (3, 1, 1), to spread over planes."""
    return np.array(color, np.float32).reshape(3, 1, 1)


def shade(color: Color, texture: Floats, grain: float) -> Floats:
    """A color (3, h, w) that a texture in 0…1 makes lighter and darker by up to ``grain`` / 2."""
    return planes(color) * (1 + np.float32(grain) * (texture - np.float32(0.5))) if grain else planes(color)


def _texture(bits: np.random.PCG64, size: tuple[int, int], cell: int) -> Floats:
    """Value noise in 0…1: random lattice points every ``cell`` pixels, joined linearly."""
    height, width = size
    rows, columns = height // cell + 2, width // cell + 2
    raw = bits.random_raw((rows * columns + 7) // 8).astype("<u8").view(np.uint8)[: rows * columns]
    lattice = raw.reshape(rows, columns).astype(np.float32) * np.float32(1 / 255)
    y, x = np.arange(height, dtype=np.float32) / cell, np.arange(width, dtype=np.float32) / cell
    y0, x0 = y.astype(np.intp), x.astype(np.intp)
    fy, fx = (y - y0).astype(np.float32)[:, None], (x - x0).astype(np.float32)[None]
    across = lattice[:, x0] * (1 - fx) + lattice[:, x0 + 1] * fx  # (rows, W)
    return across[y0] * (1 - fy) + across[y0 + 1] * fy
