"""Garments, shoes and scarf of the drawn corpus, drawn on a `Figure` from the inside out.

Lengths are in body heights; u and v are the places on a tube of cloth, see `canvas.Tube`.
"""

import math

import numpy as np

from .canvas import METAL, WHITE, Colour, Outline, Tube, both_sides, box, ellipse, mixed, scaled
from .figures import SHOULDER_X, TORSO_Y, Figure
from .people import Garment

# fmt: off
EASE = {  # how far cloth stands off the body
    "leggings": 0.0, "jeans": 0.005, "trousers": 0.008, "shorts": 0.012, "tank top": 0.001, "dress": 0.003,
    "t-shirt": 0.006, "polo shirt": 0.006, "blouse": 0.007, "shirt": 0.007, "sweater": 0.010, "hoodie": 0.013,
    "jacket": 0.014, "coat": 0.017,
}
HEM = {  # height of the lower edge of an upper garment
    "t-shirt": 0.520, "polo shirt": 0.515, "tank top": 0.510, "blouse": 0.535, "shirt": 0.530, "sweater": 0.520,
    "hoodie": 0.530, "jacket": 0.535, "dress": 0.420,
}
# fmt: on
COAT_HEM = {"ankle": 0.70, "knee": 0.655, "thigh": 0.585}  # by the length of the lower garment, which must show
INNER_HEM = 0.52  # of the shirt under an open jacket or coat
SLEEVE_END = {"short": 0.50, "long": 1.0}  # v along the arm
LEG_END = {"ankle": 0.97, "knee": 0.47, "thigh": 0.26}  # v along the leg
SKIRT_END = {"ankle": 0.90, "knee": 0.725, "thigh": 0.635}
ANKLE_WIDTH = {"trousers": 0.031, "jeans": 0.026}
SEAM: Colour = (196, 150, 90)
TRUNK_FOLDS = [  # from and to: u, v
    ([-0.9, -0.1], [0.62, 0.72]), ([0.9, 0.15], [0.68, 0.78]), ([-0.8, -0.4], [0.30, 0.42]), ([0.8, 0.4], [0.30, 0.42])
]  # fmt: skip

# Feet and shoes around the ankle, looking to the right of the picture; from front and back the right half only.
# fmt: off
FOOT_SIDE = [(-.026, -.012), (-.030, .020), (-.028, .046), (.020, .048), (.088, .048), (.098, .040), (.090, .026),
             (.056, .014), (.024, -.014)]
FOOT = {
    "front": both_sides([(0, -.012), (.020, -.012), (.027, .018), (.032, .040), (.024, .055), (0, .058)]),
    "back": both_sides([(0, -.012), (.020, -.012), (.024, .020), (.026, .042), (0, .045)]),
    "side": np.array(FOOT_SIDE),
}
HEELED_FOOT = {view: outline * (0.8, 0.7) for view, outline in FOOT.items()}
HEELS = {
    "front": both_sides([(0, .028), (.020, .016), (.026, .034), (.016, .054), (0, .060)]),
    "back": both_sides([(0, 0), (.020, 0), (.022, .022), (.008, .030), (.006, .052), (0, .052)]),
    "side": np.array([(-.022, -.004), (-.026, .012), (-.026, .052), (-.018, .052), (-.010, .024), (.040, .048),
                      (.092, .050), (.086, .038), (.050, .024), (.014, .014), (0, .012)]),
}
SOLE = {  # from the ground up to a sole of usual thickness
    "front": both_sides([(0, .046), (.031, .040), (.026, .058), (0, .060)]),
    "back": both_sides([(0, .034), (.026, .034), (.026, .047), (0, .047)]),
    "side": np.array([(-.029, .040), (.096, .040), (.088, .056), (-.028, .056)]),
}
LACES = {
    "front": [[(-.010, y), (.010, y + .002)] for y in (.004, .012, .020)],
    "back": [],
    "side": [[(.030 + y, y), (.046 + y, y + .002)] for y in (.004, .012, .020)],
}
SANDAL_STRAPS = {
    "front": [[(-.026, .010), (.026, .010), (.027, .018), (-.027, .018)],
              [(-.030, .034), (.030, .034), (.031, .043), (-.031, .043)]],
    "back": [[(-.022, .006), (.022, .006), (.023, .014), (-.023, .014)]],
    "side": [[(-.029, .004), (.030, -.002), (.033, .006), (-.029, .013)],
             [(.046, .012), (.058, .016), (.066, .044), (.050, .044)]],
}
HOOD = {
    "front": both_sides([(0, .186), (.050, .150), (.062, .178), (.030, .202), (0, .208)]),
    "back": both_sides([(0, .150), (.062, .165), (.066, .20), (.040, .245), (0, .262)]),
    "side": np.array([(0, .150), (-.050, .160), (-.080, .195), (-.076, .225), (-.050, .232), (0, .19), (.026, .175)]),
}
# fmt: on


