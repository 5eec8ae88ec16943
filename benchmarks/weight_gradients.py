"""Time of the weight gradient of a convolution, by images in a group, on CPUs.

    python benchmarks/weight_gradients.py --json=FILE

The reason for the groups of `introspect_jax/convolutions.py`: 3x3 convolutions alone,
with the batch divided among the cores. XLA's own weight gradient is compared with the
sum of those of groups of images; both must agree in float64. Rates are of all cores
together, medians of turns; that of the forward convolution is shown beside them.
"""

import pathlib
import statistics
import sys
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from timing import record, show, take_turns

from introspect_jax import convolutions, cpu
from introspect_jax.train.devices import make_mesh, place

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "shapes",
    "64:32:16:16,64:16:32:32,64:8:64:64,128:16:16:16,"
    "1024:31:24:32,1024:15:32:128,1024:7:128:128,1024:15:64:256",
    "images:side:channels:features; of ResNet-20, ResNet-8 and airbench by default.",
)
flags.DEFINE_list("groups", ["8", "16", "32", "64"], "Images of a device in a group.")
flags.DEFINE_integer("repeats", 5, "Timed turns.")
flags.DEFINE_string("json", None, "Where to write the rows.")

TOLERANCE = 1e-12  # of the largest value, in float64


def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return convolutions.conv_general_dilated(
        images,
        kernel,
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def make(images: int, side: int, channels: int, features: int, dtype: type):
    """The programs of weight gradients by name, and `(images, kernel)`."""
    mesh = make_mesh({"images": images})
    generator = np.random.RandomState(0)
    size = (images, side, side)
    x, cotangent = place(
        [
            generator.normal(size=(*size, channels)).astype(dtype),
            generator.normal(size=(*size, features)).astype(dtype),
        ],
        mesh,
        rows=images,
    )
    kernel = place(np.zeros((3, 3, channels, features), dtype), mesh)

    def gradient(x, cotangent):
        with cpu.divided_among(mesh.size):
            return jax.vjp(lambda k: convolve(x, k), kernel)[1](cotangent)[0]

    def compiled(group: int):
        constants = {"_GROUP": group, "_PAIRED_GROUP": group, "_LEAST_GROUPS": 2}
        with mock.patch.multiple(convolutions, **constants):
            program = cpu.jit(lambda *given: gradient(*given))
            program = program.lower(x, cotangent).compile()
        return lambda: jax.block_until_ready(program(x, cotangent))

    sides = {"whole": compiled(images)}
    sides |= {
        f"groups of {group}": compiled(int(group))
        for group in FLAGS.groups
        if int(group) * mesh.size < images
    }
    return sides, (x, kernel)


def check(*shape: int) -> None:
    """Compares the programs, in float64: sums of so many images differ by 1e-5 of the
    largest value in float32."""
    with jax.enable_x64(True):
        sides, _ = make(*shape, np.float64)
        wanted = sides["whole"]()
        for name, run in sides.items():
            apart = float(jnp.abs(run() - wanted).max() / jnp.abs(wanted).max())
            if not apart <= TOLERANCE:
                raise SystemExit(f"{name}: differs by {apart:.0e} of the largest value")


def measure(images: int, side: int, channels: int, features: int) -> dict:
    """Seconds of each program for convolutions of this shape."""
    check(images, side, channels, features)
    sides, (x, kernel) = make(images, side, channels, features, np.float32)
    for run in sides.values():
        run()
    forward = cpu.jit(convolve)
    sides["forward"] = lambda: jax.block_until_ready(forward(x, kernel))
    sides["forward"]()
    taken = take_turns(sides, FLAGS.repeats)
    gigaflops = 2 * images * side**2 * 9 * channels * features / 1e9
    return {
        "images": images,
        "side": side,
        "channels": channels,
        "features": features,
        "gflops_a_second": {
            name: gigaflops / statistics.median(values)
            for name, values in taken.items()
        },
    }


def main(_):
    if not cpu.switch_on():
        raise SystemExit("the groups are for CPUs: set JAX_PLATFORMS=cpu")
    rows = [measure(*map(int, shape.split(":"))) for shape in FLAGS.shapes]
    columns = ["whole", *(f"groups of {group}" for group in FLAGS.groups), "forward"]
    show(
        "weight gradients, GFLOP/s",
        ("images", "side", "channels", *columns),
        [
            (
                str(row["images"]),
                str(row["side"]),
                f"{row['channels']} to {row['features']}",
                *(
                    f"{row['gflops_a_second'][name]:.0f}"
                    if name in row["gflops_a_second"]
                    else ""
                    for name in columns
                ),
            )
            for row in rows
        ],
    )
    record(FLAGS.json, rows)


if __name__ == "__main__":
    app.run(main)
