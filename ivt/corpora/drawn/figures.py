"""Bodies of the drawn corpus: tables of anatomy and `Figure`, a person in the pose of one picture.

Body coordinates are those of `canvas.py`. "side" is always the person's own side; a side view is drawn looking to
the right of the picture and mirrored by the frame for the left.
"""

import math
import random

import numpy as np

from .canvas import HAIR_PALETTE, SKIN_PALETTE, Canvas, Colour, Tube, shade_of
from .people import Person, Sighting

# Anatomy, in body heights; a head is 1/7 of the body.
HIP, KNEE, ANKLE = 0.505, 0.735, 0.945
THIGH, SHIN = 0.23, 0.21
SHOULDER, UPPER_ARM, FOREARM = 0.205, 0.165, 0.145
SHOULDER_X = {"man": 0.102, "woman": 0.083}
# fmt: off
TORSO_Y = [0.160, 0.180, 0.195, 0.225, 0.280, 0.330, 0.390, 0.450, 0.500, 0.545]
TORSO_HALF = {  # half-width from the front
    "man": [0.030, 0.070, 0.106, 0.116, 0.104, 0.096, 0.088, 0.090, 0.094, 0.092],
    "woman": [0.024, 0.056, 0.086, 0.096, 0.090, 0.080, 0.070, 0.084, 0.098, 0.096],
}
TORSO_BACK = {  # x of the back from the side
    "man": [-0.034, -0.046, -0.054, -0.062, -0.064, -0.058, -0.050, -0.056, -0.066, -0.060],
    "woman": [-0.028, -0.038, -0.046, -0.052, -0.052, -0.044, -0.036, -0.054, -0.074, -0.062],
}
TORSO_CHEST = {  # x of the chest and belly from the side
    "man": [0.022, 0.030, 0.036, 0.048, 0.060, 0.056, 0.052, 0.052, 0.050, 0.046],
    "woman": [0.018, 0.024, 0.030, 0.042, 0.068, 0.052, 0.042, 0.046, 0.046, 0.042],
}
HEAVY = [0.002, 0.006, 0.008, 0.012, 0.018, 0.026, 0.034, 0.030, 0.022, 0.018]  # what a heavy body has more, each side
# fmt: on
BUILD = {"slim": -0.35, "average": 0.0, "heavy": 1.0}  # share of HEAVY
ARM_WIDTHS = [0.010, 0.027, 0.025, 0.022, 0.020, 0.015]  # half-widths from collar bone to wrist
LEG_WIDTHS = [0.050, 0.047, 0.039, 0.031, 0.033, 0.028, 0.019]  # from hip to ankle
# how much the elbow is bent (0 … 1) by what the hand holds
BEND = {"phone": 1.0, "book": 0.8, "newspaper": 0.75, "cup": 0.75, "bottle": 0.3, "umbrella": 0.0, "tote bag": 0.35}


