import numpy as np
import pytest

from introspect_jax.data.batches import Order, epoch_order, padded_batches, stream
from introspect_jax.data.sources import Source, array_source


@pytest.fixture
def source():
    images = np.arange(23, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 2, 2, 1), np.uint8
    )
    return array_source(images, np.arange(23) % 5)


def test_an_epoch_holds_every_example_once_in_an_order_of_its_own():
    first, second = epoch_order(3, 0, 50), epoch_order(3, 1, 50)
    np.testing.assert_array_equal(np.sort(first), np.arange(50))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, epoch_order(4, 0, 50))
    np.testing.assert_array_equal(first, epoch_order(3, 0, 50))


def test_order_does_not_change_between_versions():
    # If this fails, runs no longer continue as they began: say so in the changelog.
    np.testing.assert_array_equal(epoch_order(0, 0, 8), [2, 6, 0, 4, 1, 3, 5, 7])


def test_positions_depend_on_the_step_alone():
    order = Order(7, 23, 5)
    assert order.steps_per_epoch == 4
    forwards = [order(step) for step in range(12)]
    backwards = [Order(7, 23, 5)(step) for step in reversed(range(12))][::-1]
    np.testing.assert_array_equal(forwards, backwards)
    for epoch in range(3):
        seen = np.concatenate(forwards[4 * epoch : 4 * epoch + 4])
        assert len(np.unique(seen)) == 20


@pytest.mark.parametrize("threads", [0, 3])
def test_streaming_gives_the_same_batches_from_any_step(source, threads):
    order = Order(1, len(source), 4)
    read = list(stream(source, order, 3, 14, threads=threads))
    assert len(read) == 11
    for step, (images, labels) in zip(range(3, 14), read, strict=True):
        wanted_images, wanted_labels = source.take(order(step))
        np.testing.assert_array_equal(images, wanted_images)
        np.testing.assert_array_equal(labels, wanted_labels)


@pytest.mark.parametrize("batch_size", [1, 5, 23, 40])
def test_padded_batches_count_every_example_once(source, batch_size):
    seen = []
    for images, labels, count in padded_batches(source, batch_size):
        assert len(images) == len(labels) == batch_size
        seen += list(images[:count, 0, 0, 0])
    assert seen == list(range(23))


def test_subsets_of_subsets(source):
    part = source.subset(np.arange(10, 20)).subset(np.array([3, 0]))
    np.testing.assert_array_equal(part.take(np.arange(2))[0][:, 0, 0, 0], [13, 10])
    calls = []

    def read(numbers):
        calls.append(len(numbers))
        return source.read(numbers)

    lazy = Source(read, np.arange(23)).subset(np.arange(4))
    held = lazy.held()
    assert calls == []
    held.take(np.arange(4))
    held.held().take(np.arange(2))
    assert calls == [4]
