"""Procedural furniture and household things; each function builds one object on the bench."""

import math

from unipart.geometry._workshop import Workshop
from unipart.geometry.mesh import Mesh
from unipart.geometry.solids import (
    Point,
    along,
    box,
    cylinder,
    extrude,
    lathe,
    moved,
    post,
    rounded_rectangle,
    scaled,
    smooth,
    sphere,
    tapered,
    torus,
    tube,
    turned,
)

CORNERS = ((-1, 1), (1, 1), (-1, -1), (1, -1))
"""Signs of (x, z): front left, front right, back left, back right."""


def _legs(shop: Workshop, half_x: float, half_z: float, height: float, color: str) -> None:
    """Adds four legs: square or round, straight, tapered or splayed."""
    size = max(2 * half_x, 2 * half_z, height * 1.4)
    segments = shop.pick((4, 4, 16))
    radius = size * (shop.size(0.055, 0.065) if segments == 4 else shop.size(0.042, 0.05))
    foot, splay = shop.pick((1.0, 0.8)), shop.pick((0.0, 0.0, 0.06))
    for index, (x, z) in enumerate(CORNERS):
        bottom = (x * (half_x + splay), 0.0, z * (half_z + splay))
        shop.add(f"leg_{index}", post(bottom, (x * half_x, height, z * half_z), radius * foot, radius, segments), color)


def chair(shop: Workshop) -> None:
    """A seat with a back on four legs or a pedestal, sometimes with arms."""
    width, depth, height = shop.size(0.44, 0.54), shop.size(0.42, 0.5), shop.size(0.4, 0.5)
    thickness, back = shop.size(0.055, 0.09), shop.size(0.38, 0.6)
    frame, cover = shop.color("wood", "dark"), shop.color("fabric", "wood", "paint")
    if shop.chance(0.7):
        seat = box(width, thickness, depth, bevel=0.02)
    else:
        seat = scaled(cylinder(0.5, thickness, bevel=0.02), x=width, z=depth)
    shop.add("seat", moved(seat, y=height), cover)
    if shop.chance(0.75):
        _legs(shop, width / 2 - 0.06, depth / 2 - 0.06, height + 0.01, frame)
    else:
        shop.add("column", cylinder(0.05, height), shop.color("metal"), "metal")
        shop.add("foot", cylinder(shop.size(0.2, 0.26), 0.06, top=0.08, bevel=0.015), frame)
    shape = shop.pick(("square", "round", "narrow"))
    top = {"square": 1.0, "round": 1.0, "narrow": shop.size(0.65, 0.85)}[shape]
    radius = {"square": 0.03, "round": 0.45 * min(width, back), "narrow": 0.04}[shape]
    panel = extrude(rounded_rectangle(width, back, radius), shop.size(0.05, 0.075), bevel=0.015)
    panel = tapered(moved(panel, y=back / 2), top, 1.0)
    lean = turned(panel, -shop.size(2, 12), "x")
    shop.add("back", moved(lean, y=height + thickness * 0.6, z=-depth / 2 + 0.04), cover)
    if shop.chance(0.35):
        rise, front = shop.size(0.2, 0.26), depth / 2 - 0.05
        for name, side in (("arm_left", -1), ("arm_right", 1)):
            x = side * (width / 2 + 0.01)
            bend: list[Point] = [
                (x, height + 0.03, front),
                (x, height + rise * 0.8, front - 0.01),
                (x, height + rise, front - 0.07),
            ]
            shop.add(name, tube([*bend, (x, height + rise, -depth / 2 + 0.01)], 0.03), frame)


