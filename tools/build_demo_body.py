"""Build r3avatar/body/demo_body.npz: an open parametric body in the SMPL-X file layout.

    pip install -e '.[demo_body]'
    python tools/build_demo_body.py [--output r3avatar/body/demo_body.npz]

Source: Anny (Bregier et al., "Human Mesh Modeling for Anny Body", 2025; Apache-2.0 code), whose mesh, rig and blend
shapes come from MakeHuman / MPFB2 and the Face Units pack (CC0). Of SMPL-X only the published joint order is used.
What is made: Anny's 163 bones are merged into the 55 SMPL-X joints, its bent arms and fingers are straightened into a
T-pose by its own skinning, 10 shape directions are differences of its phenotype parameters and local changes, 10
expression directions are facial actions, and the joint regressor is a sparse non-negative fit. There are no pose
correctives: `posedirs` is [V, 3, 0]. Added to the SMPL-X keys: `num_betas` (where the expression columns begin),
`shape_names`, `expression_names`, `part` [F] with `part_names`; `vt`, `ft` are UVs. Two builds on one machine give the
same bytes.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import demo_body_rig as rig
import numpy as np
import PIL.Image
import torch
import yaml
from scipy.optimize import nnls

try:
    import anny
except ModuleNotFoundError:  # --help goes without it
    anny = None

STATURE = 1.70  # metres, the neutral adult
BASE = {"gender": 0.5, "age": 0.7, "muscle": 0.5, "weight": 0.5, "proportions": 0.5}  # the height: see STATURE
PELVIS = np.array([0.0, -0.35, 0.0])  # where the pelvis joint is put, for every shape: about where SMPL-X has it
NEAR = 400  # vertices that may define a joint
FIRM = 100.0  # how much a joint's place in the template outweighs how it follows a shape
STEP = 2.0**-20  # metres: vertices and shape directions are stored as multiples of it (float32 then compresses well)

# One unit of beta, as the (low, high) settings that stand for -2 and +2. `None` on the low side: one-sided, 0 and +2.
SHAPES = {
    "height": ({"height": -0.14}, {"height": 0.14}),  # relative to the neutral value, about +-15 cm at +-2
    "weight": ({"weight": -0.5}, {"weight": 0.5}),
    "muscle": ({"muscle": -0.5}, {"muscle": 0.5}),
    "gender": ({"gender": -0.5}, {"gender": 0.5}),
    "age": (None, {"age": 0.25}),
    "proportions": ({"proportions": -0.5}, {"proportions": 0.5}),
    "shoulders": ({"measure-shoulder-dist-incr": -0.8}, {"measure-shoulder-dist-incr": 0.8}),
    "hips": ({"measure-hips-circ-incr": -0.8}, {"measure-hips-circ-incr": 0.8}),
    "legs": (
        {"upperlegs-height-incr": -0.6, "lowerlegs-height-incr": -0.6},
        {"upperlegs-height-incr": 0.6, "lowerlegs-height-incr": 0.6},
    ),
    "belly": (None, {"stomach-pregnant-incr": 0.6}),
}
# One unit of expression: half of the action, so that +2 is the action in full.
EXPRESSIONS = {
    "jaw_open": ["jawOpen"],
    "smile": ["mouthSmileLeft", "mouthSmileRight"],
    "frown": ["mouthFrownLeft", "mouthFrownRight"],
    "pucker": ["mouthPucker"],
    "stretch": ["mouthStretchLeft", "mouthStretchRight"],
    "brow_up": ["browInnerUp", "browOuterUpLeft", "browOuterUpRight"],
    "brow_down": ["browDownLeft", "browDownRight"],
    "blink": ["eyeBlinkLeft", "eyeBlinkRight"],
    "cheek_puff": ["cheekPuff"],
    "sneer": ["noseSneerLeft", "noseSneerRight"],
}
EAR = 0.0755  # metres from the middle: the head beyond it is ear
PARTS = ("body", "hand", "foot", "head", "scalp", "lips", "mouth", "eye", "iris")  # the labels of `part`, in order


def load_anny() -> anny.Anny:
    """Anny with all its bones (the jaw included), without the tongue; z up, facing -y."""
    return anny.Anny(
        rig="makehuman",
        topology="anny-notongue",
        facial_actions="all",
        local_changes="default",
        skinning_method="lbs",
    )


def t_pose(
    model: anny.Anny, neutral: dict[str, float], changes: dict[str, float], actions: dict[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V,3] and SMPL-X joints [55,3] in the T-pose, y up, facing +z, the pelvis at PELVIS."""
    phenotype = {k: v + changes.get(k, 0.0) for k, v in neutral.items()}
    local = {k: v for k, v in changes.items() if k not in neutral}
    with torch.no_grad():
        rest = model(phenotype_kwargs=phenotype, local_changes_kwargs=local, facial_actions=actions)
        to_y_up = torch.tensor(rig.TO_Y_UP, dtype=model.dtype)
        vertices = rest["rest_vertices"] @ to_y_up.T
        heads = (rest["rest_bone_heads"][0] @ to_y_up.T).numpy()
        transforms = rig.t_pose_transforms(model.bone_labels, model.bone_parents, heads)
        posed = model.get_skinned_vertices(vertices, torch.from_numpy(transforms)[None])[0].numpy()
    posed_heads = np.einsum("bij,bj->bi", transforms[:, :3, :3], heads) + transforms[:, :3, 3]
    joints = rig.joint_positions(model.bone_labels, posed_heads)
    shift = PELVIS - joints[0]
    return posed + shift, joints + shift


