"""Introspective learning on CIFAR-10 with ResNet-20 (He et al. 2016 recipe).

Data: TFDS cifar10, 50,000 training and 10,000 test images of 32x32 pixels; 5,000 of
the training images are the validation split.
Cost: 200 epochs; the step costs about twice the FLOPs of standard training.
Expected: standard training of this network with this schedule reaches 91.25 to 92.4 %
test top-1 in the literature; this config has not been run to its end here.

`configs/cifar10.py:quick` is for 2 CPU cores: ResNet-8, images halved to 16x16 pixels,
12 epochs, about 4 minutes. Expected: 73 to 74 % test top-1 (`results/cifar10_quick`).

`configs/cifar10.py:little` is what the studies of `configs/studies/` start from: 5,000
of those images, 20 epochs; teachers are WRN-10-2 trained on all 45,000. About a minute
on one core. Expected: about 56 % with standard training (see `results/`), which is far
from the 66 % that 80 epochs reach on the validation split (`results/longer_training`).

`configs/cifar10.py:fast` is the recipe of cifar10-airbench (Jordan 2024, arXiv
2404.00498) without label smoothing, Lookahead and test-time augmentation: 12 epochs of
the 45,000 images at 32x32, in batches of 1,024; `--config.data.validation_fraction=0`
trains on all 50,000, and `--config.model.airbench.width=0.5` with half of the channels,
28 % of the FLOPs. `--config.method.name=standard` is the baseline. Expected: 89.1 %
test top-1 with both methods on CIFAR-10 (JPEG copy), 5 seeds, 4 to 7 s of training on
one H200 (`results/cifar10_fast`); with half of the channels and 10 epochs 86 %, in half
an hour on 2 CPU cores. The paper reaches 94.0 % with all that is left out here, on the
original images.
"""

from introspect_jax.config import default_config

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


def get_config(arg=None):
    if arg not in (None, "quick", "little", "fast"):
        raise ValueError(
            "the argument of configs/cifar10.py is 'quick', 'little' or 'fast', got "
            f"{arg!r}"
        )
    config = default_config()
    config.data.name = "cifar10"
    config.data.mean = MEAN
    config.data.std = STD
    config.data.augment.crop_padding = 4
    config.data.augment.flip = True
    config.batch_size = 128
    steps_per_epoch = 45_000 // 128
    config.total_steps = 200 * steps_per_epoch
    config.log_steps = 100
    config.eval_steps = config.checkpoint_steps = 5 * steps_per_epoch
    config.model.name = "resnet20"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    config.optimizer.schedule = "step"
    config.optimizer.milestones = (0.5, 0.75)
    if arg in ("quick", "little"):
        config.data.load_size = 16
        config.data.augment.crop_padding = 2
        config.total_steps = 12 * steps_per_epoch
        config.eval_steps = config.checkpoint_steps = 2 * steps_per_epoch
        config.model.name = "resnet8"
        config.optimizer.weight_decay = 5e-4
        config.optimizer.schedule = "cosine"
        config.optimizer.warmup = 0.05
    if arg == "little":
        config.data.train_examples = 5000
        config.total_steps = 20 * (5000 // 128)
        config.log_steps = 5000 // 128
        config.eval_steps = config.checkpoint_steps = config.total_steps // 4
        config.method.teacher_model = "wrn10_2"
        config.method.teacher_examples = -1
        config.method.teacher_steps = 4 * config.total_steps
    if arg == "fast":
        steps_per_epoch = 45_000 // 1024
        config.batch_size = config.eval_batch_size = 1024
        config.total_steps = 12 * steps_per_epoch
        config.log_steps = steps_per_epoch
        config.eval_steps = config.checkpoint_steps = 6 * steps_per_epoch
        config.average_decay = 0.95
        config.data.augment.crop_padding = 2
        config.data.augment.flip = "alternating"
        config.model.name = "airbench"
        # Of the paper's rate and decay per 1,024 examples, 11.5 and 0.0153, with the
        # unit 1 + 1 / (1 - momentum) = 7.667: 11.5 / 7.667 and 0.0153 / 11.5.
        config.optimizer.learning_rate = 1.5
        config.optimizer.momentum = 0.85
        config.optimizer.weight_decay = 1.33e-3
        config.optimizer.schedule = "linear"
        config.optimizer.warmup = 0.23
    return config