def table(shop: Workshop) -> None:
    """A top on four legs, a pedestal or two panels, sometimes with a shelf and a bowl."""
    width, depth, height = shop.size(0.8, 1.2), shop.size(0.55, 0.8), shop.size(0.45, 0.7)
    thickness, wood = shop.size(0.05, 0.08), shop.color("wood", "dark")
    top_color = shop.color("wood", "linen", "stone")
    base = shop.pick(("legs", "legs", "pedestal", "panels"))
    is_round = base == "pedestal" or shop.chance(0.2)
    if is_round:
        width = depth = shop.size(0.75, 1.0)
        top = cylinder(width / 2, thickness, bevel=0.015, segments=32)
    else:
        top = moved(extrude(rounded_rectangle(width, depth, shop.size(0.02, 0.12)), thickness, "y", 0.015), y=thickness / 2)
    shop.add("top", moved(top, y=height), top_color)
    inset = 0.7 if is_round else 1.0
    if base == "legs":
        _legs(shop, inset * width / 2 - 0.07, inset * depth / 2 - 0.07, height + 0.01, wood)
    elif base == "pedestal":
        profile = smooth([(0.09, 0.0), (0.06, 0.3 * height), (0.1, 0.6 * height), (0.07, height + 0.01)])
        shop.add("pedestal", lathe(profile), wood)
        shop.add("foot", cylinder(0.3, 0.07, top=0.12, bevel=0.015), wood)
    else:
        for name, side in (("panel_left", -1), ("panel_right", 1)):
            shop.add(name, moved(box(0.06, height + 0.01, depth * 0.8, 0.01), x=side * inset * (width / 2 - 0.1)), wood)
    if base != "pedestal" and shop.chance(0.5):
        shelf = box(inset * width - 0.16, 0.05, inset * depth - 0.18, 0.01)
        shop.add("shelf", moved(shelf, y=height * shop.size(0.25, 0.45)), wood)
    if base == "pedestal" or shop.chance(0.5):
        shop.add(
            "bowl",
            moved(_bowl(shop.size(0.13, 0.18)), shop.size(-0.1, 0.1), height + thickness - 0.005),
            shop.color("ceramic"),
            "gloss",
        )


def _bowl(radius: float) -> Mesh:
    outer = smooth([(0.55 * radius, 0.0), (0.85 * radius, 0.3 * radius), (radius, 0.75 * radius)])
    inner = smooth([(0.7 * radius, 0.75 * radius), (0.55 * radius, 0.45 * radius), (0.3 * radius, 0.3 * radius)])
    return lathe([*outer, *inner, (0.0, 0.3 * radius)])


def lamp(shop: Workshop) -> None:
    """A table, floor or desk lamp: foot, stem, shade and bulb."""
    metal, shade_color = shop.color("metal", "dark", "paint"), shop.color("linen", "fabric", "warm")
    style = shop.pick(("table", "floor", "desk"))
    foot = shop.size(0.17, 0.22)
    shop.add("foot", cylinder(foot, 0.06, top=foot * shop.size(0.6, 0.95), bevel=0.015), metal, "metal")
    if style == "desk":
        knee, head = (0.0, shop.size(0.4, 0.5), -shop.size(0.1, 0.2)), (0.0, shop.size(0.75, 0.9), shop.size(0.08, 0.18))
        shop.add("lower_arm", tube([(0.0, 0.04, 0.0), knee], 0.028), metal, "metal")
        shop.add("joint", moved(sphere(0.06), *knee), shop.color("dark"), "gloss")
        shop.add("upper_arm", tube([knee, head], 0.028), metal, "metal")
        hood = lathe([*smooth([(0.0, 0.22), (0.09, 0.19), (0.17, 0.0)]), *smooth([(0.125, 0.0), (0.07, 0.12), (0.0, 0.15)])][::-1])
        shop.add("shade", moved(turned(moved(hood, y=-0.18), -35, "x"), *head), shop.color("paint"), "gloss")
        return
    height = shop.size(0.5, 0.6) if style == "table" else shop.size(0.85, 1.0)
    if style == "table":
        belly = shop.size(0.1, 0.15)
        vase = lathe([(0.07, 0.05), *smooth([(belly * 0.8, 0.07), (belly, height * 0.35), (0.045, height)])])
        shop.add("body", vase, shop.color("ceramic"), "gloss")
    else:
        shop.add("stem", moved(cylinder(0.032, height), y=0.03), metal, "metal")
    low, drop = shop.size(0.2, 0.27), shop.size(0.24, 0.32)
    top = low * shop.size(0.5, 0.95)
    wall = 0.05
    shade = lathe([(low, 0), (top, drop), (top - wall, drop), (low - wall, 0)], 32, is_loop=True)
    shop.add("shade", moved(shade, y=height - 0.02), shade_color)
    shop.add("bulb", moved(scaled(sphere(0.075), y=1.25), y=height + 0.06), shop.color("warm"))
    shop.add("spider", moved(box(2 * (top - wall) + 0.06, 0.06, 0.07), y=height + drop - 0.09), metal, "metal")


