"""Introspective learning on Tiny ImageNet at 32x32 pixels: the many-class case.

Data: TFDS tiny_imagenet32 (prepared by hand; not in the TFDS catalogue), 200 classes,
100,000 training and 10,000 validation images. The validation images, whose labels are
public, are the test here; 10,000 of the training images are the validation split.
Cost: 100 epochs of 703 steps with ResNet-20.
Expected: not yet run to its end.
"""

from introspect_jax.config import default_config


def get_config(arg=None):
    if arg:
        raise ValueError(f"configs/tiny_imagenet32.py takes no argument, got {arg!r}")
    config = default_config()
    config.data.name = "tiny_imagenet32"
    config.data.test_split = "validation"
    config.data.mean = (0.4802, 0.4481, 0.3975)
    config.data.std = (0.2770, 0.2691, 0.2821)
    config.data.augment.crop_padding = 4
    config.data.augment.flip = True
    config.batch_size = 128
    steps_per_epoch = 90_000 // config.batch_size
    config.total_steps = 100 * steps_per_epoch
    config.log_steps = 50
    config.eval_steps = config.checkpoint_steps = 5 * steps_per_epoch
    config.model.name = "resnet20"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 5e-4
    config.optimizer.warmup = 0.01
    return config
