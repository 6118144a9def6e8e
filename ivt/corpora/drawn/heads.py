"""Neck, head, face, hair and hats of the drawn corpus, drawn on a `Figure`. Lengths are in body heights."""

import math

import numpy as np

from .canvas import DARK, Colour, Tube, both_sides, box, ellipse, mixed, scaled
from .figures import Figure

NECK_WIDTH = {"man": 0.027, "woman": 0.022}
EYE_WHITE: Colour = (240, 238, 234)
EYE_DARK: Colour = (44, 34, 30)
LIPS: Colour = (176, 52, 60)
# fmt: off
HEAD_Y = [0.000, 0.012, 0.035, 0.065, 0.090, 0.112, 0.132, 0.146]
HEAD_HALF = [0.010, 0.029, 0.043, 0.047, 0.045, 0.039, 0.026, 0.008]  # half-width from the front
HEAD_BACK = [-0.020, -0.042, -0.058, -0.060, -0.050, -0.032, -0.018, 0.010]  # x of nape and face from the side
HEAD_FACE = [0.014, 0.034, 0.046, 0.049, 0.051, 0.050, 0.047, 0.034]

BEARD = both_sides([(0, .100), (.014, .100), (.032, .102), (.044, .086), (.040, .112), (.027, .135), (0, .150)])
BEARD_SIDE = [(-.008, .085), (-.006, .110), (.012, .140), (.040, .148), (.050, .130), (.048, .122), (.030, .118),
              (.046, .104), (.044, .099), (.022, .104), (.004, .085)]

# Outlines of the hair by style. "tight" is hair combed back into a ponytail or bun.
HAIR = {
    "front": {
        "short": both_sides([(0, .034), (.020, .036), (.036, .044), (.042, .060), (.043, .080), (.051, .078),
                             (.053, .040), (.042, .008), (.022, -.008), (0, -.011)]),
        "tight": both_sides([(0, .026), (.020, .032), (.040, .050), (.045, .062), (.050, .058), (.050, .034),
                             (.038, .006), (.020, -.006), (0, -.008)]),
        "bob": both_sides([(0, .044), (.028, .046), (.040, .054), (.041, .100), (.038, .142), (.058, .146),
                           (.064, .110), (.060, .050), (.046, .008), (.022, -.010), (0, -.012)]),
        "long": both_sides([(0, .020), (.022, .038), (.040, .066), (.045, .120), (.042, .160), (.049, .210),
                            (.052, .276), (.070, .256), (.076, .200), (.068, .150), (.068, .110), (.058, .044),
                            (.044, .006), (.022, -.009), (0, -.011)]),
    },
    "back": {
        "short": both_sides([(0, .128), (.030, .122), (.042, .104), (.050, .068), (.051, .040), (.040, .006),
                             (.020, -.009), (0, -.011)]),
        "bob": both_sides([(0, .158), (.046, .152), (.062, .140), (.064, .090), (.058, .040), (.042, .004),
                           (.020, -.010), (0, -.012)]),
        "long": both_sides([(0, .302), (.030, .290), (.060, .262), (.074, .200), (.068, .150), (.066, .110),
                            (.058, .044), (.042, .004), (.020, -.009), (0, -.011)]),
    },
    "side": {
        "short": [(.046, .036), (.032, .042), (.014, .056), (.006, .090), (-.006, .062), (-.020, .066), (-.024, .100),
                  (-.044, .112), (-.060, .090), (-.066, .056), (-.060, .020), (-.036, -.006), (0, -.012),
                  (.032, -.004), (.050, .016)],
        "tight": [(.044, .030), (.020, .050), (-.010, .064), (-.026, .096), (-.040, .112), (-.056, .092),
                  (-.064, .056), (-.058, .020), (-.034, -.004), (0, -.010), (.030, -.002), (.046, .016)],
        "bob": [(.050, .048), (.036, .052), (.024, .066), (.022, .120), (.020, .142), (-.020, .152), (-.062, .150),
                (-.074, .110), (-.070, .050), (-.056, .010), (-.030, -.008), (0, -.013), (.034, -.004), (.052, .020)],
        "long": [(.046, .026), (.030, .044), (.014, .070), (.006, .140), (-.002, .190), (-.018, .240), (-.040, .292),
                 (-.070, .270), (-.084, .210), (-.076, .150), (-.077, .110), (-.068, .050), (-.056, .012),
                 (-.030, -.007), (0, -.012), (.032, -.004), (.048, .014)],
    },
}
LONG_HAIR_BEHIND = both_sides([(0, .06), (.056, .06), (.072, .16), (.068, .25), (0, .25)])
PONYTAIL = {  # joints of the tail; from the front its end shows beside the neck
    "front": [(.036, .036), (.064, .060), (.068, .120), (.054, .195)],
    "back": [(0, .050), (.004, .120), (-.002, .180), (.004, .255)],
    "side": [(-.060, .040), (-.090, .070), (-.092, .160), (-.070, .250)],
}
BUN = {"front": (0.0, -.018), "back": (0.0, .012), "side": (-.062, .006)}
CURLS = {
    "front": [(-.048, .105), (.048, .105), (-.059, .078), (.059, .078), (-.060, .046), (.060, .046), (-.047, .016),
              (.047, .016), (-.023, -.004), (.023, -.004), (0, -.008), (-.025, .022), (.025, .022), (0, .018)],
    "back": [(0, .050), *((x, y) for y, w in ((-.004, .022), (.016, .046), (.044, .059), (.074, .059), (.104, .048),
                                              (.122, .028)) for x in (-w, 0, w))],
    "side": [(.036, .018), (.030, .000), (.004, -.008), (-.026, -.002), (-.050, .018), (-.068, .044), (-.068, .076),
             (-.056, .104), (-.034, .116), (-.030, .088), (-.034, .058), (-.010, .046), (.014, .034), (-.026, .028),
             (0, .020)],
}
CROWN = {"front": (0, .006, .046, .018), "back": (0, .058, .056, .066), "side": (-.014, .020, .052, .032)}  # ellipses
CAP_BRIM = {
    "front": both_sides([(0, .034), (.050, .034), (.056, .050), (.030, .058), (0, .058)]),
    "side": [(.040, .034), (.070, .038), (.106, .050), (.102, .057), (.040, .048)],
}
# fmt: on


