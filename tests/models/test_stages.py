"""Networks in stages: their parts are the whole."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but

from introspect_jax import models
from introspect_jax.errors import UserError
from introspect_jax.models import Classifier, vgg
from introspect_jax.models.protocol import STAGED, init_variables, stage_shapes

# (name, options, side of the images, sides and channels of the maps after each stage)
FAMILIES = {
    "resnet8": ("resnet8", {}, 8, [(8, 16), (4, 32), (2, 64)]),
    "remat": ("resnet8", {"remat": True}, 8, [(8, 16), (4, 32), (2, 64)]),
    "wrn10_2": ("wrn10_2", {}, 8, [(8, 32), (4, 64), (2, 128)]),
    "airbench": ("airbench", {"width": 1 / 16}, 12, [(5, 4), (2, 16), (1, 16)]),
    "vgg11": ("vgg11", {}, 8, [(4, 8), (2, 8), (1, 16), (1, 16), (1, 16)]),
    "vit": ("vit", {"depth": 2, "width": 8, "heads": 2}, 8, [(2, 8)] * 2),
    "deep": ("vit", {"depth": 5, "width": 8, "heads": 2}, 8, [(2, 8)] * 4),
    "resnet18": (
        "resnet18",
        {"stem": "imagenet", "norm": "group"},
        32,
        [(8, 64), (4, 128), (2, 256), (1, 512)],
    ),
}


@pytest.mark.parametrize("family", slow_but(["remat", "vit"], FAMILIES))
def test_the_parts_make_up_the_network(family, monkeypatch):
    monkeypatch.setattr(vgg, "_WIDTHS", (8, 8, 16, 16, 16))
    name, options, side, maps = FAMILIES[family]
    model = models.build(name, 5, **options)
    shape = (side, side, 3)
    assert stage_shapes(model, shape, "") == [(s, s, d) for s, d in maps]
    images = jax.random.normal(jax.random.key(1), (4, *shape))

    def run(variables, x, method=None):
        mutable = [name for name in variables if name != "params"]
        return model.apply(variables, x, train=True, mutable=mutable, method=method)

    def whole(variables):
        return run(variables, images)

    def parts(variables):
        shared, state = run(variables, images, "trunk")
        return run({**variables, **state}, shared, "last_stage")

    def stages(variables):
        after, state = run(variables, images, "stages")
        logits = model.apply(variables, after[-1], method="classify")
        return after, (logits, state)

    @jax.jit
    def compute(key):
        params, state = init_variables(model, shape, key)

        def both(function):
            def loss(params):
                out = function({"params": params, **state})
                return jnp.sum(out[0] ** 2), out

            return jax.grad(loss, has_aux=True)(params)

        after, same = stages({"params": params, **state})
        return both(whole), both(parts), after, same

    (wanted, out), (gradient, found), after, same = compute(jax.random.key(0))
    for a, b in ((found, out), (same, out), (gradient, wanted)):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-4, 1e-5), a, b)
    assert [m.shape[1:] for m in after] == [(s, s, d) for s, d in maps]


@pytest.mark.parametrize("family", slow_but(["resnet8", "wrn10_2", "vit"], FAMILIES))
def test_each_variable_is_of_one_part(family):
    name, options, side, maps = FAMILIES[family]
    model = models.build(name, 5, **options)

    def paths(shape, method=None):
        found = jax.eval_shape(
            lambda key: init_variables(model, shape, key, method), jax.random.key(0)
        )
        return {
            (jax.tree_util.keystr(path), leaf.shape)
            for path, leaf in jax.tree_util.tree_leaves_with_path(found)
        }

    before, channels = maps[-2]
    if family == "vgg11":
        channels = 512
    trunk = paths((side, side, 3), "trunk")
    last = paths((before, before, channels), "last_stage")
    assert not trunk & last
    assert trunk | last == paths((side, side, 3))
    assert any("head" in path for path, _ in last)


class Flat(nn.Module):
    """A backbone without stages."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Conv(4, (3, 3))(x)


def test_who_has_stages():
    for part in STAGED:
        assert models.offers(models.build("resnet8", 3), part)
        assert not models.offers(Classifier(Flat(), 3), part)
        assert not models.offers(models.build("vit", 3, depth=1), part)
        assert not models.offers(nn.Dense(3), part)
    assert models.offers(Classifier(Flat(), 3), "maps")
    with pytest.raises(
        UserError,
        match=r"^the network Classifier has no 'stages', which byot needs: gi",
    ) as error:
        stage_shapes(Classifier(Flat(), 3), (8, 8, 1), "byot")
    assert "\n" not in str(error.value)


class OneMap(nn.Module):
    """A network whose stages are none."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3)(x.mean((1, 2)))

    def stages(self, x, train=False):
        return (x,)


def test_stages_that_are_none():
    with pytest.raises(
        UserError, match=r"at least two stages, which one needs; .* \[\[1, 8, 8, 1\]\]$"
    ):
        stage_shapes(OneMap(), (8, 8, 1), "one")


class OwnStages(Classifier):
    """A classifier that defines itself what its stages are."""

    def stages(self, images, train=False):
        return (images, self.maps(images, train))


def test_a_subclass_may_have_stages_of_its_own():
    assert models.offers(OwnStages(Flat(), 3), "stages")
    assert not models.offers(OwnStages(Flat(), 3), "trunk")