def bed(shop: Workshop) -> None:
    """A frame with mattress, blanket, pillows and boards."""
    width, length = shop.size(0.65, 1.0), shop.size(1.15, 1.3)
    wood = shop.color("wood", "dark", "linen")
    shop.add("frame", box(width, shop.size(0.14, 0.2), length, 0.02), wood)
    shop.add("mattress", moved(box(width * 0.94, 0.2, length * 0.94, 0.035), y=0.12), shop.color("linen"))
    share = shop.size(0.5, 0.68)
    blanket = box(width * 0.97, 0.19, length * share, 0.03)
    shop.add("blanket", moved(blanket, y=0.16, z=length * (0.485 - share / 2)), shop.color("fabric"))
    board = shop.size(0.45, 0.65)
    outline = rounded_rectangle(width * 1.04, board, shop.pick((0.03, 0.15)))
    shop.add("headboard", moved(extrude(outline, 0.07, bevel=0.015), y=board / 2, z=-length / 2), wood)
    if shop.chance(0.5):
        shop.add("footboard", moved(box(width * 1.04, shop.size(0.28, 0.38), 0.07, 0.015), z=length / 2), wood)
    pillow_color, count = shop.color("linen"), 2 if width > 0.8 else 1
    for index in range(count):
        span = width * 0.86 / count
        pillow = scaled(sphere(0.5), x=span * 0.95, y=0.16, z=0.28)
        shop.add(f"pillow_{index}", moved(pillow, (index - (count - 1) / 2) * span, 0.35, -length * 0.34), pillow_color)


def bookcase(shop: Workshop) -> None:
    """Two sides, boards between them, sometimes a back, a plinth and a box."""
    width, height, depth, board = shop.size(0.5, 0.8), shop.size(0.85, 1.2), shop.size(0.26, 0.34), shop.size(0.05, 0.06)
    outside, inside = shop.color("wood", "linen", "dark"), shop.color("wood", "linen")
    for name, side in (("side_left", -1), ("side_right", 1)):
        shop.add(name, moved(box(board, height, depth, 0.006), x=side * (width - board) / 2), outside)
    shop.add("top", moved(box(width * 1.02, board, depth * 1.03, 0.006), y=height - board / 2), outside)
    shelves = shop.count(2, 3)
    inner = width - 1.6 * board
    for index in range(shelves):
        y = 0.04 + index * (height - 0.04) / shelves
        shop.add(f"shelf_{index}", moved(box(inner, board, depth * 0.94), y=y), inside)
    if shop.chance(0.6):
        shop.add("back", moved(box(inner, height * 0.97, 0.05), y=0.02, z=-depth / 2 + 0.03), shop.color("linen", "fabric"))
    if shop.chance(0.6):
        bin_height = (height / shelves) * shop.size(0.45, 0.65)
        crate = tapered(box(inner * shop.size(0.35, 0.6), bin_height, depth * 0.75, 0.015), 1.08)
        shop.add(
            "crate", moved(crate, x=inner * shop.size(-0.15, 0.15), y=0.04 + board * 0.98, z=0.02), shop.color("fabric", "ceramic")
        )


def sofa(shop: Workshop) -> None:
    """A base with back, arms and seat cushions."""
    width, depth, seats = shop.size(0.9, 1.3), shop.size(0.5, 0.6), shop.count(1, 3)
    cover, cushion = shop.color("fabric"), shop.color("fabric", "linen")
    arm, arm_height, rise = shop.size(0.12, 0.17), shop.size(0.36, 0.46), shop.size(0.55, 0.7)
    shop.add("base", moved(box(width, 0.2, depth, 0.03), y=0.05), cover)
    back = turned(box(width * 0.98, rise - 0.1, 0.16, 0.05), -shop.size(2, 9), "x")
    shop.add("back", moved(back, y=0.1, z=-depth / 2 + 0.06), cover)
    is_round = shop.chance(0.4)
    for name, side in (("arm_left", -1), ("arm_right", 1)):
        if is_round:
            outline = rounded_rectangle(arm, arm_height, arm * 0.48, 5)
            shape = moved(extrude(outline, depth * 0.98, bevel=0.02), y=arm_height / 2)
        else:
            shape = box(arm, arm_height, depth * 0.98, 0.03)
        shop.add(name, moved(shape, side * width / 2, 0.04, 0.01), cover)
    room = width - arm
    for index in range(seats):
        seat = box(room / seats * 0.97, 0.13, depth * 0.74, 0.035)
        shop.add(f"cushion_{index}", moved(seat, (index - (seats - 1) / 2) * room / seats, 0.22, 0.07), cushion)


