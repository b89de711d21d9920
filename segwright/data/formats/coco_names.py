"""COCO's 182 category names (91 things, 91 stuff), and the 171 of them that have masks."""

from __future__ import annotations

from segwright.core.types import IGNORE_INDEX, LabelSpace

_THINGS = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, "
    "street sign, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, "
    "giraffe, hat, backpack, umbrella, shoe, eye glasses, handbag, tie, suitcase, frisbee, skis, snowboard, "
    "sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, plate, "
    "wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, "
    "pizza, donut, cake, chair, couch, potted plant, bed, mirror, dining table, window, desk, toilet, door, tv, "
    "laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, blender, book, "
    "clock, vase, scissors, teddy bear, hair drier, toothbrush, hair brush"
)
THINGS = tuple(_THINGS.split(", "))

_STUFF = (
    "banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, "
    "ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, "
    "floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit, "
    "furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, "
    "mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform, playingfield, railing, "
    "railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, "
    "stairs, stone, straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, "
    "wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, "
    "window-blind, window-other, wood"
)
STUFF = tuple(_STUFF.split(", "))

# Things that were named but never annotated: their ids are gaps in the 80.
WITHOUT_MASKS = frozenset(
    ("street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "window", "desk", "door", "blender", "hair brush")
)


def thing_ids() -> dict[int, str]:
    """Category id (1…90, with gaps) → name, of the 80 annotated things."""
    return {i: name for i, name in enumerate(THINGS, start=1) if name not in WITHOUT_MASKS}


def stuff_ids() -> dict[int, str]:
    """Category id (92…182) → name, of the 91 stuff classes."""
    return dict(enumerate(STUFF, start=92))


def stuff_thing_space() -> LabelSpace:
    """COCO-Stuff's pixel maps: a value is a category id - 1; 171 classes in the order of the ids, 255 ignored."""
    ids = thing_ids() | stuff_ids()
    mapping = {category - 1: index for index, category in enumerate(ids)}
    return LabelSpace(tuple(ids.values()), mapping={**mapping, IGNORE_INDEX: IGNORE_INDEX})
