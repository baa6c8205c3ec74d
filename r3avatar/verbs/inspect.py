"""`r3avatar inspect`: what a capture holds, and whether its cameras, poses and masks agree."""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from r3avatar.inspection import Inspection, inspect_capture, write_report
from r3avatar.inspection.overlap import POOR
from r3avatar.run import RunError


def run(config: DictConfig) -> Inspection:
    """Write the report and print its verdicts; SystemExit(2) for a poor capture if `strict`."""
    if config.views < 1 or config.frames < 1:
        raise RunError(f"views={config.views} frames={config.frames}: compare at least 1 view and 1 frame")
    capture, body = instantiate(config.capture), instantiate(config.body)
    if body.kind != capture.body_kind:
        raise RunError(f"the capture's poses are {capture.body_kind}'s, the body is {body.kind}; choose body=...")
    inspection = inspect_capture(
        capture, body, views=config.views, frames=config.frames, every_image=config.every_image,
        keys=[str(key) for key in config.capture],
    )  # fmt: skip
    folder = Path(config.out) if config.out else Path("outputs") / "inspect" / capture.name
    page, data = write_report(inspection, folder)
    for check in inspection.checks:
        mend = f"\n{'':7}mend: {check.mend}" if check.mend else ""
        print(f"[{check.verdict:4}] {check.name:17} {check.found}{mend}")
    print(f"\n{capture.name}: {inspection.verdict}\nreport: {page}\nnumbers: {data}")
    if config.strict and inspection.verdict == POOR:
        raise SystemExit(2)
    return inspection