class Figure:
    """One person in one pose: where the joints are, which shades the colours have, which canvas to draw on."""

    def __init__(self, canvas: Canvas, person: Person, sighting: Sighting, rng: random.Random):
        self.canvas, self.person = canvas, person
        self.view = sighting.facing if sighting.facing in ("front", "back") else "side"
        self.near = sighting.facing  # in a side view, the person's own side that is towards the camera
        self.far = "left" if self.near == "right" else "right"
        self.bulk = BUILD[person.build]
        # shades must not change with the garments, so that changing one garment leaves all others as they are
        self._key = f"{person.gender} {person.build} {person.height} {person.skin} {person.hair}"
        tone = random.Random(f"skin {self._key}")
        red, green, blue = (c + tone.randint(-7, 7) for c in SKIN_PALETTE[person.skin])
        self.skin: Colour = (red, green, blue)
        self.hair = shade_of(person.hair_colour, self._key + " hair", HAIR_PALETTE)
        # u of the middle of the chest: a view from the front is seldom exactly so
        self.turn = rng.uniform(-0.22, 0.22)
        self.walks = sighting.pose == "walking"
        self.stride = sighting.stride if self.walks else sighting.stride * 0.12
        sides = ("left", "right")
        self.legs = {side: self._leg_from_the_side(side) if self.view == "side" else self._leg(side) for side in sides}
        self.arms = {side: self._arm_from_the_side(side) if self.view == "side" else self._arm(side) for side in sides}

    def colour(self, name: str, slot: str) -> Colour:
        """The shade of a colour for something worn: the same for this person in every picture."""
        return shade_of(name, f"{self._key} {slot}")

    def sign(self, side: str) -> int:
        """Where the person's own side is in a front or back view: -1 left of the axis, 1 right of it."""
        return (1 if side == "right" else -1) * (1 if self.view == "back" else -1)

    def shoulder_x(self, side: str) -> float:
        """The x of a shoulder in a front or back view."""
        return self.sign(side) * (SHOULDER_X[self.person.gender] + 0.006 * self.bulk)

    def bend(self, side: str) -> float:
        """How much the elbow of a side is bent, 0 … 1."""
        for held in (self.person.carried, self.person.bag):
            if held and held.side == side and held.kind in BEND:
                return BEND[held.kind]
        return 0.0

    def sides(self) -> tuple[str, str]:
        """Both sides, what is further away first."""
        if self.view == "side":
            return self.far, self.near
        ahead, behind = ("right", "left") if self.stride > 0 else ("left", "right")
        return (behind, ahead) if self.view == "front" else (ahead, behind)

    def _phase(self, side: str) -> float:
        """How far forward the leg of a side is, -1 … 1."""
        return self.stride if side == "right" else -self.stride

    def _leg(self, side: str) -> list[tuple[float, float]]:
        """Hip, knee and ankle from the front or back."""
        sign, phase = self.sign(side), self._phase(side) * self.walks
        # a foot nearer to the camera is lower in the picture
        lift = 0.035 * phase * (1 if self.view == "front" else -1)
        x = 0.046 + 0.010 * self.bulk
        ankle = (sign * (x + 0.002 - 0.02 * abs(phase)), ANKLE - 0.01 + min(lift, 0.02))
        return [(sign * x, HIP), (sign * (x + 0.004), KNEE + 0.3 * lift), ankle]

    def _leg_from_the_side(self, side: str) -> list[tuple[float, float]]:
        phase = self._phase(side)
        thigh = 0.35 * phase + 0.04  # angles in radians, forward of straight down
        shin = thigh - 0.06 - (0.55 * max(0.0, -phase) + 0.16 * (1 - abs(phase))) * self.walks
        hip = (-0.006, HIP)
        knee = (hip[0] + math.sin(thigh) * THIGH, hip[1] + math.cos(thigh) * THIGH)
        return [hip, knee, (knee[0] + math.sin(shin) * SHIN, knee[1] + math.cos(shin) * SHIN)]

    def _arm(self, side: str) -> list[tuple[float, float]]:
        """Shoulder, elbow and wrist from the front or back; a bent forearm comes towards the chest."""
        sign, bent, x = self.sign(side), self.bend(side), abs(self.shoulder_x(side))
        out = 0.012 + 0.024 * max(0.0, self.bulk)
        forearm = FOREARM * (1 - 0.07 * abs(self._phase(side))) * (1 - 1.25 * bent)
        elbow_y = SHOULDER + UPPER_ARM
        wrist = (sign * (x + 0.021 + out - 0.075 * bent), elbow_y + forearm)
        return [(sign * x, SHOULDER + 0.008), (sign * (x + 0.022 + out), elbow_y), wrist]

    def _arm_from_the_side(self, side: str) -> list[tuple[float, float]]:
        bent = self.bend(side)
        swing = -0.55 * self._phase(side) * (0.3 if bent else 1.0)  # against the leg of the same side
        upper = swing + 0.02 - 0.10 * bent
        lower = upper + 0.16 + 0.25 * max(0.0, swing) + 1.75 * bent
        x, y = -0.008, SHOULDER + 0.005
        elbow = (x + math.sin(upper) * UPPER_ARM, y + math.cos(upper) * UPPER_ARM)
        return [(x, y), elbow, (elbow[0] + math.sin(lower) * FOREARM, elbow[1] + math.cos(lower) * FOREARM)]

    def torso_edges(self, y: np.ndarray, ease: float) -> tuple[np.ndarray, np.ndarray]:
        """Left and right x of the trunk at heights y, `ease` further out."""
        gender, more = self.person.gender, np.array(HEAVY) * self.bulk
        if self.view == "side":
            left, right = np.array(TORSO_BACK[gender]) - 0.3 * more, np.array(TORSO_CHEST[gender]) + 1.2 * more
        else:
            right = np.array(TORSO_HALF[gender]) + more
            left = -right
        return np.interp(y, TORSO_Y, left) - ease, np.interp(y, TORSO_Y, right) + ease

    def torso(self, top: float, bottom: float, ease: float = 0.0) -> Tube:
        """The tube of the trunk between two heights."""
        y = np.linspace(top, bottom, 20)
        return Tube.trunk(y, *self.torso_edges(y, ease))

    def hanging(self, top: float, bottom: float, ease: float, flare: float) -> Tube:
        """Cloth that hangs from the trunk and opens with the stride."""
        y = np.linspace(top, bottom, 20)
        left, right = self.torso_edges(np.minimum(y, TORSO_Y[-1]), ease)
        opening = flare * np.clip((y - 0.46) / (bottom - 0.46), 0, 1)
        for joints in self.legs.values():
            x = np.interp(y, [p[1] for p in joints], [p[0] for p in joints])
            left = np.where(y > HIP, np.minimum(left, x - 0.045), left)
            right = np.where(y > HIP, np.maximum(right, x + 0.045), right)
        return Tube.trunk(y, left - opening, right + opening)

    def leg(self, side: str, ease: float = 0.0, ankle_width: float | None = None) -> Tube:
        """The tube of a leg, `ease` wider than the leg; with `ankle_width` (half) it is straight from the knee on."""
        stout = (0.94 if self.person.gender == "woman" else 1.0) * (1 + 0.16 * self.bulk)
        widths = [w * stout + ease for w in LEG_WIDTHS]
        if ankle_width:
            widths[4:] = np.linspace(widths[3], ankle_width, 4)[1:]
        return Tube.limb(self.legs[side], widths, samples=18, rounds=2)

    def arm(self, side: str, ease: float = 0.0) -> Tube:
        """The tube of an arm from the collar bone to the wrist, `ease` wider than the arm."""
        stout = (0.86 if self.person.gender == "woman" else 1.0) * (1 + 0.15 * self.bulk)
        (x, y), elbow, wrist = self.arms[side]
        inner = x if self.view == "side" else x - self.sign(side) * 0.014
        joints = [(inner, y - 0.014), (x, y + 0.010), elbow, wrist]
        return Tube.limb(joints, [w * stout + ease for w in ARM_WIDTHS], samples=18, rounds=2)

    def forearm_direction(self, side: str) -> np.ndarray:
        """Unit vector from elbow to wrist."""
        along = np.subtract(self.arms[side][2], self.arms[side][1])
        return along / (np.hypot(*along) + 1e-9)

    def palm(self, side: str) -> np.ndarray:
        """Where a hand holds things."""
        return np.array(self.arms[side][2]) + 0.03 * self.forearm_direction(side)
