"""What an offline run of W&B has written: its .wandb file, read by the format (LevelDB's log of protobuf records)."""

import json
import struct
import time
from pathlib import Path

from wandb.proto import wandb_internal_pb2

_BLOCK, _FILE_HEADER, _HEADER = 32768, 7, 7
_FULL, _FIRST, _LAST = 1, 2, 4


def records(path: Path) -> list:
    """All records of a .wandb file."""
    data = path.read_bytes()
    assert data[:4] == b":W&B", data[:8]
    found, parts, at = [], [], _FILE_HEADER
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + _HEADER])
        payload = data[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if kind == 0 and not length:
            continue
        parts = [payload] if kind in (_FULL, _FIRST) else [*parts, payload]
        if kind in (_FULL, _LAST):
            found.append(wandb_internal_pb2.Record.FromString(b"".join(parts)))
    return found


class OfflineRun:
    """A run's id, configuration, lines of history, and exit code (None: not finished)."""

    def __init__(self, folder: Path):
        self.folder, self.config, self.history, self.exit_code = folder, {}, [], None
        for record in records(next(folder.glob("*.wandb"))):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.id, self.project, self.name = record.run.run_id, record.run.project, record.run.display_name
                self._configure(record.run.config.update)
            elif kind == "config":
                self._configure(record.config.update)
            elif kind == "history":
                line = {"_step": record.history.step.num}
                for item in record.history.item:
                    *outer, last = item.nested_key or [item.key]
                    place = line
                    for key in outer:  # a picture's, histogram's, table's fields
                        place = place.setdefault(key, {})
                    place[last] = json.loads(item.value_json)
                self.history.append(line)
            elif kind == "exit":
                self.exit_code = record.exit.exit_code

    def _configure(self, updates) -> None:
        self.config |= {(u.key or "/".join(u.nested_key)): json.loads(u.value_json) for u in updates}

    @property
    def values(self) -> dict[str, list]:
        """Every logged key with its values in order."""
        found: dict[str, list] = {}
        for line in self.history:
            for key, value in line.items():
                found.setdefault(key, []).append(value)
        return found


def offline_runs(folder: Path) -> list[OfflineRun]:
    """Of a run folder, in the order of their starts; waits for W&B's process, which writes the last record."""
    for _ in range(100):
        found = [OfflineRun(f) for f in sorted((folder / "logs" / "wandb").glob("offline-run-*"))]
        if all(run.exit_code is not None for run in found):
            break
        time.sleep(0.1)
    return found
