"""Ways to spoil a capture's folder: each returns a function of the folder."""

from __future__ import annotations

import json
import os
import shutil


class Evil:
    """An object whose pickle leaves a file behind when it is loaded."""

    def __init__(self, path="ran"):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def edit_json(name, change):
    """`change` gets the content and alters it or returns another."""

    def spoil(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(change(content) or content))

    return spoil


def put(value, *keys):
    """A change for `edit_json`: the value goes where the keys lead."""

    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def cut(name):
    """Half of the file is lost."""

    def spoil(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return spoil


def remove(name):
    """The file or folder is gone."""
    return lambda folder: shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def write(name, content):
    """The file holds these bytes."""
    return lambda folder: (folder / name).write_bytes(content)
