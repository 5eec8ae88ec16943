"""Networks, data sets, methods and optimizers of one's own, by their import paths."""

import json
import sys

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, assemble
from etils import epath
from marks import slow_but

from introspect_jax import data, doors, methods, models, optimizers, restore
from introspect_jax import run as whole_run
from introspect_jax.config import default_config, lock, validate
from introspect_jax.data.preprocess import displayed
from introspect_jax.data.sources import Dataset, array_source
from introspect_jax.errors import UserError
from introspect_jax.methods import LAST_BATCH, MEAN, Method
from introspect_jax.methods.base import one_network
from introspect_jax.models.protocol import CONSTANTS
from introspect_jax.train.checkpoint import Checkpoints
from introspect_jax.train.state import deployed_variables, state_sha256

NETWORKS = {
    "vit": ("my_nets:vit", {"width": 8, "depth": 1, "patch": 4}),
    "nnx": ("my_nets:ConvNet", {"width": 4}),
}
PMAPPED = {"parallel.mode": "pmapped", "parallel.replicas": 4}


@pytest.fixture(autouse=True)
def in_their_folder(monkeypatch):
    """The current folder is importable, and only while it is the current one."""
    monkeypatch.chdir(ROOT / "examples" / "doors")
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def config(digits_config):
    digits_config.method.name = "standard"
    return digits_config


def own(config, part, name, **options):
    config[part].name = name
    config[part].options.update(options)
    validate(config)
    return config


def steps(made, count, start=0, state=None):
    state = made.init_state() if state is None else state
    batches = made.batches(start)
    for _ in range(count):
        state, _ = made.train_step(state, next(batches))
    return state


@pytest.mark.parametrize("network", slow_but(["nnx"], NETWORKS))
def test_a_network_with_dropout_resumes_and_takes_any_number_of_devices(
    network, config, tmp_path
):
    """Three steps; the same bits with a checkpoint in between; the same on eight."""
    name, options = NETWORKS[network]
    made = assemble(own(config, "model", name, **options))
    before = steps(made, 2)
    checkpoints = Checkpoints(epath.Path(tmp_path), 1)
    checkpoints.save(before, {"validation": None})
    checkpoints.wait()
    whole = jax.device_get(steps(made, 1, start=2, state=before))
    restored, _ = checkpoints.restore_newest(made.abstract_state())
    checkpoints.close()
    resumed = steps(made, 1, start=2, state=restored)
    assert state_sha256(resumed) == state_sha256(whole)
    eight = steps(assemble(config, 8), 3)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(eight), strict=True):
        # Some gradients are 0 but for rounding: of a bias before a normalisation.
        scale = max(float(np.abs(a).max()), 1e-2)
        np.testing.assert_allclose(a, b, atol=1e-5 * scale)


@pytest.mark.parametrize("network", NETWORKS)
def test_dropout_is_in_training_only(network, config):
    name, options = NETWORKS[network]
    made = assemble(own(config, "model", name, **options))
    state, batch = made.init_state(), next(made.batches())
    kept = jax.device_get(state)
    losses = []
    for seed in (0, 0, 1):
        given = batch | {
            "seed": jax.device_put(np.uint32(seed), batch["seed"].sharding)
        }
        # Augmentation is off, so that the seed reaches dropout alone.
        _, values = made.train_step(jax.tree.map(jnp.asarray, kept), given)
        losses.append(float(values["loss"]))
    assert losses[0] == losses[1] != losses[2]
    variables = deployed_variables(made.method, kept)
    scores = [made.evaluator(variables, made.loader.source) for _ in range(2)]
    assert scores[0] == scores[1]


@pytest.mark.fused
@pytest.mark.parametrize(
    # On one CPU device XLA rounds attention in another way than on several.
    ("network", "counts"),
    slow_but([("nnx", (1, 4))], [("vit", (2, 4)), ("nnx", (1, 4))]),
)
def test_replicas_with_dropout_give_the_same_bits_on_any_number_of_devices(
    network, counts, config
):
    name, options = NETWORKS[network]
    config.update_from_flattened_dict(PMAPPED)
    own(config, "model", name, **options)
    found = [state_sha256(steps(assemble(config, n), 2)) for n in counts]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "method", slow_but(["introspective"], ["introspective", "kd", "dml"])
)
def test_methods_on_the_vision_transformer(method, config, tiny_teacher):
    config.update_from_flattened_dict(
        {
            "method.name": method,
            "method.introspective.ramp_up": 0.0,
            "model.name": "vit",
            "model.vit.width": 8,
            "model.vit.heads": 2,
            "model.vit.depth": 1,
            "model.vit.dropout": 0.1,
            "model.vit.stochastic_depth": 0.1,
        }
    )
    validate(config)
    made = assemble(config, teacher=tiny_teacher)
    state, values = made.train_step(made.init_state(), next(made.batches()))
    assert np.isfinite(float(values["loss"]))
    assert int(state.step) == 1


