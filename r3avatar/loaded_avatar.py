"""`r3avatar.Avatar`: a trained avatar, posed and rendered from Python in a few lines.

Not to be confused with `r3avatar.avatar.Avatar`, the module with the parameters that training changes; that one is the
attribute `model` of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from scipy.spatial.transform import Rotation
from torch import Tensor

from r3avatar.avatar import Playback
from r3avatar.avatar.attribute_table import KeptTables
from r3avatar.avatar.decoder import Attributes
from r3avatar.evaluation.evaluate import fit_retriever
from r3avatar.motion.cameras import choose_cameras, rig_up
from r3avatar.motion.load import load_motion
from r3avatar.motion.motion import rest_joints, shaped_pose
from r3avatar.motion.place import in_convention
from r3avatar.rasterizer import Rasterizer
from r3avatar.retrieval import Mixture, Retrieved
from r3avatar.types import BodyPose, Cameras, Gaussians
from r3avatar.verbs.parts import Run, load_run

_SAME_POSE = 1e-3  # radians and metres, all together, within which poses are a recorded frame's


@dataclass
class PosedGaussians(Gaussians):
    """Gaussians in the world, for F frames, which know how to be rendered. Index them for some of the frames."""

    rasterizer: Rasterizer | None = None

    @torch.no_grad()
    def render(self, camera: Cameras, background: Tensor | None = None, alpha: bool = False) -> Tensor:
        """The image [H, W, 3] of the one frame, or images [F, H, W, 3] of several, RGB in [0, 1].

        camera: one (K [3, 3]) for all frames, or one a frame (K [F, 3, 3]). background: [3], black if None.
        alpha: the opacity is a fourth channel; colours are multiplied by it where the background is black.
        """
        F = len(self.means)
        if camera.K.ndim == 2:
            camera = Cameras(camera.K.expand(F, 3, 3), camera.w2c.expand(F, 4, 4), camera.width, camera.height)
        if camera.K.shape != (F, 3, 3):
            found = list(camera.K.shape[:-2])
            raise ValueError(f"cameras are {found}; expected one, or one for each of the {F} frames")
        images = []
        for f in range(F):
            one = Gaussians(*(x[f : f + 1] for x in (self.means, self.covariances, self.opacities, self.sh)))
            drawn = self.rasterizer(one, camera[f : f + 1][:, None].to(self.means.device), background)
            rgb = drawn.rgb[0, 0].clamp(0, 1)
            images.append(torch.cat([rgb, drawn.alpha[0, 0, ..., None]], -1) if alpha else rgb)
        return images[0] if F == 1 else torch.stack(images)


class LoadedAvatar:
    """A trained avatar with all that it takes to move it: body, retrieval, rasterizer, the capture's poses and cameras.

    Attributes:
        model      the trained `r3avatar.avatar.Avatar`
        body       its `BodyModel`; kind 'smpl' (J = 24) or 'smplx' (J = 55)
        recording  poses, times, cameras and splits of its capture, without images
        cameras    the capture's cameras by name
        fps        frames a second of the capture, at which motions are looked up; None if unknown
        up         the direction [3] that is up in the capture's world
    """

    def __init__(self, run: Run):
        self.model, self.body, self.recording, self.device = run.avatar, run.body, run.capture, run.device
        self.rasterizer = run.rasterizer
        self.cameras = dict(zip(run.capture.camera_ids, run.capture.cameras))
        self.fps = run.capture.fps
        self.up = rig_up(run.capture.cameras)
        self._retriever = fit_retriever(run.retriever, run.capture)
        self._pelvis = rest_joints(self.body, run.capture.poses)[0]
        with torch.no_grad():
            self._constants = self.model.constants()
        self._tables = KeptTables(self.model)

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        checkpoint: str = "last",
        device: str = "auto",
        retrieval: str | None = None,
        rasterizer: str | None = None,
        body_path: str | Path | None = None,
    ) -> LoadedAvatar:
        """Load a run folder; its capture need not be there.

        checkpoint: 'last' or 'best'. device: 'auto', 'cpu' or 'cuda'. retrieval, rasterizer: a member of that group of
        the configuration, e.g. 'viterbi'; None: as trained. body_path: where a registered body's files are now.
        RunError for a folder that is no run.
        """
        groups = {"retrieval": retrieval, "rasterizer": rasterizer}
        config = OmegaConf.create(
            {
                "run": str(run), "checkpoint": checkpoint, "device": device, "capture": {},
                "body": {} if body_path is None else {"path": str(body_path)},
                **{group: None if member is None else _member(group, member) for group, member in groups.items()},
            }
        )  # fmt: skip
        return cls(load_run(config, images=False))

    @torch.no_grad()
    def pose(
        self,
        theta: Tensor | np.ndarray,
        transl: Tensor | np.ndarray | None = None,
        *,
        history: Tensor | np.ndarray | None = None,
        time: float | None = None,
    ) -> PosedGaussians:
        """The avatar's Gaussians in one pose or in F, in the shape that was captured, in the capture's world.

        Args:
            theta: [J, 3] or [F, J, 3] axis-angle, radians, the root first; consecutive frames at `fps` a second.
            transl: [3] or [F, 3] metres: where the body model is moved to; None: where the capture's first pose stands.
            history: [<= 2, J, 3] the poses just before, from whose steps retrieval tells how the pose is moving.
            time: show what was recorded at this time (frames since the first recorded one), instead of retrieving.

        An avatar that wears a garment dresses first: the garment is simulated from the rest pose to the first one and
        on through the motion, so give consecutive frames at once. Frames of the capture hang as they did there.
        ValueError says which shape was expected and which was found.
        """
        pose = self._body_pose(theta, transl)
        before = None if history is None else self._body_pose(history, transl if np.ndim(transl) == 1 else None)
        if time is None:
            retrieved = self._retriever.retrieve(pose.theta, None if before is None else before.theta)
        pose = self._dressed(pose, before)
        frames = []
        for f in range(len(pose)):  # one after another: the parts' attributes at ten times take much memory
            if time is None:
                chosen = retrieved[[f]]
                attributes = self._attributes(chosen)
            else:
                attributes = self.model.record(torch.tensor([float(time)], device=self.device))
            frames.append(self.model.reconstruct(attributes, pose[f : f + 1].to(self.device), self._constants))
        fields = (torch.cat([getattr(g, name) for g in frames]) for name in ("means", "covariances", "opacities"))
        if self.model.colour_residual is None:
            sh = frames[0].sh.expand(len(frames), *frames[0].sh.shape[1:])
        else:
            sh = torch.cat([g.sh for g in frames])
        return PosedGaussians(*fields, sh, self.rasterizer)

    def motion(self, motion: str | Path, **options) -> tuple[Tensor, Tensor]:
        """theta [F, J, 3] and transl [F, 3] of a motion file or a built-in motion, e.g. 'builtin:walk', for `pose`.

        options: those of `r3avatar.motion.load.load_motion`, e.g. root='in_place', start=2, end=6, motion_fps=120.
        MotionError names what is wrong with a file.
        """
        like = self.recording.poses
        loaded = load_motion(
            motion, body=self.body, like=like, **{"fps": self.fps, "world_up": self.up, **options}
        )  # fmt: skip
        return self._root_in_theta(loaded.pose)

    def recorded(self, split: str = "train") -> tuple[Tensor, Tensor]:
        """theta [F, J, 3] and transl [F, 3] of the capture's own frames of a split."""
        rows = [self.recording.frame_index(frame) for frame in self.recording.split(split).frames]
        return self._root_in_theta(self.recording.poses[rows])

    def camera(self, choice: str, theta: Tensor, transl: Tensor, turns: float = 1.0) -> Cameras:
        """Cameras [F] for a motion: 'turntable', 'follow', 'fixed', a capture camera's name, or a .json file's path."""
        pose = self._body_pose(theta, transl)
        fps = self.fps or 15.0
        return choose_cameras(choice, capture=self.recording, body=self.body, pose=pose, fps=fps, turns=turns)

    def playback(self) -> Playback:
        """The fastest way to many pictures of this avatar (CUDA graphs where there are any)."""
        return Playback(self.model, self.rasterizer)

    def __repr__(self) -> str:
        return (
            f"<r3avatar.Avatar of {self.recording.name}: {len(self.model.gaussians)} Gaussians, {self.body.kind} body, "
            f"{self.recording.recorded[1]} recorded frames, on {self.device}>"
        )

    def _dressed(self, pose: BodyPose, before: BodyPose | None) -> BodyPose:
        """With the garment as it hung, where these are frames of the capture; else as it follows the motion."""
        garment = self.model.garment
        if garment is None or not garment.worn:
            return pose
        known = self.recording.poses
        numbers, recorded = (torch.cat([p.theta.flatten(1), p.R.flatten(1), p.Th], 1) for p in (pose, known))
        far, rows = torch.cdist(numbers.double(), recorded.double()).min(1)
        if float(far.max()) < _SAME_POSE:
            return self.model.dressed(pose, torch.tensor([self.recording.frame_ids[row] for row in rows.tolist()]))
        if before is None:
            return self.model.dress(pose, self.fps)
        return self.model.dress(BodyPose.joined([before, pose]), self.fps)[len(before) :]

    def _attributes(self, retrieved: Retrieved | Mixture) -> Attributes:
        if isinstance(retrieved, Mixture):
            return self._tables(retrieved, self._constants)[1].mix(retrieved.shares.to(self.device))
        times = (x.to(self.device) for x in self.model.distinct_times(retrieved))
        return self.model.blend_times(*times, self._constants, retrieved.align)

    def _body_pose(self, theta, transl) -> BodyPose:
        theta = _numbers("theta", theta, (self.body.num_joints, 3))
        F = len(theta)
        if transl is None:
            transl = self._root_in_theta(self.recording.poses[:1])[1].numpy()
        transl = _numbers("transl", transl, (3,))
        if len(transl) not in (1, F):
            raise ValueError(f"transl is {list(transl.shape)}; expected [3], or [{F}, 3] as theta has {F} frames")
        pose = shaped_pose(theta, np.broadcast_to(transl, (F, 3)), self.recording.poses)
        return in_convention(pose, self.recording.poses, self.body)

    def _root_in_theta(self, pose: BodyPose) -> tuple[Tensor, Tensor]:
        """theta and transl of poses whose root may turn in R (`place.in_convention`, undone)."""
        R = Rotation.from_matrix(pose.R.double().cpu().numpy())
        theta = pose.theta.cpu().clone()
        turned = R * Rotation.from_rotvec(theta[:, 0].double().numpy())
        theta[:, 0] = torch.from_numpy(turned.as_rotvec()).float()
        transl = pose.Th.double().cpu().numpy() + R.as_matrix() @ self._pelvis - self._pelvis
        return theta, torch.from_numpy(transl).float()


def _numbers(name: str, value, shape: tuple[int, ...]) -> np.ndarray:
    """`value` as float64 [F, *shape], F = 1 where it has no frames' axis; ValueError if it is anything else."""
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    array = array[None] if array.ndim == len(shape) else array
    if array.dtype.kind not in "fiu" or array.shape[1:] != shape or len(array) == 0:
        text = ", ".join(map(str, shape))
        raise ValueError(f"{name} is {array.dtype} {list(np.shape(value))}; expected numbers [{text}] or [F, {text}]")
    bad = ~np.isfinite(array.reshape(len(array), -1)).all(1)
    if bad.any():
        raise ValueError(f"{name} of frame {int(bad.argmax())} is not finite")
    return array.astype(np.float64)


def _member(group: str, member: str) -> dict:
    """A member of a group of the configuration; ValueError names those that there are."""
    folder = resources.files("r3avatar.configs").joinpath(group)
    path = folder.joinpath(f"{member}.yaml")
    if not path.is_file():
        known = ", ".join(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))
        raise ValueError(f"{group} '{member}' is unknown; there are {known}")
    return OmegaConf.to_container(OmegaConf.create(path.read_text()))
