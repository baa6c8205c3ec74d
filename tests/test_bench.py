"""`r3avatar bench`: every section on a tiny capture, and its parts."""

import json
import sys

import pytest
import torch

from r3avatar.avatar import build_avatar
from r3avatar.benchmarks import side_by_side
from r3avatar.benchmarks.clock import Stages, latencies, rate
from r3avatar.benchmarks.machine import cores, host_memory_mib, nvidia_smi, seconds_since_start
from r3avatar.benchmarks.points import resample
from r3avatar.benchmarks.report import table
from r3avatar.benchmarks.side_by_side import BARRIER, barrier
from r3avatar.body import load_body
from r3avatar.cli import UsageError, check
from r3avatar.run import RunError
from r3avatar.verbs import bench

SMALL = ["gaussians=300", "avatar.decoder_width=16", "skinning.width=16", "batch.views=2", "warm_up=2", "seconds=0.1"]
CPU = torch.device("cpu")


@pytest.mark.slow
def test_every_section(workplace, tiny_capture):
    text = workplace(
        "bench", *tiny_capture, *SMALL, "trainer.accelerator=cpu", "rasterizer=numba", "images=8", "recorded=[20]",
        "seen=400", "out=figures/bench.json",
    )  # fmt: skip
    report = json.loads((workplace.folder / "figures" / "bench.json").read_text())
    assert report["gaussians"] == 300 and report["device"] == "cpu" and "NumbaRasterizer" in report["rasterizer"]
    assert "gaussians=300" in report["overrides"] and report["batch"].items() >= {"frames": 1, "views": 2}.items()
    assert report["machine"]["cores"] >= 1 and report["versions"]["torch"] == torch.__version__ and report["date"]

    training = report["training"]
    for name in ("loop", "loop_without_density_control"):
        loop = training[name]
        assert loop["images_per_second"] == pytest.approx(2000 / loop["ms"], rel=0.5)
        assert loop["slowest_window"] <= loop["images_per_second"] <= loop["fastest_window"]
    assert training["loop_without_density_control"]["gaussians_last"] == 300
    assert training["loop"]["gaussians_last"] <= 300, "gaussians also caps the density control"
    assert training["memory"]["resident_mib"] >= training["memory"]["private_mib"] > 50
    assert 0 < training["loop"]["first_step_s"] < 300
    for name in ("batch", "deformation", "rasterizer", "loss", "backward", "statistics", "optimizer"):
        assert training[f"stage_{name}"]["ms"] >= 0
    alone = training["rasterizer_alone"]
    assert alone["images_per_second"] > 0 and alone["forward_ms"] > 0 and alone["backward_ms"] > 0
    share = training["share_of_the_rasterizers_limit"]["loop"]
    assert share == pytest.approx(training["loop"]["images_per_second"] / alone["images_per_second"])

    for name in ("novel_view", "novel_view_playback", "novel_pose", "novel_pose_playback"):
        row = report["rendering"][name]
        assert row["frames_per_second"] == pytest.approx(1000 / row["ms"]) and row["ms"] <= row["ms_95"]
    assert report["rendering"]["novel_pose"]["retrieval_ms"] > 0
    prepared = report["preparation"]
    for name, count in (("here", 1), (f"{cores()}_processes", cores())):
        assert prepared[name]["images_per_second_a_core"] == pytest.approx(prepared[name]["images_per_second"] / count)
        assert prepared[name]["images"] == 8 and prepared[name]["kilobytes_an_image"] > 1
    for name in ("read_bytes", "decode_image", "decode_mask", "undistort_and_scale", "bound_mask", "crop", "write"):
        assert prepared[f"stage_{name}"]["ms"] >= 0
    assert report["retrieval"]["torch_cpu_20"]["ms"] > 0
    for word in ("training", "images/s", "rendering", "frames/s", "preparation", "retrieval", "bench.json", "cores"):
        assert word in text


STAND_IN = """
import json, os, sys
sys.path[:0] = {path}
from r3avatar.benchmarks.side_by_side import barrier
if "seed=13" in sys.argv:
    sys.exit("no luck")
out = sys.argv[-1].removeprefix("out='").removesuffix("'")
barrier()()
alone = os.environ["R3AVATAR_BENCH_BARRIER"].endswith(":1")
same_steps = [] if alone else ["steps=40"]
own = ["runs=1", "sections=[training]", "loops=[density]", "stages=false"]
assert sys.argv[1:-1] == ["seed=3", *same_steps, *own]
loop = {{"overall": 100.0 if alone else 60.0, "steps": 40, "ms": 1.0, "gaussians_last": 5, "first_step_s": 2.0}}
loop |= {{"slowest_window": 50.0, "fastest_window": 110.0}}
json.dump({{"training": {{"loop": loop, "memory": {{"private_mib": 7.0}}}}}}, open(out, "w"))
"""


