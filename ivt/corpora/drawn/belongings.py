"""Bags and things carried of the drawn corpus, drawn on a `Figure`. Lengths are in body heights."""

import numpy as np

from .canvas import DARK, METAL, WHITE, both_sides, box, ellipse, mixed, scaled
from .figures import Figure

# fmt: off
HANDBAG = both_sides([(0, .050), (.046, .050), (.058, .125), (.050, .132), (0, .132)])  # below the palm
PLASTIC_BAG = np.array([(-.030, .045), (-.012, .058), (.012, .058), (.030, .045), (.052, .110), (.056, .165),
                        (.020, .178), (-.030, .176), (-.058, .160), (-.050, .100)])
UMBRELLA = both_sides([(0, 0), (.007, 0), (.022, .050), (.016, .170), (0, .270)])
CUP = both_sides([(0, -.040), (.018, -.040), (.013, .012), (0, .012)])
BACKPACK = both_sides([(0, .185), (.050, .185), (.078, .215), (.084, .400), (.070, .425), (0, .425)])
BACKPACK_POCKET = both_sides([(0, .320), (.052, .320), (.056, .405), (0, .405)])
BACKPACK_SIDE = np.array([(0, .180), (-.060, .195), (-.092, .250), (-.098, .380), (-.080, .420), (0, .425)])
BACKPACK_STRAP = np.array([(.045, .172), (.068, .176), (.080, .270), (.096, .340), (.078, .340), (.062, .270)])
BACKPACK_STRAP_SIDE = np.array([(-.010, .172), (.014, .176), (.036, .230), (.030, .290), (-.020, .345), (-.030, .335),
                                (.012, .280), (.016, .235)])
TOTE_BAG = both_sides([(0, .365), (.056, .365), (.062, .505), (0, .505)])
SHOULDER_STRAP = np.array([(-.066, .175), (-.046, .172), (.102, .450), (.088, .460)])
# fmt: on


def draw_carried(f: Figure, side: str) -> None:
    """What the hand of a side holds."""
    carried, canvas = f.person.carried, f.canvas
    if not carried or carried.side != side:
        return
    colour = f.colour(carried.colour, "carried")
    x, y = palm = f.palm(side)
    if carried.kind == "phone":
        canvas.shape(box(x, y - 0.016, 0.014, 0.028), colour)
        if f.view == "front":
            canvas.paint(ellipse(x - 0.006, y - 0.036, 0.004, 0.004), DARK)  # its camera looks at us
        else:
            canvas.paint(box(x - 0.010, y - 0.016, 0.004, 0.024), (150, 176, 200))
    elif carried.kind == "umbrella":
        canvas.shape(UMBRELLA + palm, colour)
        canvas.line([(x, y + 0.28), (x, y + 0.31)], METAL, 0.006)
        canvas.line(palm + [(0, 0.0), (0, -0.03), (0.012, -0.042), (0.022, -0.03)], DARK, 0.009)
        for dx in (-0.008, 0.008):
            canvas.line(palm + [(dx / 2, 0.02), (dx, 0.16)], scaled(colour, 0.7), 0.004)
    elif carried.kind == "bottle":
        canvas.shape(box(x, y, 0.016, 0.038), colour)
        canvas.shape(box(x, y - 0.048, 0.008, 0.012), WHITE)
        canvas.paint(box(x, y, 0.016, 0.010), mixed(colour, WHITE, 0.6))
    elif carried.kind == "cup":
        canvas.shape(CUP + palm, colour)
        canvas.shape(box(x, y - 0.042, 0.020, 0.005), WHITE)
    elif carried.kind == "book":
        canvas.shape(box(x, y - 0.018, 0.034, 0.046), colour)
        canvas.paint(box(x, y - 0.034, 0.022, 0.010), mixed(colour, WHITE, 0.7))
        canvas.paint(box(x + 0.031, y - 0.018, 0.003, 0.046), WHITE)
    else:  # a newspaper is white with a headline of its colour
        canvas.shape(box(x, y - 0.024, 0.058, 0.052), (226, 224, 214))
        canvas.paint(box(x, y - 0.060, 0.050, 0.010), colour)
        for dy in (-0.044, -0.032, -0.020, -0.008, 0.004):
            canvas.line([(x - 0.046, y + dy), (x + 0.046, y + dy)], (140, 140, 138), 0.004)


def draw_hand_bag(f: Figure, side: str) -> None:
    """A handbag or plastic bag in the hand of a side."""
    bag, canvas = f.person.bag, f.canvas
    if not bag or bag.side != side or bag.kind not in ("handbag", "plastic bag"):
        return
    colour, palm = f.colour(bag.colour, "bag"), f.palm(side)
    for x in (-0.022, 0.022):
        handle = [(-0.004, 0.0), (0.004, 0.0), (x + 0.004, 0.055), (x - 0.004, 0.055)]
        canvas.shape(palm + handle, scaled(colour, 0.8), "bag")
    if bag.kind == "handbag":
        canvas.shape(HANDBAG + palm, colour, "bag")
        canvas.line(palm + [(-0.046, 0.066), (0.046, 0.066)], scaled(colour, 0.6), 0.004)
        canvas.paint(ellipse(palm[0], palm[1] + 0.075, 0.007, 0.007), METAL)
    else:
        canvas.shape(PLASTIC_BAG + palm, mixed(colour, WHITE, 0.15), "bag")
        for x in (-0.03, 0.0, 0.03):
            canvas.fold(palm + [(x * 0.4, 0.06), (x, 0.16)], 0.3)


