"""The two sides of `thousand_classes.py`, each made in a process of its own.

A process imports what it uses and no more, because its memory is measured.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable
from typing import Any

# The network, its weights and photographs.
_EXAMPLE = pathlib.Path(__file__).resolve().parents[1] / "examples" / "pretrained"
sys.path.insert(0, str(_EXAMPLE))

# Ways to the similarities of all classes: here by one VJP and its transpose and by an
# explanation of every class; in PyTorch by captum's calls and by `torch.func`.
TRANSPOSE, EVERY_CLASS = "transpose", "every_class"
CAPTUM, FORWARD_MODE = "captum", "forward_mode"
# For scale, on both sides: the logits, and the explanation of the label alone.
LOGITS, GRADIENT = "logits", "gradient"


@dataclasses.dataclass(frozen=True)
class Options:
    """What both sides explain.

    Attributes:
      size: Pixels of a side of the images.
      batch: Number of images.
      classes: How many are explained, where they are explained one by one.
      chunk: Classes that this package explains at once.
      formats: Way -> memory format of PyTorch, `"nchw"` or `"nhwc"`.
    """

    size: int
    batch: int
    classes: int
    chunk: int
    formats: dict[str, str] = dataclasses.field(default_factory=dict)


class Step:
    """A step of a side, which keeps its result until `wait` asks for it.

    Args:
      function: Returns an array of its library.
      to_numpy: Waits for that array.
      costs: Numbers that the compiler knows of a step.
    """

    def __init__(
        self,
        function: Callable[[], Any],
        to_numpy: Callable[[Any], Any],
        costs: dict[str, float] | None = None,
    ) -> None:
        self._function, self._to_numpy = function, to_numpy
        self._costs = costs or {}
        self._result: Any = None

    def __call__(self) -> None:
        self._result = self._function()

    def wait(self) -> tuple[Any, dict[str, float]]:
        """The result of the last step as a NumPy array, and the costs."""
        return self._to_numpy(self._result), self._costs


def make_ours(options: Options, fast: bool, way: str):
    """A way of this package.

    Args:
      options: What is explained.
      fast: Whether with the settings that `launch/` chooses on CPUs.
      way: Its name.
    """
    from introspect_jax import cpu

    if fast:
        cpu.switch_on()
    from thousand_jax import Ours

    step = Ours(options).step(way)
    return step, step.wait


def make_theirs(options: Options, way: str):
    """A way of PyTorch, in the memory format of the options."""
    from thousand_torch import Theirs

    step = Theirs(options, options.formats.get(way, "nchw")).step(way)
    return step, step.wait


def trial(options: Options) -> tuple[dict[str, str], dict[str, str]]:
    """The memory formats that are fastest for PyTorch, and versions of packages."""
    from thousand_torch import fastest_formats, versions

    return fastest_formats(options), versions()