def test_runs_side_by_side(monkeypatch, tmp_path):
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN.format(path=sys.path))
    monkeypatch.setattr(side_by_side, "COMMAND", (sys.executable, str(script)))
    runs = side_by_side.side_by_side(["seed=3"], 2)
    assert set(runs) == {"alone", "run_1_of_2", "run_2_of_2", "together"}
    assert runs["alone"]["images_per_second"] == 100 and runs["run_2_of_2"]["ratio_to_alone"] == 0.6
    assert runs["together"]["images_per_second"] == 120 and runs["together"]["ratio_to_alone"] == 1.2
    with pytest.raises(RuntimeError, match=r"ended with 1(.|\n)*no luck"):
        side_by_side.side_by_side(["seed=13"], 2)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_real_runs_side_by_side(workplace, tiny_capture):
    workplace("bench", *tiny_capture, *SMALL, "runs=2", "out=runs.json", timeout=900)
    runs = json.loads((workplace.folder / "runs.json").read_text())["runs"]
    assert all(values["images_per_second"] > 0 for values in runs.values())


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_the_gpu(workplace, tiny_capture):
    given = ["batch.views=4", "sections=[training,rendering]", "seconds=1", "out=gpu.json"]
    workplace("bench", *tiny_capture, *given, timeout=900)
    report = json.loads((workplace.folder / "gpu.json").read_text())
    assert report["device"] == "cuda" and report["machine"]["gpu"]
    assert report["training"]["memory"]["device_tensors_peak_mib"] > 0
    if "Triton" in report["rasterizer"]:
        assert report["training"]["rasterizer_alone_graph"]["images_per_second"] > 0


def test_mistakes_are_named():
    for words, message in {
        ("sections=[trainig]",): "choose from",
        ("loops=[all]",): "choose from",
        ("loops=[]",): "times no training",
        ("runs=0",): "at least 1",
        ("steps=4",): "five windows",
        ("gaussians=1",): "at least 2",
    }.items():
        with pytest.raises(RunError, match=message):
            bench.check(check("bench", list(words)))
    with pytest.raises(UsageError, match="did you mean 'sections'"):
        check("bench", ["section=[training]"])


def test_keys_are_those_of_train():
    config, train = check("bench", []), check("train", ["experiment=demo", "logger=none"])
    assert set(train) - {"hydra"} <= set(config) and config.name == "demo"
    assert check("bench", ["experiment=no_codebook"]).codebook == check("train", ["experiment=no_codebook"]).codebook


def test_other_numbers_of_gaussians():
    body = load_body("demo")
    for count in (100, 20000):
        avatar = build_avatar(body, 10, initial_scale=0.006)
        before, vertices = avatar.decoder.scale.bias.clone(), avatar.skinning.big_vertices
        resample(avatar, count)
        points = avatar.gaussians.positions.detach()
        assert len(avatar.gaussians) == len(avatar.gaussians.sh_rest) == count
        assert (points >= vertices.amin(0)).all() and (points <= vertices.amax(0)).all()
        torch.testing.assert_close(avatar.decoder.scale.bias**2, before**2 * (len(vertices) / count) ** 0.5)


def test_clocks():
    stages = Stages(CPU)
    for _ in range(3):
        stages.begin()
        stages.end_of("a")
        stages.end_of("b")
        stages.finish()
    assert set(stages.medians()) == {"a", "b"} and len(stages.times["a"]) == 3
    calls = []
    assert rate(lambda: calls.append(0), CPU, 0.01, warm_up=2) > 0 and len(calls) > 2
    seen = []
    times = latencies(seen.append, CPU, 0.01, warm_up=4)
    assert len(times) == len(seen) - 4 and seen[:3] == [0, 1, 2]


def test_the_barrier(monkeypatch, tmp_path):
    monkeypatch.delenv(BARRIER, raising=False)
    assert barrier() is None
    monkeypatch.setenv(BARRIER, f"{tmp_path}:2")
    (tmp_path / "other.ready").touch()
    barrier()()  # the second of two does not wait
    assert len(list(tmp_path.glob("*.ready"))) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_knows_its_age_and_size():
    assert 0 < seconds_since_start() < 24 * 3600
    sizes = host_memory_mib()
    assert 0 < sizes["private_mib"] <= sizes["resident_mib"]


def test_nvidia_smi_may_be_absent(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert nvidia_smi("memory.used") is None


def test_tables():
    text = table("training", {"loop": {"images_per_second": 1234.5, "ms": 6.4812, "steps": 7}, "memory": {"mib": 1.5}})
    head, loop, memory = text.splitlines()
    assert head.split() == ["training", "images/s", "ms"]
    assert loop.split() == ["loop", "1234", "6.481", "steps", "7"] and memory.split() == ["memory", "mib", "1.5"]
