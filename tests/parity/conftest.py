"""Parity with numbers computed by the method's authors' implementation; prints the table of maximal errors."""

from pathlib import Path

import numpy as np
import pytest

ORACLE = Path(__file__).parent / "oracle"
_rows: list[tuple[str, str, float, float]] = []


@pytest.fixture
def oracle():
    """Load an oracle file by stem: `oracle("skinning")["smpl_points"]`."""
    return lambda stem: np.load(ORACLE / f"{stem}.npz", allow_pickle=False)


@pytest.fixture
def parity():
    """Record and assert a maximal error: `parity("skinning", "points_world", error, tolerance)`."""

    def record(name: str, quantity: str, error: float, tolerance: float) -> None:
        _rows.append((name, quantity, float(error), tolerance))
        assert error <= tolerance, f"{name}: {quantity} differs by {error:.3g}, tolerance {tolerance:.3g}"

    return record


def pytest_terminal_summary(terminalreporter):
    if not _rows:
        return
    terminalreporter.section("parity with the oracle (maximal error | tolerance)")
    for name, quantity, error, tolerance in sorted(_rows):
        terminalreporter.write_line(f"{name:14} {quantity:44} {error:10.2e} | {tolerance:.0e}")
