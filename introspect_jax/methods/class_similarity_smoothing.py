"""Label smoothing towards the classes that are similar."""

import functools
import io
import math
from collections.abc import Callable, Iterable

import numpy as np
from ml_collections import ConfigDict

from introspect_jax.errors import UserError
from introspect_jax.methods.base import Context, Method, one_network
from introspect_jax.objectives.losses import cross_entropy, describe_target
from introspect_jax.objectives.targets import (
    similarity_target,
    smooth_by_similarity,
    whole_target,
)
from introspect_jax.options import check_range
from introspect_jax.paths import absolute

SUMMARY = "label smoothing whose mass goes to the classes that are similar"
COST = "1.00x FLOPs of standard"
SOURCE = (
    "after Liu and JaJa, Class-Similarity Based Label Smoothing for Confidence "
    "Calibration, ICANN 2021 (arXiv 2006.14028)"
)
FILES = ("file",)
_FIELD = "method.class_similarity_smoothing.file"
_READERS: dict[str, Callable[[bytes], np.ndarray]] = {
    ".npy": lambda data: np.load(io.BytesIO(data), allow_pickle=False),
    ".csv": lambda data: np.loadtxt(
        io.StringIO(data.decode()), delimiter=",", ndmin=2, dtype=np.float64
    ),
}


def default_config() -> ConfigDict:
    """`CE((1 - smoothing) y + smoothing s_y)`, one fixed row s_y a class.

    `s_yk = softmax_k(similarity_yk / temperature)` over the classes k other than y.
    Only the paper's abstract could be read: label values are based on similarities
    with the class of the example, by features or by meaning. The rest is this
    project's choice: similarity is the cosine between the mean images of two classes,
    each less the mean over all classes, of the training split as it is read, cropped to
    the size that the network sees and not augmented.

    `file` is a matrix `[classes, classes]` of other similarities, for example of class
    names, as `.npy` or as `.csv` without a header. Its diagonal is not used. A run that
    is continued must have the same file.

    The images are read once before training. Of a data set that streams this takes as
    long as reading an epoch, in each process.
    """
    return ConfigDict({"smoothing": 0.1, "temperature": 0.5, "file": ""})


def check(config: ConfigDict) -> None:
    """Raises a UserError for options that are out of range; reads no file."""
    check_range(
        "method.class_similarity_smoothing.",
        config,
        smoothing=(0, 1, "[)"),
        temperature=(0, float("inf"), "()"),
    )
    if config.file and not config.file.endswith(tuple(_READERS)):
        raise UserError(f"{_FIELD} must end in .npy or .csv, got {config.file!r}")


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: an option out of range, or two classes.
    """
    check(config)
    classes = context.num_classes
    if classes <= 2:
        raise UserError(
            f"the data have {classes} classes, of which none is more similar than "
            "another; use --config.method.name=label_smoothing"
        )
    smoothing, temperature, file = config.smoothing, config.temperature, config.file

    @functools.cache  # constants are asked for more than once
    def similarities() -> np.ndarray:
        if file:
            return read_similarities(file, classes)
        if context.train_images is None:
            raise UserError(f"there are no training images; give {_FIELD}")
        return mean_image_similarities(
            context.train_images(), classes, context.image_shape
        )

    def constants(teacher):
        del teacher
        target = similarity_target(
            similarities(), np.arange(classes), temperature=temperature
        )
        return {"similarity_rows": target.probs}

    def objective(logits, batch, key):
        del key
        labels = batch["label"]
        rows = batch["constants"]["similarity_rows"]
        probs = smooth_by_similarity(labels, rows, smoothing)
        metrics = describe_target(whole_target(probs), labels)
        return cross_entropy(logits, probs), metrics | {"loss_weights": 1.0}

    return one_network(context, objective, constants=constants)


def mean_image_similarities(
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    classes: int,
    image_shape: tuple[int, int, int],
) -> np.ndarray:
    """Cosines `[classes, classes]` between the centred mean images of the classes.

    Of pixels the sums are exact, so that every machine gets the same means.

    Args:
      batches: Images `[n, h, w, c]` and int labels `[n]`.
      classes: Number of classes.
      image_shape: `(h, w, c)`.

    Raises:
      UserError: A class without an image.
    """
    sums, counts = np.zeros((classes, math.prod(image_shape))), np.zeros(classes, int)
    for images, labels in batches:
        flat = images.reshape(len(images), -1)
        for label in np.unique(labels):
            sums[label] += flat[labels == label].sum(axis=0, dtype=np.float64)
        counts += np.bincount(labels, minlength=classes)
    if not counts.all():
        raise UserError(
            f"the training split has no image of class number {counts.argmin()}, so "
            f"its similarities are not known; give {_FIELD}"
        )
    # In place: for many classes of large images they are gigabytes.
    sums /= counts[:, None]
    sums -= sums.mean(axis=0)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    sums /= np.where(norms > 0, norms, 1)
    return sums @ sums.T


def read_similarities(path: str, classes: int) -> np.ndarray:
    """The matrix float64 `[classes, classes]` in a file.

    Raises:
      UserError: It cannot be read, has another shape, or values that are not finite.
    """
    suffix = path[path.rindex(".") :]
    try:
        matrix = np.asarray(_READERS[suffix](absolute(path).read_bytes()))
        if not np.issubdtype(matrix.dtype, np.number) or matrix.dtype.kind == "c":
            raise ValueError(f"it holds {matrix.dtype}, not numbers")
        if matrix.shape != (classes, classes):
            raise ValueError(
                f"its shape is {list(matrix.shape)}, and the data have {classes} "
                "classes"
            )
        if not np.isfinite(matrix.astype(np.float32)).all():
            raise ValueError("some values are not finite")
    except (OSError, ValueError, EOFError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{_FIELD}={path!r} must be a matrix [classes, classes] of similarities: "
            f"{reason}"
        ) from error
    return matrix.astype(np.float64)
