"""The two sides of `training_speed.py`, each made in a process of its own."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

Made = tuple[Callable[[], Any], Callable[[], Any]]


@dataclasses.dataclass(frozen=True)
class Options:
    """What both sides train.

    Attributes:
      model: Name of the network.
      size: Pixels of a side of the images.
      classes: Number of classes.
      batch_size: Images a step.
      dtype: Of the activations.
      threads: Of PyTorch, 0 for one a core.
    """

    model: str
    size: int
    classes: int
    batch_size: int
    dtype: str
    threads: int = 0


def make_config(options: Options, method: str, augmented: bool = True):
    """Config of a step of this package, which PyTorch's step repeats."""
    from introspect_jax.config import default_config

    config = default_config()
    config.batch_size = config.eval_batch_size = options.batch_size
    config.model.name, config.model.dtype = options.model, options.dtype
    config.data.validation_fraction = 0.0
    config.data.augment.crop_padding = 4 if augmented else 0
    config.data.augment.flip = augmented
    config.optimizer.schedule = "constant"
    config.method.name = method
    config.method.introspective.ramp_up = 0.0
    return config


def make_ours(options: Options, fast: bool, method: str) -> Made:
    """This package's step.

    Args:
      options: What is trained.
      fast: Whether with the settings that `launch/` chooses on CPUs.
      method: Name of the method.
    """
    from introspect_jax import cpu

    if fast:
        cpu.switch_on()
    step = _ours(options, method)
    return step, step.wait


def _ours(options: Options, method: str):
    import numpy as np
    from timing import random_dataset
    from torch_agreement import Ours
    from torch_models import drawn_variables

    from introspect_jax.train.trainer import build

    dataset = random_dataset(options.classes, options.size, 4 * options.batch_size)
    variables = drawn_variables(
        options.model, options.classes, np.random.RandomState(1)
    )
    return Ours(build(make_config(options, method), dataset), variables)


def make_theirs(options: Options, name: tuple[str, str, str]) -> Made:
    """PyTorch's step.

    Args:
      options: What is trained.
      name: Name of the method, `"eager"` or `"compile"`, and the way to introspect, of
        `torch_training.WAYS`.
    """
    import numpy as np
    import torch
    import torch_training
    from torch_agreement import torch_batch
    from torch_models import drawn_variables, from_flax

    method, kind, way = name
    set_up_torch(options.threads)
    pool, index = torch_batch(_ours(options, method).batch)
    variables = drawn_variables(
        options.model, options.classes, np.random.RandomState(1)
    )
    step = torch_training.Step(
        from_flax(options.model, variables),
        pool,
        index,
        make_config(options, method),
        way=way or None,
        dtype=getattr(torch, options.dtype),
        compiled=kind == "compile",
    )
    return step, torch_training.wait


def set_up_torch(threads: int) -> None:
    """Settings of PyTorch like the defaults of JAX, and a thread a core."""
    import torch
    import torch_training

    from introspect_jax.machine import usable_cpus

    torch.set_num_threads(threads or len(usable_cpus()))
    torch_training.tune()
    # The backward pass of a compiled network is called for every class.
    with contextlib.suppress(ImportError):
        import torch._functorch.config as functorch

        functorch.donated_buffer = False


def check(options: Options) -> tuple[dict[str, float], str]:
    """Compares both sides in float64.

    Returns:
      The largest differences (`torch_agreement.compare`), and PyTorch's version.
    """
    from introspect_jax import cpu

    cpu.switch_on()
    import torch
    import torch_training
    from torch_agreement import compare

    torch_training.check_device()
    return compare(options), torch.__version__
