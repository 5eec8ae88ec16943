import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import batch, ce, images, log_probs, make, teacher_probs

from introspect_jax import teachers
from introspect_jax.config import default_config, validate
from introspect_jax.errors import UserError


@functools.cache
def program(name, **options):
    """`labels -> (value, gradient)` of the method's loss for new networks."""
    method = make(name, **options)
    params, state, carried = method.init(jax.random.key(1))
    given = batch(method)

    @jax.jit
    @jax.value_and_grad
    def graded(params, labels):
        examples = given | {"label": labels}
        return method.loss(params, state, carried, examples, 0, jax.random.key(2))[0]

    return functools.partial(graded, params)


def labels():
    return batch(make("standard"))["label"]


def logs():
    return log_probs(make("standard"), images())


def entropies():
    probs = teacher_probs(images(), 1.0)
    return -(probs * np.log(probs)).sum(-1)


def test_it_is_kd_without_labels_at_temperature_1():
    """In its gradient; the value is the teacher's entropy more."""
    value, gradient = program("ban")(labels())
    kd_value, kd_gradient = program("kd", alpha=1.0, temperature=1.0)(labels())
    np.testing.assert_allclose(value - kd_value, entropies().mean(), rtol=1e-5)
    chex.assert_trees_all_close(gradient, kd_gradient, rtol=1e-4, atol=1e-6)
    # The labels do not matter, but for examples that have none.
    shifted, _ = program("ban")(jnp.roll(labels(), 1, axis=-1))
    np.testing.assert_allclose(shifted, value, rtol=1e-6)


def test_labels_add_their_cross_entropy():
    value, _ = program("ban")(labels())
    both, _ = program("ban", labels=True)(labels())
    np.testing.assert_allclose(both - value, ce(labels(), logs()).mean(), rtol=1e-5)


def test_examples_without_a_label_do_not_count():
    value, _ = program("ban")(labels().at[4:].set(0))
    wanted = ce(teacher_probs(images(), 1.0), logs())[:4]
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-5)


def config(**changes):
    made = default_config()
    made.method.name = "ban"
    made.update_from_flattened_dict({f"method.{k}": v for k, v in changes.items()})
    return made


def test_the_generations_before():
    """Each is the student of the one before; the first is any student's teacher."""
    last = config(**{"ban.generations": 3, "ban.labels": True, "teacher_steps": 9})
    last.seed = 7
    chain = [last]
    while chain[-1].method.name == "ban":
        chain.append(teachers.teacher_config(chain[-1]))
        validate(chain[-1])
    assert [c.method.name for c in chain] == ["ban", "ban", "ban", "standard"]
    assert [c.method.ban.generations for c in chain] == [3, 2, 1, 1]
    assert [c.method.ban.labels for c in chain] == [True, True, True, False]
    assert [c.seed for c in chain] == [7, 1002, 1001, 1000]
    assert [c.total_steps for c in chain] == [1000, 9, 9, 9]
    kd = config(teacher_steps=9)
    kd.method.name = "kd"
    assert teachers.teacher_config(kd).to_json() == chain[-1].to_json()


@pytest.mark.parametrize(
    ("changes", "seed", "says"),
    [
        ({"ban.generations": 0}, 0, r"generations must lie in \[1, 100\], got 0"),
        (
            {"ban.generations": 3},
            1002,
            "the seeds 1000 to 1002, and seed is 1002: the teacher would start",
        ),
        ({}, 1000, "are both 1000"),
        (
            {"ban.generations": 2, "teacher_seed": 2**32 - 1},
            0,
            r"which must be below 2\*\*32; choose a smaller method.teacher_seed",
        ),
        (
            {"ban.generations": 3, "teacher": "runs/x"},
            0,
            r"'runs/x'.*is 3, .* set --config.method.ban.generations=1",
        ),
    ],
)
def test_options_that_cannot_be(changes, seed, says):
    made = config(**changes)
    made.seed = seed
    with pytest.raises(UserError, match=says) as caught:
        validate(made)
    assert "\n" not in str(caught.value)


def test_a_given_teacher_teaches_one_generation_more():
    validate(config(teacher="runs/x"))