def draw_bag_behind(f: Figure) -> None:
    """What is behind the trunk: a backpack from front and side, a tote bag under the far arm."""
    bag, canvas = f.person.bag, f.canvas
    if not bag or bag.kind not in ("backpack", "tote bag") or f.view == "back":
        return
    colour = f.colour(bag.colour, "bag")
    if bag.kind == "tote bag":
        if f.view == "side" and bag.side == f.far:
            x = -0.040 - 0.010 * max(0.0, f.bulk)
            canvas.shape(TOTE_BAG + (x, 0.0), scaled(colour, 0.9), "bag")
    elif f.view == "front":
        canvas.shape(box(0, 0.31, 0.100 + 0.012 * max(0.0, f.bulk), 0.10), colour, "bag")
    else:
        back = (-0.050 - 0.010 * max(0.0, f.bulk), 0.0)
        canvas.shape(BACKPACK_SIDE + back, colour, "bag")
        canvas.line([(-0.05, 0.20), (-0.056, 0.41)] + np.array(back), scaled(colour, 0.7), 0.005)


def draw_straps(f: Figure) -> None:
    """What is worn over the trunk and under the arm: straps, and from behind the backpack."""
    bag, canvas = f.person.bag, f.canvas
    if not bag or bag.kind in ("handbag", "plastic bag"):
        return
    colour = f.colour(bag.colour, "bag")
    dark = scaled(colour, 0.72)
    is_visible = f.view != "side" or bag.side == f.near
    if bag.kind == "backpack" and f.view == "back":
        canvas.shape(BACKPACK, colour, "bag")
        canvas.line([(-0.07, 0.26), (0, 0.25), (0.07, 0.26)], dark, 0.005)
        canvas.paint(BACKPACK_POCKET, mixed(colour, dark, 0.5))
        canvas.line([(-0.05, 0.335), (0.05, 0.335)], scaled(colour, 0.5), 0.004)
        canvas.line([(-0.016, 0.186), (-0.012, 0.172), (0.012, 0.172), (0.016, 0.186)], dark, 0.006)
    elif bag.kind == "backpack" and f.view == "front":
        for sign in (-1, 1):
            canvas.shape(BACKPACK_STRAP * (sign, 1), colour, "bag")
    elif bag.kind == "backpack":
        canvas.shape(BACKPACK_STRAP_SIDE, dark, "bag")
    elif bag.kind == "shoulder bag" and f.view == "side":  # over the far shoulder when the bag is on the near side
        strap = [(-0.02, 0.175), (0.0, 0.175), (0.02, 0.46), (0.0, 0.46)]
        canvas.shape(
            strap if is_visible else [(-0.02, 0.172), (0.0, 0.172), (0.062, 0.26), (0.056, 0.28)], dark, "bag"
        )
    elif bag.kind == "shoulder bag":
        canvas.shape(SHOULDER_STRAP * (f.sign(bag.side), 1), dark, "bag")
    elif is_visible:  # tote bag
        x = 0.0 if f.view == "side" else f.shoulder_x(bag.side)
        for dx in (-0.03, 0.03):
            canvas.shape(
                [(x - 0.005, 0.178), (x + 0.005, 0.178), (x + dx + 0.005, 0.37), (x + dx - 0.005, 0.37)], dark, "bag"
            )


def draw_hip_bag(f: Figure) -> None:
    """The body of a shoulder bag or tote bag, over the arm; hidden when it is on the far side."""
    bag, canvas = f.person.bag, f.canvas
    if not bag or f.view == "side" and bag.side != f.near:
        return
    colour = f.colour(bag.colour, "bag")
    x = 0.0 if f.view == "side" else f.shoulder_x(bag.side)
    if bag.kind == "shoulder bag":
        x *= 1.1
        canvas.shape(box(x, 0.495, 0.053, 0.050), colour, "bag")
        canvas.paint(
            [(x - 0.053, 0.445), (x + 0.053, 0.445), (x + 0.046, 0.498), (x - 0.046, 0.498)], scaled(colour, 0.8)
        )
        canvas.paint(ellipse(x, 0.499, 0.006, 0.006), METAL)
    if bag.kind == "tote bag":
        x *= 1.35
        canvas.shape(TOTE_BAG + (x, 0.0), colour, "bag")
        canvas.line([(x - 0.056, 0.378), (x + 0.056, 0.378)], scaled(colour, 0.7), 0.005)
