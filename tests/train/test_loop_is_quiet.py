"""Between its logs the loop neither compiles nor fetches anything."""

import dataclasses

import chex
import jax
import pytest
from etils import epath

from introspect_jax import data
from introspect_jax.methods import introspective
from introspect_jax.train import loop
from introspect_jax.train.progress import Reporter
from introspect_jax.train.trainer import build

STEPS, LOGS = 52, 10


class OnDevice:
    """A value that can be waited for and nothing else.

    `jax.transfer_guard_device_to_host` never acts on CPU, where arrays can be read in
    place; this stops the loop on any device.
    """

    def __init__(self, value):
        self.value = value

    def block_until_ready(self):
        jax.block_until_ready(self.value)
        return self

    def __array__(self, *_, **__):
        raise AssertionError("fetched outside of the logs")

    __float__ = __int__ = __bool__ = __index__ = __iter__ = __array__


@dataclasses.dataclass(frozen=True)
class Guarded:
    """A trainer whose compiled steps give their values away `OnDevice`.

    The last step gives them plainly: the end of a run saves and evaluates.
    """

    trainer: object

    def __getattr__(self, name):
        return getattr(self.trainer, name)

    def compile(self, state, batch):
        step, flops = self.trainer.compile(state, batch)
        last = self.trainer.config.total_steps
        taken = 0

        def guarded(state, batch):
            nonlocal taken
            taken += 1
            state = state.value if isinstance(state, OnDevice) else state
            with jax.transfer_guard_device_to_host("disallow"):
                state, metrics = step(state, batch)
            if taken == last:
                return state, metrics
            return OnDevice(state), {k: OnDevice(v) for k, v in metrics.items()}

        return guarded, flops


def train(config, tmp_path, monkeypatch, on_step=lambda step: None):
    """A run of `STEPS` steps, and the steps at which it fetched."""
    config.update(total_steps=STEPS, log_steps=LOGS)
    config.update(eval_steps=10 * STEPS, checkpoint_steps=10 * STEPS)
    dataset = data.load(config.data)
    trainer = build(config, dataset, jax.devices()[:1])
    fetched, fetch = [], loop._fetch

    def fetching(pending, *rest):
        fetched.append(pending[-1][0])
        pending[:] = [
            (step, {k: getattr(v, "value", v) for k, v in values.items()})
            for step, values in pending
        ]
        return fetch(pending, *rest)

    class Watching(Reporter):
        def advance(self, step):
            on_step(step)
            super().advance(step)

    monkeypatch.setattr(loop, "_fetch", fetching)
    epoch = trainer.context.steps_per_epoch
    loop.train(
        Guarded(trainer),
        trainer.constants(None),
        dataset.validation,
        epath.Path(tmp_path),
        Watching(STEPS, epoch, config.batch_size),
    )
    return fetched


@pytest.fixture(params=["on the device", "streamed"])
def config(digits_config, request):
    if request.param == "streamed":
        digits_config.data.device_megabytes = 0
    return digits_config


def test_nothing_is_fetched_but_the_logged_metrics(config, tmp_path, monkeypatch):
    fetched = train(config, tmp_path, monkeypatch)
    assert fetched == [*range(LOGS, STEPS, LOGS), STEPS]


def test_a_fetched_loss_would_be_noticed(config, tmp_path, monkeypatch):
    """The guard of the test above is not blind."""
    monkeypatch.setattr(loop.jax, "block_until_ready", float)
    with pytest.raises(AssertionError, match="fetched outside"):
        train(config, tmp_path, monkeypatch)


def test_nothing_is_compiled_after_the_second_step(config, tmp_path, monkeypatch):
    compiled, now = [], 0

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(now)

    def on_step(step):
        nonlocal now
        now = step

    # Traced once for the step and its gradient, and never again.
    chex.clear_trace_counter()
    traced = chex.assert_max_traces(introspective.loss_fn, n=1)
    monkeypatch.setattr(introspective, "loss_fn", traced)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        train(config, tmp_path, monkeypatch, on_step)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    # Some at the start (or the listener is deaf), perhaps some at the end.
    assert compiled.count(0) > 0
    assert [step for step in compiled if 2 <= step < STEPS] == []