def draw_hair_behind(f: Figure) -> None:
    """Long hair behind the shoulders and the tip of a ponytail, seen from the front."""
    if f.view != "front":
        return
    if f.person.hair == "long":
        f.canvas.shape(LONG_HAIR_BEHIND, scaled(f.hair, 0.75), "hair")
    if f.person.hair == "ponytail":
        tail = np.array(PONYTAIL["front"]) * (1 if f.turn > 0 else -1, 1)
        f.canvas.shape(Tube.limb(tail, [0.012, 0.018, 0.018, 0.006]).outline(), scaled(f.hair, 0.85), "hair")


def draw_neck(f: Figure) -> None:
    """Neck and neckline."""
    wide, shade = NECK_WIDTH[f.person.gender], scaled(f.skin, 0.88)
    if f.view == "side":
        f.canvas.shape(Tube.limb([(-0.012, 0.10), (-0.008, 0.185)], [wide, wide, wide + 0.004], 6).outline(), shade)
        return
    f.canvas.shape(Tube.limb([(0, 0.10), (0, 0.18)], [wide, wide, wide + 0.008], 6).outline(), shade)
    if f.view == "front" and f.person.upper.kind != "hoodie":
        deep = 0.226 if f.person.upper.kind in ("blouse", "dress", "tank top") else 0.196
        f.canvas.shape([(-0.032, 0.168), (0, 0.16), (0.032, 0.168), (0, deep)], scaled(f.skin, 0.94), joined=True)


