"""Draws one street scene and its labels: the images behind the embedded demo dataset.

A pinhole view down a straight street. The ground is a plane; ``d``, the nearness, is 0 at the horizon and 1 at the
lower edge of the image, so one metre at nearness ``d`` is ``metre * d`` pixels, sideways as upwards. Everything is
drawn at twice the size, far to near, and halved by exact 2×2 means, which smooths the edges as a lens does; pixels
where the four disagree on the class become void, as annotators leave them.

The same seed gives the same pixels on every machine: random numbers come from streams that Python and numpy guarantee
(``random.Random.random``, the raw output of PCG64), and the arithmetic keeps to operations that IEEE 754 rounds
exactly, one at a time (no sine, no exponential, no fused multiply-add).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from segwright.demo.canvas import Box, Canvas, Floats, Scene, fraction, pick, planes, shade
from segwright.imageio import UInt8Array

CLASSES = ("sky", "building", "road", "pavement", "tree", "car", "person", "pole", "sign")
COLORS = (
    (120, 170, 230), (150, 90, 80), (110, 80, 130), (230, 120, 200), (70, 150, 50),
    (30, 60, 190), (225, 45, 60), (175, 175, 165), (245, 205, 30),
)  # fmt: skip
SKY, BUILDING, ROAD, PAVEMENT, TREE, CAR, PERSON, POLE, SIGN = range(9)
VOID = 255

WALLS = (
    (176, 122, 98),
    (196, 176, 148),
    (150, 140, 132),
    (170, 92, 76),
    (206, 196, 180),
    (128, 116, 120),
    (188, 160, 110),
)
PAINTS = ((178, 28, 34), (30, 60, 140), (214, 214, 216), (38, 40, 46), (150, 154, 160), (28, 96, 72), (206, 160, 40))
CLOTHES = ((180, 40, 50), (40, 60, 130), (60, 60, 66), (220, 200, 80), (200, 200, 205), (40, 120, 90), (190, 100, 150))
SKIN = ((236, 196, 170), (198, 150, 118), (140, 96, 70), (96, 64, 48))
SKIES = (  # (zenith, horizon, light color, strength of the sun)
    ((88, 142, 214), (196, 216, 236), (1.04, 1.01, 0.95), 0.34),
    ((150, 164, 180), (206, 210, 214), (0.94, 0.96, 1.0), 0.08),
    ((96, 110, 168), (240, 190, 150), (1.06, 0.94, 0.84), 0.28),
    ((120, 168, 224), (222, 230, 238), (1.0, 1.0, 1.0), 0.22),
)


@dataclass(frozen=True)
class SceneObject:
    """An object waiting to be drawn: its nearness decides the order."""

    nearness: float
    kind: str
    side: int  # -1 left of the road's middle, 1 right, 0 on it
    metres: float  # sideways from the middle of the road
    length: float = 1.0  # a house's nearer end is this many times as near


def draw_street(seed: str, size: tuple[int, int]) -> tuple[UInt8Array, UInt8Array]:
    """One scene of ``size`` (height, width): the image H×W×3 and its labels H×W, class indices and 255 for void."""
    rng = Random(seed)
    scene = Scene.random(rng, size, SKIES)
    canvas = Canvas(scene, VOID)
    _sky(canvas, scene, rng)
    _ground(canvas, scene, rng)
    for thing in sorted(_things(scene, rng), key=lambda thing: thing.nearness):
        DRAW[thing.kind](canvas, scene, rng, thing)
    _bonnet(canvas, scene, rng)
    return canvas.render(rng)


def _things(scene: Scene, rng: Random) -> list[SceneObject]:
    """The objects and their places. Small far ones are left out: they would be a pixel or two."""
    things: list[SceneObject] = []
    for side in (-1, 1):
        nearness = 0.10 + 0.05 * rng.random()
        while nearness < 1.5:  # houses in a row, each nearer than the last, with gaps here and there
            step = 1.35 + 0.5 * rng.random()
            length = min(1.22 + 0.5 * rng.random(), step)
            things.append(SceneObject(nearness, "building", side, scene.wall, length))
            nearness *= step
        kerb = scene.kerb + 0.5
        for kind, count in (
            ("tree", int(rng.random() * 4)),
            ("pole", 1 + int(rng.random() * 2)),
            ("sign", int(rng.random() * 3)),
        ):
            for _ in range(count):
                where = kerb + 0.3 * rng.random() if kind != "tree" else scene.wall - 0.6 - 1.2 * rng.random()
                things.append(SceneObject(0.22 + 0.6 * rng.random(), kind, side, where))
        for _ in range(1 + int(rng.random() * 3)):
            where = scene.kerb + 0.5 + (scene.wall - scene.kerb - 1.0) * rng.random()
            things.append(SceneObject(0.30 + 0.5 * rng.random(), "person", side, where))
        for _ in range(int(rng.random() * 3)):  # parked at the kerb
            things.append(SceneObject(0.16 + 0.6 * rng.random(), "car", side, scene.kerb - 1.1))
    for _ in range(int(rng.random() * 3)):  # in their lanes
        things.append(SceneObject(0.14 + 0.4 * rng.random(), "car", pick(rng, (-1, 1)), scene.kerb * 0.42))
    if rng.random() < 0.3:  # somebody crosses
        things.append(
            SceneObject(0.32 + 0.3 * rng.random(), "person", pick(rng, (-1, 1)), scene.kerb * 0.8 * rng.random())
        )
    return things


def _sky(canvas: Canvas, scene: Scene, rng: Random) -> None:
    box = Box(0, min(canvas.height, int(scene.horizon) + 2), 0, canvas.width)
    down = (box.grid()[0] / scene.horizon).clip(0, 1)
    sky = planes(scene.zenith) * (1 - down) + planes(scene.haze) * down  # (3, h, 1)
    clouds = (canvas.texture(0, box) * 2.4 - 1.2).clip(0, 1) * np.float32(rng.random())
    canvas.paint(box, None, sky + (248 - sky) * clouds, SKY)
    # A line of far woods closes the street where the houses end.
    top = scene.horizon - canvas.height * (0.015 + 0.05 * canvas.texture(0)[-1:])
    box = Box(int(top.min()), box.bottom, 0, canvas.width)
    leaves = shade((52, 73, 49), canvas.texture(1, box), 0.5) + planes(scene.haze) * np.float32(0.3)
    canvas.paint(box, box.grid()[0] > top, leaves, TREE)


def _ground(canvas: Canvas, scene: Scene, rng: Random) -> None:
    """Grass, pavement with slabs, the road with its marks: all from each pixel's place on the ground plane."""
    box = Box(int(scene.horizon) + 1, canvas.height, 0, canvas.width)
    rows, columns = box.grid()
    near = (rows - scene.horizon) / scene.drop  # (h, 1): nearness of each row
    across = (columns - scene.middle(near)) / (scene.metre * near)  # metres from the middle of the road
    distance, along = np.abs(across), scene.depth / near  # (h, 1): metres from the camera
    grain = canvas.texture(2, box)
    light = 0.82 + 0.18 * canvas.texture(3, box)  # broad patches of light and shade
    canvas.paint(box, None, shade((96, 132, 66), grain, 0.55) * light, TREE)

    slabs = (fraction(along * 0.7) < 0.06) | (fraction(across * 0.9) < 0.05)
    stone = light * np.where(slabs & (near > 0.12), np.float32(0.86), np.float32(1))
    canvas.paint(box, distance < scene.wall, shade(scene.stone, grain, 0.22) * stone, PAVEMENT)

    patch = (across > 0.4) & (across < 2.0) & (fraction(along * 0.11 + scene.phase) < 0.2)
    road = shade(scene.asphalt, grain, 0.3) * np.where(patch, np.float32(0.88), np.float32(1))
    dashes = (distance < 0.09) & (fraction(along * 0.22 + scene.phase) < 0.5)
    edges = (np.abs(distance - scene.kerb + 0.35) < 0.07) & scene.edge_lines
    zebra = (np.abs(along - scene.crossing) < 1.4) & (fraction(across * 0.9) < 0.5) & (distance < scene.kerb - 0.2)
    worn = 166 + 56 * canvas.texture(1, box)
    canvas.paint(box, distance < scene.kerb, np.where(dashes | edges | zebra, worn, road) * light, ROAD)
    canvas.paint(box, np.abs(distance - scene.kerb) < 0.14, shade((198, 196, 190), grain, 0.15) * light, PAVEMENT)


