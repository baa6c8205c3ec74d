"""The restricted pickle reader: it reads what SMPL files hold, and nothing that runs."""

import pickle
import sys
import types

import numpy as np
import pytest
import torch
from scipy import sparse

from r3avatar.body import load_body
from r3avatar.body.convert import convert_body
from r3avatar.body.convert import main as convert_main
from r3avatar.body.pickles import load_pickle

from .python2_pickler import Python2Pickler


@pytest.fixture
def chumpy(monkeypatch):
    """Look-alikes of chumpy's classes under its module names, to write pickles with; gone when they are read."""
    package, ch, reordering = (types.ModuleType(n) for n in ("chumpy", "chumpy.ch", "chumpy.reordering"))
    ch.Ch = type("Ch", (), {"__module__": "chumpy.ch"})
    reordering.Select = type("Select", (), {"__module__": "chumpy.reordering"})
    reordering.Concatenate = type("Concatenate", (), {"__module__": "chumpy.reordering"})
    package.ch, package.reordering = ch, reordering
    modules = {"chumpy": package, "chumpy.ch": ch, "chumpy.reordering": reordering}

    class Chumpy:
        def dump(self, value, path, **options):
            with monkeypatch.context() as patch, open(path, "wb") as file:
                for name, module in modules.items():
                    patch.setitem(sys.modules, name, module)
                options.pop("pickler", pickle.Pickler)(file, protocol=options["protocol"]).dump(value)

        def array(self, x):
            made = ch.Ch()
            made.__dict__ = {"x": x, "_dirty_vars": set()}
            return made

        def select(self, a, idxs, shape):
            made = reordering.Select()
            made.__dict__ = {"a": a, "idxs": idxs, "preferred_shape": shape}
            return made

        concatenate = reordering.Concatenate

    return Chumpy()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_arrays_and_containers(tmp_path, protocol):
    matrix = sparse.csc_matrix(np.array([[0, 1.5, 0], [2, 0, 0]]))
    array = np.arange(6, dtype=np.uint32).reshape(2, 3)
    content = {
        "array": array,
        "fortran": np.asfortranarray(np.random.default_rng(0).normal(size=(3, 4))),
        "big_endian": np.arange(3, dtype=">f4"),
        "csc": matrix,
        "csr": matrix.tocsr(),
        "coo": matrix.tocoo(),
        "objects": np.array([array, "text", None], dtype=object),
        "scalar": np.float32(2.5),
        "empty": np.zeros((0, 3)),
        "nested": [{"a": (1, 2.0, True)}, {"s", "t"}, b"raw", array],
        "strings": np.array(["left", "right"]),
    }
    path = tmp_path / "content.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    found = load_pickle(path)
    for key in ("array", "fortran", "big_endian", "empty", "strings"):
        np.testing.assert_array_equal(found[key], content[key])
    for key in ("csc", "csr", "coo"):
        np.testing.assert_array_equal(found[key], matrix.toarray())
    assert found["scalar"] == 2.5 and found["objects"][1:].tolist() == ["text", None]
    np.testing.assert_array_equal(found["objects"][0], array)
    assert found["nested"][0] == {"a": (1, 2.0, True)} and found["nested"][1] == {"s", "t"}
    assert found["nested"][3] is found["array"] and found["nested"][2] == b"raw"


