"""Introspective learning on the handwritten digits that scikit-learn ships.

Data: 1,797 images of 8x8 pixels, 10 classes, embedded; 20 % test, stratified.
Cost: under a minute on 2 CPU cores, compilation included.
Expected: at least 97.5 % test top-1 as the mean of 3 seeds.
"""

from introspect_jax.config import default_config


def get_config(arg=None):
    if arg:
        raise ValueError(f"configs/digits.py takes no argument, got {arg!r}")
    config = default_config()
    config.total_steps = 600
    config.batch_size = 64
    config.log_steps = 50
    config.eval_steps = 100
    config.checkpoint_steps = 100
    config.model.name = "resnet8"
    config.data.name = "digits"
    config.data.mean = (0.305,)
    config.data.std = (0.376,)
    config.optimizer.learning_rate = 0.1
    config.optimizer.warmup = 0.05
    return config