def _building(canvas: Canvas, scene: Scene, rng: Random, thing: SceneObject) -> None:
    """A house: the wall along the street in true perspective, and the gable that faces us."""
    side, far = thing.side, thing.nearness
    near = far * thing.length
    metres = 5.0 + 9.0 * rng.random()
    wall, pane = pick(rng, WALLS), (58 + 40 * rng.random(), 70 + 40 * rng.random(), 84 + 50 * rng.random())
    every, storey, glow = 2.2 + 1.4 * rng.random(), 2.6 + 0.8 * rng.random(), rng.random()
    light = 1.0 + scene.sun * side
    reach = scene.slope + side * thing.metres * scene.metre  # sideways pixels from the vanishing point at d = 1

    edge = scene.vanish_x + reach * near
    end = edge + side * 6.0 * scene.metre * near
    top, foot = scene.ground(near) - metres * scene.metre * near, scene.ground(near)
    box = canvas.box(min(edge, end), top, max(edge, end), foot)
    if box is not None:
        y, x = box.grid()
        up = (foot - y) / (scene.metre * near)
        out = np.abs(x - edge) / (scene.metre * near)
        color = _facade(canvas.texture(2, box), wall, pane, out, up, (every, storey, glow))
        canvas.paint(box, None, _distance(scene, color * (0.92 - 0.1 * scene.sun), near), BUILDING)

    begin = scene.vanish_x + reach * far
    box = canvas.box(min(edge, begin), top, max(edge, begin), foot)
    if box is None:
        return
    y, x = box.grid()
    d = ((x - scene.vanish_x) / reach).clip(1e-3, None)
    up = (scene.ground(d) - y) / (scene.metre * d)
    color = _facade(canvas.texture(2, box), wall, pane, scene.depth / d, up, (every, storey, glow))
    canvas.paint(box, (up > 0) & (up < metres), _distance(scene, color * light, (far + near) / 2), BUILDING)