@pytest.mark.parametrize(
    ("part", "name", "options", "says"),
    [
        ("model", "my_nets:vit", {"widht": 3}, "unexpected keyword argument 'widht'"),
        ("model", "my_nets:ConvNet", {"widht": 3}, "its options: width=16, channels=1"),
        ("model", "my_nets:vitt", {}, r"did you mean 'vit'\?"),
        ("model", "my_netz:vit", {}, "no module 'my_netz' in the current folder"),
        ("model", "optax:adam", {}, "returned .*, not a Flax linen module"),
        ("model", "timeit:timeit", {"setup": "0"}, "a module of Python itself"),
        ("model", "my_nets:Block", {}, "missing a required argument"),
        ("model", "resnet20", {"width": 3}, "options are for import paths"),
        ("model", "resnet9", {}, "did you mean 'resnet8'.*import path"),
        (
            "method",
            "conftest:Interrupted",
            {},
            r"not introspect_jax\.methods\.base\.Method",
        ),
        ("method", "focal", {}, "unknown method 'focal'"),
        ("optimizer", "sgdd", {}, "did you mean 'sgd'"),
        ("optimizer", "my_optimizer:none", {}, "nothing of that name"),
        ("data", "my_data:lod", {}, r"did you mean 'load'\?"),
    ],
)
def test_mistakes(part, name, options, says, config):
    with pytest.raises((UserError, TypeError), match=says):
        assemble(own(config, part, name, **options))


def test_a_typo_beside_the_options_is_refused():
    config = default_config()
    config.model.options.width = 3
    with pytest.raises(AttributeError, match="widht"):
        config.model.widht = 3
    assert lock(config).model.options.width == 3


def test_options_of_builtin_networks_are_typed():
    config = default_config()
    with pytest.raises(TypeError):
        config.model.vit.depth = "deep"
    config.model.name, config.model.resnet.stem = "resnet18", "imagnet"
    with pytest.raises(UserError, match=r"model\.resnet\.stem.*'imagenet'"):
        validate(config)


class Logits(nn.Module):
    """Whitens by what `prepare` has seen, and offers nothing else."""

    num_classes: int

    @nn.compact
    def __call__(self, images, train):
        x = images.reshape(len(images), -1)
        mean = self.variable("constants", "mean", jnp.zeros, x.shape[1:])
        return nn.Dense(self.num_classes)(x - mean.value)

    def prepare(self, images):
        return {"mean": images.reshape(len(images), -1).mean(0)}


def test_what_a_network_prepares_is_kept_to_the_bit(config, tmp_path, monkeypatch):
    own(config, "model", "test_doors:Logits")
    config.accumulation_steps, config.average_decay = 3, 0.9
    made = assemble(config)
    inputs = made.evaluator.preprocess(made.loader.source.take(np.arange(1024))[0])
    wanted = np.asarray(inputs.reshape(1024, -1).mean(0))
    state = steps(made, 3)
    checkpoints = Checkpoints(epath.Path(tmp_path), 1)
    checkpoints.save(state, {"validation": None})
    checkpoints.wait()
    monkeypatch.delattr(Logits, "prepare")  # computed once
    restored, _ = checkpoints.restore_newest(made.abstract_state())
    checkpoints.close()
    for found in (restored.model_state, restored.average[1]):
        np.testing.assert_array_equal(found[CONSTANTS]["mean"], wanted)
    assert np.abs(wanted).max() > 0.1


def test_what_a_network_prepares_must_fit(config, monkeypatch):
    own(config, "model", "test_doors:Logits")
    monkeypatch.setattr(Logits, "prepare", lambda self, images: {"mean": images[0]})
    with pytest.raises(UserError, match=r"shape \(8, 8, 1\) for the constant"):
        assemble(config).init_state()
    monkeypatch.setattr(Logits, "prepare", lambda self, images: {"std": images[0]})
    with pytest.raises(UserError, match="gave nothing for the constant"):
        assemble(config).init_state()


def too_few(num_classes):
    return Logits(num_classes - 1)


def test_logits_of_another_shape(config):
    own(config, "model", "test_doors:too_few")
    with pytest.raises(UserError, match=r"\(2, 9\) for 2 images.*shape \(2, 10\)"):
        assemble(config)