def neutral_height(model: anny.Anny) -> float:
    """The height parameter that gives STATURE: bisection on the rest pose's extent."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        vertices = model(phenotype_kwargs={**BASE, "height": middle})["rest_vertices"][0]
        low, high = (middle, high) if float(np.ptp(vertices[:, 2].numpy())) < STATURE else (low, middle)
    return round((low + high) / 2, 6)


def directions(
    model: anny.Anny, neutral: dict[str, float], base_v: np.ndarray, base_j: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Shape then expression directions of the vertices [V,3,20] and of the joints [55,3,20], per unit coefficient."""
    vertices, joints = [], []
    for low, high in SHAPES.values():
        low_v, low_j = (base_v, base_j) if low is None else t_pose(model, neutral, low, {})
        high_v, high_j = t_pose(model, neutral, high, {})
        unit = 2.0 if low is None else 4.0
        vertices.append((high_v - low_v) / unit)
        joints.append((high_j - low_j) / unit)
    for actions in EXPRESSIONS.values():
        v, _ = t_pose(model, neutral, {}, dict.fromkeys(actions, 1.0))
        vertices.append((v - base_v) / 2.0)
        joints.append(np.zeros_like(base_j))  # a grimace moves no joint
    return np.stack(vertices, -1), np.stack(joints, -1)


