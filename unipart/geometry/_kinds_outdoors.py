"""Procedural vehicles, buildings, plants and figures; each function builds one object on the bench."""

import math

from unipart.geometry._workshop import Workshop
from unipart.geometry.solids import (
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


def car(shop: Workshop) -> None:
    """A saloon, a van or a pickup on four wheels."""
    length, width, wheel = shop.size(1.05, 1.25), shop.size(0.48, 0.56), shop.size(0.13, 0.16)
    style, paint = shop.pick(("saloon", "van", "pickup")), shop.color("paint")
    front, low, waist = length / 2, wheel * 0.75, wheel + shop.size(0.2, 0.26)
    nose = waist - (0.0 if style == "van" else shop.size(0.0, 0.05))
    body = [(-front, low + 0.03), (-front + 0.04, low), (front - 0.04, low), (front, low + 0.04), (front - 0.03, nose - 0.05)]
    body += [(front * 0.45, waist), (-front + 0.05, waist), (-front, waist - 0.05)]
    shop.add("body", extrude(body, width, "x", 0.025), paint, "gloss")
    start, end = {"saloon": (-0.32, 0.2), "van": (-0.46, 0.3), "pickup": (-0.08, 0.24)}[style]
    cabin = tapered(box(width * 0.9, shop.size(0.18, 0.24), (end - start) * length, 0.03), 0.85, 0.72)
    shop.add("cabin", moved(cabin, y=waist - 0.03, z=(start + end) / 2 * length), shop.color("glass", "dark"), "gloss")
    tyre, hub = shop.color("dark"), wheel * 0.55
    profile = [
        (0.0, -0.04),
        (hub, -0.05),
        (wheel * 0.93, -0.06),
        (wheel, -0.035),
        (wheel, 0.035),
        (wheel * 0.93, 0.06),
        (hub, 0.05),
    ]
    disc = turned(lathe([*profile, (0.0, 0.04)], 20), 90, "z")
    for name, x, z in (("left_front", 1, 1), ("right_front", -1, 1), ("left_back", 1, -1), ("right_back", -1, -1)):
        shop.add(f"wheel_{name}", moved(disc, x * (width / 2 - 0.01), wheel, z * length * 0.3), tyre)
    extra = shop.pick(("none", "spoiler", "box", "bumper"))
    if extra == "spoiler":
        shop.add(
            "spoiler", moved(box(width * 0.95, 0.16, 0.06, 0.015), y=waist - 0.04, z=-front + 0.07), shop.color("dark", "paint")
        )
    elif extra == "box":
        height = waist + (cabin.vertices[:, 1].max() - 0.05)
        load = (waist - 0.02, -0.3 * length) if style == "pickup" else (height, (start + end) / 2 * length)
        shop.add("box", moved(box(width * 0.6, 0.14, 0.3, 0.025), y=load[0], z=load[1]), shop.color("wood", "paint"))
    elif extra == "bumper":
        shop.add("bumper", moved(box(width * 1.02, 0.08, 0.09, 0.02), y=low - 0.01, z=front - 0.02), shop.color("metal"), "metal")


def airplane(shop: Workshop) -> None:
    """A fuselage with wings, tail, canopy and a propeller or two engines, nose to +z."""
    length, span, belly = shop.size(1.1, 1.3), shop.size(1.1, 1.4), shop.size(0.11, 0.14)
    paint, accent = shop.color("paint", "linen"), shop.color("paint")
    half = length / 2
    hull = smooth([(0.03, -half), (belly * 0.6, -half * 0.6), (belly, 0.0), (belly * 0.95, half * 0.5), (belly * 0.6, half * 0.9)])
    shop.add("fuselage", turned(lathe([*hull, (0.0, half)], 20), 90, "x"), paint, "gloss")
    sweep, chord = shop.size(0.0, 0.2), shop.size(0.2, 0.28)
    tip = chord * shop.size(0.5, 0.8)
    wing = [(0.0, chord / 2), (span / 2, tip / 2 - sweep), (span / 2, -tip / 2 - sweep), (0.0, -chord / 2)]
    wing += [(-span / 2, -tip / 2 - sweep), (-span / 2, tip / 2 - sweep)]
    height = shop.pick((-0.3, 0.0, 0.6)) * belly
    shop.add("wing", moved(extrude(wing, 0.06, "y", 0.018), y=height, z=0.08), accent, "gloss")
    tail = [(0.0, 0.1), (span * 0.22, 0.02), (span * 0.22, -0.09), (-span * 0.22, -0.09), (-span * 0.22, 0.02)]
    shop.add("tailplane", moved(extrude(tail, 0.055, "y", 0.015), y=0.02, z=-half * 0.86), accent, "gloss")
    fin = [(0.12, 0.0), (-0.06, shop.size(0.2, 0.28)), (-0.14, 0.24), (-0.12, 0.0)]
    shop.add("fin", moved(extrude(fin, 0.055, "x", 0.015), y=0.02, z=-half * 0.84), accent, "gloss")
    if shop.chance(0.8):
        canopy = scaled(sphere(1.0), x=belly * 0.65, y=belly * 0.7, z=0.19)
        shop.add("canopy", moved(canopy, y=belly * 0.75, z=half * 0.3), shop.color("glass"), "gloss")
    if shop.chance(0.5):
        blade = rounded_rectangle(shop.size(0.42, 0.5), 0.085, 0.04)
        shop.add("propeller", moved(turned(extrude(blade, 0.06), shop.size(0, 90), "z"), z=half * 0.98), shop.color("dark"))
    else:
        engine = smooth([(0.045, -0.13), (0.07, 0.0), (0.075, 0.12)])
        for name, side in (("engine_left", 1), ("engine_right", -1)):
            pod = turned(lathe(engine, 16), 90, "x")
            shop.add(name, moved(pod, side * span * 0.24, height - 0.06, 0.12 - sweep / 2), shop.color("metal"), "metal")


def rocket(shop: Workshop) -> None:
    """A hull with nose cone, fins, nozzle and a porthole or boosters."""
    radius, height = shop.size(0.15, 0.2), shop.size(0.65, 0.85)
    paint, accent = shop.color("linen", "paint", "metal"), shop.color("paint")
    base = 0.14
    hull = smooth([(radius * 0.75, base), (radius, base + height * 0.4), (radius * 0.88, base + height)])
    shop.add("hull", lathe(hull), paint, "gloss")
    tip = shop.size(0.25, 0.38)
    nose = smooth([(radius * 0.88, 0.0), (radius * 0.6, tip * 0.55), (0.0, tip)])
    shop.add("nose", moved(lathe(nose), y=base + height - 0.005), accent, "gloss")
    shop.add("nozzle", lathe([(radius * 0.75, 0.02), (radius * 0.45, base + 0.03)]), shop.color("dark", "metal"), "metal")
    fins, reach, rise = shop.count(3, 4), shop.size(0.18, 0.26), shop.size(0.28, 0.4)
    outline = [(0.0, 0.0), (reach, -rise * 0.45), (reach, -rise * 0.1), (0.0, rise * 0.7)]
    fin = moved(extrude(outline, 0.06, bevel=0.015), x=radius * 0.72, y=base + 0.12)
    for index in range(fins):
        shop.add(f"fin_{index}", turned(fin, 90 + 360 * index / fins, "y"), accent, "gloss")
    if shop.chance(0.7):
        window = turned(cylinder(radius * 0.55, 0.1, bevel=0.02, segments=20), 90, "x")
        shop.add("window", moved(window, y=base + height * 0.68, z=radius * 0.92 - 0.06), shop.color("glass"), "gloss")


def sailboat(shop: Workshop) -> None:
    """A hull with mast and sails, a cabin and a flag."""
    length, width, depth = shop.size(0.95, 1.15), shop.size(0.3, 0.38), shop.size(0.16, 0.22)
    stations = ((0.35, -0.5), (0.47, -0.25), (0.5, 0.0), (0.4, 0.25), (0.22, 0.41), (0.0, 0.5))
    deck = smooth([(-width * x, length * z) for x, z in stations], 2)
    outline = [*deck, *((-x, z) for x, z in deck[-2::-1])]
    hull = moved(extrude(outline, depth, "y"), y=depth / 2)
    keel = tapered(turned(hull, 180, "z"), 0.6, 0.82)
    shop.add("hull", moved(turned(keel, 180, "z"), y=0.0), shop.color("paint", "wood"), "gloss")
    height, foot = shop.size(0.95, 1.1), shop.size(0.0, 0.1)
    mast = moved(cylinder(0.034, height, top=0.03), y=depth * 0.6, z=foot)
    shop.add("mast", mast, shop.color("wood"))
    cloth, low = shop.color("linen", "fabric"), depth + 0.08
    main = [(foot - 0.02, low), (foot - 0.02, low + height * 0.78), (foot - shop.size(0.32, 0.42), low + 0.02)]
    shop.add("mainsail", extrude(main, 0.055, "x", 0.012), cloth)
    if shop.chance(0.75):
        jib = [(foot + 0.05, low + height * 0.65), (foot + 0.05, low), (foot + shop.size(0.28, 0.36), low)]
        shop.add("jib", extrude(jib, 0.055, "x", 0.012), shop.color("linen", "paint"))
    if shop.chance(0.7):
        cabin = tapered(box(width * 0.6, 0.12, length * 0.26, 0.02), 0.85)
        shop.add("cabin", moved(cabin, y=depth - 0.01, z=-length * 0.24), shop.color("linen", "wood"))
    top = depth * 0.6 + height
    flag = [(foot - 0.01, top - 0.16), (foot - 0.01, top), (foot - 0.22, top - 0.08)]
    shop.add("flag", extrude(flag, 0.06, "x"), shop.color("paint"))


def robot(shop: Workshop) -> None:
    """A body with head, visor, arms and legs, sometimes an antenna."""
    width, height, depth = shop.size(0.36, 0.46), shop.size(0.36, 0.46), shop.size(0.26, 0.32)
    paint, limb, accent = shop.color("paint", "linen"), shop.color("metal", "dark"), shop.color("paint")
    hip = shop.size(0.26, 0.34)
    shop.add("torso", moved(tapered(box(width, height, depth, 0.04), shop.size(0.85, 1.15)), y=hip), paint, "gloss")
    head, neck = shop.size(0.26, 0.34), hip + height
    if shop.chance(0.5):
        shape, face = box(head * 1.1, head, head, 0.05), head * 0.5
    else:
        shape, face = moved(scaled(sphere(head * 0.56), y=0.95), y=head * 0.5), head * 0.5
    shop.add("head", moved(shape, y=neck - 0.01), paint, "gloss")
    visor = extrude(rounded_rectangle(head * 0.8, head * 0.32, head * 0.12), 0.1, bevel=0.015)
    shop.add("visor", moved(visor, y=neck + head * 0.55, z=face), shop.color("dark", "glass"), "gloss")
    swing = shop.size(-0.1, 0.25)
    for name, side in (("left", 1), ("right", -1)):
        shoulder = (side * (width / 2 + 0.02), hip + height * 0.85, 0.0)
        hand = (side * (width / 2 + 0.13), hip + height * shop.size(0.05, 0.3), side * swing)
        elbow = (side * (width / 2 + 0.14), hip + height * 0.5, -0.02)
        shop.add(f"arm_{name}", tube([shoulder, elbow, hand], (0.06, 0.05, 0.065)), limb, "metal")
    boot = shop.size(0.09, 0.11)
    for name, side in (("left", 1), ("right", -1)):
        leg = smooth([(boot, 0.06), (boot * 0.65, hip * 0.5), (boot * 0.7, hip + 0.02)])
        shop.add(f"leg_{name}", moved(lathe([(boot, 0.0), *leg], 16), x=side * width * 0.25), accent)
    if shop.chance(0.6):
        stalk = [(0.03, 0.0), (0.03, 0.1), *smooth([(0.03, 0.11), (0.06, 0.16), (0.0, 0.22)])]
        shop.add("antenna", moved(lathe(stalk, 16), y=neck + head - 0.03), accent)


def mushroom(shop: Workshop) -> None:
    """A stem with a spotted cap, sometimes a skirt and a tuft of moss."""
    height, stem, cap = shop.size(0.45, 0.6), shop.size(0.1, 0.14), shop.size(0.36, 0.45)
    rise = cap * shop.size(0.6, 0.95)
    profile = smooth([(stem * 1.35, 0.02), (stem, height * 0.4), (stem * 0.85, height + 0.08)])
    shop.add("stem", lathe([(stem * 1.1, 0.0), *profile]), shop.color("linen"))
    dome = smooth([(cap, 0.04), (cap * 0.92, rise * 0.45), (cap * 0.5, rise * 0.88), (0.0, rise)])
    shop.add("cap", moved(lathe([(0.0, 0.05), (cap * 0.9, 0.0), *dome], 32), y=height), shop.color("paint", "fabric"), "gloss")
    spot_color, count, start = shop.color("linen"), shop.count(2, 4), shop.size(0, 360)
    for index in range(count):
        tilt, size = (25, shop.size(0.09, 0.11)) if index == 0 else (58, shop.size(0.09, 0.11))
        along_cap = math.radians(tilt)
        spot = moved(scaled(sphere(size, 14), y=0.7), y=0.0)
        spot = moved(turned(spot, -tilt, "z"), cap * 0.93 * math.sin(along_cap), height + rise * 0.98 * math.cos(along_cap))
        shop.add(f"spot_{index}", turned(spot, start + 360 * index / count, "y"), spot_color)
    if shop.chance(0.5):
        skirt = lathe([(stem * 0.7, 0.08), (stem * 0.7, 0.0), (stem * 1.9, -0.05), (stem * 1.9, 0.01)], is_loop=True)
        shop.add("skirt", moved(skirt, y=height * 0.68), shop.color("linen"))
    if shop.chance(0.6):
        shop.add("moss", scaled(sphere(0.3), y=0.3, z=shop.size(0.75, 1.0)), shop.color("leaf"))


def snowman(shop: Workshop) -> None:
    """Two or three balls with hat, nose, scarf and arms."""
    base, shrink = shop.size(0.28, 0.33), shop.size(0.72, 0.8)
    snow = shop.pick(("F4F7FA", "EEF3F7", "FAFAF5"))
    y, radius = base * 0.92, base
    for index in range(shop.count(2, 3)):
        if index:
            step = radius * 0.78
            radius *= shrink
            y += step + radius * 0.78
        shop.add(f"ball_{index}", moved(sphere(radius, 24), y=y), snow)
    nose = turned(cylinder(0.07, shop.size(0.22, 0.3), top=0.015, segments=14), 90, "x")
    shop.add("nose", moved(nose, y=y + radius * 0.1, z=radius * 0.85), "E5802E")
    brim, crown = radius * 1.0, shop.size(0.18, 0.28)
    hat = [(brim, 0.0), (brim, 0.055), (radius * 0.68, 0.06), (radius * 0.62, crown)]
    shop.add("hat", moved(lathe(hat), y=y + radius * 0.68), shop.color("dark", "fabric"))
    shop.add("scarf", moved(torus(radius * 0.78, 0.055), y=y - radius * 0.75), shop.color("paint"))
    if shop.chance(0.75):
        lift, chest = shop.size(0.05, 0.25), y - radius * 1.3
        for name, side in (("arm_left", 1), ("arm_right", -1)):
            end = (side * (base * 0.5 + 0.42), chest + lift, 0.05)
            shop.add(name, tube([(side * base * 0.5, chest, 0.0), end], (0.045, 0.035), 10), shop.color("wood"))


def house(shop: Workshop) -> None:
    """Walls with a roof, door, chimney and windows."""
    width, depth, height = shop.size(0.65, 0.9), shop.size(0.55, 0.75), shop.size(0.4, 0.6)
    shop.add("walls", box(width, height, depth), shop.color("linen", "stone", "ceramic"))
    peak, eave = shop.size(0.28, 0.42), 0.08
    gable = [(-width / 2 - eave, 0.0), (width / 2 + eave, 0.0), (0.0, peak)]
    shop.add("roof", moved(extrude(gable, depth + 2 * eave, bevel=0.012), y=height - 0.01), shop.color("fabric", "dark", "paint"))
    frame, door = shop.color("wood", "paint"), shop.size(0.16, 0.2)
    side = shop.pick((-0.22, 0.0, 0.22)) * width
    shop.add("door", moved(box(door, height * 0.65, 0.1, 0.012), side, 0.0, depth / 2), frame)
    glass, y = shop.color("glass", "warm"), height * 0.5
    places = [-0.33 * width, 0.33 * width] if side == 0.0 else [-side]
    for index, x in enumerate(places):
        shop.add(f"window_{index}", moved(box(0.17, 0.17, 0.1, 0.012), x, y - 0.06, depth / 2), glass, "gloss")
    if shop.chance(0.7):
        chimney = box(0.13, peak + 0.08, 0.13, 0.01)
        shop.add("chimney", moved(chimney, width * 0.26, height + 0.02, -depth * 0.2), shop.color("stone", "wood"))
    if shop.chance(0.5):
        shop.add("step", moved(box(door * 1.6, 0.06, 0.2, 0.01), side, 0.0, depth / 2 + 0.08), shop.color("stone"))


def tree(shop: Workshop) -> None:
    """A fir of cones or a leafy tree of balls, on soil or in a pot."""
    style, leaf = shop.pick(("fir", "leafy")), shop.color("leaf")
    base = 0.0
    if shop.chance(0.4):
        pot = [(0.0, 0.0), (0.16, 0.0), (0.22, 0.24), (0.17, 0.24), (0.16, 0.2), (0.0, 0.2)]
        shop.add("pot", lathe(pot), shop.color("ceramic", "wood"))
        base = 0.18
    else:
        shop.add("soil", scaled(sphere(0.28), y=0.28), shop.color("leaf", "wood"))
    trunk = shop.size(0.35, 0.5)
    shop.add("trunk", moved(lathe(smooth([(0.1, 0.0), (0.06, 0.12), (0.055, trunk + 0.1)])), y=base), shop.color("wood"))
    y = base + trunk
    if style == "fir":
        radius, rise = shop.size(0.34, 0.4), shop.size(0.34, 0.42)
        for index in range(shop.count(2, 3)):
            cone = cylinder(radius, rise, top=radius * 0.1, bevel=0.02)
            shop.add(f"crown_{index}", moved(cone, y=y - 0.08), leaf)
            y, radius = y + rise * 0.62, radius * 0.78
        return
    shop.add("crown_0", moved(scaled(sphere(shop.size(0.27, 0.33)), y=0.9), y=y + 0.2), leaf)
    start = shop.size(0, 2 * math.pi)
    for index in range(1, shop.count(2, 4)):
        angle = start + index * 2.2
        ball = sphere(shop.size(0.17, 0.22))
        shop.add(
            f"crown_{index}",
            moved(ball, 0.24 * math.sin(angle), y + shop.size(0.1, 0.32), 0.24 * math.cos(angle)),
            shop.color("leaf"),
        )


def turtle(shop: Workshop) -> None:
    """A shell with head, feet and tail."""
    width, length, rise = shop.size(0.3, 0.36), shop.size(0.36, 0.46), shop.size(0.24, 0.36)
    skin, shell = shop.color("leaf"), shop.color("wood", "fabric", "ceramic")
    dome = smooth([(1.0, 0.12), (0.92, 0.12 + rise * 0.5), (0.5, 0.12 + rise * 0.9), (0.0, 0.12 + rise)])
    shop.add("shell", scaled(lathe([(0.85, 0.06), *dome], 28), x=width, z=length), shell, "gloss")
    shop.add("rim", moved(scaled(torus(1.0, 0.14, 28), x=width, y=0.4, z=length), y=0.13), shop.color("wood", "leaf"))
    head = shop.size(0.11, 0.14)
    shop.add("head", moved(scaled(sphere(head), z=1.3), y=0.24, z=length * 1.25 + 0.04), skin)
    for index, (x, z) in enumerate(((1, 1), (-1, 1), (1, -1), (-1, -1))):
        foot = (x * width * 0.95, 0.0, z * length * 0.75)
        shop.add(f"foot_{index}", post(foot, (x * width * 0.6, 0.17, z * length * 0.55), 0.085, 0.07), skin)
    if shop.chance(0.6):
        tail = turned(cylinder(0.06, 0.26, top=0.012, segments=14), -100, "x")
        shop.add("tail", moved(tail, y=0.1, z=-length * 0.85), skin)
