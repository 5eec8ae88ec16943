"""What the tests of all methods share: a tiny network, a batch, a teacher."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from tiny import build_tiny

from introspect_jax import methods
from introspect_jax.config import default_config
from introspect_jax.data.batches import Order
from introspect_jax.methods import Context, Teacher
from introspect_jax.models import init_variables

CLASSES = 4


def teacher(classes=CLASSES):
    """Random values; what it would say of a class on average is made up."""
    params, state = init_variables(build_tiny(classes), (8, 8, 1), jax.random.key(7))
    params["head"]["kernel"] *= 5  # an untrained one says nothing
    means = np.random.RandomState(0).dirichlet(np.ones(classes), classes)
    return Teacher({"params": params, **state}, lambda temperature: means)


def context(classes=CLASSES, **changes):
    labels = np.arange(24) % classes
    fields = {
        "model": build_tiny(classes),
        "num_classes": classes,
        "image_shape": (8, 8, 1),
        "total_steps": 100,
        "steps_per_epoch": 10,
        "batch_size": 8,
        "num_examples": len(labels),
        "train_labels": lambda: labels,
        "train_images": lambda: iter([(train_images(), labels)]),
        "order": Order(0, len(labels), 8),
        "teacher": build_tiny(classes),
    }
    return Context(**fields | changes)


def train_images():
    """Images uint8 `[24, 8, 8, 1]` of the training split."""
    return np.random.RandomState(1).randint(0, 256, (24, 8, 8, 1), np.uint8)


def make(name, classes=CLASSES, given=None, **options):
    """The method, with options of its config and, in `given`, of its context."""
    config = default_config()
    config.method.name = name
    config.method[name].update_from_flattened_dict(options)
    return methods.make(config.method, context(classes, **given or {}))


def images(count=8):
    return jax.random.normal(jax.random.key(0), (count, 8, 8, 1))


def batch(method, count=8, classes=CLASSES):
    """Images, labels 0 1 2 3 0 1 2 3, and the method's constants."""
    return {
        "image": images(count),
        "label": jax.nn.one_hot(jnp.arange(count) % classes, classes),
        "index": jnp.arange(count),
        "constants": method.constants(teacher(classes)),
    }


def loss(method, given=None, step=0, states=None):
    """`(loss, (model_state, method_state, metrics))` of new networks."""
    states = states or method.init(jax.random.key(1))
    given = given or batch(method)
    return method.loss(*states, given, jnp.asarray(step), jax.random.key(2))


def log_probs(method, inputs, temperature=1.0, params=None, model_state=None):
    """Float64 `[batch, classes]` in train mode, of the new network by default."""
    if params is None:
        params, model_state, _ = method.init(jax.random.key(1))
    logits, _ = method.model.apply(
        {"params": params, **model_state}, inputs, train=True, mutable=["batch_stats"]
    )
    return np.asarray(
        jax.nn.log_softmax(np.asarray(logits, np.float64) / temperature), np.float64
    )


def teacher_probs(inputs, temperature):
    """`[batch, classes]` of `teacher()`."""
    logits = build_tiny(CLASSES).apply(teacher().variables, inputs, train=False)
    return np.asarray(jax.nn.softmax(logits / temperature), np.float64)


def ce(labels, logs):
    return -(np.asarray(labels) * logs).sum(-1)


def kl(probs, logs):
    return (probs * (np.log(probs) - logs)).sum(-1)


def states_equal(found, wanted):
    chex.assert_trees_all_equal(found, wanted)
