"""Parametric bodies: shape, kinematics, linear blend skinning (SMPL, Loper 2015; SMPL-X, Pavlakos 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from r3avatar.triton_support import use_triton
from r3avatar.types import BodyPose

KINDS = {"smpl": 24, "smplx": 55}  # kind -> joints
HANDS = {"smplx": (slice(25, 40), slice(40, 55))}  # kind -> joints of the left and the right hand


class BodyModel(nn.Module):
    """A body of J joints and V vertices in its rest pose: y up, facing +z, metres.

    All arrays are buffers, cast and moved by `.to()`; none enters a state dict, because licensed body data must not
    travel in checkpoints. Every method is batched over frames F and differentiable.

    `theta` is always the full pose: for SMPL-X the mean hand pose is part of it. Data that stores hands relative to the
    mean, or as PCA coefficients, is completed by `hand_pose`; data that stores the full pose is used as it is.

    Args:
        kind: 'smpl' (24 joints) or 'smplx' (55).
        v_template: [V, 3] rest vertices.
        shapedirs: [V, 3, B] metres per unit of betas.
        expressiondirs: [V, 3, E] metres per unit of expression; None for E = 0.
        posedirs: [V, 3, 9 (J - 1)] pose correctives, the 3x3 entries of each joint row by row; None for a body without.
        J_regressor: [J, V] joints from rest vertices.
        weights: [V, J] skinning weights, rows sum to 1.
        parents: [J] parent of each joint, -1 for the root; parents precede their children.
        faces: [T, 3] vertex ids.
        hand_means: SMPL-X: mean pose of the left and the right hand, 45 numbers each; None for flat hands.
        hand_components: SMPL-X: PCA components [C, 45] of the left and the right hand; None if there are none.

    Raises ValueError naming the array whose shape or content is wrong.
    """

    def __init__(
        self,
        *,
        kind: str,
        v_template,
        shapedirs,
        expressiondirs=None,
        posedirs=None,
        J_regressor,
        weights,
        parents: Sequence[int],
        faces,
        hand_means: tuple | None = None,
        hand_components: tuple | None = None,
    ):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; expected one of {sorted(KINDS)}")
        self.kind = kind
        self.parents = _checked_parents(parents, KINDS[kind])
        J, V = KINDS[kind], len(v_template)
        if expressiondirs is None:
            expressiondirs = np.zeros((V, 3, 0))
        if posedirs is not None and posedirs.shape[-1] == 0:
            posedirs = None
        if hand_means is None:
            hand_means = (np.zeros(45), np.zeros(45))
        if hand_components is None:
            hand_components = (np.zeros((0, 45)), np.zeros((0, 45)))
        self._buffer("v_template", v_template, (V, 3))
        self._buffer("shapedirs", shapedirs, (V, 3, None))
        self._buffer("expressiondirs", expressiondirs, (V, 3, None))
        self._buffer("posedirs", posedirs, (V, 3, 9 * (J - 1)))
        self._buffer("J_regressor", J_regressor, (J, V))
        self._buffer("weights", weights, (V, J))
        self._buffer("faces", faces, (None, 3), torch.int64)
        for side, mean, components in zip(("left", "right"), hand_means, hand_components):
            self._buffer(f"{side}_hand_mean", mean, (45,))
            self._buffer(f"{side}_hand_components", components, (None, 45))
        _check_content(self.weights, self.J_regressor, self.faces, V)
        # Joints are linear in the coefficients: regress the template and the directions once.
        regressor = self.J_regressor.double()
        dirs = torch.cat([self.shapedirs, self.expressiondirs], -1).double()
        self._buffer("joint_template", regressor @ self.v_template.double(), (J, 3))
        self._buffer("joint_dirs", torch.einsum("jv,vcb->jcb", regressor, dirs), (J, 3, None))
        jumps, descends, self._depth = _tree(self.parents)
        self._jumps = len(jumps)
        for i, ancestors in enumerate(jumps):
            self._buffer(f"_jump_{i}", ancestors, (J + 1,), torch.int64)
        self._buffer("_parents", self.parents, (J,), torch.int64)
        self._buffer("_descends", descends, (J, J), torch.int64)
        self._buffer("_identity", torch.eye(4), (4, 4))

    def _buffer(self, name: str, value, shape: tuple[int | None, ...], dtype: torch.dtype = torch.float32) -> None:
        if value is not None:
            value = torch.as_tensor(value).to(dtype).contiguous()
            if value.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, value.shape)):
                expected = ", ".join("any" if n is None else str(n) for n in shape)
                raise ValueError(f"{name} is {list(value.shape)}; expected [{expected}] for {self.kind}")
        self.register_buffer(name, value, persistent=False)

    @property
    def num_joints(self) -> int:
        return len(self.parents)

    @property
    def num_vertices(self) -> int:
        return self.v_template.shape[0]

    @property
    def num_betas(self) -> int:
        return self.shapedirs.shape[-1]

    @property
    def num_expression(self) -> int:
        return self.expressiondirs.shape[-1]

    def rotations(self, theta: Tensor, backend: str = "auto") -> Tensor:
        """Rotation matrices [..., 3, 3] of axis-angle vectors [..., 3]; see `rodrigues`."""
        return rodrigues(theta, backend)

    def joints(self, betas: Tensor, expression: Tensor) -> Tensor:
        """Rest joints [F, J, 3] of the shaped body, from betas [F, B] and expression [F, E]."""
        self._check_coefficients(betas, expression)
        coefficients = torch.cat([betas, expression], -1)
        joints = torch.addmm(self.joint_template.flatten(), coefficients, self.joint_dirs.flatten(0, 1).mT)
        return joints.unflatten(1, (-1, 3))

    def shape_offsets(self, betas: Tensor, expression: Tensor) -> Tensor:
        """Offsets of the rest vertices [F, V, 3] from betas [F, B] and expression [F, E]."""
        self._check_coefficients(betas, expression)
        offsets = betas @ self.shapedirs.flatten(0, 1).mT  # [F, 3 V]
        if self.num_expression:
            offsets = torch.addmm(offsets, expression, self.expressiondirs.flatten(0, 1).mT)
        return offsets.unflatten(1, (-1, 3))

    def pose_offsets(self, rotations: Tensor) -> Tensor | None:
        """Pose correctives [F, V, 3] of rotations [F, J, 3, 3]; None for a body that has none."""
        if self.posedirs is None:
            return None
        feature = (rotations[:, 1:] - self._identity[:3, :3]).flatten(1)  # [F, 9 (J - 1)]
        return (feature @ self.posedirs.flatten(0, 1).mT).unflatten(1, (-1, 3))

    def skinning_transforms(self, rotations: Tensor, joints: Tensor, backend: str = "auto") -> Tensor:
        """Transforms [F, J, 4, 4] from the rest pose to the pose, of rotations [F, J, 3, 3] and rest joints [F, J, 3].

        The chain G_j = G_parent [R_j | joint_j - joint_parent] is multiplied in jumps that double (pointer jumping:
        T_j <- T_p(j) T_j, p <- p o p), A_j = G_j with translation G_j.t - G_j.R joint_j.
        """
        assert rotations.shape == (*joints.shape[:2], 3, 3), f"{tuple(rotations.shape)}, {tuple(joints.shape)}"
        if use_triton(backend, rotations.device):
            from r3avatar.body.triton_kinematics import skinning_transforms

            return skinning_transforms(rotations, joints, self._parents, self._descends, self._depth)
        F, J = joints.shape[:2]
        origin = joints.new_zeros(F, 1, 3)  # of the root's parent, the joint J, whose transform stays the identity
        t = joints - torch.cat([joints, origin], 1).index_select(1, self._jump_0[:-1])
        last = self._identity[3:].expand(F, J, 1, 4)
        T = torch.cat([torch.cat([rotations, t[..., None]], -1), last], -2)
        T = torch.cat([T, self._identity.expand(F, 1, 4, 4)], 1)
        for i in range(self._jumps):
            T = T.index_select(1, getattr(self, f"_jump_{i}")) @ T
        R, t = T[:, :-1, :3, :3], T[:, :-1, :3, 3:]
        return torch.cat([torch.cat([R, t - R @ joints[..., None]], -1), last], -2)

    def vertices(self, pose: BodyPose) -> Tensor:
        """Posed vertices in the world, [F, V, 3] metres: R x + Th of the skinned body."""
        if pose.theta.shape[1] != self.num_joints:
            raise ValueError(f"theta is {list(pose.theta.shape)}; a {self.kind} body has {self.num_joints} joints")
        rotations = self.rotations(pose.theta)
        rest = self.v_template + self.shape_offsets(pose.betas, pose.expression)
        correctives = self.pose_offsets(rotations)
        if correctives is not None:
            rest = rest + correctives
        A = self.skinning_transforms(rotations, self.joints(pose.betas, pose.expression))
        blended = torch.einsum("vj,fjab->fvab", self.weights, A[..., :3, :])  # [F, V, 3, 4]
        x = (blended[..., :3] @ rest[..., None])[..., 0] + blended[..., 3]
        return x @ pose.R.mT + pose.Th[:, None]

    def posed_joints(self, pose: BodyPose) -> Tensor:
        """Posed joints in the world, [F, J, 3] metres: where `vertices` has the same pose's."""
        rest = self.joints(pose.betas, pose.expression)
        A = self.skinning_transforms(self.rotations(pose.theta), rest)
        places = (A[..., :3, :3] @ rest[..., None])[..., 0] + A[..., :3, 3]
        return places @ pose.R.mT + pose.Th[:, None]

    def big_pose(self) -> Tensor:
        """The canonical pose [J, 3]: legs apart, feet level, arms in T; SMPL-X hands carry the mean hand pose.

        Source: R3-Avatar (arXiv 2503.12751), canonical space; the same pose as Neural Body's.
        """
        theta = torch.zeros_like(self.joint_template)
        for joint, angle in ((1, 45), (2, -45), (7, -30), (8, 30)):  # hips, ankles
            theta[joint, 2] = math.radians(angle)
        if self.kind in HANDS:
            for joints, mean in zip(HANDS[self.kind], (self.left_hand_mean, self.right_hand_mean)):
                theta[joints] = mean.view(15, 3)
        return theta

    def hand_pose(self, left: Tensor, right: Tensor, pca: bool) -> Tensor:
        """Full pose of both hands [F, 30, 3] (joints 25-54 of SMPL-X) from values relative to the mean.

        Args: left, right: [F, n] the first n PCA coefficients if `pca`, else [F, 45] axis-angle minus the mean.
        """
        if self.kind not in HANDS:
            raise ValueError(f"a {self.kind} body has no finger joints")
        hands = []
        for side, value in (("left", left), ("right", right)):
            mean, components = getattr(self, f"{side}_hand_mean"), getattr(self, f"{side}_hand_components")
            if pca and value.shape[-1] > len(components):
                raise ValueError(f"{side} hand: {value.shape[-1]} coefficients, but the body has {len(components)}")
            hands.append(mean + (value @ components[: value.shape[-1]] if pca else value))
        return torch.cat(hands, -1).unflatten(-1, (30, 3))

    def _check_coefficients(self, betas: Tensor, expression: Tensor) -> None:
        for name, value, size in (
            ("betas", betas, self.num_betas),
            ("expression", expression, self.num_expression),
        ):
            if value.ndim != 2 or value.shape[1] != size:
                raise ValueError(f"{name} is {list(value.shape)}; this {self.kind} body takes [F, {size}]")


