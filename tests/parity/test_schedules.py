"""The position learning rate against the authors' implementation."""

import numpy as np

from r3avatar.training.schedules import log_linear


def test_position_learning_rate(oracle, parity):
    z = oracle("camera")
    for name, factor in (("lr_unit", 1.0), ("lr_extent", float(z["rig_extent"]))):
        found = np.array([log_linear(1.6e-4 * factor, 1.6e-6 * factor, int(step) / 30000) for step in z["lr_steps"]])
        parity("schedules", f"{name}, relative", np.abs(found / z[name] - 1).max(), 1e-6)
