"""What inner products of Grad-CAM are made of: the logits, and where evidence is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from introspect_jax import class_similarity
from introspect_jax.explain import SIMILARITIES, Centered, GradCAM
from introspect_jax.explain.similarity import logit_similarity

RANDOM = np.random.RandomState(4)
MAPS = RANDOM.normal(size=(3, 4, 5, 6)) + 0.5
KERNEL, BIAS = RANDOM.normal(size=(6, 7)), RANDOM.normal(size=7)
LABELS = np.array([2, 0, 6])
SOFT = RANDOM.dirichlet(np.ones(7), 3)
HW = 4 * 5


def head(maps):
    return maps.mean((1, 2)) @ KERNEL + BIAS[None]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("center", [False, True])
def test_grad_cam_is_the_covariance_of_evidence_and_the_logits(center):
    """HW <a_k, a_y> = cov_k + u_k u_y, both parts in NumPy and by their functions."""
    evidence = MAPS @ KERNEL
    if center:
        evidence = evidence - evidence.mean(-1, keepdims=True)
    u = evidence.mean((1, 2))
    apart = evidence - u[:, None, None]
    own = np.take_along_axis(apart, LABELS[:, None, None, None], -1)
    covariance = (apart * own).mean((1, 2))
    products = u * u[np.arange(3), LABELS][:, None]

    cam = GradCAM(lambda x: x, head)

    def inner(explanation):
        inputs = jnp.asarray(MAPS)
        return jax.jit(
            lambda x: class_similarity(
                head, x, LABELS, explanation, "dot", center=center
            )
        )(inputs)

    logits = head(MAPS)
    by_logits = logit_similarity(logits, LABELS, "dot", bias=BIAS, center=center)
    np.testing.assert_allclose(by_logits, products, rtol=1e-10)
    np.testing.assert_allclose(HW * inner(Centered(cam)), covariance, rtol=1e-10)
    np.testing.assert_allclose(HW * inner(cam), covariance + products, rtol=1e-10)
    # The bias is no part of an explanation.
    with_bias = logit_similarity(logits, LABELS, "dot", center=center)
    assert not np.allclose(with_bias, products, rtol=0.1)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("labels", [np.eye(7)[LABELS], SOFT], ids=["hard", "soft"])
def test_logit_similarity_is_by_its_formula(similarity, labels):
    u = MAPS.mean((1, 2)) @ KERNEL
    own = (labels * u).sum(-1, keepdims=True)
    wanted = {
        "dot": u * own,
        "projection": u * own / (labels * u * own).sum(-1, keepdims=True),
        "cosine": np.sign(u * own),
    }[similarity]
    found = logit_similarity(head(MAPS), labels, similarity, bias=BIAS)
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


def test_logit_similarity_without_a_label_or_a_logit():
    logits = jnp.array([[1.0, 2.0, 3.0], [0.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    found = logit_similarity(logits, jnp.array([-1, 0, 1]))
    np.testing.assert_allclose(found, [[0] * 3, [0] * 3, [0.5, 1, 1.5]])


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ((np.ones(3), LABELS), {}, r"logits must be \[batch, classes\], got \[3\]"),
        ((MAPS[:, 0, 0], LABELS), {"bias": BIAS}, r"bias must be \[6\], got \[7\]"),
        ((MAPS[:, 0, 0], LABELS[:2]), {}, r"labels must be ints \[3\]"),
    ],
)
def test_arguments(arguments, options, says):
    with pytest.raises(ValueError, match=says):
        logit_similarity(*arguments, **options)
