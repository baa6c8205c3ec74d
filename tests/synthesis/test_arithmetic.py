"""The machine-independent arithmetic agrees with the usual libraries."""

import numpy as np
from scipy.spatial.transform import Rotation

from r3avatar.captures.synthesis import arithmetic as am


def test_functions_of_one_number():
    x = np.random.default_rng(0).uniform(-1000.0, 1000.0, 20000)
    assert np.abs(am.sin(x) - np.sin(x)).max() < 1e-15
    assert np.abs(am.cos(x) - np.cos(x)).max() < 1e-13
    y, z = np.random.default_rng(1).normal(size=(2, 20000))
    assert np.abs(am.arctan2(y, z) - np.arctan2(y, z)).max() < 2e-15
    for y, z in ((0.0, -1.0), (1.0, 0.0), (-1.0, 0.0), (0.0, 0.0), (0.0, 1.0)):
        assert am.arctan2(y, z) == np.arctan2(y, z)
    places, values = [-1.0, 0.5, 2.0], [3.0, -1.0, 4.0]
    np.testing.assert_allclose(am.piecewise(x / 300, places, values), np.interp(x / 300, places, values), atol=1e-14)


def test_rotations():
    a, b = Rotation.random(500, random_state=0), Rotation.random(500, random_state=1)
    qa, qb = am.quaternion(a.as_rotvec()), am.quaternion(b.as_rotvec())
    np.testing.assert_allclose(am.matrix(qa), a.as_matrix(), atol=1e-14)
    np.testing.assert_allclose(am.rotation_vector(qa), a.as_rotvec(), atol=1e-13)
    np.testing.assert_allclose(am.matrix(am.quaternion_product(qa, qb)), (a * b).as_matrix(), atol=1e-14)
    np.testing.assert_allclose(am.matrix(am.inverse(qa)), a.inv().as_matrix(), atol=1e-14)
    v = np.random.default_rng(2).normal(size=(500, 3))
    np.testing.assert_allclose(am.turned(qa, v), a.apply(v), atol=1e-14)
    m = a.as_matrix()
    np.testing.assert_allclose(am.matrix(am.quaternion_of_frame(m[..., 0], m[..., 1])), m, atol=1e-14)
    np.testing.assert_allclose(am.rotation_vector(am.axis_turn(1, 0.3)), [0.0, 0.3, 0.0], atol=1e-15)
    np.testing.assert_allclose(am.rotation_vector(am.quaternion(np.zeros(3))), np.zeros(3), atol=0)
    half = am.blended(qa, am.quaternion_product(am.axis_turn(2, 0.4), qa), np.full(500, 0.5))
    np.testing.assert_allclose(am.matrix(half), am.matrix(am.quaternion_product(am.axis_turn(2, 0.2), qa)), atol=1e-14)