def hammer(shop: Workshop) -> None:
    """A claw hammer, a sledge or a mallet, standing on its handle."""
    style, length, radius = shop.pick(("claw", "sledge", "mallet")), shop.size(0.8, 1.0), shop.size(0.036, 0.046)
    steel, wood = shop.color("metal"), shop.color("wood")
    grip = 0.36 * length
    shop.add("handle", lathe(smooth([(radius, grip * 0.8), (radius * 0.85, 0.6 * length), (radius * 0.9, length)])), wood)
    sleeve = [(0.0, 0.0), (radius * 1.3, 0.015), *smooth([(radius * 1.5, 0.05), (radius * 1.2, 0.5 * grip), (radius * 1.3, grip)])]
    shop.add("grip", lathe(sleeve), shop.color("paint", "dark"))
    if style == "mallet":
        head = turned(cylinder(0.12, 0.36, bevel=0.02), 90, "x")
        shop.add("head", moved(head, y=length - 0.06, z=-0.18), shop.color("wood"))
        for name, z in (("band_front", 0.13), ("band_back", -0.13)):
            ring = lathe([(0.09, -0.03), (0.135, -0.03), (0.135, 0.03), (0.09, 0.03)], is_loop=True)
            shop.add(name, moved(turned(ring, 90, "x"), y=length - 0.06, z=z), steel, "metal")
        return
    size = 0.075 if style == "claw" else 0.1
    shop.add("head", moved(box(2 * size * 0.8, 2 * size, 0.2, 0.02), y=length - size - 0.01), steel, "metal")
    face = cylinder(size * 0.7, 0.12, top=size * 1.0, bevel=0.015)
    shop.add("face", moved(turned(face, 90, "x"), y=length - 0.01, z=0.08), steel, "metal")
    if style == "claw":
        claw = [
            (-0.06, 0.05),
            *smooth([(-0.16, 0.06), (-0.27, 0.01), (-0.34, -0.1)]),
            *smooth([(-0.3, -0.13), (-0.22, -0.05), (-0.06, -0.06)]),
        ]
        shop.add("claw", moved(extrude(claw, 0.1, "x", 0.01), y=length - size), steel, "metal")
    else:
        shop.add("face_back", moved(turned(face, -90, "x"), y=length - 0.19, z=-0.08), steel, "metal")


def mug(shop: Workshop) -> None:
    """A mug with its handle and drink, often on a saucer, sometimes with a biscuit or a spoon."""
    radius, height, wall = shop.size(0.22, 0.28), shop.size(0.4, 0.58), 0.05
    glaze = shop.color("ceramic", "paint")
    lift = 0.06
    belly = radius * shop.pick((1.0, 1.12, 0.9))
    outer = smooth([(radius * 0.8, 0.0), (belly, height * 0.45), (radius, height)])
    inner = smooth([(radius - wall, height), (belly - wall, height * 0.45), (radius * 0.8 - wall, wall)])
    shop.add("cup", moved(lathe([(0.0, 0.0), *outer, *inner, (0.0, wall)], 32), y=lift), glaze, "gloss")
    reach, low, high = shop.size(0.15, 0.2), 0.22 * height, 0.8 * height
    hook: list[Point] = along(
        lambda t: (radius * 0.93 + reach * math.sin(math.pi * t) ** 0.7, lift + low + (high - low) * t, 0.0), 12
    )
    shop.add("handle", tube(hook, 0.036, 10), glaze, "gloss")
    level = height * shop.size(0.6, 0.85)
    shop.add(
        "drink",
        moved(cylinder(radius - wall * 0.6, 0.07), y=lift + level - 0.05),
        shop.pick(("5B3A26", "8A5A36", "B98A55", "7A8F45")),
        "gloss",
    )
    plate = radius * shop.size(1.6, 1.9)
    saucer = [(0.0, 0.0), (plate * 0.55, 0.0), (plate, 0.06), (plate - 0.02, 0.1), (plate * 0.6, 0.07), (0.0, 0.07)]
    shop.add("saucer", lathe(saucer, 32), shop.color("ceramic", "wood"), "gloss")
    extra = shop.pick(("none", "biscuit", "straw"))
    if extra == "biscuit":
        biscuit = turned(cylinder(0.11, 0.055, bevel=0.012), shop.size(60, 72), "z")
        shop.add("biscuit", moved(biscuit, -radius - 0.02, 0.16, 0.02), "C98F4E")
    elif extra == "straw":
        shop.add("straw", tube([(0.02, lift + level - 0.05, 0.0), (-0.08, lift + height + 0.25, -0.04)], 0.03), shop.color("paint"))


