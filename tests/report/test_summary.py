"""The scores in `summary.json` and the tables that a run prints."""

import dataclasses

import jax
import numpy as np
import pytest
from conftest import assemble
from scipy import optimize
from scipy.special import log_softmax

from introspect_jax import data
from introspect_jax.report import summary
from introspect_jax.train.loop import Result
from introspect_jax.train.state import deployed_variables

ALWAYS = {"top1", "top5", "nll", "ece", "overconfidence", "ece_floor", "ece_floor_95"}
SCALED = {"temperature", "nll_scaled", "ece_scaled"}
SCALED |= {"ece_scaled_floor", "ece_scaled_floor_95"}


@pytest.fixture(scope="module")
def shared():
    return {}


@pytest.fixture
def made(shared, digits_config):
    """A trainer of 8 devices, data and random variables whose temperature exists."""
    digits_config.method.name = "standard"
    if not shared:
        dataset = data.load(digits_config.data)
        trainer = assemble(digits_config, 8, dataset).trainer
        state = trainer.init_state()
        shared["made"] = trainer, dataset, deployed_variables(trainer.method, state)
    return shared["made"]


def result(recorded):
    return Result(None, None, 12, recorded, 1.0, "0")


def logits_of(trainer, variables, source):
    images, labels = source.take(np.arange(len(source)))
    inputs = trainer.evaluator.preprocess(images)
    logits = trainer.method.model.apply(variables, inputs, train=False)
    return np.asarray(logits, np.float64), labels


def test_scores_at_the_temperature_of_the_validation_split(made):
    trainer, dataset, variables = made
    # Labels that the random network tells something of, on some of the images.
    splits = {}
    for name in ("validation", "test"):
        source = getattr(dataset, name)
        logits, labels = logits_of(trainer, variables, source)
        even = np.arange(len(labels)) % 2 == 0
        labels = np.where(even, logits.argmax(1), labels).astype(np.int32)
        splits[name] = relabelled(source, labels), 7 * logits, labels
    head = jax.tree.map(lambda leaf: 7 * leaf, variables["params"]["head"])
    scaled = variables | {"params": variables["params"] | {"head": head}}
    given = dataclasses.replace(
        dataset, validation=splits["validation"][0], test=splits["test"][0]
    )
    recorded = {"last": {"top1": 0.125}, "best": {"top1": 0.25}}
    found = summary.summarize_run(
        "digits", trainer, given, result(recorded), scaled, scaled
    )

    def nll(split, log_t):
        _, logits, labels = splits[split]
        log_probs = log_softmax(logits / np.exp(log_t), axis=1)
        return -log_probs[np.arange(len(labels)), labels].mean()

    best = optimize.minimize_scalar(
        lambda log_t: nll("validation", log_t), bounds=(-5, 5), method="bounded"
    )
    for split in ("validation", "test"):
        for which in ("last", "best"):
            scores = found[split][which]
            assert set(scores) == ALWAYS | SCALED
            assert scores["temperature"] == pytest.approx(np.exp(best.x), rel=1e-3)
            assert scores["nll_scaled"] == pytest.approx(nll(split, best.x), rel=1e-4)
            assert scores["nll"] == pytest.approx(nll(split, 0.0), rel=1e-4)
    # Those on the way are what the best network was chosen by.
    assert [found["validation"][w]["top1"] for w in ("last", "best")] == [0.125, 0.25]
    assert found["test"]["last"]["top1"] > 0.5


def relabelled(source, labels):
    """The source with other labels."""
    numbers = {int(n): label for n, label in zip(source.numbers, labels, strict=True)}

    def read(wanted):
        images, _ = source.read(wanted)
        return images, np.array([numbers[int(n)] for n in wanted], np.int32)

    return dataclasses.replace(source, read=read)


def test_without_a_validation_split_there_is_no_temperature(made):
    trainer, dataset, variables = made
    nothing = dataset.test.subset(np.arange(0))
    one = dataset.test.subset(np.arange(1))
    given = dataclasses.replace(dataset, validation=nothing, test=one)
    found = summary.summarize_run(
        "digits", trainer, given, result(None), variables, variables
    )
    assert found["validation"] is None
    assert set(found["test"]["last"]) == ALWAYS
    assert found["test"]["last"] == found["test"]["best"]


def printed(capsys, splits):
    content = {"name": "n", "method": "m", "seed": 0, "parameters": 1, "seconds": 1.0}
    content |= {"steps": {"last": 20, "best": 10}, "validation": None, "test": None}
    summary.show(content | splits, "there")
    return capsys.readouterr().out


def test_printed_tables(capsys):
    plain = {"top1": 0.9812, "top5": 1.0, "nll": 0.0712, "ece": 0.0123}
    floors = {"overconfidence": -0.0111, "ece_floor": 0.0107, "ece_floor_95": 0.015}
    scaled = {"temperature": 1.234, "nll_scaled": 0.0698, "ece_scaled": 0.2345}
    scaled |= {"ece_scaled_floor": 0.1034, "ece_scaled_floor_95": 0.014}
    whole = plain | floors | scaled
    text = printed(capsys, {"validation": {"last": whole}, "test": {"best": whole}})
    assert max(map(len, text.splitlines())) <= 80
    (row,) = (line for line in text.splitlines() if "-1.11" in line and "test" in line)
    shown = " ".join(row.replace("│", " ").split())
    assert shown == "test (best) -1.11 1.23 1.07 1.23 0.0698 23.45 10.34"
    unknown = plain | floors | dict.fromkeys(scaled)
    text = printed(capsys, {"test": {"last": unknown}})
    assert text.count(" - ") == 4 + text.count("conf - ")
    text = printed(capsys, {"test": {"last": plain | floors}})
    assert "Calibration" in text
    assert "at T" not in text
    text = printed(capsys, {"test": {"last": plain}})  # of an earlier version
    assert "98.12" in text
    assert "Calibration" not in text
