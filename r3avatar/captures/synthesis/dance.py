"""A procedural dance on the SMPL-X joints: stepping on the spot, turning, waving.

The limbs repeat with the step cycle while the heading swings to and fro with longer, unrelated periods. The same pose
of the limbs therefore comes back with the body turning the other way, and the cloth hanging differently: the case that
pose-conditioned appearance cannot represent. Everything is a smooth function of continuous time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from r3avatar.captures.synthesis import arithmetic as am
from r3avatar.captures.synthesis.arithmetic import Array, axis_turn, quaternion_product, turned

LEFT, RIGHT = 0, 1
CYCLE = 16 / 15  # seconds of one step cycle (a left and a right step): 16 frames at 15 frames a second
_X, _Y, _Z = 0, 1, 2
_STEPS = 512  # random steps drawn; the dance uses them in turn


@dataclass
class Motion:
    """Joint rotations and pelvis positions at T moments."""

    rotations: Array  # [T, 55, 4] local joint rotations, quaternions wxyz
    pelvis: Array  # [T, 3] world position of the root joint, metres

    def __getitem__(self, index) -> Motion:
        return Motion(self.rotations[index], self.pelvis[index])


class Dance:
    """A dance of one body; call it with moments in seconds.

    joints [55, 3]: the body's rest joints, metres, y up, facing +z. ankle_height: of the ankle above the shoe's sole,
    metres. energy scales the limbs' motion and turning the heading's (1: lively, 0: none).
    """

    def __init__(self, joints: Array, ankle_height: float, seed: int, energy: float = 1.0, turning: float = 1.0):
        self.joints, self.ankle_height = joints, ankle_height
        self.energy, self.turning = energy, turning
        self.phase, self.vary = am.draws(seed, 1, 2, 24)
        self.phase, self.vary = 2.0 * am.PI * self.phase, 2.0 * self.vary - 1.0
        self.steps = 2.0 * am.draws(seed, 8, 2, _STEPS, 3) - 1.0  # [foot, step, (forward, sideways, yaw)]

    def heading(self, time: Array) -> Array:
        """Direction that the dancer faces, radians about +y."""
        slow = 0.85 * am.sin(2.0 * am.PI / (3.3 + 0.3 * self.vary[0]) * time + self.phase[0])
        fast = 0.36 * am.sin(2.0 * am.PI / (1.75 + 0.15 * self.vary[1]) * time + self.phase[1])
        return self.turning * (slow + fast)

    def __call__(self, time: Array) -> Motion:
        """The dance at `time` [T] seconds; negative times are before the recording."""
        rotations = np.zeros((len(time), 55, 4))
        rotations[..., 0] = 1.0
        self._torso(rotations, time)
        for side in (LEFT, RIGHT):
            self._arm(rotations, time, side)
            self._hand(rotations, time, side)
        pelvis = self._legs(rotations, time)
        return Motion(rotations, pelvis)

    def _wave(self, time: Array, cycles: float, which: int) -> Array:
        """A sine that lasts `cycles` step cycles, with a random phase."""
        return am.sin(2.0 * am.PI / (CYCLE * cycles) * time + self.phase[which])

    def _torso(self, rotations: Array, time: Array) -> None:
        e, step = self.energy, 2.0 * am.PI / CYCLE * time
        twist = e * 0.24 * am.sin(step + 0.6 + 0.5 * self.vary[2])  # the hips against the shoulders
        roll = e * -0.11 * am.sin(step)
        bow = 0.03 + e * 0.035 * am.sin(2.0 * step + 0.8)
        rotations[:, 0] = quaternion_product(
            axis_turn(_Y, self.heading(time) + twist), axis_turn(_Z, roll), axis_turn(_X, bow)
        )
        sway = e * 0.07 * self._wave(time, 2, 3)
        for joint, share in ((3, 0.4), (6, 0.4), (9, 0.3)):
            rotations[:, joint] = quaternion_product(
                axis_turn(_Y, -1.4 * share * twist),
                axis_turn(_Z, share * (sway - 1.3 * roll)),
                axis_turn(_X, share * bow),
            )
        look = e * 0.22 * self._wave(time, 3, 4) - 0.15 * twist
        nod = e * 0.07 * am.sin(2.0 * step + self.phase[5]) - 0.9 * bow
        tilt = e * 0.08 * self._wave(time, 2, 6) - 0.5 * sway
        for joint in (12, 15):
            rotations[:, joint] = quaternion_product(
                axis_turn(_Y, 0.5 * look), axis_turn(_Z, 0.5 * tilt), axis_turn(_X, 0.5 * nod)
            )
        rotations[:, 22] = axis_turn(_X, 0.01 + 0.01 * self._wave(time, 1, 7))

    def _arm(self, rotations: Array, time: Array, side: int) -> None:
        e, k, mirror = self.energy, 8 + 6 * side, 1.0 if side == LEFT else -1.0
        vary = self.vary[k : k + 6]
        slow, fast = self._wave(time, 2, k), self._wave(time, 1, k + 1)
        x = 0.55 + 0.35 * vary[0] - e * ((0.85 + 0.2 * vary[1]) * slow + (0.35 + 0.1 * vary[2]) * fast)
        # Between 0.45 rad above the horizontal and 1.0 rad below it: never into the torso.
        lowered = 0.28 + 0.73 * x / np.sqrt(1.0 + x * x)
        forward = 0.30 + e * 0.22 * self._wave(time, 1, k + 2)
        rolled = 0.45 + e * (0.40 + 0.1 * vary[3]) * self._wave(time, 2, k + 3)
        bent = 0.75 + e * (0.42 + 0.08 * vary[4]) * self._wave(time, 1, k + 4)
        collar, shoulder, elbow, wrist = 13 + side, 16 + side, 18 + side, 20 + side
        rotations[:, collar] = axis_turn(_Z, mirror * (0.06 - 0.22 * lowered))
        rotations[:, shoulder] = quaternion_product(
            axis_turn(_Y, -mirror * forward), axis_turn(_Z, -mirror * 0.8 * lowered), axis_turn(_X, -rolled)
        )
        rotations[:, elbow] = axis_turn(_Y, -mirror * bent)
        rotations[:, wrist] = quaternion_product(
            axis_turn(_X, 0.35 * rolled - 0.1),
            axis_turn(_Z, mirror * e * 0.25 * self._wave(time, 1, k + 5)),
            axis_turn(_Y, mirror * e * 0.15 * self._wave(time, 2, k)),
        )

    def _hand(self, rotations: Array, time: Array, side: int) -> None:
        mirror = -1.0 if side == LEFT else 1.0  # palms down in the T-pose: the left fingers curl about -z
        curl = 1.0 + 0.35 * self.energy * self._wave(time, 2, 20 + side)
        for finger, amount in enumerate((0.20, 0.26, 0.40, 0.34)):  # index, middle, pinky, ring
            for knuckle, share in enumerate((1.0, 1.15, 0.8)):
                joint = 25 + 15 * side + 3 * finger + knuckle
                rotations[:, joint] = axis_turn(_Z, mirror * amount * share * curl)
        for knuckle, amount in enumerate((0.10, 0.15, 0.20)):
            rotations[:, 37 + 15 * side + knuckle] = axis_turn(_Y, mirror * -amount * curl)

    def _foot(self, time: Array, side: int) -> tuple[Array, Array, Array]:
        """One foot's ankle position [T, 3], yaw and downward pitch [T]: planted, then carried to the next place."""
        hip = np.abs(self.joints[1 + side, 0])
        count = time / CYCLE - 0.5 * side
        cycle = np.floor(count)
        carried = am.smooth((count - cycle - 0.06) / 0.40)
        places, yaws = [], []
        for when in (cycle, cycle + 1.0):
            # The heading in the middle of the stand, less a third: feet that followed all of it would cross.
            facing = 0.66 * self.heading((when + 0.5 * side - 0.2) * CYCLE)
            forward, sideways, yaw = np.moveaxis(self.steps[side, when.astype(np.int64) % _STEPS], -1, 0)
            offset = np.stack(
                [
                    (1.0 - 2.0 * side) * (hip + 0.045 + self.energy * 0.03 * (1.0 + sideways)),
                    np.full_like(forward, self.ankle_height),
                    self.joints[7, 2] + self.energy * 0.07 * forward,
                ],
                -1,
            )
            places.append(turned(axis_turn(_Y, facing), offset))
            yaws.append(facing + (1.0 - 2.0 * side) * 0.12 + 0.08 * yaw)
        place = places[0] + (places[1] - places[0]) * carried[:, None]
        hop = 4.0 * carried * (1.0 - carried)
        place[:, 1] += self.energy * 0.12 * hop * hop
        return place, yaws[0] + (yaws[1] - yaws[0]) * carried, self.energy * 0.45 * hop

    def _legs(self, rotations: Array, time: Array) -> Array:
        """Bends the legs so that the feet stand where they should; returns the pelvis' position [T, 3]."""
        J, step = self.joints, 2.0 * am.PI / CYCLE * time
        feet = [self._foot(time, side) for side in (LEFT, RIGHT)]
        facing = axis_turn(_Y, self.heading(time))
        sway = np.stack([-self.energy * 0.045 * am.sin(step), np.zeros_like(time), np.full_like(time, -0.005)], -1)
        pelvis = 0.5 * (feet[0][0] + feet[1][0]) + turned(facing, sway)
        lengths = [_length(J[4 + s] - J[1 + s]) + _length(J[7 + s] - J[4 + s]) for s in (LEFT, RIGHT)]
        bounce = 0.970 - self.energy * 0.032 * (1.0 + am.cos(2.0 * step + 0.4))
        pelvis[:, 1] = self.ankle_height + (J[0, 1] - J[1, 1]) + lengths[0] * bounce
        hips = [turned(rotations[:, 0], np.broadcast_to(J[1 + s] - J[0], pelvis.shape)) for s in (LEFT, RIGHT)]
        for side in (LEFT, RIGHT):  # no higher than the legs reach
            gap = pelvis + hips[side] - feet[side][0]
            level = gap[:, 0] * gap[:, 0] + gap[:, 2] * gap[:, 2]
            reach = np.sqrt(np.maximum((0.992 * lengths[side]) ** 2 - level, 0.01))
            pelvis[:, 1] -= np.maximum(gap[:, 1] - reach, 0.0)
        for side in (LEFT, RIGHT):
            place, yaw, pitch = feet[side]
            foot = quaternion_product(axis_turn(_Y, yaw), axis_turn(_X, pitch))
            pole = turned(am.blended(axis_turn(_Y, yaw), facing, np.full_like(yaw, 0.3)), np.array([0.0, 0.0, 1.0]))
            self._bend(rotations, side, pelvis + hips[side], place, pole, foot)
            rotations[:, 10 + side] = axis_turn(_X, -0.4 * pitch)  # the toes stay flatter than the foot
        return pelvis

    def _bend(self, rotations: Array, side: int, hip: Array, ankle: Array, pole: Array, foot: Array) -> None:
        """Two-bone inverse kinematics: hip, knee and ankle rotations that bring the ankle to its place."""
        J = self.joints
        thigh, shin = J[4 + side] - J[1 + side], J[7 + side] - J[4 + side]
        a, b = _length(thigh), _length(shin)
        gap = ankle - hip
        distance = np.sqrt(am.dot(gap, gap))
        down = gap / distance[:, None]
        hinge = am.unit(am.cross(pole, down))
        front = am.cross(down, hinge)
        distance = np.minimum(distance, 0.9999 * (a + b))
        along = (a * a - b * b + distance * distance) / (2.0 * distance)
        knee = down * along[:, None] + front * np.sqrt(np.maximum(a * a - along * along, 0.0))[:, None]
        globals_ = []
        for rest, now in ((thigh, knee), (shin, down * distance[:, None] - knee)):
            rest, now = rest / _length(rest), am.unit(now)
            side_axis = am.unit(np.array([1.0, 0.0, 0.0]) - rest * rest[0])
            globals_.append(
                quaternion_product(
                    am.quaternion_of_frame(now, hinge), am.inverse(am.quaternion_of_frame(rest, side_axis))
                )
            )
        root = rotations[:, 0]
        rotations[:, 1 + side] = quaternion_product(am.inverse(root), globals_[0])
        rotations[:, 4 + side] = quaternion_product(am.inverse(globals_[0]), globals_[1])
        rotations[:, 7 + side] = quaternion_product(am.inverse(globals_[1]), foot)


def _length(v: Array) -> float:
    return float(np.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]))