def draw_pattern(f: Figure, tube: Tube, garment: Garment, slot: str) -> None:
    """Paint stripes, plaid or dots of a garment on a tube that has its colour already."""
    second, paint = f.colour(garment.second_colour, slot + " second"), f.canvas.paint
    if garment.pattern in ("horizontal stripes", "plaid"):
        plaid = garment.pattern == "plaid"
        colour = mixed(f.colour(garment.colour, slot), second, 0.6) if plaid else second
        rows = max(2, round(tube.length / 0.040))
        for row in range(rows):
            paint(tube.band((row + 0.3) / rows, (row + (0.60 if plaid else 0.72)) / rows), colour)
    if garment.pattern in ("vertical stripes", "plaid"):
        spacing, wide = (0.036, 0.24) if garment.pattern == "plaid" else (0.028, 0.42)
        columns = max(2, round(tube.width / spacing))
        for column in range(columns):
            u = -1 + 2 * (column + 0.29) / columns
            paint(tube.band(0, 1, u, u + 2 * wide / columns), second)
    if garment.pattern == "dots":
        rows, columns = max(2, round(tube.length / 0.030)), max(2, round(tube.width / 0.032))
        for row in range(rows):
            for column in range(columns - row % 2):
                u = -1 + (2 * column + 1 + row % 2) / columns
                paint(ellipse(*tube.at(u, (row + 0.5) / rows), 0.0068, 0.0068), second)


def _draw_logo(f: Figure, tube: Tube) -> None:
    upper = f.person.upper
    second = f.colour(upper.second_colour, "upper second")
    x, y = tube.at(f.turn, 0.125 / tube.length)
    f.canvas.paint(ellipse(x, y, 0.032, 0.026), second)
    f.canvas.paint(ellipse(x, y, 0.016, 0.012), f.colour(upper.colour, "upper"))
    f.canvas.paint(box(x, y + 0.040, 0.036, 0.006), second)


def _at_ankle(f: Figure, side: str, points: Outline) -> np.ndarray:
    """Points around the ankle brought to where the ankle is; in a walk from the side the foot turns with the shin."""
    knee, ankle = np.array(f.legs[side][1]), np.array(f.legs[side][2])
    if not f.walks or f.view != "side":
        return np.asarray(points) + ankle
    lean = math.atan2(ankle[0] - knee[0], ankle[1] - knee[1])
    angle = max(-0.25, min(0.75, -0.9 * lean))  # heel up when the leg is behind, toes up when it is ahead
    cos, sin = math.cos(angle), math.sin(angle)
    return np.asarray(points) @ np.array([[cos, sin], [-sin, cos]]) + ankle


def draw_shoe(f: Figure, side: str) -> None:
    """One shoe with its sole; boots get their shaft later, over the trousers."""
    shoes, canvas = f.person.shoes, f.canvas
    colour = f.colour(shoes.colour, "shoes")
    foot = _at_ankle(f, side, FOOT[f.view])
    if shoes.kind == "heels":
        canvas.shape(_at_ankle(f, side, HEELED_FOOT[f.view]), f.skin)
        canvas.shape(_at_ankle(f, side, HEELS[f.view]), colour, "shoes")
        return
    if shoes.kind == "sandals":
        canvas.shape(foot, f.skin, "shoes")
        for strap in SANDAL_STRAPS[f.view]:
            canvas.paint(_at_ankle(f, side, strap), colour)
        canvas.paint(_at_ankle(f, side, SOLE[f.view] + (0, 0.006)), scaled(colour, 0.7))
        return
    canvas.shape(foot, colour, "shoes")
    if shoes.kind == "sneakers":
        sole = (206, 206, 202) if shoes.colour == "white" else WHITE
        canvas.paint(_at_ankle(f, side, SOLE[f.view]), sole)
        for lace in LACES[f.view]:
            canvas.line(_at_ankle(f, side, lace), sole, 0.004)
    else:
        canvas.paint(_at_ankle(f, side, SOLE[f.view] + (0, 0.005)), scaled(colour, 0.45))


