"""Training steps in PyTorch, the twins of this package's, for comparisons.

The recipe is that of `training_speed.py`: images lie on the device as uint8; a step
gathers a batch, normalises, crops and flips it, all examples at once; cross entropy,
SGD with Nesterov momentum, weight decay on kernels. Memory format is channels-last, the
update fused. Introspection is the similarity `projection` of input gradients under the
running statistics from before the step.
"""

import contextlib
import copy
from collections.abc import Callable

import jax
import torch
import torch.nn.functional as F
from torch import nn

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_device() -> None:
    """Ends the program where JAX and PyTorch are on devices of different kinds."""
    if (jax.default_backend() == "cpu") != (DEVICE.type == "cpu"):
        raise SystemExit(
            f"JAX is on {jax.default_backend()} and PyTorch on {DEVICE.type}: install "
            "both for the same device"
        )


def tune() -> None:
    """What JAX does by default: TensorFloat-32 in float32, the fastest algorithms."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


def every_class(net: nn.Module, images: torch.Tensor, labels: torch.Tensor):
    """The usual way: an explanation for each class, K backward passes.

    Returns:
      Inner products `[batch, classes]` with the explanation of the label.
    """
    images = images.detach().requires_grad_()
    logits = net(images)
    maps = torch.stack(
        [
            torch.autograd.grad(logits[:, k].sum(), images, retain_graph=True)[0]
            for k in range(logits.shape[1])
        ],
        dim=1,
    )
    own = maps[torch.arange(len(maps), device=maps.device), labels]
    return torch.einsum("bkchw,bchw->bk", maps, own)


def twice_backward(net: nn.Module, images: torch.Tensor, labels: torch.Tensor):
    """The same from two backward passes, for any number of classes.

    The gradient of the label's logit is linear in the cotangent of the logits. Its
    vector-Jacobian product with itself, with respect to that cotangent, is the result
    of `jax.linear_transpose`.
    """
    images = images.detach().requires_grad_()
    logits = net(images)
    cotangent = F.one_hot(labels, logits.shape[1]).to(logits.dtype).requires_grad_()
    (own,) = torch.autograd.grad(logits, images, cotangent, create_graph=True)
    (inner,) = torch.autograd.grad(own, cotangent, own.detach())
    return inner


def forward_mode(net: nn.Module, images: torch.Tensor, labels: torch.Tensor):
    """The same from a backward pass and a forward-mode pass of `torch.func`."""
    variables = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    variables = {name: value.detach() for name, value in variables.items()}

    def logits_fn(x):
        return torch.func.functional_call(net, variables, (x,))

    logits, vjp = torch.func.vjp(logits_fn, images)
    (own,) = vjp(F.one_hot(labels, logits.shape[1]).to(logits.dtype))
    return torch.func.jvp(logits_fn, (images,), (own,))[1]


class PlainNorm(nn.Module):
    """A BatchNorm under its running statistics, in elementary operations.

    `torch.compile` makes one kernel of them, and has an internal error where it meets
    `torch.func.jvp` of `F.batch_norm`.
    """

    def __init__(self, norm: nn.BatchNorm2d):
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = self.norm
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        wide = x * scale[:, None, None] + shift[:, None, None]
        return wide.to(x.dtype)


def plain_norms(net: nn.Module) -> None:
    """Replaces every BatchNorm of the network."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, PlainNorm(child))


WAYS = {
    "every class": every_class,
    "twice backward": twice_backward,
    "forward mode": forward_mode,
}


def soft_target(inner: torch.Tensor, labels: torch.Tensor, temperature: float):
    """Softmax over the other classes of `r_k / r_y / temperature`, `[batch, classes]`.

    For explanations that do not vanish; this package looks for those that do.
    """
    inner = inner.to(torch.promote_types(inner.dtype, torch.float32))
    scores = inner / inner.gather(1, labels[:, None]) / temperature
    return scores.scatter(1, labels[:, None], -torch.inf).softmax(1)


def distillation(logits: torch.Tensor, labels: torch.Tensor, target: torch.Tensor):
    """The mean over the batch of `KL(target || outputs restricted to the others)`."""
    others = logits.scatter(1, labels[:, None], -torch.inf).log_softmax(1)
    # The label's own -inf times its target of 0 is not a number.
    others = others.scatter(1, labels[:, None], 0.0)
    return (torch.xlogy(target, target) - target * others).sum(1).mean()


