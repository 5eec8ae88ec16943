"""Every config is lowered for the shapes of its own data, without running."""

import importlib.util
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from conftest import ROOT
from ml_collections import ConfigDict, config_flags
from tiny import TINY, build_tiny

from introspect_jax import data
from introspect_jax.config import (
    config_hash,
    default_config,
    fields,
    to_json,
    validate,
)
from introspect_jax.data.sources import Dataset, Source, array_source
from introspect_jax.errors import UserError
from introspect_jax.train.check import check
from introspect_jax.train.trainer import build

# How the networks are listed that there are.
NETWORKS = (
    r"there are: airbench, resnet18, .*resnet8, .*wrn<d>_<k> .*; or an import path"
)
FILES = sorted((ROOT / "configs").glob("*.py"))
# training, validation and test examples, classes, (h, w, c) as stored
DATA = {
    "digits": (1293, 144, 360, 10, (8, 8, 1)),
    "cifar10": (45_000, 5_000, 10_000, 10, (32, 32, 3)),
    "cifar100": (45_000, 5_000, 10_000, 100, (32, 32, 3)),
    "tiny_imagenet32": (90_000, 10_000, 10_000, 200, (32, 32, 3)),
    "imagenet2012": (1_268_355, 12_812, 50_000, 1000, None),
}


def read(path: pathlib.Path, argument: str | None = None):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument)


def blank_data(config) -> Dataset:
    """Data of the right shape that are never read."""
    train, validation, test, classes, shape = DATA[config.data.name]
    if config.data.load_size:
        channels = shape[2] if shape else 3
        shape = (config.data.load_size, config.data.load_size, channels)

    def source(count):
        def unread(numbers):
            del numbers
            return np.zeros((0, *shape), np.uint8), np.zeros(0, np.int32)

        return Source(unread, np.arange(count), in_memory=True)

    names = tuple(str(i) for i in range(classes))
    return Dataset(source(train), source(validation), source(test), names, shape)


@pytest.mark.parametrize(
    ("path", "argument"),
    [(path, None) for path in FILES]
    + [(ROOT / "configs" / "cifar10.py", name) for name in ("quick", "little", "fast")],
    ids=lambda value: value.stem if isinstance(value, pathlib.Path) else value,
)
def test_lowers(path, argument):
    config = read(path, argument)
    validate(config)
    assert config.is_locked
    assert fields(config).keys() == fields(default_config()).keys()
    trainer = build(config, blank_data(config))
    batch = trainer.loader.abstract_batch(trainer.abstract_constants())
    lowered = trainer.train_step.lower(trainer.abstract_state(), batch)
    state, metrics = lowered.out_info
    assert metrics["loss"].shape == ()
    kernel = state.params["head"]["kernel"]
    assert kernel.shape[-1] == DATA[config.data.name][3]
    assert kernel.dtype == jnp.float32


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_unknown_argument(path):
    with pytest.raises(ValueError, match="'nonsense'"):
        read(path, "nonsense")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_docstring_tells_data_cost_and_result(path):
    text = path.read_text()
    for word in ("Data:", "Cost:", "Expected:"):
        assert word in text


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("total_steps", 0, "total_steps must be at least 1"),
        ("seed", -1, "seed must be at least 0"),
        ("average_decay", 1.0, r"average_decay must lie in \[0, 1\)"),
        ("data.validation_fraction", 1.0, "validation_fraction"),
        ("method.name", "introspectiv", "did you mean 'introspective'"),
        ("model.name", "resnet9", NETWORKS),
        ("method.teacher", "runs/it", "but 'introspective' learns from no teacher"),
        ("model.dtype", "float16", "there are: float32, bfloat16"),
        ("optimizer.name", "adam", "did you mean 'adamw'"),
        ("optimizer.schedule", "triangle", "there are: cosine, linear"),
        ("optimizer.learning_rate", -1.0, "must not be negative"),
        ("optimizer.momentum", 1.0, r"must lie in \[0, 1\)"),
        ("optimizer.warmup", 1.0, "share of all steps"),
        ("optimizer.milestones", (0.5, 2.0), "shares of all steps"),
        ("data.read_threads", -1, r"data\.read_threads"),
        ("data.mean", ("a",), r"data\.mean must be numbers"),
        ("data.std", (float("inf"),), r"data\.std must be finite"),
        ("data.augment.mixup", float("nan"), r"mixup must be finite"),
        ("optimizer.decay_factor", -1.0, "must be above 0"),
        ("method.introspective.similarity", "cos", "there are: projection"),
        ("eval_steps", None, "eval_steps must be a whole number, got None"),
        ("data.mean", None, r"data\.mean must be numbers"),
        ("data.augment.flip", None, "True, False or 'alternating', got None"),
        ("model.name", None, "must be a string, got None"),
        ("total_steps", 2**31, r"must be below 2\*\*31"),
        ("method.kd.temperature", 1e300, "must be finite"),
        ("data.read_threads", 10**6, "at most 1000"),
        ("model.name", "wrn99994_99999", NETWORKS),
        ("method.introspective.norms", "probes:99999999", "at most 10000"),
        (
            "method.introspective.smoothgrad.num_samples",
            10**8,
            r"smoothgrad\.num_samples must be at most 10000",
        ),
    ],
)
def test_bad_values(field, value, says):
    config = default_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=says):
        validate(config)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ([], True),
        (["--config.data.augment.flip=True"], True),
        (["--config.data.augment.flip"], True),
        (["--config.data.augment.flip=False"], False),
        (["--noconfig.data.augment.flip"], False),
        (["--config.data.augment.flip=alternating"], "alternating"),
    ],
)
def test_flips_on_the_command_line(words, value, monkeypatch):
    own, config = flags.FlagValues(), read(ROOT / "configs" / "cifar10.py")
    monkeypatch.setattr(sys, "argv", ["main", *words])
    config_flags.DEFINE_config_dict("config", config, flag_values=own)
    own(sys.argv)
    config = own.config
    validate(config)
    assert config.data.augment.flip == value
    assert type(config.data.augment.flip) is type(value)


