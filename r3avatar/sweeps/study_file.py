"""Where a search keeps what it has learned: one file, to which its trials on all machines append."""

from __future__ import annotations

from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

STUDY = "r3avatar"


def open_storage(journal: Path) -> JournalStorage:
    """The storage of a study; processes of several machines may have it open."""
    return JournalStorage(JournalFileBackend(str(journal)))
