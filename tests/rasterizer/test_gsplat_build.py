"""What is said before gsplat builds its kernels, and when it cannot."""

import logging
import subprocess
import sys
import types

import pytest
import torch
import torch.utils.cpp_extension

from r3avatar.rasterizer import gsplat_build


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with every tool and an unbuilt gsplat; tests take things away."""
    package = types.ModuleType("gsplat")
    package.__path__ = [str(tmp_path)]
    package.__spec__ = types.SimpleNamespace(name="gsplat", submodule_search_locations=[str(tmp_path)])
    for name in [name for name in sys.modules if name.split(".")[0] == "gsplat"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gsplat", package)
    tools = {"nvcc": "/usr/local/cuda/bin/nvcc", "ninja": "/usr/bin/ninja", "c++": "/usr/bin/c++"}
    monkeypatch.setattr(gsplat_build.shutil, "which", tools.get)
    monkeypatch.setattr(torch.utils.cpp_extension, "CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(gsplat_build, "nvcc_version", lambda nvcc: (13, 0))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    for name in ("CXX", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    return tools


def backend(monkeypatch, kernels=None, error=None):
    """Make `gsplat.cuda._backend` a module with `_C`, or one whose import fails."""

    def load(name):
        assert name == "gsplat.cuda._backend"
        if error is not None:
            raise error
        return types.SimpleNamespace(_C=kernels)

    monkeypatch.setattr(gsplat_build.importlib, "import_module", load)


def test_a_build_is_announced(machine, monkeypatch, caplog):
    backend(monkeypatch, kernels=object())
    gsplat_build.require_tools()
    with caplog.at_level(logging.INFO):
        gsplat_build.load_kernels()
    assert "builds its CUDA kernels, once" in caplog.text and "about 100 s on 16 cores" in caplog.text
    assert "TORCH_CUDA_ARCH_LIST" in caplog.text and "later runs load them" in caplog.text


def test_built_kernels_are_loaded_silently(machine, monkeypatch, caplog, tmp_path):
    machine.clear()  # no tool is asked for
    folder = tmp_path / "extensions" / "gsplat_cuda"
    folder.mkdir(parents=True)
    (folder / "gsplat_cuda.so").touch()
    backend(monkeypatch, kernels=object())
    assert gsplat_build.built() == str(folder / "gsplat_cuda.so")
    gsplat_build.require_tools()
    gsplat_build.load_kernels()
    assert not caplog.text


def test_a_wheel_is_recognised(machine, tmp_path):
    assert gsplat_build.built() is None
    (tmp_path / "csrc.py").touch()
    assert gsplat_build.built() == "in the installed package"


def test_folder_by_default(machine, monkeypatch):
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    folder = gsplat_build.build_folder()
    assert folder.name == "gsplat_cuda" and folder.parent.name.endswith("_cu130")


@pytest.mark.parametrize(
    ("tool", "said"),
    [("nvcc", "install the CUDA toolkit 13.0"), ("ninja", "pip install ninja"), ("c++", "install g\\+\\+, or set CXX")],
)
def test_missing_tools_are_named_before_the_run(machine, tool, said):
    del machine[tool]
    with pytest.raises(RuntimeError, match=said) as error:
        gsplat_build.require_tools()
    assert "rasterizer=triton" in str(error.value) and "rasterizer=numba" in str(error.value)
    assert "docs.gsplat.studio/whl" in str(error.value)


def test_nvcc_off_the_path_and_no_cuda_home(machine, monkeypatch, tmp_path):
    (tmp_path / "cuda" / "bin").mkdir(parents=True)
    (tmp_path / "cuda" / "bin" / "nvcc").touch()
    nvcc = machine.pop("nvcc")
    assert "export PATH=" in gsplat_build.missing_tools()[0][0]
    machine["nvcc"] = nvcc
    monkeypatch.setattr(torch.utils.cpp_extension, "CUDA_HOME", None)
    assert "export CUDA_HOME=" in gsplat_build.missing_tools()[0][0]


def test_another_cuda_is_a_warning(machine, monkeypatch, caplog):
    monkeypatch.setattr(gsplat_build, "nvcc_version", lambda nvcc: (12, 4))
    backend(monkeypatch, kernels=object())
    gsplat_build.require_tools()
    gsplat_build.load_kernels()
    assert "nvcc is of CUDA 12.4, torch of 13.0" in caplog.text


def test_failed_builds_say_why(machine, monkeypatch):
    backend(monkeypatch, error=RuntimeError("Error building extension 'gsplat_cuda'\nfatal error: math.h\n"))
    with pytest.raises(RuntimeError, match=r"could not build or load(.|\n)*math\.h(.|\n)*rasterizer=triton"):
        gsplat_build.load_kernels()
    backend(monkeypatch, kernels=None)
    with pytest.raises(RuntimeError, match=r"has no CUDA kernels(.|\n)*to build afresh"):
        gsplat_build.load_kernels()


def test_nvcc_version(monkeypatch):
    said = "Cuda compilation tools, release 12.8, V12.8.93\n"
    monkeypatch.setattr(
        gsplat_build.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, stdout=said, stderr="")
    )
    assert gsplat_build.nvcc_version("nvcc") == (12, 8)
    monkeypatch.undo()
    assert gsplat_build.nvcc_version("/nowhere/nvcc") is None
