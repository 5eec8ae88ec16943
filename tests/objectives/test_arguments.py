"""Arguments that are refused, and settings and types under which all works."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from every import BATCH, CLASSES, LABELS, LOGITS, LOSSES, SCORES, TARGETS, TEACHER, keys

from introspect_jax.objectives import components, losses, targets
from introspect_jax.objectives.targets import SoftTarget, teacher_target

WHOLE = teacher_target(TEACHER, 2.0)
SHORT = LABELS[:3]

# Each takes a temperature, under the name it has in the message.
TEMPERATURES = {
    "kl_to_target": (
        "temperature",
        lambda t: losses.kl_to_target(LOGITS, WHOLE.probs, temperature=t),
    ),
    "distillation": (
        "temperature",
        lambda t: losses.distillation(LOGITS, LABELS, WHOLE, t),
    ),
    "mutual_divergence": (
        "temperature",
        lambda t: losses.mutual_divergence(np.stack([LOGITS, TEACHER]), t),
    ),
    "loss_fn": (
        "student_temperature",
        lambda t: losses.loss_fn(LOGITS, LABELS, WHOLE, student_temperature=t),
    ),
    "similarity_target": (
        "temperature",
        lambda t: targets.similarity_target(SCORES, LABELS, temperature=t),
    ),
    "tckd": ("temperature", lambda t: losses.tckd(LOGITS, LABELS, TEACHER, t)),
    "nckd": ("temperature", lambda t: losses.nckd(LOGITS, LABELS, TEACHER, t)),
    "teacher_target": ("temperature", lambda t: teacher_target(TEACHER, t)),
    "virtual_teacher": (
        "temperature",
        lambda t: targets.virtual_teacher(LABELS, CLASSES, temperature=t),
    ),
    "component_loss": (
        "temperature",
        lambda t: components.component_loss(LOGITS, LABELS, WHOLE, "full", t),
    ),
    "component_loss_cwtm": (
        "temperature",
        lambda t: components.component_loss(LOGITS, LABELS, WHOLE, "cwtm", t),
    ),
}


@pytest.mark.untyped
@pytest.mark.parametrize("name", TEMPERATURES)
def test_temperatures_that_are_not_above_0(name):
    argument, call = TEMPERATURES[name]
    for bad in (0, 0.0, np.float32(0), jnp.array(0.0), -1.0, np.float64("nan")):
        with pytest.raises(ValueError, match=f"^{argument} must be above 0, got "):
            call(bad)
    with pytest.raises(ValueError, match=f"^{argument} must be finite, got inf"):
        call(float("inf"))
    several = rf"^{argument} must be a single number(, got | or \[\d\], got )"
    with pytest.raises(ValueError, match=several):
        call(np.ones(3, "f4"))
    # A known temperature is refused in a program too.
    with pytest.raises(ValueError, match=f"^{argument} must be above 0"):
        jax.jit(lambda: call(np.float32(0)))()


@pytest.mark.parametrize("name", TEMPERATURES)
def test_temperatures_of_any_type(name):
    _, call = TEMPERATURES[name]
    wanted = jax.tree.leaves(call(2.0))
    for same in (2, np.float32(2), np.float64(2), jnp.float32(2), jnp.array(2)):
        for a, b in zip(jax.tree.leaves(call(same)), wanted, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


def mean(decay):
    means = np.eye(CLASSES, dtype="f4")
    return components.update_class_means(means, WHOLE.probs, LABELS, decay)


def weighted(support):
    target = SoftTarget(WHOLE.probs, WHOLE.degenerate, support)
    return lambda w: losses.loss_fn(LOGITS, LABELS, target, weight=w)


@pytest.mark.parametrize(
    ("argument", "call", "good", "bad"),
    [
        ("epsilon", lambda e: targets.smooth_labels(LABELS, 5, e), (0, 1), (-0.1, 1.1)),
        (
            "correct",
            lambda c: targets.virtual_teacher(LABELS, 5, correct=c),
            (0.5, 0.99),
            (0, 1, 1.5),
        ),
        (
            "alpha",
            lambda a: targets.past_target(LABELS, WHOLE.probs, a),
            (0, 0.3, 1),
            (-0.1, 2),
        ),
        ("decay", mean, (0, 0.9, 1), (-0.1, 1.5)),
        ("weight", weighted("all"), (0, 1), (-0.1, 1.1)),
        ("weight", weighted("others"), (0, 3), (-0.1, np.inf)),
    ],
)
def test_ranges(argument, call, good, bad):
    for value in good:
        for kind in (float, np.float32, jnp.asarray):
            assert jax.tree.leaves(call(kind(value)))
    for value in (*bad, np.nan):
        for kind in (float, np.float32, jnp.float32):
            with pytest.raises(ValueError, match=f"^{argument} must be (in|at least) "):
                call(kind(value))


def permutation_keys(**changes):
    arguments = {
        "step_key": jax.random.key(0),
        "fixed_key": jax.random.key(1),
        "indices": np.arange(BATCH),
        "labels": LABELS,
    }
    return components.permutation_keys("fixed", **arguments | changes)


def target_of(**changes):
    fields = {"probs": WHOLE.probs, "degenerate": WHOLE.degenerate, "support": "all"}
    return SoftTarget(**fields | changes)


MEANS = np.eye(CLASSES, dtype="f4")
REFUSED = {
    r"logits must be \[batch, classes\], got float32\[5\]": [
        lambda: losses.cross_entropy(LOGITS[0], LABELS),
        lambda: losses.confidence_penalty(LOGITS[0]),
        lambda: losses.complement_entropy(LOGITS[0], LABELS),
        lambda: losses.loss_fn(LOGITS[0], LABELS, WHOLE),
        lambda: teacher_target(LOGITS[0], 1.0),
    ],
    r"values must be \[batch, \.\.\.\], got float32\[\]": [
        lambda: losses.squared_length(jnp.float32(1)),
    ],
    r"directions must be \[directions, batch, classes\], got float32\[4, 5\]": [
        lambda: losses.squared_jacobian(lambda v: v, LOGITS),
    ],
    r"logits must be \[peers, batch, classes\], got float32\[4, 5\]": [
        lambda: losses.mutual_divergence(LOGITS),
    ],
    r"labels must be ints \[4\] or probabilities \[4, 5\], got int(32|64)\[3\]": [
        lambda: losses.cross_entropy(LOGITS, SHORT),
        lambda: losses.confidence_penalty(LOGITS, SHORT),
        lambda: losses.complement_entropy(LOGITS, SHORT),
        lambda: losses.mutual_divergence(np.stack([LOGITS] * 2), 1.0, SHORT),
        lambda: losses.distillation(LOGITS, SHORT, WHOLE),
        lambda: losses.squared_jacobian(lambda v: v, LOGITS[None], SHORT),
        lambda: losses.loss_fn(LOGITS, SHORT, WHOLE),
        lambda: losses.describe_target(WHOLE, SHORT),
        lambda: targets.similarity_target(SCORES, SHORT),
        lambda: targets.past_target(SHORT, WHOLE.probs, 0.5),
        lambda: components.component(WHOLE, SHORT, "others"),
        lambda: components.component_loss(LOGITS, SHORT, WHOLE, "full", 1.0),
        lambda: components.confidence_weights(WHOLE.probs, SHORT),
        lambda: components.update_class_means(MEANS, WHOLE.probs, SHORT, 0.9),
    ],
    r"labels must be ints \[4\] or probabilities": [
        lambda: permutation_keys(labels=SHORT),
        lambda: losses.cross_entropy(LOGITS, LABELS.astype("f4")),
        lambda: losses.cross_entropy(LOGITS, LABELS[:, None]),
        lambda: losses.cross_entropy(LOGITS, np.eye(6)[LABELS]),
    ],
    r"labels must be ints \[batch\] or probabilities \[batch, 4\], got float32": [
        lambda: targets.as_probs(LOGITS, 4),
        lambda: targets.other_classes(LOGITS, 4),
        lambda: targets.smooth_labels(LOGITS, 4, 0.1),
        lambda: targets.label_target(LOGITS, 4),
        lambda: targets.uniform_others(LOGITS, 4),
        lambda: targets.virtual_teacher(LOGITS, 4),
        lambda: targets.smooth_to_entropy(LOGITS, 4, jnp.ones(4)),
    ],
    r"target.probs must be \[4, 5\], got float32\[3, 5\]": [
        lambda: losses.distillation(LOGITS, LABELS, target_of(probs=WHOLE.probs[:3])),
        lambda: losses.loss_fn(LOGITS, LABELS, target_of(probs=WHOLE.probs[:3])),
        lambda: components.component_loss(
            LOGITS, LABELS, target_of(probs=WHOLE.probs[:3]), "cwtm", 1.0
        ),
    ],
    r"target.degenerate must be \[4\], got bool\[3\]": [
        lambda: losses.loss_fn(
            LOGITS, LABELS, target_of(degenerate=WHOLE.degenerate[:3])
        ),
    ],
    "unknown support 'othres'.*did you mean 'others'": [
        lambda: losses.loss_fn(LOGITS, LABELS, target_of(support="othres")),
        lambda: losses.distillation(LOGITS, LABELS, target_of(support="othres")),
        lambda: components.component(target_of(support="othres"), LABELS, "full"),
    ],
    r"target_probs must be \[4, 5\], as the logits, got float32\[4, 4\]": [
        lambda: losses.kl_to_target(LOGITS, WHOLE.probs[:, :4]),
    ],
    r"mask must be \[4, 5\], as the logits, got bool\[5\]": [
        lambda: losses.kl_to_target(LOGITS, WHOLE.probs, np.ones(5, bool)),
    ],
    r"past must be \[batch, classes\], got float32\[5\]": [
        lambda: targets.past_target(LABELS, WHOLE.probs[0], 0.5),
    ],
    r"entropy must be \[4\], got float32\[3\]": [
        lambda: targets.smooth_to_entropy(LABELS, 5, jnp.ones(3)),
    ],
    r"means must be \[5, 5\], got float32\[4, 5\]": [
        lambda: components.component(
            WHOLE, LABELS, "class_average", class_means=MEANS[:4]
        ),
        lambda: components.update_class_means(MEANS[:4], WHOLE.probs, LABELS, 0.9),
    ],
    r"probs must be \[batch, 5\], got float32\[4, 4\]": [
        lambda: components.update_class_means(MEANS, WHOLE.probs[:, :4], LABELS, 0.9),
    ],
    r"movable must be \[4, 5\], got bool\[3, 5\]": [
        lambda: components.permute(WHOLE.probs, np.ones((3, 5), bool), keys()),
    ],
    r"keys must be \[4\], got key<fry>\[3\]": [
        lambda: components.permute(WHOLE.probs, np.ones((4, 5), bool), keys(3)),
        lambda: components.component(WHOLE, LABELS, "permuted", keys=keys(3)),
    ],
    r"indices must be ints \[batch\], got float32\[4\]": [
        lambda: permutation_keys(indices=np.ones(4, "f4")),
    ],
    "labels must be at least 0": [
        lambda: permutation_keys(labels=np.array([0, -2, 1, 1])),
    ],
    "classes must be at least 2, got 1": [
        lambda: targets.smooth_labels(LABELS * 0, 1, 0.1, "others"),
        lambda: targets.virtual_teacher(LABELS * 0, 1),
        lambda: targets.smooth_to_entropy(LABELS * 0, 1, jnp.ones(4)),
    ],
}


@pytest.mark.untyped
@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_is_named(message):
    for call in REFUSED[message]:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.untyped
def test_shapes_are_checked_in_a_program_too():
    with pytest.raises(ValueError, match="labels must be ints"):
        jax.jit(losses.cross_entropy)(LOGITS, SHORT)


def test_no_examples():
    labels = LABELS[:0]
    for name in TARGETS:
        target = TARGETS[name](labels)
        assert target.probs.shape == (0, CLASSES), name
        assert target.degenerate.shape == (0,), name
    for name in ("cross_entropy", "confidence_penalty", "mutual", "from_teacher"):
        assert LOSSES[name](jnp.asarray(LOGITS[:0]), labels).shape == (0,), name
    loss, parts = losses.loss_fn(LOGITS[:0], labels, TARGETS["past"](labels))
    assert loss.shape == (0,)
    assert {part.shape for part in parts.values()} == {(0,)}
    before = np.eye(CLASSES, dtype="f4")
    after = components.update_class_means(before, WHOLE.probs[:0], labels, 0.9)
    np.testing.assert_array_equal(after, before)
    assert components.confidence_weights(WHOLE.probs[:0], labels).shape == (0,)
    made = permutation_keys(indices=np.arange(0), labels=labels)
    assert made.shape == (0,)


SOME = (
    "cross_entropy",
    "mutual",
    "distil_virtual_paper",
    "objective_similarity_others",
)


@pytest.mark.parametrize("setting", ["debug_nans", "disable_jit"])
def test_settings(setting):
    wanted = {name: LOSSES[name](LOGITS, LABELS) for name in SOME}
    labels = np.array([0, -1, 2, 3], "i1")
    masked = jnp.asarray(LOGITS).at[0, 1].set(-jnp.inf)
    with getattr(jax, setting)(True):
        for name in SOME:
            found = LOSSES[name](jnp.asarray(LOGITS), LABELS)
            np.testing.assert_allclose(found, wanted[name], rtol=1e-6, err_msg=name)
            assert LOSSES[name](jnp.asarray(LOGITS), labels)[1] == 0, name
        grads = jax.grad(lambda z: losses.cross_entropy(z, LABELS).sum())(masked)
    assert np.isfinite(grads).all()


@pytest.mark.usefixtures("x64")
def test_types_may_differ():
    """The widest of them counts, and bfloat16 is computed in float32."""
    target = targets.smooth_labels(LABELS, CLASSES, 0.1)
    assert target.dtype == jnp.float64
    half = jnp.asarray(LOGITS, jnp.bfloat16)
    for weight in (0.5, np.float64(0.5), jnp.float32(0.5)):
        loss, _ = losses.loss_fn(
            half, LABELS, targets.whole_target(target), weight=weight
        )
        assert loss.dtype == jnp.float64
    assert losses.cross_entropy(half, LABELS).dtype == jnp.float32
    loss, _ = losses.loss_fn(half, LABELS, WHOLE, weight=np.float64(0.5))
    assert loss.dtype == jnp.float32
