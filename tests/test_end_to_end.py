"""Synthesize, train, evaluate, render, animate: the whole path on a tiny capture, through the command line."""

import json
import os
import signal
from pathlib import Path

import av
import cv2
import h5py
import pytest
import torch
from omegaconf import OmegaConf

pytestmark = pytest.mark.slow


def _video(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


def test_the_capture_is_a_real_pair(workplace):
    folder = workplace.folder / "outputs" / "captures" / "tiny"
    with h5py.File(folder / "tiny.smc") as images, h5py.File(folder / "tiny_annots.smc") as annotations:
        assert images["Camera_5mp/0/color/0"].dtype == "uint8"
        assert annotations["Camera_Parameter/00/D"][()].any()
        assert annotations["SMPLx/fullpose"].shape == (12, 55, 3)


def test_run_folder(tiny_run):
    config = OmegaConf.load(tiny_run / "config.yaml")
    assert config.budget.images == 16 and config.capture.subject == "tiny"
    assert "name=tiny" in (tiny_run / "overrides.txt").read_text().splitlines()
    assert json.loads((tiny_run / "versions.json").read_text())["versions"]["torch"]
    latest = tiny_run.parent / "latest"  # of all tests that train in this workplace
    assert latest.is_symlink() and (latest.resolve() / "config.yaml").is_file()
    for which in ("last", "best"):
        state = torch.load(tiny_run / "checkpoints" / f"{which}.ckpt", weights_only=True)
        assert state["progress"]["images"] in (8, 16)
        assert not any("v_template" in key for key in state["state_dict"]), "body data must not travel in checkpoints"


def test_metrics(tiny_run):
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    for split, images in {"novel_view": 2, "novel_pose": 2}.items():
        for protocol in ("paper", "standard"):
            section = metrics[split][protocol]
            assert 5 < section["psnr"] < 60 and 0 < section["ssim"] <= 1 and section["frames"] == images
            assert section["lpips"] is None and "lpips=vgg" in metrics["notes"][f"{split}.{protocol}.lpips"]
        assert 0 <= metrics[split]["standard"]["mask_iou"] <= 1
    assert metrics["train"]["images"] == 16 and metrics["train"]["gaussians"] > 1000
    assert metrics["train"]["images_per_second"] > 0


def test_media(tiny_run):
    media = tiny_run / "media"
    assert cv2.imread(str(media / "retrieval_timeline.png")) is not None
    assert len(list((media / "novel_view").glob("*.png"))) == 2 and len(_video(media / "novel_view.mp4")) == 2
    assert len(list((media / "training").glob("*.png"))) == 2
    picture = cv2.imread(str(next((media / "novel_pose").glob("*.png"))))
    assert picture.shape[1] == 4 * (picture.shape[0] - 18)  # truth | render | error | alpha, square frames


def test_an_existing_run_is_not_overwritten(workplace, tiny_run, tiny_capture):
    before = (tiny_run / "metrics.json").read_bytes()
    text = workplace("train", "experiment=demo", "name=tiny", *tiny_capture, "debug=fast", code=2)
    assert "holds a run already" in text and "overwrite=true" in text
    assert (tiny_run / "metrics.json").read_bytes() == before


def test_resume_goes_on_after_densification(workplace, tiny_capture):
    common = ["experiment=demo", "name=resumed", *tiny_capture, "batch.views=2", "density.start=2", "density.every=4",
              "density.grad_threshold=1e-7", "validation.frames=1", "evaluate=false", "media=false"]  # fmt: skip
    workplace("train", *common, "budget.images=8", "validation.every_images=8")
    folder = workplace.folder / "outputs" / "resumed"
    first = json.loads((folder / "metrics.json").read_text())["train"]
    assert first["gaussians"] != 9000
    workplace("train", *common, "budget.images=16", "validation.every_images=8", "resume=true")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["train"]["images"] == 16
    assert metrics["novel_view"] is None and "r3avatar evaluate" in metrics["notes"]["novel_view"]


def test_minutes_bound_a_run(workplace, tiny_capture):
    workplace("train", "experiment=demo", "name=minutes", *tiny_capture, "batch.views=2", "budget.images=100000",
              "budget.minutes=0.05", "media=false", "evaluate=false")  # fmt: skip
    folder = workplace.folder / "outputs" / "minutes"
    train = json.loads((folder / "metrics.json").read_text())["train"]
    assert 0 < train["images"] < 100000 and train["seconds"] >= 3
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["progress"]["images"] == train["images"], "the last checkpoint is the end of the run"


def test_interrupting_keeps_what_was_learned(workplace, tiny_capture):
    pid = workplace.start("train", "experiment=demo", "name=interrupted", *tiny_capture, "batch.views=2",
                          "budget.images=100000", "media=false")  # fmt: skip
    for _ in range(600):
        if "images/s" in workplace.said() or not workplace.running(0.1):
            break
    os.kill(pid, signal.SIGINT)
    assert "resume=true" in workplace.end(code=130, timeout=60)
    state = torch.load(workplace.folder / "outputs/interrupted/checkpoints/last.ckpt", weights_only=True)
    assert state["progress"]["images"] >= 40


def test_evaluate_again_without_retrieval(workplace, tiny_run):
    before = (tiny_run / "metrics.json").read_bytes()
    text = workplace("evaluate", "run=outputs/tiny", "retrieval=none", "media=false")
    assert "novel pose" in text and "paper" in text
    assert (tiny_run / "metrics.json").read_bytes() == before, "another evaluation must not replace the run's own"
    other = json.loads((tiny_run / "evaluations" / "retrieval-none" / "metrics.json").read_text())
    assert other["novel_view"] == json.loads(before)["novel_view"]
    workplace("evaluate", "run=outputs/tiny", "media=false")
    assert [p.name for p in (tiny_run / "evaluations").iterdir()] == ["retrieval-none"]
    assert json.loads((tiny_run / "metrics.json").read_text()) == json.loads(before)


def test_evaluate_better_retrieval_and_its_bound(workplace, tiny_run):
    found = {}
    for retrieval in ("viterbi", "mixture", "oracle"):
        media = "media=true" if retrieval == "mixture" else "media=false"
        workplace("evaluate", "run=outputs/tiny", f"retrieval={retrieval}", "splits=[novel_pose]", media)
        metrics = json.loads((tiny_run / "evaluations" / f"retrieval-{retrieval}" / "metrics.json").read_text())
        found[retrieval] = metrics["novel_pose"]["paper"]["psnr"]
        assert metrics["novel_pose"]["steadiness"]["pairs"] == 0 or metrics["novel_pose"]["steadiness"]["error"] > 0
    assert found["oracle"] >= found["viterbi"] - 0.05  # times between frames are not among the oracle's
    assert abs(found["mixture"] - found["viterbi"]) < 3
    timeline = tiny_run / "evaluations" / "retrieval-mixture" / "media" / "retrieval_timeline.png"
    assert cv2.imread(str(timeline)) is not None


def test_render(workplace, tiny_run):
    text = workplace("render", "run=outputs/tiny", "camera=turntable")
    assert "render_turntable.mp4" in text
    frames = _video(tiny_run / "media" / "render_turntable.mp4")
    assert len(frames) == 8 and frames[0].max() > 20
    assert "camera=77 is neither turntable" in workplace("render", "run=outputs/tiny", "camera=77", code=2)


def test_animate_the_capture_and_a_pose_file(workplace, tiny_run):
    import numpy as np

    workplace("animate", "run=outputs/tiny", "camera=4")
    assert len(_video(tiny_run / "media" / "animate_novel_pose.mp4")) == 3
    assert (tiny_run / "media" / "animate_novel_pose_timeline.png").exists()
    motion = workplace.folder / "wave.npz"
    with h5py.File(workplace.folder / "outputs/captures/tiny/tiny_annots.smc") as annotations:
        transl = np.repeat(annotations["SMPLx/transl"][:1], 5, 0)
    np.savez(motion, theta=np.zeros((5, 55, 3), np.float32), transl=transl, fps=10.0)
    workplace("animate", "run=outputs/tiny", f"motion={motion.name}")
    assert len(_video(tiny_run / "media" / "animate_wave.mp4")) == 7  # 0.4 s at the capture's 15 a second
    np.savez(motion, theta=np.zeros((5, 24, 3), np.float32), transl=transl)
    assert "takes [F, 55, 3]" in workplace("animate", "run=outputs/tiny", f"motion={motion.name}", code=2)


def test_animate_a_motion_capture_clip(workplace, tiny_run):
    clip = Path(__file__).parent / "motion" / "clips" / "02_01.amc"
    common = ["animate", "run=outputs/tiny", f"motion={clip}", "root=in_place", "end=0.2"]
    assert "motion_fps=120" in workplace(*common, code=2)
    workplace(*common, "motion_fps=120")
    frames = _video(tiny_run / "media" / "animate_02_01.mp4")
    assert len(frames) == 4 and all(frame.max() > 50 for frame in frames)  # the person is in the picture


def test_straight_from_the_smc_and_preprocess(workplace, only_tiny_capture):
    workplace("train", "experiment=demo", "avatar=r3", "name=direct", *only_tiny_capture, "debug=fast", "batch.views=2",
              "cache.folder=off", "workers=2", "evaluate=false", "media=false")  # fmt: skip
    assert "prepared frames" in workplace("preprocess", *only_tiny_capture)


def test_verbs_without_a_run_folder_leave_no_log_where_they_are_started(workplace, tmp_path):
    place = workplace.at(tmp_path)
    small = {"cameras": 1, "recorded_frames": 5, "later_frames": 1, "transition_frames": 1, "width": 64, "height": 64}
    place("synthesize", "synthesis=tiny", *(f"synthesis.{key}={value}" for key, value in small.items()))
    place("preprocess", "capture.subject=nobody", code=2)
    place("bench", "capture.subject=nobody", code=2)
    place("inspect", "capture.subject=nobody", code=2)
    place("compare", "run=outputs/nothing", code=2)
    assert not list(tmp_path.rglob("*.log"))


def test_wandb_offline(workplace, tiny_capture):
    workplace("train", "experiment=demo", "name=board", *tiny_capture, "debug=fast", "batch.views=2", "logger=wandb",
              "evaluate=false", "media=false")  # fmt: skip
    assert list((workplace.folder / "outputs/board/logs/wandb").glob("offline-run-*/*.wandb"))


EXPERIMENTS = ["r3_published", "synthetic_large"]  # ablations: tests/comparison/test_ablations.py
SMALLER = ["loss=no_perceptual", "codebook=small", "logger=none"]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_shipped_experiment_runs(workplace, tiny_capture, experiment):
    """Those of data sets run on files in their layouts: tests/test_dna_rendering.py, captures/test_layouts_train.py."""
    workplace("train", f"experiment={experiment}", "name=" + experiment, *SMALLER, *tiny_capture, "debug=fast",
              "batch.views=2", "batch.frames=1", "media=false")  # fmt: skip
    metrics = json.loads((workplace.folder / "outputs" / experiment / "metrics.json").read_text())
    assert metrics["novel_pose"]["paper"]["psnr"] > 5


def test_runs_keep_their_validation_curve(tiny_run):
    curve = json.loads((tiny_run / "metrics.json").read_text())["train"]["curve"]
    assert [point["images"] for point in curve] == [8, 16]
    assert all(point["psnr"] > 5 and 0 < point["ssim"] < 1 and point["seconds"] > 0 for point in curve)
