"""Body model files: the demo body shipped here, and licensed SMPL-X and SMPL files (.npz, .pkl)."""

from __future__ import annotations

import zipfile
import zlib
from importlib import resources
from pathlib import Path

import numpy as np

from r3avatar.body.model import BodyModel
from r3avatar.body.pickles import load_pickle

GENDERS = ("neutral", "male", "female")
REQUIRED = ("v_template", "shapedirs", "J_regressor", "weights", "kintree_table", "f")
SMPLX_SHAPE_COLUMNS = {400: 300, 20: 10}  # columns of `shapedirs` -> how many are shape; the rest is expression
DEMO = "demo_body.npz"
BODY_KEYS = frozenset(REQUIRED) | {"posedirs", "num_betas", "shape_names", "expression_names", "part", "part_names"}
BODY_KEYS |= {"vt", "ft", "hands_meanl", "hands_meanr", "hands_componentsl", "hands_componentsr"}


def load_body(
    kind: str,
    path: str | None = None,
    gender: str = "neutral",
    num_betas: int = 10,
    num_expression: int = 10,
    flat_hand_mean: bool = False,
    published_expression: bool = False,
) -> BodyModel:
    """A body from its file.

    Args:
        kind: 'demo' (the open body shipped with the package: SMPL-X joints, no pose correctives), 'smplx' or 'smpl'.
        path: for 'smplx' and 'smpl' the file, its folder, or the folder that holds `smplx/` and `smpl/`.
        gender: 'neutral', 'male' or 'female'; the demo body is neutral.
        num_betas: shape coefficients B.
        num_expression: expression coefficients E (SMPL has none, whatever is given).
        flat_hand_mean: SMPL-X: take zero instead of the file's mean hand pose. It matters to `BodyModel.big_pose` and
            `BodyModel.hand_pose` only: poses are always full (see `BodyModel`).
        published_expression: SMPL-X: let the expression multiply shape columns B..B+E, as R3-Avatar's published code
            does with files that hold 300 shape columns, instead of the expression columns.

    Raises FileNotFoundError with the expected tree, ValueError naming the file and the key.
    """
    if gender not in GENDERS:
        raise ValueError(f"gender is {gender!r}; expected one of {', '.join(GENDERS)}")
    if kind == "demo":
        if gender != "neutral":
            raise ValueError(f"the demo body is neutral; there is no {gender} one")
        arrays, source = demo_arrays(), DEMO
    elif kind in ("smplx", "smpl"):
        file = find_body_file(kind, path, gender)
        arrays, source = read_arrays(file), str(file)
    else:
        raise ValueError(f"body kind is {kind!r}; expected demo, smplx or smpl")
    missing = [key for key in REQUIRED if key not in arrays]
    if missing:
        raise ValueError(f"{source}: no key {', '.join(missing)}; it has {', '.join(sorted(arrays))}")
    try:
        return _body_of(
            "smpl" if kind == "smpl" else "smplx",
            arrays,
            num_betas=num_betas,
            num_expression=num_expression,
            flat_hand_mean=flat_hand_mean,
            published_expression=published_expression,
        )
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _body_of(
    kind: str,
    arrays: dict[str, np.ndarray],
    *,
    num_betas: int,
    num_expression: int,
    flat_hand_mean: bool,
    published_expression: bool,
) -> BodyModel:
    columns = arrays["shapedirs"]
    if columns.ndim != 3:
        raise ValueError(f"shapedirs is {list(columns.shape)}; expected [V, 3, columns]")
    shape_columns = _num_shape_columns(kind, arrays)
    if num_betas > shape_columns:
        raise ValueError(f"num_betas is {num_betas}, but the file has {shape_columns} shape columns")
    hands: dict[str, tuple] = {}
    expression = None
    if kind == "smplx":
        first = num_betas if published_expression else shape_columns
        expression = columns[..., first : first + num_expression]
        if expression.shape[-1] != num_expression:
            raise ValueError(f"num_expression is {num_expression}, but columns {first}.. are {expression.shape[-1]}")
        if not flat_hand_mean:
            hands["hand_means"] = (_key(arrays, "hands_meanl").ravel(), _key(arrays, "hands_meanr").ravel())
        if "hands_componentsl" in arrays:
            hands["hand_components"] = (arrays["hands_componentsl"], _key(arrays, "hands_componentsr"))
    elif published_expression:
        raise ValueError("published_expression is for SMPL-X bodies: SMPL has no expression")
    return BodyModel(
        kind=kind,
        v_template=arrays["v_template"],
        shapedirs=columns[..., :num_betas],
        expressiondirs=expression,
        posedirs=arrays.get("posedirs"),
        J_regressor=arrays["J_regressor"],
        weights=arrays["weights"],
        parents=_parents(arrays["kintree_table"]),
        faces=arrays["f"].astype(np.int64),
        **hands,
    )


