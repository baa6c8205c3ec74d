"""Making a synthetic capture: a dancing person in a loose garment, in DNA-Rendering's layout."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from r3avatar.body import demo_surface, load_body
from r3avatar.captures.smc import SmcWriter, smc_paths
from r3avatar.captures.synthesis import garment as garments
from r3avatar.captures.synthesis.appearance import SHORTS, TROUSERS, YOKE, weave
from r3avatar.captures.synthesis.arithmetic import draws
from r3avatar.captures.synthesis.dance import Dance
from r3avatar.captures.synthesis.faults import FITTED_JOINTS, Faults, FaultyCamera, misfitted
from r3avatar.captures.synthesis.performance import Performance, perform
from r3avatar.captures.synthesis.person import Person, dress
from r3avatar.captures.synthesis.rig import Camera, ring
from r3avatar.captures.synthesis.score import Score
from r3avatar.captures.synthesis.studio import Studio, contact_sheet, encoded
from r3avatar.cloth.particles import Fabric

VERSION = 2  # of what is drawn: rises when the same options give other pixels
GARMENTS = ("skirt", "cape", "trousers", "none")
_LEGS = {"skirt": SHORTS, "cape": TROUSERS, "trousers": YOKE, "none": TROUSERS}
# What captures that were made before these options existed have.
_LATER_OPTIONS = {"length": 1.0, "supersampling": 1, "quality": 92, "faults": asdict(Faults())}
_TRUTH = "truth.npz"  # the true poses of a capture whose fits have errors
_TILE = 256  # pixels; height of a picture on the contact sheet


def synthesize(
    root: str | Path,
    subject: str = "demo",
    *,
    seed: int = 0,
    recorded_frames: int = 60,
    later_frames: int = 20,
    transition_frames: int = 8,
    cameras: int | Sequence[int] = 8,
    held_out_cameras: int | Sequence[int] = 2,
    width: int = 1024,
    height: int = 1024,
    distortion: Sequence[float] = (-0.12, 0.05, 5e-4, -4e-4, -0.01),
    garment: str = "skirt",
    length: float = 1.0,
    fullness: float = 1.0,
    bending: float = 1.0,
    drag: float = 1.0,
    energy: float = 1.0,
    turning: float = 1.0,
    fps: float = 15.0,
    supersampling: int = 1,
    quality: int = 92,
    faults: Faults | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    preview: bool = True,
) -> Path:
    """Write a synthetic capture, `<root>/<subject>/<subject>{,_annots}.smc`, and return its folder.

    A capture that is there already, made with the same options, is kept; one made otherwise is a FileExistsError
    unless `overwrite`. The options are kept beside it in synthesis.json, with hashes of all pixels and poses: one seed
    gives the same ones on every machine, whatever `workers`.

    Args:
        seed: of the body's shape, the colours, the dance, the fabric and the cameras' places.
        recorded_frames, later_frames: frames of the dance, and of poses recombined from its body parts after it.
        transition_frames: first later frames, in which the parts leave the dance for their own recorded moments.
        cameras, held_out_cameras: their number (numbered 0, 1, ..) or their ids. The first stand in a ring, the others
            between them.
        width, height: of every image, pixels. distortion: OpenCV's k1, k2, p1, p2, k3; each camera's vary by a tenth.
        garment: 'skirt', 'cape', 'trousers' (wide ones) or 'none'. length, fullness, bending, drag: of its cloth,
            relative to the usual (1): from edge to hem, times what the seed draws; cloth in the hem beyond a straight
            fall; stiffness against bending; resistance of the air.
        energy, turning: how lively limbs move and the dancer turns, 1 as usual, 0 not at all.
        fps: frames a second.
        supersampling: images are drawn this many times as wide and high and averaged; 1 is 2 x 2 samples a pixel.
        quality: of the JPEG images, 1 to 100; from 95 on with colours at full resolution.
        faults: of cameras, masks and fitted poses; None for none.
        workers: threads; None for one a processor. preview: also write preview.png, pictures of some frames.
    """
    train, held_out = _camera_ids(cameras, held_out_cameras)
    faults = faults or Faults()
    options = dict(
        version=_version(seed, garment), seed=int(seed), recorded_frames=recorded_frames, later_frames=later_frames,
        transition_frames=transition_frames, cameras=train, held_out_cameras=held_out, width=width, height=height,
        distortion=[float(x) for x in distortion], garment=garment, fullness=float(fullness), bending=float(bending),
        length=float(length), drag=float(drag), energy=float(energy), turning=float(turning), fps=float(fps),
        supersampling=supersampling, quality=quality, faults=asdict(faults),
    )  # fmt: skip
    _check(options, subject)
    folder = smc_paths(root, subject)[0].parent
    if not overwrite and _exists(root, subject, options):
        print(f"{folder} was made with the same options before; it is kept")
        return folder
    workers = workers or _processors()
    person, performance = rehearse(options)
    rig = ring(
        performance.vertices, train, held_out, width=width, height=height, distortion=options["distortion"], seed=seed
    )
    for name in ("synthesis.json", _TRUTH):  # the first comes last: what has none is not complete
        (folder / name).unlink(missing_ok=True)
    spoilt = sorted(rig) if faults.held_out else train
    faulty = {camera: FaultyCamera(faults, seed, camera) for camera in spoilt if faults.of_images}
    fullpose, transl = misfitted(faults, seed, fps, performance.fullpose, performance.transl)
    digest, tiles = hashlib.sha256(), {}
    with SmcWriter(
        root, subject, cameras=_calibration(rig), num_frames=len(performance.vertices), overwrite=overwrite
    ) as writer:
        betas = person_betas(seed, garment)
        writer.body(betas[None], performance.expression, fullpose, transl)
        for frame, views in _views(person, performance, rig, faulty, options, workers, preview):
            for camera, jpeg, png, view_digest, tile in views:
                writer.add(camera, frame, jpeg, png)
                digest.update(view_digest)
                if tile is not None:
                    tiles[sorted(rig).index(camera), frame] = tile
    if preview:
        (folder / "preview.png").write_bytes(contact_sheet(tiles))
    poses = hashlib.sha256()
    for array in (performance.fullpose, performance.transl, performance.expression, performance.cloth):
        poses.update(np.ascontiguousarray(array))
    record = {"options": options, "pixels_sha256": digest.hexdigest(), "poses_sha256": poses.hexdigest()}
    if faulty:
        record["cameras"] = {
            camera: {"exposure_stops": f.exposure_stops, "gains_rgb": f.gains} for camera, f in faulty.items()
        }
    if faults.of_fits:
        true = {"fullpose": performance.fullpose, "transl": performance.transl}
        np.savez(folder / _TRUTH, **{name: array.astype(np.float32) for name, array in true.items()})
        record["fits"] = {"truth": _TRUTH, "joints_with_errors": list(range(FITTED_JOINTS))}
    (folder / "synthesis.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"synthetic capture written to {folder}")
    return folder


def _version(seed: int, garment: str) -> int:
    """Of what these draw; seed 0's skirt, the demo, is as it was in the first version."""
    return 1 if seed == 0 and garment == "skirt" else VERSION