def draw_boot_shaft(f: Figure, side: str) -> None:
    """The shaft of a boot up the shin."""
    colour = f.colour(f.person.shoes.colour, "shoes")
    tube = f.leg(side, 0.007).cut(0.74, 1.0)
    f.canvas.shape(tube.outline(), colour, "shoes")
    f.canvas.paint(tube.band(0, 0.08), scaled(colour, 0.75))


def draw_trouser_leg(f: Figure, side: str) -> None:
    """One leg of trousers, jeans, leggings or shorts."""
    lower, canvas = f.person.lower, f.canvas
    colour = f.colour(lower.colour, "lower")
    if lower.kind == "jeans":  # denim is paler than cloth
        colour = mixed(colour, (96, 120, 158), 0.25 if lower.colour == "blue" else 0.12)
    tube = f.leg(side, EASE[lower.kind], ANKLE_WIDTH.get(lower.kind)).cut(0, LEG_END[lower.length])
    if lower.kind == "shorts":  # they stand off at the lower edge
        flare = np.linspace(0, 0.008, len(tube.left))[:, None] * (1, 0)
        tube = Tube(tube.left - flare, tube.right + flare)
    canvas.shape(tube.outline(), colour if f.view != "side" or side == f.near else scaled(colour, 0.88), "lower")
    draw_pattern(f, tube, lower, "lower")
    outer = 0.0 if f.view == "side" else 0.72 * f.sign(side)
    if lower.pattern == "side stripe":
        canvas.paint(tube.band(0, 1, outer - 0.2, outer + 0.2), f.colour(lower.second_colour, "lower second"))
    if lower.kind == "jeans":
        canvas.line(tube.at(outer, np.linspace(0, 1, 8)), mixed(colour, SEAM, 0.45), 0.003)
        canvas.paint(tube.band(0.97, 1), mixed(colour, SEAM, 0.3))
        canvas.fold(tube.at(0.0, np.linspace(0.12, 0.42, 5)), -0.16, 0.030)  # washed out on thigh and shin
        canvas.fold(tube.at(0.0, np.linspace(0.60, 0.80, 5)), -0.10, 0.020)
    if lower.kind == "trousers":  # crease
        canvas.fold(tube.at(0.05, np.linspace(0.1, 1, 8)), -0.18, 0.004)
    canvas.fold(np.stack([tube.at(-0.6, 0.06), tube.at(0.5, 0.16)]), 0.2)
    knee = 0.5 / LEG_END[lower.length]
    if knee < 0.9:
        for v, u in ((knee, -0.9), (knee + 0.05, 0.9), (knee - 0.05, 0.9)):
            canvas.fold(np.stack([tube.at(u, v), tube.at(u * 0.1, v + 0.03)]), 0.22)


def draw_hips(f: Figure) -> None:
    """Trousers, jeans, leggings or shorts above the legs."""
    lower = f.person.lower
    hips = f.torso(0.43, TORSO_Y[-1], 0.6 * EASE[lower.kind])
    f.canvas.shape(hips.outline(), f.colour(lower.colour, "lower"), "lower")
    draw_pattern(f, hips, lower, "lower")


def draw_skirt(f: Figure) -> None:
    """A skirt, or a dress below the waist."""
    lower = f.person.lower
    tube = f.hanging(0.40, SKIRT_END[lower.length], 0.004, 0.035 if lower.kind == "dress" else 0.024)
    f.canvas.shape(tube.outline(), f.colour(lower.colour, "lower"), "lower")
    draw_pattern(f, tube, lower, "lower")
    for u in (-0.65, -0.2, 0.25, 0.7):
        f.canvas.fold(tube.at(u, np.linspace(0.5, 1, 5)), 0.2, 0.009)


def _hem(f: Figure) -> float:
    """Height of the lower edge of the upper garment."""
    return COAT_HEM[f.person.lower.length] if f.person.upper.kind == "coat" else HEM[f.person.upper.kind]


def _tank_top(f: Figure) -> np.ndarray:
    """The outline of a tank top: straps on the shoulders, arms and neckline bare."""
    if f.view == "side":
        return f.torso(0.19, HEM["tank top"], EASE["tank top"]).outline()
    body = f.torso(0.30, HEM["tank top"], EASE["tank top"])
    neck, strap = (0.252, 0.180) if f.view == "front" else (0.205, 0.180)
    x = 0.72 * SHOULDER_X[f.person.gender]
    right = [(x + 0.008, 0.262), (x - 0.004, strap), (x - 0.032, strap - 0.004), (0.022, neck - 0.010)]
    top = [*right, *((-x, y) for x, y in reversed(right))]
    return np.concatenate([body.left[::-1], np.array(top)[::-1], body.right])


