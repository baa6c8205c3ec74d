"""ASF and AMC (Acclaim skeleton and motion), the format of the CMU motion capture database.

A bone points from its parent's end along `direction` (rest pose, world axes) for `length`; its degrees of freedom turn
it in its own `axis`: with C the turn of `axis` and M that of the angles, a bone turns by C M C^-1 against its parent.
Angles act in the order listed, about fixed axes: `dof rx ry rz` is Rz Ry Rx. Lengths are kept in the file's unit: the
retargeting scales by the length of the legs. The format states no frame rate; CMU's clips have 120 frames a second.
Source: Acclaim file format (Lander, Working with motion capture file formats, 1998); mocap.cs.cmu.edu.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from r3avatar.motion.motion import MotionError, check_finite, check_rate
from r3avatar.motion.rig import RigMotion

ROOT = "root"


@dataclass
class AsfBone:
    """One bone of an ASF skeleton; the root has no direction and length 0."""

    name: str
    direction: np.ndarray = field(default_factory=lambda: np.zeros(3))
    length: float = 0.0
    axis: Rotation = field(default_factory=Rotation.identity)
    dof: list[str] = field(default_factory=list)  # rx ry rz tx ty tz in the order of the AMC's numbers
    parent: str | None = None


@dataclass
class AsfSkeleton:
    """Bones by name, parents before children, the root first."""

    path: Path
    bones: dict[str, AsfBone]
    degrees: bool


def find_asf(amc: Path) -> Path:
    """The skeleton of an AMC clip in its folder: of the same stem, else of the subject (02_01.amc: 02.asf)."""
    for stem in (amc.stem, amc.stem.rsplit("_", 1)[0]):
        for suffix in (".asf", ".ASF"):
            if (amc.parent / f"{stem}{suffix}").is_file():
                return amc.parent / f"{stem}{suffix}"
    raise MotionError(
        f"{amc} needs its skeleton: neither {amc.stem}.asf nor {amc.stem.rsplit('_', 1)[0]}.asf is in {amc.parent}; "
        "give it with skeleton=FILE.asf"
    )


def read_asf(path: str | Path) -> AsfSkeleton:
    """Parse an ASF skeleton. Raises MotionError naming the file, the line, what was found and what is accepted."""
    path, bones, sections = Path(path), {}, _sections(Path(path))
    for name in (":root", ":bonedata", ":hierarchy"):
        if name not in sections:
            raise MotionError(f"{path}: no section {name}; it has {', '.join(sections) or 'none'}; is it truncated?")
    units = {words[0].lower(): words[1:] for _, words in sections.get(":units", [])}
    angle = " ".join(units.get("angle", ["deg"])).lower()
    if angle not in ("deg", "rad"):
        raise MotionError(f"{path}: units: angle is {angle!r}; expected deg or rad")
    degrees = angle == "deg"
    bones[ROOT] = _root(path, sections[":root"], degrees)
    for line, block in _blocks(path, sections[":bonedata"]):
        bone = _bone(path, line, block, degrees)
        if bone.name in bones:
            raise MotionError(f"{path}, line {line}: bone {bone.name} is defined twice")
        bones[bone.name] = bone
    return AsfSkeleton(path, _hierarchy(path, sections[":hierarchy"], bones), degrees)


def read_amc(path: str | Path, skeleton: AsfSkeleton, fps: float | None) -> RigMotion:
    """Parse an AMC clip on its skeleton. fps: the format states none. Raises MotionError like `read_asf`."""
    path = Path(path)
    fps = check_rate(path, fps, "AMC files state none; CMU's clips have 120")
    moving = {name: bone for name, bone in skeleton.bones.items() if bone.dof}
    degrees, frames = skeleton.degrees, []
    for line, words in _lines(path):
        if words[0].startswith(":"):
            degrees = {":DEGREES": True, ":RADIANS": False}.get(words[0].upper(), degrees)
        elif len(words) == 1 and words[0].isdigit():
            if frames:
                _complete(path, frames, moving)
            frames.append({})
        elif not frames:
            raise MotionError(f"{path}, line {line}: expected a frame number; found {' '.join(words)[:80]!r}")
        else:
            name = words[0]
            if name not in moving:
                raise MotionError(
                    f"{path}, line {line}: bone {name} has no degrees of freedom in {skeleton.path}; those that have: "
                    f"{', '.join(moving)}"
                )
            if len(words) - 1 != len(moving[name].dof):
                raise MotionError(
                    f"{path}, line {line}: {len(words) - 1} numbers for {name}; expected {' '.join(moving[name].dof)}"
                )
            frames[-1][name] = _floats(path, line, words[1:])
    if not frames:
        raise MotionError(f"{path} is an empty motion: no frame number was found")
    _complete(path, frames, moving)
    return _assemble(path, skeleton, {n: np.array([f[n] for f in frames]) for n in moving}, len(frames), degrees, fps)


def _assemble(path, skeleton, values: dict[str, np.ndarray], F: int, degrees: bool, fps: float) -> RigMotion:
    names = list(skeleton.bones)
    parents = [names.index(bone.parent) if bone.parent else -1 for bone in skeleton.bones.values()]
    ends = np.array([bone.direction * bone.length for bone in skeleton.bones.values()])
    offsets = np.array([ends[p] if p >= 0 else np.zeros(3) for p in parents])
    rotations = np.broadcast_to(np.eye(3), (F, len(names), 3, 3)).copy()
    translations = np.broadcast_to(offsets, (F, len(names), 3)).copy()
    for name, own in values.items():
        check_finite(path, name, own)
        j, bone = names.index(name), skeleton.bones[name]
        turns = [i for i, dof in enumerate(bone.dof) if dof[0] == "r"]
        for i, dof in enumerate(bone.dof):
            if dof[0] == "t":
                translations[:, j, "xyz".index(dof[1])] += own[:, i]
        if turns:
            axes = "".join(bone.dof[i][1] for i in turns)  # lower case: about fixed axes
            turned = Rotation.from_euler(axes, own[:, turns], degrees=degrees)
            rotations[:, j] = (bone.axis * turned * bone.axis.inv()).as_matrix()
    tips = {j: ends[j] for j in range(len(names)) if j not in parents}
    return RigMotion(path, names, parents, offsets, tips, rotations, translations, fps)


def _complete(path: Path, frames: list[dict], moving: dict) -> None:
    missing = [name for name in moving if name not in frames[-1]]
    if missing:
        raise MotionError(f"{path}: frame {len(frames)} lacks {', '.join(missing)}; is the file truncated?")


def _root(path: Path, lines: list, degrees: bool) -> AsfBone:
    values = {words[0].lower(): words[1:] for _, words in lines}
    line = lines[0][0] if lines else 0
    order = [word.lower() for word in values.get("order", [])]
    if sorted(order) != ["rx", "ry", "rz", "tx", "ty", "tz"]:
        raise MotionError(f"{path}, line {line}: the root's order is {order}; expected TX TY TZ RX RY RZ in any order")
    axis = values.get("axis", ["XYZ"])
    turned = _axis(path, line, [*values.get("orientation", ["0", "0", "0"]), *axis], degrees)
    return AsfBone(ROOT, axis=turned, dof=order)


def _bone(path: Path, line: int, block: list, degrees: bool) -> AsfBone:
    values = {words[0].lower(): words[1:] for _, words in block if words[0][0] != "("}
    missing = [key for key in ("name", "direction", "length") if not values.get(key)]
    if missing:
        raise MotionError(f"{path}, line {line}: the bone that begins here lacks {', '.join(missing)}")
    name, dof = values["name"][0], [word.lower() for word in values.get("dof", [])]
    unknown = [word for word in dof if word not in ("rx", "ry", "rz", "tx", "ty", "tz")]
    if unknown or len(set(dof)) != len(dof):
        raise MotionError(f"{path}: dof of {name} is {' '.join(dof)}; accepted are rx ry rz tx ty tz, each once")
    direction = np.array(_floats(path, line, values["direction"]))
    norm = np.linalg.norm(direction)
    if direction.shape != (3,) or not 0 < norm < np.inf:
        raise MotionError(f"{path}: direction of {name} is {values['direction']}; expected three numbers, not all zero")
    axis = _axis(path, line, values.get("axis", ["0", "0", "0", "XYZ"]), degrees)
    length = _floats(path, line, values["length"])[0]
    if not 0 <= length < np.inf:
        raise MotionError(f"{path}: length of {name} is {length}; expected a number, not negative")
    return AsfBone(name, direction / norm, length, axis, dof)


def _axis(path: Path, line: int, words: list[str], degrees: bool) -> Rotation:
    if len(words) != 4 or sorted(words[3].upper()) != list("XYZ"):
        raise MotionError(
            f"{path}, line {line}: axis is {' '.join(words)!r}; expected three angles and an order like XYZ"
        )
    angles = _floats(path, line, words[:3])
    if not np.isfinite(angles).all():
        raise MotionError(f"{path}, line {line}: axis is {' '.join(words)!r}; expected three finite angles")
    return Rotation.from_euler(words[3].lower(), angles, degrees=degrees)


def _hierarchy(path: Path, lines: list, bones: dict[str, AsfBone]) -> dict[str, AsfBone]:
    ordered = {ROOT: bones[ROOT]}
    for line, words in lines:
        if words[0].lower() in ("begin", "end"):
            continue
        unknown = [name for name in words if name not in bones]
        if unknown or words[0] not in ordered:
            what = f"unknown bones {', '.join(unknown)}" if unknown else f"{words[0]} before its own parent"
            raise MotionError(f"{path}, line {line}: hierarchy names {what}; expected a parent and its children")
        for child in words[1:]:
            if child in ordered:
                raise MotionError(f"{path}, line {line}: {child} has two parents")
            bones[child].parent = words[0]
            ordered[child] = bones[child]
    lost = [name for name in bones if name not in ordered]
    if lost:
        raise MotionError(f"{path}: hierarchy does not reach {', '.join(lost)}; is the file truncated?")
    return ordered


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    if not path.is_file():
        raise MotionError(f"file {path} does not exist")
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            yield number, words


def _sections(path: Path) -> dict[str, list[tuple[int, list[str]]]]:
    sections: dict[str, list] = {}
    current: list = []
    for line, words in _lines(path):
        if words[0].startswith(":"):
            current = sections.setdefault(words[0].lower(), [])
        else:
            current.append((line, words))
    return sections


def _blocks(path: Path, lines: list) -> Iterator[tuple[int, list]]:
    block, begun = [], None
    for line, words in lines:
        if words[0].lower() == "begin":
            block, begun = [], line
        elif words[0].lower() == "end":
            yield begun, block
            begun = None
        else:
            block.append((line, words))
    if begun is not None:
        raise MotionError(f"{path}, line {begun}: this bone has no end; is the file truncated?")


def _floats(path: Path, line: int, words: list[str]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise MotionError(f"{path}, line {line}: expected numbers; found {' '.join(words)[:80]!r}") from error