class Step:
    """A training step with its own network, optimiser and batch.

    Attributes:
      net: trained in place.
      optimizer: its state.
      target: of the last step, `[batch, classes]`, where it is introspective.
    """

    def __init__(
        self,
        net: nn.Module,
        pool: tuple[torch.Tensor, torch.Tensor],
        index: torch.Tensor,
        config,
        *,
        way: str | None = None,
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
        plain: bool = False,
    ):
        """
        Args:
          net: of `torch_models.from_flax`.
          pool: images uint8 `[n, 3, h, w]` and labels int64 `[n]`.
          index: int64 `[batch]`, positions in the pool.
          config: of this package's step, which this one repeats.
          way: of `WAYS`, to introspect; None for standard training.
          dtype: of the network: bfloat16 is by `torch.autocast`.
          compiled: by `torch.compile`: loss and explanation; not the update, a single
            kernel anyhow.
          plain: explains through `PlainNorm`, as `compiled` does whatever this is.
        """
        self.config, self.way, self.target = config, way, None
        self.pool = [array.to(DEVICE) for array in pool]
        self.index = index.to(DEVICE)
        self.wide = torch.float64 if dtype == torch.float64 else torch.float32
        net = net.to(DEVICE, self.wide, memory_format=torch.channels_last)
        self.net = net.train().requires_grad_(True)
        # The same tensors, running statistics too, in a network that uses them.
        shared = {id(t): t for t in [*net.parameters(), *net.buffers()]}
        self.explained = copy.deepcopy(net, memo=shared).eval()
        kernels = [p for p in net.parameters() if p.ndim > 1]
        rest = [p for p in net.parameters() if p.ndim <= 1]
        options = config.optimizer
        self.optimizer = torch.optim.SGD(
            [
                {"params": kernels, "weight_decay": options.weight_decay},
                {"params": rest, "weight_decay": 0.0},
            ],
            lr=options.learning_rate,
            momentum=options.momentum,
            nesterov=options.nesterov,
            fused=True,
        )
        self.precision = contextlib.nullcontext
        if dtype == torch.bfloat16:
            self.precision = lambda: torch.autocast(DEVICE.type, torch.bfloat16)
        if compiled or plain:
            plain_norms(self.explained)
        make: Callable = torch.compile if compiled else lambda function: function
        self.augmented = make(self._augmented)
        self.loss = make(self._loss)
        self.inner = None
        if way == "every class":
            # A graph cannot be broken inside of K calls of autograd: the network is
            # what is compiled.
            explained = make(self.explained)
            self.inner = lambda *given: every_class(explained, *given)
        elif way is not None:
            function = WAYS[way]
            self.inner = make(lambda *given: function(self.explained, *given))

    def __call__(self) -> torch.Tensor:
        """The loss of the step, which may still be under way: see `wait`."""
        labels = self.pool[1][self.index]
        images = self.augmented(self.pool[0][self.index])
        target = None
        if self.inner is not None:
            with self.precision():
                inner = self.inner(images, labels)
            with torch.no_grad():
                temperature = self.config.method.introspective.temperature
                self.target = target = soft_target(inner.detach(), labels, temperature)
        with self.precision():
            loss = self.loss(images, labels, target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _augmented(self, pixels: torch.Tensor) -> torch.Tensor:
        data = self.config.data
        images = (pixels.float() / 255 - data.mean[0]) / data.std[0]
        batch, _, height, width = images.shape
        padding = data.augment.crop_padding
        if padding:
            padded = F.pad(images, (padding,) * 4)
            offsets = torch.randint(
                2 * padding + 1, (2, batch, 1), device=images.device
            )
            rows = offsets[0] + torch.arange(height, device=images.device)
            columns = offsets[1] + torch.arange(width, device=images.device)
            number = torch.arange(batch, device=images.device)
            images = padded.permute(0, 2, 3, 1)[
                number[:, None, None], rows[:, :, None], columns[:, None, :]
            ].permute(0, 3, 1, 2)
        if data.augment.flip:
            flipped = torch.rand(batch, 1, 1, 1, device=images.device) < 0.5
            images = torch.where(flipped, images.flip(3), images)
        return images.to(self.wide).contiguous(memory_format=torch.channels_last)

    def _loss(self, images, labels, target):
        logits = self.net(images).to(self.wide)
        loss = F.cross_entropy(logits, labels)
        if target is not None:
            weight = self.config.method.introspective.weight
            loss = loss + weight * distillation(logits, labels, target)
        return loss


def wait() -> None:
    """For everything that is under way on the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
