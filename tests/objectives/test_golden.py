"""Every loss and target against values of an implementation in NumPy, float64.

`golden.py` was written from the formulas alone, without this package.
"""

import json
import pathlib

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from introspect_jax.objectives import components, losses, targets

pytestmark = pytest.mark.usefixtures("x64")
STORED = json.loads(pathlib.Path(golden.__file__).with_suffix(".json").read_text())
INPUTS = {name: np.array(value) for name, value in STORED["inputs"].items()}
Y, Z, TEACHER, OTHER = (
    INPUTS[name] for name in ("labels", "logits", "teacher_logits", "other_logits")
)
MEANS = INPUTS["class_means"]
K = Z.shape[1]


def component(name):
    return components.component(
        targets.teacher_target(TEACHER, 4.0),
        Y,
        name,
        class_means=jnp.asarray(MEANS),
    )


def smoothed(spread):
    return targets.smooth_labels(Y, K, 0.1, spread)


def similarity(support):
    return targets.similarity_target(
        jnp.asarray(INPUTS["similarities"]), Y, temperature=0.5, support=support
    )


def by_rows(rows, smoothing):
    return targets.smooth_by_similarity(Y, rows, smoothing)


def similar():
    return by_rows(targets.similarity_target(MEANS, np.arange(K)).probs, 0.1)


def introspective(support):
    return losses.loss_fn(
        Z, Y, similarity(support), weight=0.3, student_temperature=2.0
    )[0]


def matched():
    q = similarity("others").probs
    total = (targets.as_probs(Y, K).astype(q.dtype) + 0.5 * q) / 1.5
    return targets.smooth_to_entropy(Y, K, losses.entropy(total)).probs


def temperature(entropy, support, per="example"):
    scores = jnp.asarray(INPUTS["similarities"])
    found = targets.matched_temperature(scores, Y, entropy, support=support, per=per)
    return jnp.atleast_1d(found.temperature)


def past():
    return targets.past_target(Y, jnp.asarray(INPUTS["past"]), 0.4)


def virtual(form):
    return targets.virtual_teacher(Y, K, form=form)


def distilled(logits, target, temperature=1.0):
    return losses.distillation(logits, Y, target, temperature)


def hard(labels=Y):
    return losses.cross_entropy(Z, labels)


def peers():
    logits = jnp.stack([Z, TEACHER, OTHER])
    own = jnp.stack([losses.cross_entropy(z, Y) for z in logits])
    return own + losses.mutual_divergence(logits)


def kl(teacher, temperature):
    return distilled(Z, targets.teacher_target(teacher, temperature), temperature)


def input_gradient():
    return jax.grad(lambda z: losses.cross_entropy(z, Y).sum())(jnp.asarray(Z))


def softmax_jacobian():
    _, pull = jax.vjp(jax.nn.softmax, jnp.asarray(Z))
    rows = jnp.broadcast_to(jnp.eye(K)[:, None], (K, *Z.shape))
    return losses.squared_jacobian(lambda v: pull(v)[0], rows)


COMPUTED = {
    "cross_entropy": hard,
    "cross_entropy_soft": lambda: hard(INPUTS["soft_labels"]),
    "entropy": lambda: -losses.confidence_penalty(Z),
    "label_smoothing_uniform": lambda: smoothed("uniform"),
    "label_smoothing_others": lambda: smoothed("others"),
    "label_smoothing_uniform_loss": lambda: hard(smoothed("uniform")),
    "label_smoothing_others_loss": lambda: hard(smoothed("others")),
    "confidence_penalty_loss": lambda: hard() + 0.1 * losses.confidence_penalty(Z),
    "complement_entropy": lambda: losses.complement_entropy(Z, Y),
    "complement_uniform": lambda: distilled(Z, targets.uniform_others(Y, K)),
    "similarity_others_target": lambda: similarity("others").probs,
    "similarity_all_target": lambda: similarity("all").probs,
    "introspective_others_loss": lambda: introspective("others"),
    "introspective_all_loss": lambda: introspective("all"),
    "kd_loss": lambda: 0.1 * hard() + 0.9 * kl(TEACHER, 4.0),
    **{
        f"component_{name}": lambda name=name: component(name).probs
        for name in ("full", "ground_truth", "others", "uniform", "class_average")
    },
    **{
        f"distillation_{name}": lambda name=name: distilled(Z, component(name), 4.0)
        for name in ("full", "ground_truth", "others", "uniform", "class_average")
    },
    "cwtm_weights": lambda: components.confidence_weights(
        targets.teacher_target(TEACHER, 1.0).probs
    ),
    "kd_kl": lambda: kl(TEACHER, 4.0) / 16,
    "nckd": lambda: losses.nckd(Z, Y, TEACHER, 4.0) / 16,
    "tckd": lambda: losses.tckd(Z, Y, TEACHER, 4.0) / 16,
    "dkd_loss": lambda: (
        hard() + losses.tckd(Z, Y, TEACHER, 4.0) + 8.0 * losses.nckd(Z, Y, TEACHER, 4.0)
    ),
    "dml_losses": peers,
    "cs_kd_loss": lambda: hard() + kl(OTHER, 4.0),
    "dlb_loss": lambda: hard() + kl(OTHER, 3.0),
    "ols_loss": lambda: hard(by_rows(MEANS, 0.5)),
    "class_similarity_target": similar,
    "class_similarity_loss": lambda: hard(similar()),
    "ps_kd_target": lambda: past().probs,
    "ps_kd_loss": lambda: hard(past().probs),
    "virtual_paper_target": lambda: virtual("paper").probs,
    "virtual_released_target": lambda: virtual("released").probs,
    "tf_kd_reg_paper_loss": lambda: (
        0.9 * hard() + 0.1 * distilled(Z, virtual("paper"), 20.0)
    ),
    "tf_kd_reg_released_loss": lambda: (
        0.9 * hard() + 0.1 * 100 / K * distilled(Z, virtual("released"))
    ),
    "tf_kd_self_paper_loss": lambda: 0.05 * hard() + 0.95 * kl(TEACHER, 6.0),
    "tf_kd_self_released_loss": lambda: (
        0.05 * hard() + 0.95 * 50 / K * kl(TEACHER, 6.0)
    ),
    "ban_loss": lambda: hard(targets.teacher_target(TEACHER, 1.0).probs),
    "double_backprop_loss": lambda: (
        hard() + 0.1 * losses.squared_length(input_gradient())
    ),
    "softmax_jacobian": softmax_jacobian,
    "saliency_guided_loss": lambda: (
        hard() + distilled(OTHER, targets.whole_target(jax.nn.softmax(Z)))
    ),
    "smooth_to_entropy_target": matched,
    "matched_temperature_others": lambda: temperature(1.2, "others"),
    "matched_temperature_all": lambda: temperature(
        -losses.confidence_penalty(Z), "all"
    ),
    "matched_temperature_batch": lambda: temperature(1.2, "others", "batch"),
}


def test_the_script_makes_the_stored_values():
    assert golden.values().keys() == STORED["values"].keys() == COMPUTED.keys()
    for name, value in golden.values().items():
        np.testing.assert_allclose(value, STORED["values"][name], rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", COMPUTED)
def test_golden(name):
    np.testing.assert_allclose(
        COMPUTED[name](), STORED["values"][name], rtol=1e-10, atol=1e-10
    )