def _facade(
    grain: Floats,
    wall: Sequence[float],
    pane: Sequence[float],
    along: Floats,
    up: Floats,
    pattern: tuple[float, float, float],
) -> Floats:
    """A wall with windows: ``along`` and ``up`` are metres on the wall; pattern = (bay, storey, share of lit panes)."""
    every, storey, glow = pattern
    bay, floor = along / every, up / storey
    inside_bay, inside_floor = fraction(bay), fraction(floor)
    window = (inside_bay > 0.25) & (inside_bay < 0.75) & (inside_floor > 0.3) & (inside_floor < 0.8)
    frame = (inside_bay > 0.2) & (inside_bay < 0.8) & (inside_floor > 0.24) & (inside_floor < 0.85)
    lit = fraction((np.floor(bay) * 7 + np.floor(floor) * 13) * np.float32(1 / 11)) < 0.36 * glow
    color = shade(wall, grain, 0.28) * np.where(inside_floor < 0.05, np.float32(0.85), np.float32(1))
    color = np.where(frame, color * 0.6 + 90, color)
    glass = np.where(lit, planes((226, 206, 150)), planes(pane)) * (0.85 + 0.3 * inside_floor)
    return np.where(window, glass, color)


def _tree(canvas: Canvas, scene: Scene, rng: Random, thing: SceneObject) -> None:
    x, foot, unit = scene.place(thing.side * thing.metres, thing.nearness)
    height, spread = 3.6 + 2.4 * rng.random(), 1.1 + 0.7 * rng.random()
    canvas.shadow(x, foot, spread * unit, 0.22 * unit)
    canvas.quad(x - 0.16 * unit, x + 0.16 * unit, foot - height * 0.6 * unit, foot, (92, 72, 56), TREE, grain=0.4)
    green = (58 + 40 * rng.random(), 110 + 36 * rng.random(), 44 + 24 * rng.random())
    for blob in range(6):
        dx, dy = (rng.random() - 0.5) * 1.3 * spread, (rng.random() - 0.5) * 0.9 * spread
        radius = spread * (0.55 + 0.25 * rng.random())
        color = tuple(c * (0.72 + 0.075 * blob + 0.1 * scene.sun * thing.side) for c in green)
        center = (x + dx * unit, foot - (height - spread * 0.6 + dy) * unit)
        canvas.ellipse(center, radius * unit, radius * 0.85 * unit, color, TREE, grain=0.85, ragged=0.5)