def person_betas(seed: int, garment: str) -> np.ndarray:
    """The shape coefficients [10] of a seed's person."""
    betas = 1.6 * (draws(seed, 6, 10) - 0.5)
    # Of the demo body: 3 is the figure, from broad to narrow shoulders; 4 the age, which is kept adult.
    betas[3] = 1.1 + 0.3 * betas[3] if garment == "skirt" else betas[3]
    betas[4] *= 0.4
    return np.round(betas, 3)


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _camera_ids(cameras: int | Sequence[int], held_out: int | Sequence[int]) -> tuple[list[int], list[int]]:
    train = list(range(cameras)) if isinstance(cameras, int) else [int(c) for c in cameras]
    if isinstance(held_out, int):
        held_out = range(max(train, default=-1) + 1, max(train, default=-1) + 1 + held_out)
    return train, [int(c) for c in held_out]


def _check(options: dict, subject: str) -> None:
    ids = options["cameras"] + options["held_out_cameras"]
    if not options["cameras"] or len(set(ids)) != len(ids) or min(ids) < 0 or max(ids) > 99:
        raise ValueError(f"cameras are {ids}; expected different numbers from 0 to 99, one for training at least")
    if options["garment"] not in GARMENTS:
        raise ValueError(f"garment is '{options['garment']}'; expected one of {', '.join(GARMENTS)}")
    if len(options["distortion"]) != 5:
        raise ValueError(f"distortion has {len(options['distortion'])} numbers; expected 5: k1, k2, p1, p2, k3")
    if not subject or Path(subject).name != subject:
        raise ValueError(f"subject is '{subject}'; expected a plain folder name")
    if not 1 <= options["quality"] <= 100:
        raise ValueError(f"quality is {options['quality']}; expected a JPEG quality from 1 to 100")
    for name in ("recorded_frames", "width", "height", "transition_frames", "fps", "supersampling"):
        if not options[name] > 0:
            raise ValueError(f"{name} is {options[name]}; expected a positive number")
    for name, most in {"length": 1.2, "fullness": 3.0, "bending": 10.0, "drag": 10.0}.items():
        if not 0.0 < options[name] <= most:
            raise ValueError(f"{name} is {options[name]}; expected a number above 0 and at most {most:g}")


def _exists(root: str | Path, subject: str, options: dict) -> bool:
    """True where this very capture is complete; FileExistsError where another one is in the way."""
    paths = smc_paths(root, subject)
    if not any(path.exists() for path in paths):
        return False
    record = paths[0].parent / "synthesis.json"
    made = {**_LATER_OPTIONS, **json.loads(record.read_text())["options"]} if record.exists() else {}
    if made == options and all(path.exists() for path in paths):
        return True
    differ = ", ".join(f"{k}={made.get(k)} there" for k in options if made.get(k) != options[k])
    what = f"was made with other options ({differ})" if made else "is not a (complete) synthetic capture"
    raise FileExistsError(f"{paths[0].parent} {what}; pass overwrite=true to replace it, or choose another subject")