def rodrigues(r: Tensor, backend: str = "auto") -> Tensor:
    """Rotation matrices [..., 3, 3] of axis-angle vectors [..., 3].

    I + sin(a) K + (1 - cos(a)) K^2 with a = |r + 1e-8| (1e-8 on each component), K the cross-product matrix of
    r / a; r = 0 gives exactly I, with a finite gradient.
    """
    if use_triton(backend, r.device):
        from r3avatar.body.triton_rotations import rodrigues as kernel

        return kernel(r, smoothed=False)
    angle = torch.linalg.vector_norm(r + 1e-8, dim=-1, keepdim=True)
    x, y, z = (r / angle).unbind(-1)
    zero = torch.zeros_like(x)
    K = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    sin, cos = torch.sin(angle)[..., None], torch.cos(angle)[..., None]
    return torch.eye(3, dtype=r.dtype, device=r.device) + sin * K + (1 - cos) * (K @ K)


def _checked_parents(parents: Sequence[int], num_joints: int) -> tuple[int, ...]:
    parents = tuple(int(p) for p in parents)
    if len(parents) != num_joints:
        raise ValueError(f"parents has {len(parents)} entries; expected {num_joints}")
    if parents[0] != -1 or not all(0 <= p < j for j, p in enumerate(parents[1:], start=1)):
        raise ValueError(f"parents must be -1 for the root, then each before its child; found {list(parents)}")
    return parents