def _car(canvas: Canvas, scene: Scene, rng: Random, thing: SceneObject) -> None:
    """Seen from behind, or from the front on the other lane: body, cabin, glass, wheels, lights, plate."""
    x, foot, unit = scene.place(thing.side * thing.metres, thing.nearness)
    paint, width, height = pick(rng, PAINTS), 0.88 + 0.1 * rng.random(), 1.4 + 0.3 * rng.random()
    oncoming = thing.side < 0
    canvas.shadow(x, foot, 1.12 * unit, 0.16 * unit)
    for wheel in (-1, 1):
        center = x + wheel * (width - 0.17) * unit
        canvas.quad(center - 0.16 * unit, center + 0.16 * unit, foot - 0.42 * unit, foot, (22, 22, 24), CAR)
    body, roof = foot - 0.2 * unit, foot - height * unit
    shoulder = foot - 0.92 * unit
    canvas.quad(x - width * unit, x + width * unit, shoulder, body, paint, CAR, grain=0.12, taper=0.96)
    canvas.quad(x - (width - 0.08) * unit, x + (width - 0.08) * unit, roof, shoulder, paint, CAR, grain=0.1, taper=0.76)
    glass = (60, 74, 88) if rng.random() < 0.7 else (120, 140, 156)
    span = (width - 0.18) * unit
    canvas.quad(x - span, x + span, roof + 0.09 * unit, shoulder - 0.03 * unit, glass, CAR, grain=0.3, taper=0.78)
    canvas.quad(x - width * unit, x + width * unit, body - 0.16 * unit, body, (48, 48, 52), CAR, taper=1.0)
    lamp = (250, 246, 214) if oncoming else (206, 24, 28)
    for light in (-1, 1):
        inner, outer = x + light * (width - 0.3) * unit, x + light * (width - 0.04) * unit
        top = shoulder + 0.14 * unit
        canvas.quad(min(inner, outer), max(inner, outer), top, top + 0.17 * unit, lamp, CAR)
    canvas.quad(x - 0.24 * unit, x + 0.24 * unit, body - 0.3 * unit, body - 0.17 * unit, (228, 226, 200), CAR)


def _person(canvas: Canvas, scene: Scene, rng: Random, thing: SceneObject) -> None:
    x, foot, unit = scene.place(thing.side * thing.metres, thing.nearness)
    unit *= 0.92 + 0.16 * rng.random()
    shirt, trousers, skin, stride = pick(rng, CLOTHES), pick(rng, CLOTHES[:3]), pick(rng, SKIN), rng.random()
    canvas.shadow(x, foot, 0.4 * unit, 0.08 * unit)
    for leg in (-1, 1):
        hip, step = x + leg * 0.11 * unit, leg * (0.05 + 0.16 * stride) * unit
        canvas.quad(hip - 0.11 * unit, hip + 0.11 * unit, foot - 0.88 * unit, foot, trousers, PERSON, lean=step)
        arm = x + leg * 0.29 * unit
        canvas.quad(
            arm - 0.07 * unit, arm + 0.07 * unit, foot - 1.42 * unit, foot - 0.78 * unit, shirt, PERSON, lean=step
        )
    canvas.quad(x - 0.27 * unit, x + 0.27 * unit, foot - 1.46 * unit, foot - 0.8 * unit, shirt, PERSON, grain=0.3)
    canvas.ellipse((x, foot - 1.63 * unit), 0.14 * unit, 0.17 * unit, skin, PERSON)
    canvas.ellipse((x, foot - 1.71 * unit), 0.145 * unit, 0.1 * unit, (52, 38, 30), PERSON)


