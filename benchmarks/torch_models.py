"""PyTorch twins of this package's ResNet-8, 20 and 18, for comparisons.

Their modules carry the names of the Flax variables (with dots for underlines), so that
copying the weights needs no table.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from introspect_jax.models import build

# name: (width of the first stage, blocks of each stage, is the shortcut a convolution)
_KINDS = {
    "resnet8": (16, (1, 1, 1), False),
    "resnet20": (16, (3, 3, 3), False),
    "resnet18": (64, (2, 2, 2, 2), True),
}


def _conv(channels: int, features: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, features, size, stride, size // 2, bias=False)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, channels: int, features: int, stride: int, project: bool):
        super().__init__()
        self.stride, self.new = stride, features - channels
        self.conv0 = _conv(channels, features, 3, stride)
        self.norm0 = nn.BatchNorm2d(features)
        self.conv1 = _conv(features, features, 3, 1)
        self.norm1 = nn.BatchNorm2d(features)
        self.proj = None
        if project and (self.new or stride > 1):
            self.proj = _conv(channels, features, 1, stride)
            self.proj_norm = nn.BatchNorm2d(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm0(self.conv0(x)))
        y = self.norm1(self.conv1(y))
        if self.proj is not None:
            x = self.proj_norm(self.proj(x))
        elif self.new or self.stride > 1:
            half = self.new // 2
            x = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(x, (0, 0, 0, 0, half, self.new - half))
        return F.relu(x + y)


class ResNet(nn.Module):
    """Logits `[batch, classes]` of images `[batch, 3, h, w]`."""

    def __init__(self, name: str, num_classes: int):
        super().__init__()
        width, stages, project = _KINDS[name]
        self.stem, self.stem_norm = _conv(3, width, 3, 1), nn.BatchNorm2d(width)
        self.blocks, channels = [], width
        for stage, blocks in enumerate(stages):
            features = width * 2**stage
            for number in range(blocks):
                stride = 2 if stage > 0 and number == 0 else 1
                self.blocks.append(f"stage{stage}_block{number}")
                block = Block(channels, features, stride, project)
                self.add_module(self.blocks[-1], block)
                channels = features
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        for name in self.blocks:
            x = getattr(self, name)(x)
        return self.head(x.mean((2, 3)))


def drawn_variables(name: str, classes: int, generator: np.random.RandomState) -> Any:
    """Flax variables whose BatchNorm changes something, as after training."""
    variables = build(name, classes).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))

    def redraw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return generator.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        if path[-1].key in ("bias", "mean"):
            return generator.normal(0, 0.1, leaf.shape).astype(np.float32)
        return np.asarray(leaf)

    return jax.tree_util.tree_map_with_path(redraw, variables)


def from_flax(name: str, variables: Any) -> ResNet:
    """The same network with the same weights, for evaluation.

    Args:
      name: Of `_KINDS`; ResNet-18 has the small stem.
      variables: `{"params": ..., "batch_stats": ...}` of the Flax network.

    Raises:
      ValueError: weights that have no place here.
    """
    params = {**variables["params"]["backbone"], "head": variables["params"]["head"]}
    bias = params["head"]["bias"]
    net = ResNet(name, bias.shape[0]).to(torch.from_numpy(np.array(bias)).dtype)
    left = set(params)
    for path, module in net.named_modules():
        flax_name = path.replace(".", "_")
        if not isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            continue
        left.remove(flax_name)
        own = {k: np.array(v) for k, v in params[flax_name].items()}
        if isinstance(module, nn.BatchNorm2d):
            stats = variables["batch_stats"]["backbone"][flax_name]
            state = {
                "weight": own["scale"],
                "bias": own["bias"],
                "running_mean": np.array(stats["mean"]),
                "running_var": np.array(stats["var"]),
                "num_batches_tracked": np.array(0),
            }
        elif isinstance(module, nn.Conv2d):
            state = {"weight": own["kernel"].transpose(3, 2, 0, 1).copy()}
        else:
            state = {"weight": own["kernel"].T.copy(), "bias": own["bias"]}
        module.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    if left:
        raise ValueError(f"no place for {sorted(left)} in {name}")
    # Explanations differentiate by the inputs alone.
    return net.eval().requires_grad_(False)