def teapot(shop: Workshop) -> None:
    """A pot with spout, handle, lid and knob."""
    radius, height = shop.size(0.3, 0.38), shop.size(0.45, 0.6)
    glaze, accent = shop.color("ceramic", "paint"), shop.color("ceramic", "wood", "metal")
    neck = radius * 0.55
    body = smooth([(radius * 0.6, 0.0), (radius * 1.02, height * 0.4), (radius * 0.85, height * 0.8), (neck, height)], 5)
    shop.add("body", lathe(body, 32), glaze, "gloss")
    low, tip = height * 0.35, height * shop.size(0.95, 1.1)
    spout: list[Point] = [
        (radius * 0.8, low, 0.0), (radius * 1.25, low + 0.08, 0.0), (radius * 1.45, tip * 0.75, 0.0), (radius * 1.7, tip, 0.0)
    ]  # fmt: skip
    shop.add("spout", tube(spout, (0.1, 0.075, 0.055, 0.045)), glaze, "gloss")
    top, bottom = height * 0.82, height * 0.25
    hook = along(lambda t: (-radius * 0.85 - 0.26 * math.sin(math.pi * t) ** 0.7, bottom + (top - bottom) * t, 0.0), 12)
    shop.add("handle", tube(hook, 0.038, 10), accent, "gloss")
    lid = smooth([(neck + 0.03, 0.0), (neck * 0.9, 0.06), (neck * 0.4, 0.1), (0.0, 0.11)])
    shop.add("lid", moved(lathe(lid), y=height - 0.005), glaze, "gloss")
    shop.add("knob", moved(scaled(sphere(0.07), y=0.9), y=height + 0.14), accent, "gloss")
    if shop.chance(0.5):
        shop.add("stand", moved(torus(radius * 0.62, 0.045), y=0.0), accent)


def cake(shop: Workshop) -> None:
    """A plate with one or two tiers, candles or a cherry."""
    radius, height = shop.size(0.32, 0.4), shop.size(0.18, 0.26)
    plate = radius * 1.3
    shop.add(
        "plate",
        lathe([(0.0, 0.0), (plate * 0.5, 0.0), (plate, 0.05), (plate, 0.09), (0.0, 0.07)], 32),
        shop.color("ceramic"),
        "gloss",
    )
    shop.add("tier_0", moved(cylinder(radius, height, bevel=0.03, segments=32), y=0.06), shop.color("linen", "ceramic", "wood"))
    top = 0.06 + height
    if shop.chance(0.6):
        radius *= 0.65
        shop.add(
            "tier_1", moved(cylinder(radius, height * 0.8, bevel=0.03, segments=32), y=top - 0.005), shop.color("ceramic", "paint")
        )
        top += height * 0.8 - 0.005
    shop.add(
        "icing", moved(cylinder(radius * 1.05, 0.1, bevel=0.035, segments=32), y=top - 0.06), shop.color("linen", "paint"), "gloss"
    )
    count = shop.pick((0, 1, 3))
    for index in range(count):
        angle, ring = 2 * math.pi * index / 3, 0.0 if count == 1 else radius * 0.5
        candle = cylinder(0.045, shop.size(0.2, 0.26), bevel=0.01, segments=12)
        shop.add(f"candle_{index}", moved(candle, ring * math.sin(angle), top + 0.02, ring * math.cos(angle)), shop.color("paint"))
    if count == 0:
        shop.add("cherry", moved(sphere(0.1), y=top + 0.11), "C4283A", "gloss")
