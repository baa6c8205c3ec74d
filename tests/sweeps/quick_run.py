"""What launchers start in tests instead of a training: writes metrics.json and what it saw; no imports to wait for."""

import json
import os
import signal
import sys
import time
from pathlib import Path

values = dict(word.split("=", 1) for word in sys.argv[1:])
folder = Path(values["folder"])
begin = time.time()
if values.get("fails") == "preempted" and not (folder / "saved").exists():
    signal.signal(signal.SIGTERM, lambda *_: ((folder / "saved").touch(), sys.exit(75)))
    (folder / "begun").touch()
    time.sleep(60)
time.sleep(float(values.get("seconds", 0.2)))
if values.get("fails") == "error":
    print("r3avatar train: the capture is broken\n(R3AVATAR_TRACEBACK=1 shows where)", file=sys.stderr)
    sys.exit(2)
if values.get("fails") == "killed":
    os.kill(os.getpid(), 9)
seen = {"gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "threads": os.environ.get("OMP_NUM_THREADS")}
(folder / "seen.json").write_text(json.dumps({**seen, "begin": begin, "end": time.time()}))
(folder / "metrics.json").write_text(json.dumps({"train": {"curve": [{"psnr": 20 + int(values["number"])}]}}))
