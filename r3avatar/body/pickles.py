"""Reading pickles without running them: numpy, sparse and chumpy arrays and plain containers, nothing else.

Released SMPL files and several captures are pickles. A pickle is a program, so none of its classes is trusted here: the
few admitted names are replaced by stand-ins that only record what they were given, and arrays are then built from the
records by numpy's public functions. Any other name is refused.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

import numpy as np
from scipy import sparse


def load_pickle(path: str | Path) -> object:
    """The content of a pickle file: containers, numbers, strings and numpy arrays (sparse and chumpy ones made dense).

    Raises ValueError naming the file, and the refused name if there is one.
    """
    with open(path, "rb") as file:
        return load_pickle_stream(file, str(path))


def load_pickle_stream(file: BinaryIO, name: str) -> object:
    """As `load_pickle`, from an open binary file; `name` is for messages."""
    try:
        # latin1: strings of Python 2 pickles are bytes
        return _resolved(_Reader(file, encoding="latin1").load(), {})
    except pickle.UnpicklingError as error:
        raise ValueError(f"{name}: {error}") from error
    except (EOFError, TypeError, AttributeError, IndexError, KeyError, ImportError) as error:
        raise ValueError(f"{name}: broken pickle ({type(error).__name__}: {error})") from error


class _Name:
    """A name that a pickle may mention but not call."""


class _Dtype:
    """Stand-in of numpy.dtype."""

    def __init__(self, code, *_):
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        if any(part is not None for part in state[2:5]) or self.dtype.kind not in "biufcSUO":
            raise pickle.UnpicklingError(f"arrays of type {self.dtype} are not read")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stand-in of numpy.ndarray, as made by numpy's `_reconstruct`."""

    def __init__(self, *_):
        self.state = None

    def __setstate__(self, state):
        self.state = state[-4:]  # shape, dtype, fortran order, data; a version stands before them

    def resolve(self, memo):
        shape, dtype, fortran, data = self.state
        order = "F" if fortran else "C"
        if dtype.dtype.hasobject:
            array = np.empty(len(data), object)
            array[:] = [_resolved(item, memo) for item in data]
            return array.reshape(shape, order=order)
        return _from_bytes(data, dtype, shape, order)


class _Sparse:
    """Stand-in of scipy's compressed and coordinate matrices; resolves to a dense array."""

    format = ""

    def __setstate__(self, state):
        self.state = state

    def resolve(self, memo):
        state = {key: _resolved(value, memo) for key, value in self.state.items()}
        shape = state.get("_shape", state.get("shape"))
        if self.format == "coo":
            rows, columns = state["coords"] if "coords" in state else (state["row"], state["col"])
            return sparse.coo_matrix((state["data"], (rows, columns)), shape=shape).toarray()
        made = {"csc": sparse.csc_matrix, "csr": sparse.csr_matrix}[self.format]
        matrix = made((state["data"], state["indices"], state["indptr"]), shape=shape)
        matrix.check_format(full_check=True)
        return matrix.toarray()


class _Chumpy:
    """Stand-in of chumpy's arrays: `Ch` keeps its value in x, `Select` picks entries of another by index."""

    def __setstate__(self, state):
        self.state = state

    def resolve(self, memo):
        state = {key: _resolved(value, memo) for key, value in self.state.items() if key in _CHUMPY_FIELDS}
        if "x" in state:
            return np.asarray(state["x"])
        if "a" in state and "idxs" in state:
            return np.asarray(state["a"]).ravel()[state["idxs"]].reshape(state["preferred_shape"])
        raise pickle.UnpicklingError(f"a chumpy object without a value: it has {sorted(self.state)}")


_CHUMPY_FIELDS = ("x", "a", "idxs", "preferred_shape")


def _from_bytes(data, dtype, shape, order):
    if dtype.dtype.hasobject:
        raise pickle.UnpicklingError("objects inside raw array data are not read")
    data = data.encode("latin1") if isinstance(data, str) else bytes(data)
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order).copy()


def _scalar(dtype, data):
    return _from_bytes(data, dtype, (), "C")[()]


def _encode(text, encoding):
    """`_codecs.encode`, by which newer Pythons write bytes into protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not read")
    return text.encode("latin1")


def _bytes(data=b"", encoding="latin1"):
    """`bytes` and `bytearray` of given bytes; of a number they would allocate that many."""
    return _encode(data, encoding) if isinstance(data, str) else b"".join([data])


def _new_object(cls, _base, _state):
    """`copyreg._reconstructor`, by which protocol 0 and 1 write objects; the stand-ins take no arguments."""
    return cls()


def _admitted() -> dict[tuple[str, str], object]:
    names: dict[tuple[str, str], object] = {
        ("numpy", "dtype"): _Dtype,
        ("numpy", "ndarray"): _Name(),
        ("builtins", "object"): _Name(),
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _encode,
        ("copyreg", "_reconstructor"): _new_object,
        ("copy_reg", "_reconstructor"): _new_object,  # Python 2
        ("__builtin__", "object"): _Name(),
        ("chumpy.ch", "Ch"): _Chumpy,
        ("chumpy.reordering", "Select"): _Chumpy,
    }
    for module in ("numpy.core", "numpy._core"):  # before and since numpy 2
        names[f"{module}.multiarray", "_reconstruct"] = _Array
        names[f"{module}.multiarray", "scalar"] = _scalar
        names[f"{module}.numeric", "_frombuffer"] = _from_bytes
    for form in ("csc", "csr", "coo"):
        stand_in = type(f"_Sparse_{form}", (_Sparse,), {"format": form})
        for module in (form, f"_{form}"):
            names[f"scipy.sparse.{module}", f"{form}_matrix"] = stand_in
            names[f"scipy.sparse.{module}", f"{form}_array"] = stand_in
    plain = {made.__name__: made for made in (list, dict, tuple, set, frozenset, complex)}
    for name, made in {**plain, "bytes": _bytes, "bytearray": _bytes}.items():
        names["builtins", name] = names["__builtin__", name] = made  # Python 3, Python 2
    return names


class _Reader(pickle.Unpickler):
    def __init__(self, file: BinaryIO, encoding: str):
        super().__init__(file, encoding=encoding)
        self.admitted = _admitted()  # made anew for every file: a pickle can alter what it was handed

    def find_class(self, module: str, name: str):
        found = self.admitted.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(
                f"refused {module}.{name}: only numpy, scipy.sparse and chumpy arrays and plain containers are read"
            )
        return found


def _resolved(value, memo: dict[int, object]):
    """Replace the stand-ins inside containers by arrays; shared and cyclic values stay shared."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, _Array | _Sparse | _Chumpy):
        memo[id(value)] = result = value.resolve(memo)
        return result
    if isinstance(value, dict):
        memo[id(value)] = result = type(value)()
        result.update((key, _resolved(item, memo)) for key, item in value.items())
        return result
    if isinstance(value, list):
        memo[id(value)] = result = []
        result.extend(_resolved(item, memo) for item in value)
        return result
    if isinstance(value, tuple | set | frozenset):
        return type(value)(_resolved(item, memo) for item in value)
    if isinstance(value, _Name | _Dtype | type) or callable(value):
        raise pickle.UnpicklingError("the name of a class or function stands where a value should")
    return value