def draw_head(f: Figure) -> None:
    """Head with face, hair and hat."""
    if f.view == "side":
        f.canvas.shape(Tube.trunk(HEAD_Y, HEAD_BACK, HEAD_FACE).outline(), f.skin)
        _draw_profile(f)
    else:
        f.canvas.shape(Tube.trunk(HEAD_Y, [-w for w in HEAD_HALF], HEAD_HALF).outline(), f.skin)
        if f.view == "front":
            _draw_face(f)
    if f.person.hair == "bald":
        f.canvas.fold([(-0.02, 0.018), (0.0, 0.012)], -0.3, 0.014)
    elif f.person.hair == "curly":
        _draw_curls(f)
    else:
        _draw_combed_hair(f)
    if f.person.hat:
        _draw_hat(f)


def _draw_face(f: Figure) -> None:
    """Ears, eyes, brows, nose, mouth and beard from the front."""
    canvas, x = f.canvas, 0.06 * f.turn
    brow = scaled(f.hair, 0.6 if f.person.hair_colour == "blond" else 0.8)
    for sign in (-1, 1):
        canvas.shape(ellipse(sign * 0.048, 0.078, 0.007, 0.014), scaled(f.skin, 0.92))
        eye = x + sign * 0.019
        canvas.paint(ellipse(eye, 0.071, 0.0085, 0.0050), EYE_WHITE)
        canvas.paint(ellipse(eye, 0.071, 0.0045, 0.0050), EYE_DARK)
        brow_line = [(eye - sign * 0.011, 0.0565), (eye + sign * 0.003, 0.0555), (eye + sign * 0.013, 0.0595)]
        canvas.line(brow_line, brow, 0.0045)
    canvas.line([(x + 0.002, 0.074), (x + 0.006, 0.094), (x - 0.004, 0.096)], scaled(f.skin, 0.8), 0.004)
    if f.person.beard:
        canvas.paint(BEARD, mixed(f.hair, f.skin, 0.12))
    lips = mixed(f.skin, LIPS, 0.55 if f.person.gender == "woman" else 0.3)
    canvas.paint(ellipse(x, 0.112, 0.014, 0.0045), lips)
    if f.person.glasses:
        for sign in (-1, 1):
            _draw_lens(f, x + sign * 0.020, 0.0155)
            canvas.line([(sign * 0.046, 0.069), (x + sign * 0.034, 0.069)], DARK, 0.004)
        canvas.line([(x - 0.006, 0.070), (x + 0.006, 0.070)], DARK, 0.004)


def _draw_profile(f: Figure) -> None:
    """Nose, lips, eye, brow, ear and beard from the side."""
    canvas = f.canvas
    canvas.shape([(0.047, 0.062), (0.064, 0.090), (0.058, 0.097), (0.046, 0.098)], f.skin, joined=True)
    lips = [(0.044, 0.102), (0.056, 0.106), (0.054, 0.112), (0.056, 0.118), (0.044, 0.122)]
    canvas.shape(lips, mixed(f.skin, LIPS, 0.3), joined=True)
    canvas.paint(ellipse(0.036, 0.071, 0.0070, 0.0055), EYE_WHITE)
    canvas.paint(ellipse(0.039, 0.071, 0.0042, 0.0055), EYE_DARK)
    canvas.line([(0.026, 0.059), (0.047, 0.059)], scaled(f.hair, 0.8), 0.005)
    if f.person.beard:
        canvas.paint(BEARD_SIDE, mixed(f.hair, f.skin, 0.12))
    canvas.shape(ellipse(-0.012, 0.080, 0.009, 0.015), scaled(f.skin, 0.9))
    if f.person.glasses:
        _draw_lens(f, 0.040, 0.012)
        canvas.line([(0.028, 0.069), (-0.010, 0.069)], DARK, 0.0045)


def _draw_lens(f: Figure, x: float, wide: float) -> None:
    rim = ellipse(x, 0.072, wide, 0.0125)
    if f.person.glasses == "sunglasses":
        f.canvas.paint(rim, DARK)
    else:
        f.canvas.line(rim, DARK, 0.0045)


