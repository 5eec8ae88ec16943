"""Checks in float64 that PyTorch's training step computes the same as this one."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch_training
from torch_models import drawn_variables, from_flax
from training_sides import Options, make_config

from introspect_jax import introspect, models
from introspect_jax.data.sources import Dataset, array_source
from introspect_jax.models import make_logits_fn
from introspect_jax.train.trainer import Trainer, build

CHECKED, TOLERANCE = 8, 1e-9


class Ours:
    """A training step of this package with its own state, from given variables."""

    def __init__(self, trainer: Trainer, variables):
        state = trainer.init_state()
        variables = jax.tree.map(jnp.array, variables)
        params = variables.pop("params")
        # At the first step of all the weight of the introspective term is zero.
        self.state = state.replace(
            step=state.step + 1,
            params=params,
            model_state=variables,
            opt_state=trainer.optimizer.init(params),
        )
        self.batch = next(trainer.batches(trainer.constants(None)))
        self.run = trainer.train_step
        self.metrics = None

    def __call__(self) -> None:
        self.state, self.metrics = self.run(self.state, self.batch)

    def wait(self) -> None:
        jax.block_until_ready((self.state, self.metrics))


def torch_batch(batch) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """What `torch_training.Step` takes of a batch of this package."""
    images, labels, index = (np.array(a) for a in (*batch["pool"], batch["index"]))
    images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    return (
        (images, torch.from_numpy(labels.astype(np.int64))),
        torch.from_numpy(index.astype(np.int64)),
    )


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, relative to the largest magnitude."""
    theirs = theirs.detach().cpu()
    return float((ours - theirs).abs().max() / theirs.abs().max())


def compare(options: Options) -> dict[str, float]:
    """The differences of one step in float64, without augmentation.

    Not in float32: see `attribution_speed.compare`. The pixels are 0 and 255 and no
    mean is taken off, so that both sides normalise them to the same values exactly.

    Args:
      options: of both sides.

    Returns:
      `loss`, `gradient`, `parameters`, `running_mean` and `target`, the largest of all
      ways to introspect; the momentum after the first step is the gradient with its
      weight decay.

    Raises:
      SystemExit: one is above `TOLERANCE`, so that there is nothing to time.
    """
    options = dataclasses.replace(options, batch_size=CHECKED, dtype="float32")
    model_name, classes = options.model, options.classes
    generator = np.random.RandomState(1)
    pixels = 255 * generator.randint(2, size=(CHECKED, options.size, options.size, 3))
    source = array_source(pixels, generator.randint(classes, size=CHECKED))
    names = tuple(str(i) for i in range(classes))
    dataset = Dataset(
        source, source.subset(np.arange(0)), source, names, pixels.shape[1:]
    )
    variables = drawn_variables(model_name, classes, generator)
    exact = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables)
    model = models.build(model_name, classes)
    # `build` does not offer float64, which only this check needs.
    model = model.clone(backbone=model.backbone.clone(dtype=np.float64))
    ways = [(way, False) for way in torch_training.WAYS] + [("forward mode", True)]
    ways = {"standard": [(None, False)], "introspective": ways}
    largest: dict[str, float] = {}
    with (
        jax.enable_x64(True),
        mock.patch.object(models, "from_config", return_value=model),
    ):
        labels = source.take(np.arange(CHECKED))[1]
        images = pixels / 255 / make_config(options, "standard").data.std[0]
        explained = make_logits_fn(model, exact)
        target = jax.jit(lambda x: introspect(explained, x, labels).probs)(images)
        for method, kinds in ways.items():
            config = make_config(options, method, augmented=False)
            config.data.mean = (0.0,)
            ours = Ours(build(config, dataset), exact)
            pool, index = torch_batch(ours.batch)
            ours()
            for way, plain in kinds:
                theirs = torch_training.Step(
                    from_flax(model_name, exact),
                    pool,
                    index,
                    config,
                    way=way,
                    dtype=torch.float64,
                    plain=plain,
                )
                for name, value in differences(model_name, ours, theirs).items():
                    largest[name] = max(largest.get(name, 0.0), value)
                if way:
                    expected = torch.from_numpy(np.array(target))[index]
                    value = apart(expected, theirs.target)
                    largest["target"] = max(largest.get("target", 0.0), value)
    name, worst = max(largest.items(), key=lambda item: item[1])
    if not worst <= TOLERANCE:
        raise SystemExit(
            f"{classes} classes: the sides differ by {worst:.1e} of the largest value "
            f"of {name}, more than {TOLERANCE:.0e}"
        )
    return largest


def differences(
    model_name: str, ours: Ours, theirs: torch_training.Step
) -> dict[str, float]:
    """Differences after one step, which JAX has done and PyTorch does here."""
    loss, own_loss = theirs(), float(ours.metrics["loss"])
    stats = ours.state.model_state
    after = from_flax(model_name, {"params": ours.state.params, **stats})
    trace = optax.tree.get(ours.state.opt_state, "trace")
    like = from_flax(model_name, {"params": trace, **stats})
    momentum = dict(like.named_parameters())
    moments = theirs.optimizer.state
    own = dict(after.named_parameters())
    pairs = dict(theirs.net.named_parameters())
    running = dict(after.named_buffers())
    means = {n: b for n, b in theirs.net.named_buffers() if n.endswith("running_mean")}
    return {
        "loss": apart(torch.tensor(own_loss, dtype=torch.float64), loss),
        "gradient": max(
            apart(momentum[name], moments[p]["momentum_buffer"])
            for name, p in pairs.items()
        ),
        "parameters": max(apart(own[name], p) for name, p in pairs.items()),
        # Variances cannot agree: PyTorch keeps them with n / (n - 1), Flax without.
        "running_mean": max(apart(running[name], b) for name, b in means.items()),
    }