def test_the_type_of_flips_does_not_matter_to_a_run():
    """Runs on file have a plain boolean."""
    config = read(ROOT / "configs" / "cifar10.py")
    stored = ConfigDict(json.loads(to_json(config)))
    assert stored.data.augment.flip is True
    assert fields(stored)["data.augment.flip"] is True
    validate(ConfigDict(config.to_dict()))
    assert config_hash(ConfigDict(config.to_dict())) == config_hash(config)


def test_a_field_that_does_not_exist():
    config = default_config()
    with config.unlocked():
        config.data.nmae = "digits"
    with pytest.raises(UserError, match=r"data\.nmae \(did you mean 'data\.name'"):
        validate(config)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("eval_batch_size", 2**30, "more than the memory"),
        ("model.name", "wrn10_9999", "take a smaller network"),
    ],
)
def test_what_no_memory_holds_is_refused_before_it_is_compiled(field, value, says):
    config = read(ROOT / "configs" / "digits.py")
    config.update_from_flattened_dict({field: value})
    validate(config)
    trainer = build(config, blank_data(config))
    with pytest.raises(UserError, match=says):
        check(trainer)


def test_shapes_are_known_before_anything_is_trained():
    """Also those of a teacher, of which there is no more than the network."""
    config = read(ROOT / "configs" / "digits.py")
    config.model.name = TINY
    config.method.name, config.method.kd.component = "kd", "class_average"
    trainer = build(config, blank_data(config), teacher=build_tiny(10))
    check(trainer)
    given = trainer.abstract_constants()
    assert given["class_means"].shape == (10, 10)
    kernel = given["teacher"]["params"]["head"]["kernel"]
    assert isinstance(kernel, jax.ShapeDtypeStruct)
    assert kernel.shape[-1] == 10


@pytest.mark.parametrize("megabytes", [2000, 0])
def test_batches_are_of_the_shapes_that_were_checked(megabytes):
    config = read(ROOT / "configs" / "digits.py")
    config.model.name = TINY
    config.data.device_megabytes = megabytes
    trainer = build(config, data.load(config.data))
    batch = next(trainer.batches(trainer.constants(None)))
    expected = trainer.loader.abstract_batch(trainer.abstract_constants())
    assert jax.tree.structure(batch) == jax.tree.structure(expected)
    for given, wanted in zip(
        jax.tree.leaves(batch), jax.tree.leaves(expected), strict=True
    ):
        assert (given.shape, given.dtype) == (wanted.shape, wanted.dtype)
        assert given.sharding.is_equivalent_to(wanted.sharding, given.ndim)


def test_an_unknown_network_for_the_teacher():
    config = default_config()
    config.method.name, config.method.teacher_model = "kd", "resnet9"
    with pytest.raises(ValueError, match=NETWORKS):
        validate(config)


def test_introspection_costs_as_much_for_any_number_of_classes():
    """FLOPs of the whole step against the standard one, before optimisation."""

    def flops(classes, **changes):
        config = default_config()
        config.model.name, config.batch_size = "resnet8", 8
        config.update_from_flattened_dict(changes)
        images = np.zeros((8, 16, 16, 3), np.uint8)
        source = array_source(images, np.zeros(8, np.int32))
        names = tuple(str(i) for i in range(classes))
        dataset = Dataset(source, source, source, names, (16, 16, 3))
        trainer = build(config, dataset, jax.devices()[:1])
        batch = trainer.loader.abstract_batch(trainer.abstract_constants())
        lowered = trainer.train_step.lower(trainer.abstract_state(), batch)
        return lowered.cost_analysis()["flops"]

    ratios = {"projection": [], "dot": []}
    for classes in (10, 1000):
        standard = flops(classes, **{"method.name": "standard"})
        for similarity, found in ratios.items():
            options = {"method.introspective.similarity": similarity}
            found.append(flops(classes, **options) / standard)
    for found in ratios.values():
        assert max(found) <= 2.05
        assert max(found) - min(found) < 0.1