def _draw_combed_hair(f: Figure) -> None:
    """Short, bob, long, ponytail and bun."""
    style, canvas = f.person.hair, f.canvas
    has_bun = style == "bun" and not (f.person.hat and f.view == "front")
    if has_bun and f.view != "back":
        canvas.shape(ellipse(*BUN[f.view], 0.033, 0.029), scaled(f.hair, 0.92), "hair")
    cut = {"ponytail": "tight", "bun": "tight"}.get(style, style)
    outline = np.array(HAIR[f.view]["short" if f.view == "back" and cut == "tight" else cut])
    canvas.shape(outline, f.hair, "hair")
    light, dark = mixed(f.hair, (255, 240, 220), 0.14), scaled(f.hair, 0.75)
    low = outline[:, 1].max()
    for x in (-0.034, -0.012, 0.014, 0.036):
        if f.view == "back":
            canvas.fold([(x * 0.5, 0.01), (x, 0.06), (x * 1.05, low - 0.02)], 0.25 if x < 0 else -0.2, 0.004)
        else:
            canvas.line([(x * 0.6, 0.0), (x, 0.018)], light if x < 0 else dark, 0.004)
    if style == "long" and f.view != "back":
        for x in (-0.060, 0.058) if f.view == "front" else (-0.060, -0.036):
            canvas.fold([(x * 0.9, 0.06), (x, 0.14), (x * 1.04, 0.24)], 0.25, 0.004)
    if style == "ponytail" and f.view != "front":
        tail = Tube.limb(PONYTAIL[f.view], [0.010, 0.026, 0.026, 0.005])
        canvas.shape(tail.outline(), f.hair, "hair")
        canvas.fold(tail.at(0.3, np.linspace(0.1, 0.9, 6)), 0.25, 0.004)
        canvas.paint(tail.band(0.04, 0.12), scaled(f.hair, 0.4))
    if has_bun and f.view == "back":
        canvas.shape(ellipse(*BUN["back"], 0.033, 0.029), scaled(f.hair, 0.92), "hair")


def _draw_curls(f: Figure) -> None:
    """A cloud of curls round the head that leaves the face free."""
    canvas = f.canvas
    canvas.shape(ellipse(*CROWN[f.view]), f.hair, "hair")
    for i, (x, y) in enumerate(CURLS[f.view]):
        if f.person.hat and y < 0.02:
            continue  # under the hat
        radius = 0.023 if i % 2 else 0.020
        canvas.shape(ellipse(x, y, radius, radius), scaled(f.hair, (0.86, 1.0, 1.14)[i % 3]), joined=True)


def _draw_hat(f: Figure) -> None:
    """A dome with the brim of a cap, the band of a beanie or the wide brim of a sun hat."""
    hat, canvas = f.person.hat, f.canvas
    assert hat  # `draw_head` asks
    colour = f.colour(hat.colour, "hat")
    dark = scaled(colour, 0.75)
    x, wide = (-0.007, 0.060) if f.view == "side" else (0.0, 0.055)
    arc = np.linspace(math.pi, 2 * math.pi, 14)
    dome = np.stack([x + np.cos(arc) * wide, 0.040 + np.sin(arc) * 0.060], axis=1)
    canvas.shape(np.concatenate([dome, [(x + wide, 0.048), (x - wide, 0.048)]]), colour, "hat")
    if hat.kind == "cap":
        if f.view == "back":
            canvas.paint(ellipse(0, 0.042, 0.020, 0.012), f.skin if f.person.hair == "bald" else f.hair)
        else:
            canvas.shape(CAP_BRIM[f.view], dark, "hat")
        canvas.line([(x, -0.018), (x, 0.03)], dark, 0.003)
    elif hat.kind == "beanie":
        canvas.shape(box(x, 0.040, wide + 0.002, 0.014), dark, "hat")
        canvas.shape(ellipse(x, -0.026, 0.016, 0.015), scaled(colour, 1.12), "hat")
    else:
        canvas.shape(ellipse(x, 0.044, wide + 0.052, 0.017), scaled(colour, 0.94), "hat")
        canvas.shape(box(x, 0.029, wide, 0.009), scaled(colour, 0.5), "hat")
