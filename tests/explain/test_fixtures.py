"""Parity with captum, on arrays that captum computed."""

import numpy as np
import pytest
from fixture_net import ARRAYS, Net

from introspect_jax import class_similarity, explain_fn
from introspect_jax.explain import (
    Absolute,
    GradCAM,
    Gradient,
    IntegratedGradients,
    ReLU,
    SmoothGrad,
    SmoothGradSquared,
    VarGrad,
    metrics,
    path_integrals,
)

pytestmark = pytest.mark.usefixtures("x64")
LABELS = ARRAYS["y"]


@pytest.fixture(params=["NCHW", "NHWC"])
def net(request):
    return Net(request.param)


@pytest.fixture
def x(net):
    return net.to(ARRAYS["x"])


def close(found, name, atol=1e-10):
    np.testing.assert_allclose(found, ARRAYS[name], rtol=0, atol=atol)


def test_logits(net, x):
    close(net(x), "logits")


def test_gradients(net, x):
    close(net.back(explain_fn(net, x, LABELS)), "saliency_signed")
    absolute = explain_fn(net, x, LABELS, Absolute(Gradient()))
    close(net.back(absolute), "saliency_abs")
    product = explain_fn(net, x, LABELS, "gradient_x_input")
    close(net.back(product), "input_x_gradient")
    close(net.back(explain_fn(net, x, "all")), "jacobian")


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_similarities_are_rows_of_the_gram_matrix(net, x, similarity):
    found = class_similarity(net, x, LABELS, similarity=similarity)
    name = "gram" if similarity == "dot" else "cos"
    rows = ARRAYS[name][np.arange(3), LABELS]
    np.testing.assert_allclose(found, rows, rtol=0, atol=1e-10)


RULES = {
    "gauss_legendre": "gausslegendre",
    "captum_trapezoid": "riemann_trapezoid",
    "left": "riemann_left",
    "right": "riemann_right",
    "middle": "riemann_middle",
}


@pytest.mark.parametrize("baseline", ["zero", "base"])
@pytest.mark.parametrize("steps", [8, 50])
@pytest.mark.parametrize("rule", RULES)
def test_integrated_gradients(net, x, rule, steps, baseline):
    given = "zero" if baseline == "zero" else net.to(ARRAYS["baseline"])
    explanation = IntegratedGradients(steps, baseline=given, rule=rule)
    maps = explain_fn(net, x, LABELS, explanation)
    name = f"{RULES[rule]}/{steps}/{baseline}"
    # captum rounds nodes and weights to float32 (see the test below).
    close(net.back(maps), f"ig/{name}", atol=2e-8)
    start = np.zeros_like(x) if baseline == "zero" else given
    delta = metrics.completeness_error(net, x, LABELS, maps, baseline=start)
    close(delta, f"ig_delta/{name}", atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_integrated_gradients_differ_by_rounding_alone(net, x, rule, monkeypatch):
    exact = path_integrals.quadrature

    def rounded(rule, steps):
        return tuple(a.astype(np.float32).astype(float) for a in exact(rule, steps))

    monkeypatch.setattr(path_integrals, "quadrature", rounded)
    maps = explain_fn(net, x, LABELS, IntegratedGradients(rule=rule))
    close(net.back(maps), f"ig/{RULES[rule]}/50/zero", atol=1e-10)


def test_smoothgrad(net, x):
    noise = net.to(ARRAYS["noise"])
    for explanation, name in (
        (SmoothGrad(noise=noise), "smoothgrad/signed"),
        (SmoothGradSquared(noise=noise), "smoothgrad_sq"),
        (VarGrad(noise=noise), "vargrad_population"),
    ):
        maps = explain_fn(net, x, LABELS, explanation)
        close(net.back(maps), name)


def test_grad_cam(net, x):
    raw = GradCAM(net.relu2, net.after_relu2)
    maps = explain_fn(net, x, LABELS, raw, channel_axis=net.channel_axis)
    close(net.back(maps), "gradcam_raw/relu2")
    positive = explain_fn(net, x, LABELS, ReLU(raw), channel_axis=net.channel_axis)
    close(net.back(positive), "gradcam_relu/relu2")


def test_layers_are_inputs_of_the_rest(net, x):
    maps = explain_fn(net.after_relu2, net.relu2(x), LABELS, "gradient_x_input")
    close(net.back(maps), "layer_gxa/relu2")
    start = net.relu1(np.zeros_like(x))
    maps = explain_fn(
        net.after_relu1,
        net.relu1(x),
        LABELS,
        IntegratedGradients(20, baseline=start),
    )
    close(net.back(maps), "layer_ig/relu1", atol=1.5e-8)


def test_max_sensitivity(net, x):
    noise = net.to(ARRAYS["infid_perturb"])
    found = metrics.max_sensitivity(net, x, LABELS, noise=noise)
    close(found, "sensitivity_max/signed_gradient")
