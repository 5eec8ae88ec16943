"""Every config is lowered for the shapes of its own data, without running."""

import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from introspect_jax import config as configs
from introspect_jax.config import default_config, fields, validate
from introspect_jax.data.sources import Dataset, Source, array_source
from introspect_jax.train.experiment import build
from introspect_jax.train.parallel import replicated, split

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
    + [(ROOT / "configs" / "cifar10.py", name) for name in ("quick", "little")],
    ids=lambda value: value.stem if isinstance(value, pathlib.Path) else value,
)
def test_lowers(path, argument):
    config = read(path, argument)
    validate(config)
    assert config.is_locked
    assert fields(config).keys() == fields(default_config()).keys()
    experiment = build(config, blank_data(config))
    batch, shape = config.batch_size, experiment.dataset.image_shape
    divided, everywhere = split(experiment.mesh), replicated(experiment.mesh)

    def given(sharding, dtype, *dims):
        return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)

    inputs = {
        "seed": given(everywhere, jnp.uint32),
        "index": given(divided, jnp.int32, batch),
        "constants": {},
    }
    if experiment.streams:
        inputs["image"] = given(divided, jnp.uint8, batch, *shape)
        inputs["label"] = given(divided, jnp.int32, batch)
    else:
        count = len(experiment.dataset.train)
        inputs["pool"] = (
            given(everywhere, jnp.uint8, count, *shape),
            given(everywhere, jnp.int32, count),
        )
    lowered = experiment.train_step.lower(experiment.abstract_state(), inputs)
    state, metrics = lowered.out_info
    assert metrics["loss"].shape == ()
    kernel = state.params["head"]["kernel"]
    assert kernel.shape[-1] == experiment.dataset.num_classes
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
        ("model.name", "resnet9", "there are: resnet8"),
        ("method.teacher", "runs/it", "but 'introspective' learns from no teacher"),
        ("model.dtype", "float16", "there are: float32, bfloat16"),
        ("optimizer.name", "adam", "did you mean 'adamw'"),
        ("optimizer.schedule", "linear", "there are: cosine"),
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
    ],
)
def test_bad_values(field, value, says):
    config = default_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=says):
        validate(config)


def test_an_unknown_network_for_the_teacher():
    config = default_config()
    config.method.name, config.method.teacher_model = "kd", "resnet9"
    with pytest.raises(ValueError, match="there are: resnet8"):
        validate(config)


@pytest.mark.parametrize("similarity", ["projection", "dot"])
def test_introspection_costs_as_much_for_any_number_of_classes(similarity):
    """FLOPs of the whole step against the standard one, before optimisation."""

    def flops(method, classes):
        config = default_config()
        config.model.name, config.batch_size = "resnet8", 8
        config.method.name = method
        config.method.introspective.similarity = similarity
        source = array_source(np.zeros((8, 16, 16, 3)), np.zeros(8))
        names = tuple(str(i) for i in range(classes))
        dataset = Dataset(source, source, source, names, (16, 16, 3))
        experiment = build(config, dataset, jax.devices()[:1])
        lowered = experiment.train_step.lower(
            experiment.abstract_state(), next(experiment.batches(0))
        )
        return lowered.cost_analysis()["flops"]

    ratios = [
        flops("introspective", classes) / flops("standard", classes)
        for classes in (10, 100, 1000)
    ]
    assert max(ratios) <= 2.05
    assert max(ratios) - min(ratios) < 0.1


def test_a_changed_default_gives_runs_another_name():
    """Names of runs are of what differs from the defaults: see `config.DEFAULTS`."""
    kept = json.loads((ROOT / "tests" / "defaults.json").read_text())
    now = json.loads(json.dumps(fields(default_config())))
    changed = {n: now.get(n) for n, v in kept["fields"].items() if now.get(n) != v}
    if changed:
        assert kept["word"] != configs.DEFAULTS, (
            f"{changed} have other defaults than before: give config.DEFAULTS another "
            "word, so that old runs are not taken for new ones, and write "
            "tests/defaults.json anew"
        )
    else:
        assert kept["word"] == configs.DEFAULTS
        assert kept["fields"].keys() == now.keys(), "add new fields to defaults.json"


def test_the_word_is_in_the_name(monkeypatch):
    before = configs.config_hash(default_config())
    monkeypatch.setattr(configs, "DEFAULTS", "second")
    assert configs.config_hash(default_config()) != before
