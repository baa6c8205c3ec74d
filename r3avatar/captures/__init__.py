"""Captures: one reader a data set, the frame cache, splits, the data module."""

from r3avatar.captures.batches import crop_batch, full_batch
from r3avatar.captures.boxes import body_bounds, projected_box_mask
from r3avatar.captures.cache import FrameStore, frames_of_splits, prepare
from r3avatar.captures.capture import Capture, CaptureError, Split, parse_ids
from r3avatar.captures.dna_rendering import DnaRendering
from r3avatar.captures.folder import FolderCapture
from r3avatar.captures.folder_writer import write_folder
from r3avatar.captures.hand_mean import read_hand_mean
from r3avatar.captures.hand_pca import HandPca, read_hand_pca
from r3avatar.captures.hifi4g import HiFi4G
from r3avatar.captures.mend import Mend
from r3avatar.captures.mvhumannet import MvHumanNet
from r3avatar.captures.prepared_frame import BOUND, PERSON, PreparedFrame
from r3avatar.captures.recording import Recording, write_recording
from r3avatar.captures.smc import SmcWriter
from r3avatar.captures.zju_mocap import ZjuMocap


def __getattr__(name: str):
    # Lightning is loaded with the data module, not with the readers.
    if name == "CaptureDataModule":
        from r3avatar.captures.datamodule import CaptureDataModule

        return CaptureDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "BOUND",
    "PERSON",
    "Capture",
    "CaptureDataModule",
    "CaptureError",
    "DnaRendering",
    "FolderCapture",
    "FrameStore",
    "HandPca",
    "HiFi4G",
    "Mend",
    "MvHumanNet",
    "PreparedFrame",
    "Recording",
    "SmcWriter",
    "Split",
    "ZjuMocap",
    "body_bounds",
    "crop_batch",
    "frames_of_splits",
    "full_batch",
    "parse_ids",
    "prepare",
    "projected_box_mask",
    "read_hand_mean",
    "read_hand_pca",
    "write_folder",
    "write_recording",
]
