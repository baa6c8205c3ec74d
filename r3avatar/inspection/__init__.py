"""What a capture holds, and whether its cameras, poses and masks agree: `inspect_capture`."""

from r3avatar.inspection.inspect import Inspection, inspect_capture
from r3avatar.inspection.report import write_report

__all__ = ["Inspection", "inspect_capture", "write_report"]