def _pole(canvas: Canvas, scene: Scene, rng: Random, thing: SceneObject) -> None:
    """A street lamp: a mast and an arm over the road."""
    x, foot, unit = scene.place(thing.side * thing.metres, thing.nearness)
    wide = max(0.11 * unit, 2.6)  # thinner than this and no pixel would be pole alone after halving
    tall = (4.6 + 1.6 * rng.random()) * unit
    gray = (82 + 50 * rng.random(),) * 3
    canvas.quad(x - wide, x + wide, foot - tall, foot, gray, POLE, grain=0.2)
    end = x - thing.side * 1.3 * unit
    canvas.quad(min(x, end), max(x, end), foot - tall, foot - tall + 1.3 * wide, gray, POLE)
    canvas.ellipse((end, foot - tall + wide), 0.32 * unit + 1, 0.12 * unit + 1.5, (226, 224, 204), POLE)


def _sign(canvas: Canvas, scene: Scene, rng: Random, thing: SceneObject) -> None:
    """A plate on a post: a round ban, a blue disc, a warning triangle or a yellow diamond."""
    x, foot, unit = scene.place(thing.side * thing.metres, thing.nearness)
    wide, size, tall = max(0.07 * unit, 2.3), max(0.42 * unit, 7.5), 2.5 * unit
    canvas.quad(x - wide, x + wide, foot - tall, foot, (128, 130, 134), POLE, grain=0.15)
    center = (x, foot - tall)
    kind = int(rng.random() * 4)
    if kind == 0:
        canvas.ellipse(center, size, size, (206, 30, 36), SIGN)
        canvas.ellipse(center, size * 0.68, size * 0.68, (240, 240, 236), SIGN)
        canvas.quad(
            x - size * 0.4, x + size * 0.4, center[1] - size * 0.12, center[1] + size * 0.12, (40, 40, 44), SIGN
        )
    elif kind == 1:
        canvas.ellipse(center, size, size, (30, 84, 190), SIGN)
        canvas.quad(
            x - size * 0.14, x + size * 0.14, center[1] - size * 0.5, center[1] + size * 0.5, (240, 240, 240), SIGN
        )
    elif kind == 2:
        canvas.quad(x - size * 1.1, x + size * 1.1, center[1] - size, center[1] + size, (208, 34, 38), SIGN, taper=0.0)
        canvas.quad(
            x - size * 0.6,
            x + size * 0.6,
            center[1] - size * 0.35,
            center[1] + size * 0.72,
            (244, 240, 226),
            SIGN,
            taper=0.0,
        )
    else:
        canvas.diamond(center, size * 1.15, (244, 190, 30), SIGN)
        canvas.diamond(center, size * 0.45, (60, 52, 30), SIGN)


def _bonnet(canvas: Canvas, scene: Scene, rng: Random) -> None:
    """Our own car at the lower edge, in two scenes of three: no class of its own, so void."""
    if rng.random() > 0.66:
        return
    high = canvas.height * (0.05 + 0.05 * rng.random())
    paint = pick(rng, PAINTS)
    dark = tuple(c * 0.55 for c in paint)
    canvas.ellipse(
        (canvas.width * 0.5, canvas.height + high * 0.25), canvas.width * 0.56, high * 1.25, dark, VOID, grain=0.1
    )


def _distance(scene: Scene, color: Floats, nearness: float) -> Floats:
    """Air lightens what is far away."""
    share = max(0.0, 0.4 - nearness)
    return color * np.float32(1 - share) + planes(scene.haze) * np.float32(share)


DRAW = {"building": _building, "tree": _tree, "car": _car, "person": _person, "pole": _pole, "sign": _sign}