def face_labels(model: anny.Anny, vertices: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Part of every face [F] uint8 (indices into PARTS), 255 for the hidden faces behind the eyes."""
    root = Path(anny.__file__).parent / "data"
    colours = yaml.safe_load((root / "segmentation/body_parts_segmentation.yaml").read_text())["colors"]
    corners = model.texture_coordinates[model.face_texture_coordinate_indices].numpy()
    segmentation = _sample(root / "segmentation/body_parts_segmentation.png", corners.mean(1))
    lips = _sample(root / "mpfb2/textures/mpfb_lips.jpg", corners.mean(1)).mean(-1) > 96
    part = np.full(len(segmentation), 255, np.uint8)
    for name, colour in colours.items():
        mask = (segmentation == colour).all(-1)
        stem = name.split(".")[0]
        kept = {"body": "body", "head": "head", "hand": "hand", "foot": "foot", "mouth_cavity": "mouth"}
        kept["eye_front"] = "eye"
        if stem in kept:
            part[mask] = PARTS.index(kept[stem])
    faces = model.faces.numpy()
    centres = vertices[faces].mean(1)
    part[(part == PARTS.index("head")) & lips] = PARTS.index("lips")
    eyes = part == PARTS.index("eye")
    for joint in joints[23:25]:
        one = eyes & (np.linalg.norm(centres - joint, axis=1) < 0.03)
        rays = centres - joint
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        gaze = rays[one].mean(0)
        part[one & (rays @ gaze > np.cos(np.radians(25)) * np.linalg.norm(gaze))] = PARTS.index("iris")
    # The hair line: a plane that leans back from above the forehead to behind the ears.
    head = part == PARTS.index("head")
    top, eye = vertices[:, 1].max(), centres[eyes].mean(0)
    height, depth = (centres[:, 1] - eye[1]) / (top - eye[1]), (centres[:, 2] - eye[2]) / (top - eye[1])
    ear = np.abs(centres[:, 0]) > EAR
    part[head & ~ear & (height > np.maximum(0.71 + 0.9 * depth, -0.45)) & (depth < 0.2)] = PARTS.index("scalp")
    return part


def _sample(path: Path, uv: np.ndarray) -> np.ndarray:
    image = np.asarray(PIL.Image.open(path).convert("RGB"))
    size = np.array([image.shape[1], image.shape[0]])
    column, row = np.clip(np.rint(np.stack([uv[:, 0], 1 - uv[:, 1]], -1) * size), 0, size - 1).astype(int).T
    return image[row, column]


def skinning_weights(model: anny.Anny) -> np.ndarray:
    """Anny's weights summed into the 55 joints, the four largest kept, rows summing exactly to 1 in float32."""
    merged = model.dense_vertex_bone_weights.numpy() @ rig.bone_to_joint(model.bone_labels, model.bone_parents)
    rank = np.argsort(np.argsort(-merged, axis=1, kind="stable"), axis=1)
    return _rows_to_one(np.where((rank < 4) & (merged > 1e-4), merged, 0.0), 2**16)


def _rows_to_one(rows: np.ndarray, steps: int) -> np.ndarray:
    """Non-negative rows as multiples of 1/steps whose sum is exactly 1; the largest entry takes the remainder."""
    counts = np.rint(rows / rows.sum(1, keepdims=True) * steps).astype(np.int64)
    counts[np.arange(len(counts)), counts.argmax(1)] += steps - counts.sum(1)
    assert counts.min() >= 0
    return (counts / steps).astype(np.float32)


def joint_regressor(
    vertices: np.ndarray, joints: np.ndarray, shapes: np.ndarray, joint_shapes: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Sparse non-negative [J,V], rows summing to 1: the joints of the template, followed through every direction.

    A joint is made of near vertices that are bound to it or to its parent, which places it exactly in the template;
    under a shape it stays in its limb, where Anny's own joint may wander (about 1 cm at the knee per unit of height).
    """
    regressor = np.zeros((len(joints), len(vertices)))
    for j, parent in enumerate(rig.PARENTS):
        bound = weights[:, j] + (weights[:, parent] if parent >= 0 else 0.0) > 0.1
        distance = np.where(bound, np.linalg.norm(vertices - joints[j], axis=1), np.inf)
        near = np.argsort(distance, kind="stable")[: min(NEAR, bound.sum())]
        place = (vertices[near] - joints[j]).T  # [3, n]
        follow = shapes[near].transpose(2, 1, 0).reshape(-1, len(near))  # [3B, n]
        A = np.concatenate([FIRM * place, follow, np.full((1, len(near)), FIRM)])
        b = np.concatenate([np.zeros(3), joint_shapes[j].T.reshape(-1), [FIRM]])
        regressor[j, near], _ = nnls(A, b, maxiter=20000)
    return _rows_to_one(regressor, 2**20)


def build() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """All arrays of the file; Anny's own joints [55,3] and their shape directions [55,3,20], to compare with."""
    model = load_anny()
    neutral = {**BASE, "height": neutral_height(model)}
    vertices, joints = t_pose(model, neutral, {}, {})
    shapes, joint_shapes = directions(model, neutral, vertices, joints)
    weights = skinning_weights(model)
    part = face_labels(model, vertices, joints)
    keep_face = part != 255
    faces, uv_faces = model.faces.numpy()[keep_face], model.face_texture_coordinate_indices.numpy()[keep_face]
    used, faces = np.unique(faces, return_inverse=True)
    used_uv, uv_faces = np.unique(uv_faces, return_inverse=True)
    vertices, shapes, weights = vertices[used], shapes[used], weights[used]
    vertices, shapes = np.round(vertices / STEP) * STEP, np.round(shapes / STEP) * STEP
    faces = faces.reshape(-1, 3).astype(np.uint16)
    assert len(vertices) < 2**16
    regressor = joint_regressor(vertices, joints, shapes, joint_shapes, weights)
    names = {"shape_names": np.array(list(SHAPES)), "expression_names": np.array(list(EXPRESSIONS))}
    identity = np.eye(45, dtype=np.float32)
    arrays = {
        "v_template": vertices.astype(np.float32),
        "shapedirs": shapes.astype(np.float32),
        "num_betas": np.int64(len(SHAPES)),
        "posedirs": np.zeros((len(vertices), 3, 0), np.float32),
        "J_regressor": regressor,
        "weights": weights,
        "kintree_table": np.stack([rig.PARENTS, np.arange(rig.NUM_JOINTS)]).astype(np.int64),
        "f": faces,
        "hands_meanl": np.zeros(45, np.float32),
        "hands_meanr": np.zeros(45, np.float32),
        "hands_componentsl": identity,
        "hands_componentsr": identity,
        "vt": np.round(model.texture_coordinates.numpy()[used_uv] * 2**16).astype(np.float32) / 2**16,
        "ft": uv_faces.reshape(-1, 3).astype(np.uint16),
        "part": part[keep_face],
        "part_names": np.array(PARTS),
        **names,
    }
    return arrays, joints, joint_shapes


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """`numpy.savez_compressed` with fixed timestamps, so that equal arrays give equal bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asanyarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, buffer.getvalue(), compresslevel=9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = Path(__file__).parents[1] / "r3avatar" / "body" / "demo_body.npz"
    parser.add_argument("--output", type=Path, default=default)
    output = parser.parse_args().output
    if anny is None:
        parser.error("needs the package anny: pip install -e '.[demo_body]'")
    arrays, joints, joint_shapes = build()
    write_npz(output, arrays)
    fitted = arrays["J_regressor"] @ arrays["v_template"]
    followed = np.einsum("jv,vcb->jcb", arrays["J_regressor"], arrays["shapedirs"])
    stature = np.ptp(arrays["v_template"][:, 1])
    print(
        f"{output}: {output.stat().st_size / 1e6:.2f} MB, {len(arrays['v_template'])} vertices, "
        f"{len(arrays['f'])} faces, stature {stature:.3f} m\n"
        f"joints off by at most {np.abs(fitted - joints).max():.1e} m, "
        f"{np.abs(followed - joint_shapes).max():.1e} m per unit of a coefficient"
    )


if __name__ == "__main__":
    main()
