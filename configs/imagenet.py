"""Introspective learning on ImageNet with ResNet-50, for 8 accelerators.

Data: TFDS imagenet2012, 1,000 classes; images are read at 256x256 pixels and cropped to
224x224 on the device. 1 % of the training images are the validation split; the
validation images, whose labels are public, are the test here.
Cost: 90 epochs of 1,238 steps of 1,024 images, streamed, in bfloat16.
Expected: not run here.
"""

from introspect_jax.config import default_config


def get_config(arg=None):
    if arg:
        raise ValueError(f"configs/imagenet.py takes no argument, got {arg!r}")
    config = default_config()
    config.data.name = "imagenet2012"
    config.data.test_split = "validation"
    config.data.validation_fraction = 0.01
    config.data.load_size = 256
    config.data.image_size = 224
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.data.augment.flip = True
    config.data.read_threads = 16  # each holds a batch of 201 MB
    config.batch_size = 1024
    config.eval_batch_size = 1024
    steps_per_epoch = 1_268_355 // config.batch_size
    config.total_steps = 90 * steps_per_epoch
    config.log_steps = 100
    config.eval_steps = steps_per_epoch
    config.checkpoint_steps = steps_per_epoch
    config.model.name = "resnet50"
    config.model.resnet.stem = "imagenet"
    config.model.dtype = "bfloat16"
    config.optimizer.learning_rate = 0.4
    config.optimizer.weight_decay = 1e-4
    config.optimizer.warmup = 5 / 90
    return config
