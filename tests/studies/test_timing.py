"""The hours of a study before it is run."""

import pytest
from tiny import TINY

from introspect_jax import data
from studies.timing import time_config


@pytest.mark.parametrize("name", ["standard", "kd"])
def test_a_run_takes_its_steps_and_evaluations(name, digits_config):
    digits_config.method.name = name
    digits_config.method.teacher_model = TINY if name == "kd" else ""
    found = time_config(digits_config, data.load(digits_config.data))
    assert found["step"] > 0
    assert found["total"] > digits_config.total_steps * found["step"]