def test_a_run_of_a_network_that_offers_logits_only(
    config, tmp_path, caplog, monkeypatch
):
    """Trained, drawn, and used again in three lines, without its data."""
    own(config, "model", "test_doors:Logits").method.name = "introspective"
    config.total_steps = 4
    lock(config)
    whole_run.run("own", config, str(tmp_path))
    assert caplog.text.count("without the classifier's weight rows") == 1
    assert {p.name for p in tmp_path.glob("*.png")} == {
        "curves.png",
        "explanations.png",
        "class_similarity.png",
    }
    pixels, labels = data.load(config.data).test.take(np.arange(32))

    def unread(config, **options):
        raise AssertionError("the data were read")

    monkeypatch.setattr(data, "load", unread)
    run = restore.load(str(tmp_path))
    logits = run.logits_fn(run.preprocess(pixels))
    assert run.class_names[labels[0]] == str(labels[0])
    assert logits.shape == (32, 10)
    assert json.loads((tmp_path / "data.json").read_text())["dtype"] == "uint8"


def test_pictures_that_the_network_cannot_have(config, tmp_path, caplog):
    """Left out with a line; an error, before training, where they were asked for."""
    own(config, "model", "test_doors:Logits")
    config.total_steps = 2
    config.explain.explanation = "grad_cam"
    with pytest.raises(UserError, match="no maps and no classify, which explanation=g"):
        whole_run.run("own", config, str(tmp_path))
    assert not (tmp_path / "config.json").exists()


def test_what_pictures_show():
    """The method's own explanation, unless `config.explain` names another."""
    config = default_config()
    config.method.introspective.explanation = "smoothgrad"
    shown = whole_run.figures.for_pictures(config)
    assert (shown.explanation, shown.smoothgrad.num_samples) == ("smoothgrad", 50)
    assert whole_run.figures.over_many(shown).smoothgrad.num_samples == 8
    config.method.name = "standard"
    assert whole_run.figures.for_pictures(config).explanation == "gradient"
    config.explain.explanation = "grad_cam"
    assert whole_run.figures.for_pictures(config).explanation == "grad_cam"
    # What another method has is not checked.
    config.method.introspective.explanation = "nonsense"
    validate(config)
    config.explain.similarity = "nonsense"
    with pytest.raises(UserError, match=r"explain\.similarity"):
        validate(config)


def arrays(path, images, labels):
    np.savez(
        path,
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
    )


def test_float_images_are_used_as_they_are(config, tmp_path):
    """Shares of 255 as floats train to the bits of the same pixels."""
    draws = np.random.RandomState(0)
    pixels = draws.randint(0, 256, (60, 8, 8, 1)).astype(np.uint8)
    labels = np.arange(60) % 3
    arrays(tmp_path / "pixels.npz", pixels, labels)
    arrays(tmp_path / "floats.npz", pixels / 255, labels)
    states = {}
    for name in ("pixels", "floats"):
        own(config, "data", "my_data:load", file=f"{name}.npz")
        config.data.data_dir = str(tmp_path)
        made = assemble(config)
        states[name] = steps(made, 2)
        assert made.loader.source.dtype == {"pixels": "u1", "floats": "f4"}[name]
    chex.assert_trees_all_close(
        states["pixels"], states["floats"], rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (np.zeros((6, 8, 8, 1), int) + 300, np.arange(6), "from 300 to 300"),
        (np.full((6, 8, 8, 1), np.nan), np.arange(6), "not finite"),
        (np.zeros((6, 8, 8)), np.arange(6), r"\[n, height, width, channels\]"),
        (np.zeros((6, 8, 8, 1)), np.arange(6) + 0.5, "labels must be integers"),
        (np.zeros((6, 8, 8, 1)), np.arange(5), r"shape \(6,\)"),
    ],
)
def test_arrays_that_are_no_labelled_images(images, labels, says):
    with pytest.raises(UserError, match=says):
        array_source(images, labels)


def ten_classes(config, labels=10, dtype=np.uint8, channels=1):
    del config
    images = np.zeros((40, 8, 8, 1), dtype)
    source = array_source(images, np.arange(40) % labels)
    other = array_source(np.zeros((40, 8, 8, 1), np.uint8), np.arange(40) % 10)
    names = tuple("abcdefghij")
    return Dataset(source, source, other, names, (8, 8, channels))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dtype": "float32"}, r"float32 \(train\).*uint8 \(test\)"),
        ({"channels": 3}, r"shape \(8, 8, 1\), and says that they are \(8, 8, 3\)"),
        ({"labels": 12}, r"labels must lie in 0\.\.9, got 0\.\.11"),
    ],
)
def test_data_that_are_not_what_they_say(options, says, config):
    own(config, "data", "test_doors:ten_classes", **options)
    with pytest.raises(UserError, match=says):
        next(assemble(config).batches())