def rehearse(options: dict) -> tuple[Person, Performance]:
    """The person, and the person dancing."""
    seed, garment, fps = options["seed"], options["garment"], options["fps"]
    trousers, length = _LEGS[garment] == TROUSERS, weave(seed, garment).length * options["length"]
    model = load_body("demo")
    person = dress(model, demo_surface(), person_betas(seed, garment), trousers)
    dance = Dance(
        person.joints,
        float(person.joints[7, 1]) - person.sole,
        seed,
        energy=options["energy"],
        turning=options["turning"],
    )
    recorded, later = options["recorded_frames"], options["later_frames"]
    score = Score(dance, recorded, later, options["transition_frames"], fps, seed)
    vary = 2.0 * draws(seed, 7, 4) - 1.0
    fabric = Fabric(
        density=0.22 * (1.0 + 0.15 * vary[0]),
        bending=30.0 * (1.0 + 0.3 * vary[1]) / options["bending"],
        drag=1.3 * (1.0 + 0.15 * vary[2]) * options["drag"],
    )
    marks, rest = person.marks, model.v_template.numpy()
    side, up = np.abs(rest[:, 0]), rest[:, 1]
    if garment == "skirt":
        length *= float(person.joints[3, 1] - person.joints[4, 1]) + 0.02
        fullness = min(3.6 * (1.0 + 0.08 * vary[3]) * options["fullness"], 6.2)
        grid = garments.skirt(person, length=length, fullness=fullness, rows=36, columns=96, seed=seed)
        collider = (up < marks.waist + 0.06) & (up > marks.ankle) & (side < marks.elbow - 0.1)
    elif garment == "cape":
        fullness = 1.1 * (1.0 + 0.1 * vary[3]) * options["fullness"]
        grid = garments.cape(person, length=0.95 * length, fullness=fullness, rows=48, columns=40, seed=seed)
        collider = (up > marks.ankle) & (side < marks.elbow + 0.15)  # with the head, or a gust carries it through
    elif garment == "trousers":
        length *= float(person.joints[1, 1] - person.joints[7, 1]) - 0.02
        fullness = 0.55 * (1.0 + 0.15 * vary[3]) * options["fullness"]
        grid = garments.trouser_legs(person, length=length, fullness=fullness, rows=36, columns=48, seed=seed)
        collider = (up < marks.waist) & (side < marks.elbow - 0.1)
    else:
        grid, collider = None, np.zeros(len(rest), bool)
    frames = recorded + later
    with tqdm(total=frames, desc="motion and cloth", unit="frame") as bar:
        performance = perform(person, score, frames, grid, fabric, collider, lambda done: bar.update(done - bar.n))
    return person, performance


def studio_of(person: Person, performance: Performance, options: dict) -> Studio:
    """What draws the performance that `rehearse` gave for the same options."""
    garment, seed = options["garment"], options["seed"]
    return Studio(
        performance.surface, person.marks, legs=_LEGS[garment], cloth=weave(seed, garment), seed=seed,
        supersampling=options["supersampling"],
    )  # fmt: skip


def _calibration(rig: dict[int, Camera]) -> dict[int, dict]:
    return {i: dict(K=c.K, D=c.D, w2c=c.w2c, width=c.width, height=c.height) for i, c in rig.items()}


def _views(
    person: Person, performance: Performance, rig: dict[int, Camera], faulty: dict[int, FaultyCamera], options: dict,
    workers: int, preview: bool,
) -> Iterator[tuple[int, list[tuple]]]:  # fmt: skip
    """Every frame's encoded views, in order; frames are drawn by `workers` threads, a few ahead."""
    studio = studio_of(person, performance, options)
    frames = len(performance.vertices)
    shown = {int(k) for k in np.arange(8) * (frames - 1) // 7} if preview else set()
    ids = sorted(rig)
    faces = {ids[0], ids[len(ids) // 3], ids[-1]}

    def draw(frame: int) -> list[tuple]:
        vertices = performance.vertices[frame]
        light = studio.light(vertices)
        views = []
        for camera in ids:
            view = studio.draw(vertices, light, rig[camera])
            if camera in faulty:
                view = faulty[camera].spoil(view, frame)
            size = round(_TILE * view.rgb.shape[1] / view.rgb.shape[0]), _TILE
            tile = None
            if frame in shown and camera in faces:
                tile = cv2.resize(view.rgb, size, interpolation=cv2.INTER_AREA)
            views.append((camera, *encoded(view, options["quality"]), view.digest, tile))
        return views

    with ThreadPoolExecutor(workers) as pool, tqdm(total=frames * len(rig), desc="images", unit="image") as bar:
        ahead: deque = deque()
        for frame in range(frames):
            ahead.append((frame, pool.submit(draw, frame)))
            while ahead and (len(ahead) > 2 * workers or frame == frames - 1):
                done, views = ahead.popleft()
                yield done, views.result()
                bar.update(len(rig))