def _pieces(f: Figure, tube: Tube) -> list[Tube]:
    """The pieces of a trunk of cloth: one, or for an open coat what is above the inner shirt's hem and the tails."""
    if f.person.upper.kind != "coat" or f.person.upper.inner_colour is None or f.view == "back":
        return [tube]
    hem = _inner_end(f)
    if f.view == "side":
        return [tube.cut(0, hem), tube.cut(hem, 1, -1.0, 0.63)]
    return [tube.cut(0, hem), tube.cut(hem, 1, -1.0, f.turn - 0.33), tube.cut(hem, 1, f.turn + 0.33, 1.0)]


def _inner_end(f: Figure) -> float:
    """The v at which the shirt under an open jacket or coat ends."""
    hem = _hem(f)
    return (min(hem, INNER_HEM) - TORSO_Y[0]) / (hem - TORSO_Y[0])


def _draw_inner_shirt(f: Figure, tube: Tube, colour_name: str) -> None:
    """The strip of shirt that shows in an open jacket or coat."""
    v = np.linspace(0, _inner_end(f), 10)
    if f.view == "side":
        strip = np.concatenate([tube.at(0.55 + 0.11 * v, v), tube.at(1.0, v)[::-1]])
    else:
        half = np.interp(v, [0, 0.15, 1], [0.30, 0.26, 0.36])
        strip = np.concatenate([tube.at(f.turn - half, v), tube.at(f.turn + half, v)[::-1]])
    f.canvas.shape(strip, f.colour(colour_name, "inner"), "upper")


def draw_upper(f: Figure) -> None:
    """The trunk of the upper garment, without sleeves."""
    upper, canvas = f.person.upper, f.canvas
    colour, ease = f.colour(upper.colour, "upper"), EASE[upper.kind]
    hem = _hem(f)
    tube = f.hanging(TORSO_Y[0], hem, ease, 0.014) if upper.kind == "coat" else f.torso(TORSO_Y[0], hem, ease)
    if upper.kind == "tank top":
        canvas.shape(tube.outline(), f.skin)
        canvas.shape(_tank_top(f), colour, "upper")
        draw_pattern(f, f.torso(0.28, HEM["tank top"], ease), upper, "upper")
    else:
        for i, piece in enumerate(_pieces(f, tube)):
            canvas.shape(piece.outline(), colour, "upper", joined=i > 0)
            draw_pattern(f, piece, upper, "upper")
    for u, v in TRUNK_FOLDS:
        canvas.fold(tube.at(np.array(u), np.array(v)), 0.18, 0.012)
    if upper.pattern == "logo" and f.view == "front":
        _draw_logo(f, tube)
    if upper.inner_colour and f.view != "back":
        _draw_inner_shirt(f, tube, upper.inner_colour)
    if upper.kind in ("shirt", "blouse", "polo shirt", "jacket", "coat"):
        _draw_buttons(f, tube)
        _draw_collar(f, tube)
    if upper.kind == "hoodie":
        _draw_hood(f, tube)
    if upper.kind in ("sweater", "hoodie", "jacket"):
        canvas.paint(tube.band(0.95, 1), scaled(colour, 0.8))
    if f.person.belt:
        _draw_belt(f, f.person.belt)


def _edge_colour(colour: Colour) -> Colour:
    """A colour for seams and buttons that shows on cloth of a given colour."""
    return scaled(colour, 0.5) if sum(colour) > 180 else mixed(colour, WHITE, 0.32)


def _draw_buttons(f: Figure, tube: Tube) -> None:
    """The front edge with its buttons, and the pockets of a jacket or coat."""
    upper, canvas = f.person.upper, f.canvas
    edge = _edge_colour(f.colour(upper.colour, "upper"))
    if f.view == "front" and upper.inner_colour is None:
        length = 0.32 if upper.kind == "polo shirt" else 1.0
        canvas.line(tube.at(f.turn, np.linspace(0, length, 8)), edge, 0.004)
        for v in np.arange(0.1, length, 0.13):
            canvas.paint(ellipse(*tube.at(f.turn + 0.05, v), 0.0045, 0.0045), edge)
    if f.view == "side" and upper.inner_colour is None and upper.kind != "polo shirt":
        canvas.line(tube.at(0.88, np.linspace(0.05, 1, 8)), edge, 0.004)
    if upper.kind in ("jacket", "coat") and f.view != "back":
        v = 0.62 if upper.kind == "coat" else 0.74
        for u in (-0.6, 0.6) if f.view == "front" else (0.35,):
            canvas.line(np.stack([tube.at(u - 0.14, v), tube.at(u + 0.14, v + 0.03)]), edge, 0.005)