@pytest.mark.parametrize("protocol", [0, 2])
def test_smpl_pickle_with_chumpy_arrays(tmp_path, body_arrays, chumpy, protocol):
    arrays = body_arrays("smpl", betas=10)
    parents = np.array(arrays["parents"])
    content = {
        "v_template": chumpy.array(arrays["v_template"]),
        "shapedirs": chumpy.select(chumpy.array(arrays["shapedirs"]), np.arange(900), (30, 3, 10)),
        "posedirs": arrays["posedirs"],
        "J_regressor": sparse.csc_matrix(arrays["J_regressor"]),
        "weights": chumpy.array(arrays["weights"]),
        "kintree_table": np.stack([parents, np.arange(24)]).astype(np.uint32),
        "f": arrays["faces"].astype(np.uint32),
        "bs_type": "lrotmin",
    }
    path = tmp_path / "SMPL_NEUTRAL.pkl"
    pickler = Python2Pickler if protocol == 2 else pickle._Pickler
    chumpy.dump(content, path, protocol=protocol, pickler=pickler)
    body = load_body("smpl", str(tmp_path))
    for name in ("v_template", "shapedirs", "posedirs", "weights"):
        np.testing.assert_allclose(getattr(body, name), arrays[name], atol=1e-6)
    np.testing.assert_allclose(body.J_regressor, arrays["J_regressor"], atol=1e-6)
    convert_body(path, tmp_path / "SMPL_NEUTRAL.npz")
    converted = load_body("smpl", str(tmp_path / "SMPL_NEUTRAL.npz"))
    assert all(torch.equal(a, b) for a, b in zip(body.buffers(), converted.buffers()))
    with pytest.raises(FileExistsError, match="remove it first"):
        convert_body(path, tmp_path / "SMPL_NEUTRAL.npz")
    assert convert_main([str(path), str(tmp_path / "new" / "body.npz")]) == 0
    assert (tmp_path / "new" / "body.npz").exists() and not list(tmp_path.rglob("*.part*"))
    for arguments in ([str(path)], [str(path), str(tmp_path / "body.txt")], [str(tmp_path / "none.pkl"), "x.npz"]):
        assert convert_main(arguments) == 2
    chumpy.dump({"v_template": chumpy.concatenate()}, path, protocol=2)
    with pytest.raises(ValueError, match=r"SMPL_NEUTRAL.pkl: refused chumpy.reordering.Concatenate"):
        load_body("smpl", str(path))


class _Calls:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (eval, ("1 + 1",), "builtins.eval"),
        (exec, ("raise SystemExit",), "builtins.exec"),
        (getattr, ({}, "pop"), "builtins.getattr"),
        (__import__, ("os",), "builtins.__import__"),
        (open, ("x", "w"), "open"),
        (np.load, ("x.npy",), "numpy.load"),
        (types.SimpleNamespace, (), "types.SimpleNamespace"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_pickles_are_refused_by_name(tmp_path, function, arguments, name, protocol):
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps({"v_template": _Calls(function, *arguments)}, protocol=protocol))
    with pytest.raises(ValueError, match="refused") as error:
        load_pickle(path)
    assert name.replace("builtins", "__builtin__") in str(error.value) or name in str(error.value)
    assert str(path) in str(error.value)


def test_dotted_names_do_not_reach_into_admitted_ones(tmp_path):
    path = tmp_path / "dotted.pkl"
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.")
    with pytest.raises(ValueError, match=r"refused numpy.dtype.__init__"):
        load_pickle(path)


def test_raw_bytes_never_become_objects(tmp_path):
    """Pointers smuggled in as the data of an object array: the classic way to crash numpy's own reader."""
    dtype = _Calls(np.dtype, "O", False, True)
    path = tmp_path / "pointers.pkl"
    path.write_bytes(pickle.dumps(_Calls(np._core.numeric._frombuffer, b"\x01" * 8, dtype, (1,), "C"), protocol=4))
    with pytest.raises(ValueError, match="objects inside raw array data"):
        load_pickle(path)
    structured = np.zeros(2, dtype=[("a", "f4")])
    path.write_bytes(pickle.dumps(structured))
    with pytest.raises(ValueError, match=r"arrays of type .* are not read"):
        load_pickle(path)


def test_broken_pickles_are_named(tmp_path):
    path = tmp_path / "broken.pkl"
    for content in (
        b"",
        b"not a pickle",
        pickle.dumps(np.zeros(100))[:80],
        b"cnumpy\nndarray\n(tR.",
        b"cnumpy\ndtype\n.",
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"broken.pkl: "):
            load_pickle(path)