def _check_content(weights: Tensor, J_regressor: Tensor, faces: Tensor, num_vertices: int) -> None:
    for name, rows in (("weights", weights), ("J_regressor", J_regressor)):
        error = (rows.double().sum(1) - 1).abs().max().item()
        if not error < 1e-3:
            raise ValueError(f"{name}: rows must sum to 1; one is off by {error:.3g}")
    if len(faces) and not (int(faces.min()) >= 0 and int(faces.max()) < num_vertices):
        raise ValueError(f"faces name vertices {int(faces.min())}..{int(faces.max())}; there are {num_vertices}")


def _tree(parents: tuple[int, ...]) -> tuple[list[list[int]], list[list[int]], int]:
    """Of every joint and of a joint J above the root: the ancestors 1, 2, 4, ... steps up, until all have reached J;
    the descendants (rows) of each joint (columns), itself among them; the joints on the longest path from the root."""
    J = len(parents)
    jump = [parent if parent >= 0 else J for parent in parents] + [J]
    jumps = []
    while any(ancestor != J for ancestor in jump):
        jumps.append(jump)
        jump = [jump[ancestor] for ancestor in jump]
    descends = [[0] * J for _ in parents]
    for joint in range(J):
        ancestor = joint
        while ancestor >= 0:
            descends[joint][ancestor] = 1
            ancestor = parents[ancestor]
    return jumps, descends, max(map(sum, descends))
