"""What an impedance controller is asked for stays within what the arm bears."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pointworld.control.backends.franka import DAMPING, STIFFNESS, TORQUE, soft_reference


@given(seed=st.integers(0, 2**31))
def test_a_soft_reference_asks_for_no_more_torque_than_it_may(seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, v, here, pace = rng.normal(0, 0.5, (4, 7))
    K, D, most = np.array(STIFFNESS), np.array(DAMPING), np.array(TORQUE)
    there, speed = soft_reference(q, v, here, pace, K, D, most)
    asked = K * (there - here) + D * (speed - pace)
    assert (np.abs(asked) <= most + 1e-9).all()
    near = here + 0.3 * (most / K) * rng.uniform(-1, 1, 7)
    slow = pace + 0.3 * (most / D) * rng.uniform(-1, 1, 7)
    same, kept = soft_reference(near, slow, here, pace, K, D, most)
    assert np.allclose(same, near) and np.allclose(kept, slow), "what it may ask for is left alone"
