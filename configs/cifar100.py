"""Introspective learning on CIFAR-100 with ResNet-20.

Data: TFDS cifar100, 50,000 training and 10,000 test images of 32x32 pixels; 5,000 of
the training images are the validation split.
Cost: 240 epochs; the step costs about twice the FLOPs of standard training, whatever
the number of classes.
Expected: standard training of this network with this schedule reaches 69.1 % test
top-1 in the literature (RepDistiller); this config has not been run to its end here.
"""

from introspect_jax.config import default_config


def get_config(arg=None):
    if arg:
        raise ValueError(f"configs/cifar100.py takes no argument, got {arg!r}")
    config = default_config()
    config.data.name = "cifar100"
    config.data.mean = (0.5071, 0.4865, 0.4409)
    config.data.std = (0.2673, 0.2564, 0.2762)
    config.data.augment.crop_padding = 4
    config.data.augment.flip = True
    config.batch_size = 64
    steps_per_epoch = 45_000 // config.batch_size
    config.total_steps = 240 * steps_per_epoch
    config.log_steps = 100
    config.eval_steps = config.checkpoint_steps = 5 * steps_per_epoch
    config.model.name = "resnet20"
    config.optimizer.learning_rate = 0.05
    config.optimizer.weight_decay = 5e-4
    config.optimizer.schedule = "step"
    config.optimizer.milestones = (150 / 240, 180 / 240, 210 / 240)
    return config
