"""Implementation of `launch/report.py`."""

import json
from typing import Any

from absl import logging
from etils import epath

from introspect_jax.binding import for_pictures, over_many
from introspect_jax.errors import UserError
from introspect_jax.explain import render
from introspect_jax.paths import absolute
from introspect_jax.report import figures
from introspect_jax.restore import Run, load
from introspect_jax.train.files import write_json, write_text
from studies.pages import calibration, charts, page, statistics, tables
from studies.pages.collect import Collected, collect

# Largest number of arms whose class similarity is drawn.
_HEAT_MAPS = 3


def report(workdir: str, output: str) -> dict[str, Any]:
    """Writes the page of a study with its tables, figures and records.

    These are `README.md`, `table.csv`, `table.tex`, `statistics.json`, figures, `runs/`
    with a record of every run, and `failed/` with those that failed. An unfinished
    study is reported as far as it is; a later call adds to the results. The results
    contain all that is needed to write the page again: their folder can also be the
    `workdir`.

    Args:
      workdir: Folder of the study.
      output: Folder of the results; it is created if it does not exist.

    Returns:
      The content of `statistics.json`, not rounded and with NaN for its nulls.

    Raises:
      UserError: The study cannot be read (see `collect`), or the folder cannot be
        written.
    """
    target = absolute(output)
    collected = collect(workdir, target)
    summary = statistics.summarise(collected)
    try:
        (target / "runs").mkdir(parents=True, exist_ok=True)
        wanted = {
            collected.name(id): record for id, record in collected.records.items()
        }
        for file in (target / "runs").glob("*.json"):
            # Remove the file of a renamed record; records of other runs stay.
            id = file.stem.rpartition("-")[2]
            if id in collected.records and file.name not in wanted:
                file.unlink()
        for name, record in wanted.items():
            write_text(target / "runs" / name, json.dumps(record, indent=1) + "\n")
        _write_failed(collected, target / "failed")
    except OSError as error:
        raise UserError(f"--output {output!r} cannot be written: {error}") from error
    pictures = {
        part["setting"]: _draw(part, collected, target) for part in summary["settings"]
    }
    pictures[summary["settings"][0]["setting"]] += _heat_maps(collected, target)
    write_json(target / "study.json", collected.study)
    stored = statistics.rounded(summary)
    write_json(target / "statistics.json", statistics.jsonable(stored))
    write_text(target / "table.csv", tables.to_csv(stored))
    write_text(target / "table.tex", tables.to_latex(summary, calibration.columns))
    write_text(target / "README.md", page.page(collected, summary, pictures))
    return summary


def _write_failed(collected: Collected, folder: epath.Path) -> None:
    """Keeps what failed, so that the page can be written again from the results."""
    failed = {f"{entry['id']}.json": entry for entry in collected.failed}
    for file in folder.glob("*.json"):
        if file.name not in failed:
            file.unlink()
    if failed:
        folder.mkdir(exist_ok=True)
    for name, entry in failed.items():
        write_json(folder / name, entry)


def _draw(part: dict[str, Any], collected: Collected, target: epath.Path) -> list[str]:
    """Draws the figures of a setting and returns their names."""
    prefix = "".join(c if c.isalnum() else "_" for c in part["setting"])
    prefix += "_" if prefix else ""
    drawn = {
        f"{prefix}differences.png": charts.differences(
            part, collected.study["baseline"]
        ),
        f"{prefix}cost.png": charts.cost(part),
        f"{prefix}curves.png": charts.curves(part, collected),
    }
    drawn = {name: figure for name, figure in drawn.items() if figure is not None}
    for name, figure in drawn.items():
        figure.supxlabel(charts.caption(part, collected), fontsize=8)
        render.save(figure, target / name, dpi=100)
    return list(drawn)


def _heat_maps(collected: Collected, target: epath.Path) -> list[str]:
    """Draws the class similarity of a run of the first arms, if its folder exists."""
    study, names = collected.study, []
    setting = study["settings"][0]
    folders = {entry["id"]: entry["folder"] for entry in study["runs"]}
    arms = [study["baseline"]]
    arms += [
        arm
        for arm in study["arms"]
        if any(
            record["config"]["method.name"] == "introspective"
            and record["config"]["method.introspective.source"] == "explanations"
            for record in collected.finals(setting, arm).values()
        )
    ]
    for arm in arms[:_HEAT_MAPS]:
        finals = collected.finals(setting, arm)
        if not finals:
            continue
        seed = min(finals)
        slug = "".join(c if c.isalnum() else "_" for c in arm)
        name = f"class_similarity_{slug}.png"
        folder = collected.workdir / folders[finals[seed]["id"]]
        if (folder / "checkpoints").exists():
            caption = charts.words(arm, setting, study, finals[seed])
            try:
                drawing = _heat_map(load(str(folder)), caption)
            except UserError as error:  # for example missing data; keep an old picture
                logging.warning("%s is not drawn: %s", name, error)
            else:
                render.save(drawing, target / name, dpi=100)
        if (target / name).exists():
            names.append(name)
    return names


def _heat_map(run: Run, caption: str):
    config = over_many(for_pictures(run.config))
    figure = figures.class_similarities(run, config)
    figure.suptitle(caption, fontsize=9)
    return figure