def _draw_collar(f: Figure, tube: Tube) -> None:
    upper, canvas = f.person.upper, f.canvas
    colour = f.colour(upper.colour, "upper")
    edge, collar = _edge_colour(colour), mixed(colour, WHITE, 0.12)
    if f.view != "front":
        canvas.paint(tube.band(0.0, 0.05), collar)
        canvas.line(tube.at(np.linspace(-1, 1, 6), 0.055), edge, 0.004)
        return
    low = 0.20 if upper.kind in ("jacket", "coat") else 0.11
    low *= 0.37 / tube.length  # as long on a coat as on a shirt
    for sign in (-1, 1):
        u = f.turn + sign * np.array([0.12, 0.90, 0.44, 0.05])
        wing = tube.at(u, np.array([0.0, 0.005, low, 0.05 + low / 3]))
        canvas.paint(wing, collar)
        canvas.line(wing[1:], edge, 0.004)


def _draw_hood(f: Figure, tube: Tube) -> None:
    """Hood on the back, cords and kangaroo pocket in front."""
    canvas = f.canvas
    colour = f.colour(f.person.upper.colour, "upper")
    dark = scaled(colour, 0.72)
    canvas.shape(HOOD[f.view], scaled(colour, 0.92), "upper")
    if f.view == "back":
        canvas.fold([(-0.04, 0.20), (0, 0.225), (0.04, 0.20)], 0.4)
    elif f.view == "front":
        u, v = np.array([-0.35, 0.35, 0.58, -0.58, -0.35]), np.array([0.66, 0.66, 0.9, 0.9, 0.66])
        canvas.line(tube.at(f.turn + u, v), dark, 0.004)
        for sign in (-1, 1):
            cord = tube.at(f.turn + sign * np.array([0.14, 0.15]), np.array([0.1, 0.28]))
            canvas.line(cord, WHITE if sum(colour) < 520 else dark, 0.004)
    else:
        canvas.line(tube.at(np.array([0.3, 0.9]), np.array([0.9, 0.68])), dark, 0.004)


def _draw_belt(f: Figure, colour_name: str) -> None:
    """A belt over the lower edge of the upper garment."""
    hem = _hem(f)
    belt = f.torso(hem - 0.028, hem - 0.006, EASE[f.person.upper.kind] + 0.002)
    f.canvas.shape(belt.outline(), f.colour(colour_name, "belt"))
    if f.view == "front":
        f.canvas.paint(belt.band(0, 1, f.turn - 0.1, f.turn + 0.1), METAL)


def draw_sleeve(f: Figure, side: str, shadow: float) -> None:
    """The sleeve of one arm, `shadow` times as bright as in full light."""
    upper, canvas = f.person.upper, f.canvas
    two_tone = upper.pattern == "two-tone"
    colour = f.colour(upper.second_colour, "upper second") if two_tone else f.colour(upper.colour, "upper")
    tube = f.arm(side, EASE[upper.kind]).cut(0, SLEEVE_END[upper.length])
    canvas.shape(tube.outline(), scaled(colour, shadow), "upper")
    draw_pattern(f, tube, upper, "upper")
    if upper.length == "long":
        for v in (0.48, 0.55):
            canvas.fold(np.stack([tube.at(-0.8, v), tube.at(0.6, v + 0.02)]), 0.3)
        canvas.paint(tube.band(0.94, 1), scaled(colour, 0.8 * shadow))


def draw_scarf(f: Figure, colour_name: str) -> None:
    """A scarf round the neck, one end in front."""
    colour, canvas = f.colour(colour_name, "scarf"), f.canvas
    canvas.shape(both_sides([(0, 0.146), (0.046, 0.146), (0.062, 0.182), (0.03, 0.206), (0, 0.206)]), colour)
    for y in (0.162, 0.180):
        canvas.fold([(-0.05, y), (0, y + 0.012), (0.05, y)], 0.4)
    if f.view != "back":
        x = 0.023 if f.view == "front" else 0.053
        canvas.shape(box(x, 0.252, 0.018, 0.058), scaled(colour, 0.93))
        for fringe in (-0.011, -0.001, 0.009):
            canvas.line([(x + fringe, 0.302), (x + fringe, 0.316)], scaled(colour, 0.7), 0.003)
