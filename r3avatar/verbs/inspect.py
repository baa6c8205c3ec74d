"""`r3avatar inspect`: what a capture holds, and whether its cameras, poses and masks agree."""

from __future__ import annotations

from pathlib import Path

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from r3avatar.body import BodyModel
from r3avatar.captures import FolderCapture, Mend, Split
from r3avatar.captures.folder import read_about
from r3avatar.inspection import Inspection, Opened, inspect_capture, open_capture, write_report
from r3avatar.inspection.opening import REFUSALS, message
from r3avatar.inspection.overlap import POOR
from r3avatar.run import RunError


def run(config: DictConfig) -> Inspection:
    """Write the report and print its verdicts.

    SystemExit(2) if the reader refuses the capture or there is no body, and for any poor capture if `strict`.
    """
    if config.views < 1 or config.frames < 1:
        raise RunError(f"views={config.views} frames={config.frames}: compare at least 1 view and 1 frame")
    body, opened = body_configured(config.body), open_configured(config.capture)
    kind = None if opened.capture is None else opened.capture.body_kind
    if isinstance(body, BodyModel) and kind not in (None, body.kind):
        raise RunError(f"the capture's poses are {kind}'s, the body is {body.kind}; choose body=...")
    name = str(config.capture.subject)
    inspection = inspect_capture(
        opened, body, name=name, folder=Path(config.capture.root).expanduser() / name, views=config.views,
        frames=config.frames, every_image=config.every_image, progress=True,
    )  # fmt: skip
    folder = Path(config.out) if config.out else Path("outputs") / "inspect" / name
    page, data = write_report(inspection, folder)
    for check in inspection.checks:
        mend = f"\n{'':7}mend: {check.mend}" if check.mend else ""
        print(f"[{check.verdict:4}] {check.name:17} {check.found}{mend}")
    print(f"\n{inspection.name}: {inspection.verdict}\nreport: {page}\nnumbers: {data}")
    incomplete = inspection.refusal is not None or isinstance(body, str)
    if incomplete or (config.strict and inspection.verdict == POOR):
        raise SystemExit(2)
    return inspection


def body_configured(config: DictConfig) -> BodyModel | str:
    """The body, or why there is none."""
    try:
        return instantiate(config)
    except InstantiationException as error:
        return _cause(error)


def open_configured(config: DictConfig) -> Opened:
    """Open the capture of a configuration, or as much of it as opens."""
    try:
        reader = instantiate(config, _partial_=True)
    except InstantiationException as error:  # an argument is refused: the mean hand pose, a split
        return Opened(None, _cause(error))
    splits = {name: split for name, split in (reader.keywords.get("splits") or {}).items() if split is not None}
    if reader.func is FolderCapture:
        try:
            about = read_about(Path(config.root).expanduser() / str(config.subject) / "capture.json")
        except REFUSALS as error:
            return Opened(None, message(error))
        given = {n: s if isinstance(s, Split) else Split.parse(s["cameras"], s["frames"]) for n, s in splits.items()}
        splits = {**about["splits"], **given}
    return open_capture(reader, splits, reader.keywords.get("mend") or Mend())


def _cause(error: BaseException) -> str:
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return message(error)
