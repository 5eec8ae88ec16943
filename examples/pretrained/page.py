"""Writes the page of photographs, explained by EfficientNet-Lite0.

    python examples/pretrained/convert.py
    python examples/pretrained/page.py

It writes `page/README.md` beside this file and a picture for each photograph. Where the
page has numbers, this command has measured them.
"""

import argparse
import datetime
import pathlib
import sys
import time

import jax
import page_figures
import page_text
import photographs
from efficientnet_lite import weights_file
from photograph_maps import explain

from introspect_jax import cpu, pretrained
from introspect_jax.machine import usable_cpus

OUTPUT = pathlib.Path(__file__).parent / "page"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=OUTPUT)
    parser.add_argument("--photographs", type=int, default=None, help="How many.")
    parser.add_argument(
        "--row",
        type=pathlib.Path,
        help="PNG file of the first one with its most similar classes.",
    )
    flags = parser.parse_args(arguments)
    if flags.photographs is not None and flags.photographs < 1:
        parser.error(f"--photographs must be at least 1, got {flags.photographs}")
    cpu.switch_on(devices=False)
    net = pretrained.load(weights_file())
    shown = photographs.PHOTOGRAPHS[: flags.photographs]
    pixels = photographs.read(net.image_shape[0])[: len(shown)]
    began = time.perf_counter()
    examples = explain(net, [photo.name for photo in shown], pixels, report=print)
    print(f"{time.perf_counter() - began:.0f} s of explanations")
    flags.output.mkdir(parents=True, exist_ok=True)
    for example in examples:
        picture = page_figures.row(example)
        page_figures.save(picture, flags.output / f"{example.name}.png")
    if flags.row:
        picture = page_figures.row_with_classes(examples[0], net.class_names)
        page_figures.save(picture, flags.row)
    facts = page_text.Facts(
        network="EfficientNet-Lite0, trained on ImageNet",
        classes=net.class_names,
        unit=255 * net.preprocess.std[0],
        baseline=255 * net.preprocess.mean[0],
        made=_made(),
        licences=[f"{photo.package}, {photo.licence}" for photo in shown],
    )
    text = page_text.page(examples, facts)
    (flags.output / "README.md").write_text(text, encoding="utf-8")
    print(f"{flags.output}: README.md and {len(examples)} pictures")


def _made() -> str:
    """Hardware, version and date."""
    device, cores = jax.devices()[0], len(usable_cpus())
    hardware = device.device_kind
    if device.platform == "cpu":
        hardware = f"{cores} CPU core{'s' if cores > 1 else ''}"
    return f"{hardware}, JAX {jax.__version__}, {datetime.date.today()}"


if __name__ == "__main__":
    sys.exit(main())
