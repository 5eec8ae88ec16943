"""Every loss and target of the room by name, for tests of what holds for all."""

import jax
import jax.numpy as jnp
import numpy as np

from introspect_jax.objectives import components, losses, targets

BATCH, CLASSES = 4, 5
LABELS = np.array([0, 3, 2, 3])
RANDOM = np.random.RandomState(3)
SHAPE = (BATCH, CLASSES)
LOGITS, TEACHER, SCORES = (RANDOM.normal(size=SHAPE).astype("f4") for _ in range(3))
MEANS = RANDOM.dirichlet(np.ones(CLASSES), CLASSES).astype("f4")
PAST = RANDOM.dirichlet(np.ones(CLASSES), BATCH).astype("f4")


def keys(count=BATCH):
    return jax.random.split(jax.random.key(0), BATCH)[:count]


def part(name):
    """A component of a teacher's target."""

    def make(labels, teacher=TEACHER):
        return components.component(
            targets.teacher_target(teacher, 2.0),
            labels,
            name,
            keys=keys(len(labels)),
            class_means=MEANS,
        )

    return make


def rows(array, labels):
    return array[: len(labels)]


TARGETS = {
    "similarity_others": lambda y: targets.similarity_target(rows(SCORES, y), y),
    "similarity_all": lambda y: targets.similarity_target(
        rows(SCORES, y), y, support="all"
    ),
    "similarity_matched": lambda y: targets.similarity_target(
        rows(SCORES, y),
        y,
        temperature=targets.matched_temperature(rows(SCORES, y), y, 0.8).temperature,
    ),
    "label": lambda y: targets.label_target(y, CLASSES),
    "uniform_others": lambda y: targets.uniform_others(y, CLASSES),
    "virtual_paper": lambda y: targets.virtual_teacher(y, CLASSES),
    "virtual_released": lambda y: targets.virtual_teacher(y, CLASSES, form="released"),
    "past": lambda y: targets.past_target(y, rows(PAST, y), 0.4),
    "smooth_to_entropy": lambda y: targets.smooth_to_entropy(
        y, CLASSES, jnp.full(len(y), 0.5)
    ),
    "smooth_uniform": lambda y: targets.whole_target(
        targets.smooth_labels(y, CLASSES, 0.1)
    ),
    "smooth_others": lambda y: targets.whole_target(
        targets.smooth_labels(y, CLASSES, 0.1, "others")
    ),
    "smooth_by_similarity": lambda y: targets.whole_target(
        targets.smooth_by_similarity(y, MEANS, 0.1)
    ),
    **{
        f"component_{name}": lambda y, name=name: part(name)(y, rows(TEACHER, y))
        for name in components.COMPONENTS
    },
}


def with_target(name):
    """Distillation from that target, as `(logits, labels) -> [batch]`."""

    def loss(logits, labels):
        component = name.removeprefix("component_")
        target = TARGETS[name](labels)
        if component in components.COMPONENTS:
            return components.component_loss(logits, labels, target, component, 2.0)
        return losses.distillation(logits, labels, target, 2.0)

    return loss


def objective(name):
    """`loss_fn` with that target, as `(logits, labels) -> [batch]`."""
    return lambda logits, labels: losses.loss_fn(
        logits, labels, TARGETS[name](labels), weight=0.4, student_temperature=2.0
    )[0]


def from_teacher(logits, labels):
    """A target that has not seen the labels."""
    target = targets.teacher_target(rows(TEACHER, labels), 4.0)
    return losses.distillation(logits, labels, target, 4.0)


def mutual(logits, labels):
    peers = jnp.stack([logits, rows(jnp.asarray(TEACHER, logits.dtype), labels)])
    return losses.mutual_divergence(peers, 2.0, labels).sum(0)


def decoupled(part):
    """A part of distillation from a teacher, as `(logits, labels) -> [batch]`."""
    return lambda logits, labels: part(logits, labels, rows(TEACHER, labels), 2.0)


LOSSES = {
    "cross_entropy": losses.cross_entropy,
    "confidence_penalty": losses.confidence_penalty,
    "complement_entropy": losses.complement_entropy,
    "mutual": mutual,
    "tckd": decoupled(losses.tckd),
    "nckd": decoupled(losses.nckd),
    "from_teacher": from_teacher,
    **{f"distil_{name}": with_target(name) for name in TARGETS},
    **{
        f"objective_{name}": objective(name)
        for name in ("similarity_others", "similarity_all", "past")
    },
}


@jax.jit
def everything(logits, labels):
    """`{name: (values [batch], gradient [batch, classes])}` of all losses."""

    def both(loss):
        values, pull = jax.vjp(lambda z: loss(z, labels), logits)
        return values, pull(jnp.ones_like(values))[0]

    return {name: both(loss) for name, loss in LOSSES.items()}


@jax.jit
def all_targets(labels):
    """`{name: SoftTarget}` of all targets that are made with labels."""
    return {name: make(labels) for name, make in TARGETS.items()}