def _key(arrays: dict[str, np.ndarray], key: str) -> np.ndarray:
    if key not in arrays:
        raise ValueError(f"no key {key}; it has {', '.join(sorted(arrays))}")
    return arrays[key]


def _num_shape_columns(kind: str, arrays: dict[str, np.ndarray]) -> int:
    found = arrays["shapedirs"].shape[-1]
    if "num_betas" in arrays:
        return int(arrays["num_betas"])
    if kind == "smpl":
        return found
    if found not in SMPLX_SHAPE_COLUMNS:
        raise ValueError(
            f"shapedirs has {found} columns; SMPL-X files have 400 (300 shape + 100 expression) or 20 (10 + 10). "
            "For another split store the number of shape columns under the key num_betas"
        )
    return SMPLX_SHAPE_COLUMNS[found]


def _parents(kintree_table: np.ndarray) -> list[int]:
    if kintree_table.ndim != 2 or len(kintree_table) != 2:
        raise ValueError(f"kintree_table is {list(kintree_table.shape)}; expected [2, J]")
    parents, joints = kintree_table.astype(np.int64)
    if not np.array_equal(joints, np.arange(len(joints))):
        raise ValueError(f"kintree_table[1] must count the joints from 0; found {joints.tolist()}")
    return [-1, *parents[1:].tolist()]  # the root's entry is -1, written as 4294967295 in some files


def demo_arrays() -> dict[str, np.ndarray]:
    """All arrays of the demo body's file; their keys are explained in tools/build_demo_body.py."""
    with resources.as_file(resources.files("r3avatar.body") / DEMO) as file:
        return read_arrays(file)


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays a body is made of (BODY_KEYS), from a .npz, or from a .pkl through the restricted reader."""
    if file.suffix == ".pkl":
        content = load_pickle(file)
        if not isinstance(content, dict):
            raise ValueError(f"{file}: a body file holds a dict; found {type(content).__name__}")
        arrays = {key: np.asarray(value) for key, value in content.items() if key in BODY_KEYS}
        for key, array in arrays.items():
            if array.dtype.hasobject:
                raise ValueError(f"{file}: {key} holds objects, not numbers")
        return arrays
    if file.suffix != ".npz":
        raise ValueError(f"{file}: expected a .npz or .pkl body file")
    arrays, key = {}, None
    try:
        with np.load(file, allow_pickle=False) as archive:
            # SMPL-X files also hold pickled dictionaries (joint2num, part2num): they are not read.
            for key in sorted(BODY_KEYS.intersection(archive.files)):
                arrays[key] = archive[key]
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        if key is None:
            raise ValueError(f"{file}: not a .npz archive, or a truncated one") from error
        raise ValueError(f"{file}: {key} cannot be read ({error}): damaged, or objects instead of numbers") from error
    return arrays


def find_body_file(kind: str, path: str | None, gender: str) -> Path:
    """The file of a licensed body: `path` itself, or the first of its usual places and names under it."""
    names = _file_names(kind, gender)
    if path is not None:
        root = Path(path).expanduser()
        if root.is_file():
            return root
        for name in names:
            for place in (root / kind / name, root / name):
                if place.is_file():
                    return place
    title, site = ("SMPL-X", "smpl-x.is.tue.mpg.de") if kind == "smplx" else ("SMPL", "smpl.is.tue.mpg.de")
    raise FileNotFoundError(
        f"no {title} body file for gender {gender}: body.path is {path!r}{_others(kind, path)}. Expected the file "
        f"itself, or this tree (without {kind}/ it is found too):\n"
        f"  {path or 'body.path'}/\n    {kind}/\n      {names[0]}\n"
        + "".join(f"      or {name}\n" for name in names[1:])
        + f"{title} needs a registration at https://{site}, which may not be passed on. The free body that needs no "
        "file is body=demo."
    )


def _file_names(kind: str, gender: str) -> list[str]:
    """A body's file names, the wanted one first; SMPL's archive names its files otherwise than everybody expects."""
    names = [f"{kind.upper()}_{gender.upper()}{suffix}" for suffix in (".npz", ".pkl")]
    if kind == "smpl":
        short = gender if gender == "neutral" else gender[0]
        names.append(f"basicmodel_{short}_lbs_10_207_0_v1.1.0.pkl")
    return names


def _others(kind: str, path: str | None) -> str:
    """What stands in the places where a body's file was looked for, for the message that it is missing."""
    if path is None:
        return ""
    root = Path(path).expanduser()
    if not root.is_dir():
        return ", which does not exist"
    known = {name: gender for gender in GENDERS for name in _file_names(kind, gender)}
    found = [folder / name for folder in (root / kind, root) for name in known if (folder / name).is_file()]
    return ", where there is " + ", ".join(f"{f} (body.gender={known[f.name]})" for f in found) if found else ""