def test_pictures_scale_float_images():
    images = np.array([-50.0, 0.0, 50.0], np.float32)
    np.testing.assert_array_equal(displayed(images), [0, 128, 255])
    assert displayed(np.ones(3, np.float32)).tolist() == [0, 0, 0]
    pixels = np.arange(3, dtype=np.uint8)
    assert displayed(pixels) is pixels


def test_a_method_and_an_optimizer(config):
    own(config, "method", "my_method:focal", gamma=2.0)
    own(config, "optimizer", "my_optimizer:sign_descent", decay=0.5)
    config.optimizer.schedule = "constant"
    made = assemble(config)
    start = jax.device_get(made.init_state())
    state, values = made.train_step(made.init_state(), next(made.batches()))
    assert float(values["loss"]) < float(values["cross_entropy"])
    moved = jax.tree.map(
        lambda a, b: np.unique(np.abs(a - b)), start.params, state.params
    )
    for sizes in jax.tree.leaves(moved):
        np.testing.assert_allclose(sizes[sizes > 0], 0.1, rtol=1e-4)


def test_optimizers_of_optax(config, caplog):
    own(config, "optimizer", "optax:lion", b1=0.8)
    made = assemble(config)
    state = steps(made, 1)
    assert int(state.step) == 1
    assert "weight_decay" not in caplog.text  # lion takes it
    own(config, "optimizer", "optax:rprop", b1=0.8)
    with pytest.raises(UserError, match=r"'b1'.*eta_minus"):
        assemble(config)


def remembering(context, kind=LAST_BATCH):
    """Carries the logits of the last batch."""
    plain = one_network(context, lambda logits, batch, key: (logits[:, 0], {}))

    def init(key):
        params, model_state, _ = plain.init(key)
        shape = (context.batch_size, context.num_classes)
        return params, model_state, {"logits": jnp.zeros(shape)}

    def loss(params, model_state, method_state, batch, step, key):
        value, (model_state, _, metrics) = plain.loss(
            params, model_state, {}, batch, step, key
        )
        rows = method_state["logits"][: len(batch["index"])] + 1
        return value, (model_state, {"logits": rows}, metrics)

    carries = {"logits": kind} if kind else {}
    return Method(init, loss, plain.predict, plain.model, carries=carries)


def test_rows_of_the_last_batch_are_not_taken_in_parts(config):
    own(config, "method", "test_doors:remembering")
    state = steps(assemble(config), 2)
    assert np.all(np.asarray(state.method_state["logits"]) == 2)
    for changes in ({"accumulation_steps": 2}, PMAPPED):
        config.update_from_flattened_dict(changes)
        made = assemble(config)
        batch = made.loader.abstract_batch(made.abstract_constants())
        with pytest.raises(UserError, match="'logits', rows of the last batch"):
            jax.eval_shape(made.train_step, made.abstract_state(), batch)


def test_a_method_says_how_all_that_it_carries_is_combined(config):
    own(config, "method", "test_doors:remembering", kind=None)
    with pytest.raises(UserError, match=r"carries \['logits'\].*combine \[\]"):
        steps(assemble(config), 1)
    assert MEAN != LAST_BATCH


def test_a_file_in_the_folder_is_an_entry(tmp_path, monkeypatch):
    folder = tmp_path / "folder_of_parts"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "shared.py").write_text("")
    (folder / "one.py").write_text("SUMMARY = 'the first'\n")
    (folder / "family.py").write_text(
        "SUMMARY = 'many'\nNAMES = ('net<d>',)\nPATTERN = r'net[0-9]+'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    door = doors.Door("folder_of_parts", "part")
    assert list(door.entries) == ["family", "one"]
    assert door.names() == ["net<d>", "one"]
    assert door.get("net12")[0] == "family"
    assert door.find("shared") is None
    assert "the first" in door.describe()


def test_every_entry_serves_its_own_names():
    for module in (models, data, methods, optimizers):
        door = module.DOOR
        assert door.names()
        for file, entry in door.entries.items():
            for name in getattr(entry, "NAMES", (file,)):
                if name.isidentifier():
                    assert door.get(name)[0] == file


@pytest.mark.parametrize(
    ("name", "path"),
    [("my_nets:vit", True), ("a.b:C", True), ("mnist:3.0.1", False), ("a/b:1", False)],
)
def test_versions_of_tfds_are_no_import_paths(name, path):
    assert doors.is_import_path(name) == path
