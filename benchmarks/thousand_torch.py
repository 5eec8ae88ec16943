"""PyTorch's side of `thousand_classes.py`, with the network of its authors' package."""

import importlib.metadata

import torch
from captum import attr
from efficientnet_lite_pytorch import EfficientNet
from sides import waited
from thousand_sides import CAPTUM, FORWARD_MODE, GRADIENT, LOGITS, Options, Step
from torch import nn
from torch_training import DEVICE, check_device, forward_mode, tune, wait

from introspect_jax.machine import usable_cpus

FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
# Of a trial, the fastest counts.
TRIALS = 5
_PACKAGES = ("torch", "captum", "efficientnet-lite-pytorch")


def gradient(net: nn.Module, images: torch.Tensor, labels) -> torch.Tensor:
    """captum's gradients of the labels, shaped like the images."""
    return attr.Saliency(net).attribute(images, target=labels, abs=False)


def captum_calls(
    net: nn.Module, images: torch.Tensor, labels: torch.Tensor, classes: int
) -> torch.Tensor:
    """Inner products `[batch, classes]` with the gradient of the label, by a call for
    the labels and one for each class."""
    own = gradient(net, images, labels)
    products = [(gradient(net, images, k) * own).flatten(1) for k in range(classes)]
    return torch.stack([product.sum(1) for product in products], dim=1)


class Theirs:
    """The network and the images, in one memory format."""

    def __init__(self, options: Options, memory_format: str) -> None:
        from convert import original_state
        from photographs import read

        tune()
        torch.set_num_threads(len(usable_cpus()))
        form = FORMATS[memory_format]
        net = EfficientNet.from_name("efficientnet-lite0", image_size=options.size)
        net.load_state_dict(original_state())
        net = net.eval().requires_grad_(False).to(DEVICE, memory_format=form)
        pixels = torch.from_numpy(read(options.size)[: options.batch])
        images = (pixels.permute(0, 3, 1, 2).float() - 127) / 128
        images = images.to(DEVICE).contiguous(memory_format=form)
        self.options, self.net, self.images = options, net, images
        self.labels = self.logits().argmax(-1)

    def step(self, way: str) -> Step:
        """A step, warmed up."""
        functions = {
            CAPTUM: self.captum,
            FORWARD_MODE: self.forward_mode,
            GRADIENT: self.gradient,
            LOGITS: self.logits,
        }
        # All classes are single gradients, one after the other.
        (self.gradient if way == CAPTUM else functions[way])()
        return Step(functions[way], _to_numpy)

    def captum(self) -> torch.Tensor:
        return captum_calls(
            self.net,
            self.images.requires_grad_(),
            self.labels,
            self.options.classes,
        )

    def forward_mode(self) -> torch.Tensor:
        return forward_mode(self.net, self.images.detach(), self.labels)

    def gradient(self) -> torch.Tensor:
        return gradient(self.net, self.images.requires_grad_(), self.labels)

    def logits(self) -> torch.Tensor:
        with torch.no_grad():
            return self.net(self.images)


def fastest_formats(options: Options) -> dict[str, str]:
    """The memory format of each way that was fastest in a trial."""
    check_device()
    taken: dict[str, dict[str, float]] = {}
    for form in FORMATS:
        side = Theirs(options, form)
        trials = {
            CAPTUM: side.gradient,
            FORWARD_MODE: side.forward_mode,
            GRADIENT: side.gradient,
            LOGITS: side.logits,
        }
        for way, function in trials.items():
            function()
            times = [waited(function, wait) for _ in range(TRIALS)]
            taken.setdefault(way, {})[form] = min(times)
    return {way: min(times, key=times.__getitem__) for way, times in taken.items()}


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def _to_numpy(array: torch.Tensor):
    return array.detach().cpu().numpy()
