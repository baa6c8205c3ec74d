"""BVH (Biovision hierarchy): a skeleton of offsets and channels, then a line of numbers a frame.

Angles are degrees; channels act in the order in which they are listed, each in the axes that the ones before have
turned: `Zrotation Xrotation Yrotation` is Rz Rx Ry. A joint's position channels replace its offset. Lengths have no
unit: the retargeting scales by the length of the legs.
Source: the Biovision BVH format (Meredith and Maddock, Motion capture file formats explained, 2001).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from r3avatar.motion.motion import MotionError, check_finite, check_rate
from r3avatar.motion.rig import RigMotion

CHANNELS = tuple(f"{axis}{what}" for what in ("position", "rotation") for axis in "XYZ")


def read_bvh(path: str | Path) -> RigMotion:
    """Parse a BVH file. Raises MotionError naming the file, the line, what was found and what is accepted."""
    return _Parser(Path(path)).parse()


class _Parser:
    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            raise MotionError(f"motion file {path} does not exist")
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        self.lines = [(n, words) for n, words in enumerate((line.split() for line in lines), 1) if words]
        self.at = 0
        self.names: list[str] = []
        self.parents: list[int] = []
        self.offsets: list[list[float]] = []
        self.channels: list[list[str]] = []
        self.tips: dict[int, np.ndarray] = {}

    def parse(self) -> RigMotion:
        self._take("HIERARCHY")
        words = self._take("ROOT", arguments=None)
        self._joint(self._name(words), -1)
        if self._peek()[0].upper() == "ROOT":
            raise self._error("one skeleton; a second ROOT was found", "split the file")
        self._take("MOTION")
        count = self._number(self._take("Frames:", 1)[1])
        words = self._take("Frame", 2)
        seconds = self._number(words[2])
        if words[1].lower() != "time:" or not seconds > 0:
            raise self._error("a line 'Frame Time: SECONDS' with SECONDS > 0")
        values = self._frames(int(count))
        rotations, translations = self._poses(values)
        fps = check_rate(self.path, 1 / seconds, "line 'Frame Time:'")
        rounded = round(fps)
        fps = float(rounded) if abs(fps - rounded) < 1e-4 * fps else fps  # .0083333 is 120
        return RigMotion(
            self.path, self.names, self.parents, np.array(self.offsets), self.tips, rotations, translations, fps
        )

    def _joint(self, name: str, parent: int) -> None:
        if name in self.names:
            raise self._error(f"joints of different names; {name} occurs twice")
        j = len(self.names)
        self.names.append(name)
        self.parents.append(parent)
        self.channels.append([])
        self._take("{")
        self.offsets.append(self._vector(self._take("OFFSET", 3)))
        while True:
            words = self._take(("CHANNELS", "JOINT", "End", "}"), arguments=None)
            keyword = words[0].upper()
            if keyword == "}":
                return
            if keyword == "CHANNELS":
                self.channels[j] = self._channels(words)
            elif keyword == "JOINT":
                self._joint(self._name(words), j)
            else:
                self._take("{")
                self.tips[j] = np.array(self._vector(self._take("OFFSET", 3)))
                self._take("}")

    def _channels(self, words: list[str]) -> list[str]:
        names = [name[:1].upper() + name[1:].lower() for name in words[2:]]
        unknown = [name for name in names if name not in CHANNELS]
        if len(words) < 2 or words[1] != str(len(names)) or unknown or len(set(names)) != len(names):
            raise self._error(f"'CHANNELS n' with n different names out of {', '.join(CHANNELS)}", back=1)
        return names

    def _frames(self, count: int) -> np.ndarray:
        width = sum(map(len, self.channels))
        rows = self.lines[self.at :]
        if count < 1 or not rows:
            raise MotionError(f"{self.path}: an empty motion: 'Frames: {count}' and {len(rows)} lines of numbers")
        if len(rows) != count:
            raise MotionError(
                f"{self.path}: 'Frames: {count}', but {len(rows)} lines of numbers follow; is it truncated?"
            )
        for f, (line, words) in enumerate(rows):
            if len(words) != width:
                raise MotionError(
                    f"{self.path}, line {line}: frame {f} has {len(words)} numbers; the channels need {width}"
                )
        try:
            values = np.array([words for _, words in rows], dtype=np.float64)
        except ValueError as error:
            raise MotionError(f"{self.path}: a frame holds something that is no number ({error})") from error
        check_finite(self.path, "channels", values)
        return values

    def _poses(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        F, J, column = len(values), len(self.names), 0
        rotations = np.broadcast_to(np.eye(3), (F, J, 3, 3)).copy()
        translations = np.broadcast_to(np.array(self.offsets), (F, J, 3)).copy()
        for j, channels in enumerate(self.channels):
            own = values[:, column : column + len(channels)]
            column += len(channels)
            turns = [i for i, name in enumerate(channels) if name.endswith("rotation")]
            for i, name in enumerate(channels):
                if i not in turns:
                    translations[:, j, "XYZ".index(name[0])] = own[:, i]
            if turns:
                axes = "".join(channels[i][0] for i in turns)  # upper case: each in the axes turned so far
                rotations[:, j] = Rotation.from_euler(axes, own[:, turns], degrees=True).as_matrix()
        return rotations, translations

    def _peek(self) -> list[str]:
        if self.at >= len(self.lines):
            raise MotionError(
                f"{self.path}: the file ends in the middle of the skeleton or before MOTION; is it truncated?"
            )
        return self.lines[self.at][1]

    def _take(self, keyword: str | tuple[str, ...], arguments: int | None = 0) -> list[str]:
        """The next line, which must start with a keyword and have that many words after it (None: any)."""
        words = self._peek()
        keywords = (keyword,) if isinstance(keyword, str) else keyword
        if words[0].upper() not in [k.upper() for k in keywords] or arguments not in (None, len(words) - 1):
            raise self._error(f"{' or '.join(keywords)}{f' and {arguments} values' if arguments else ''}")
        self.at += 1
        return words

    def _name(self, words: list[str]) -> str:
        if len(words) < 2:
            raise self._error(f"a name after {words[0]}", back=1)
        return " ".join(words[1:])

    def _number(self, word: str) -> float:
        try:
            value = float(word)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            raise self._error(f"a number instead of {word!r}", back=1)
        return value

    def _vector(self, words: list[str]) -> list[float]:
        return [self._number(word) for word in words[1:4]]

    def _error(self, expected: str, fix: str = "", back: int = 0) -> MotionError:
        line, words = self.lines[min(self.at - back, len(self.lines) - 1)]
        found = " ".join(words)[:80]
        return MotionError(f"{self.path}, line {line}: expected {expected}; found {found!r}{f'; {fix}' if fix else ''}")
