"""What is danced when: the recorded part, then poses put together from the recorded body parts.

After the recording every part of the body repeats the recorded motion from a moment of its own, so that the whole
poses are new while each part's was seen: what a method that retrieves appearance per part should be able to draw.
"""

from __future__ import annotations

import numpy as np

from r3avatar.captures.synthesis import arithmetic as am
from r3avatar.captures.synthesis.arithmetic import Array
from r3avatar.captures.synthesis.dance import Dance, Motion

# Joints of SMPL-X that move together; the body comes first, the pelvis' path goes with it.
PARTS = (
    (0, 3, 6, 9, 12, 15, 22, 23, 24),
    (1, 4, 7, 10),
    (2, 5, 8, 11),
    (13, 16, 18, 20, *range(25, 40)),
    (14, 17, 19, 21, *range(40, 55)),
)


def part_starts(recorded: int, later: int, seed: int) -> tuple[int, ...]:
    """The recorded frame that each part of PARTS repeats from when the recording ends; all differ."""
    order = np.argsort(am.draws(seed, 4, len(PARTS)), kind="stable")
    room, last = recorded - later, len(PARTS) - 1  # from frame `room` on there is just enough left to repeat
    if later and room < last:
        raise ValueError(f"{later} later frames need at least {later + last} recorded ones, not {recorded}")
    return tuple(int(k) * room // last for k in order)


class Score:
    """The motion of a whole capture; call it with (fractional) frame numbers.

    recorded, later: numbers of frames. transition: frames over which the parts leave the dance for their own moments.
    Attribute starts: the recorded frame that each part of PARTS repeats from when the recording ends; all differ.
    """

    def __init__(self, dance: Dance, recorded: int, later: int, transition: int, fps: float, seed: int):
        self.dance, self.recorded, self.transition, self.fps = dance, recorded, transition, fps
        self.starts = part_starts(recorded, later, seed)

    def __call__(self, frame: Array) -> Motion:
        """The motion at `frame` [T]; frames before 0 lead up to the recording."""
        motion = self.dance(frame / self.fps)
        after = frame - (self.recorded - 1)
        if not (after > 0.0).any():
            return motion
        share = am.smooth(after / self.transition)
        for joints, start in zip(PARTS, self.starts):
            source = self.dance((start + np.maximum(frame - self.recorded, -1.0)) / self.fps)
            for joint in joints:
                motion.rotations[:, joint] = am.blended(motion.rotations[:, joint], source.rotations[:, joint], share)
            if joints[0] == 0:
                motion.pelvis += share[:, None] * (source.pelvis - motion.pelvis)
        return motion
