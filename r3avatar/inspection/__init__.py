"""What a capture holds, and whether its cameras, poses and masks agree: `inspect_capture`."""

from r3avatar.inspection.inspect import Inspection, inspect_capture
from r3avatar.inspection.opening import Opened, open_capture
from r3avatar.inspection.report import write_report

__all__ = ["Inspection", "Opened", "inspect_capture", "open_capture", "write_report"]
