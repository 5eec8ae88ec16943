"""The 1,797 handwritten digits (8x8, 17 grey levels) that scikit-learn ships."""

import numpy as np

from introspect_jax.data.sources import Dataset, array_source, cut
from introspect_jax.errors import UserError

SUMMARY = "1,797 handwritten digits of 8x8 pixels, embedded in scikit-learn"
TEST_FRACTION = 0.2


def load(config) -> Dataset:
    """20 % test, stratified; validation is cut from the rest, stratified too."""
    from sklearn.datasets import load_digits

    if config.load_size not in (0, 8):
        raise UserError(
            f"the digits are 8x8 pixels and are not resized; got data.load_size="
            f"{config.load_size}"
        )
    raw = load_digits()
    images = np.round(raw.images * (255 / 16)).astype(np.uint8)[..., None]
    everything = array_source(images, raw.target)
    train, test = cut(len(everything), TEST_FRACTION, raw.target)
    kept, held_out = cut(len(train), config.validation_fraction, raw.target[train])
    return Dataset(
        train=everything.subset(train[kept]),
        validation=everything.subset(train[held_out]),
        test=everything.subset(test),
        class_names=tuple(str(name) for name in raw.target_names),
        image_shape=(8, 8, 1),
    )
