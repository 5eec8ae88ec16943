"""Implementation of `launch/study.py`."""

import collections
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from introspect_jax.errors import UserError
from introspect_jax.train.progress import duration
from studies.design import file_name, load_study
from studies.records import Records
from studies.runner import Runner


def run(
    path: str,
    workdir: str,
    *,
    workers: int = 1,
    time_budget: float | None = None,
    done: Sequence[str] = (),
    fast_cpu: bool = True,
) -> None:
    """Does the missing runs of a study until the time budget is spent.

    Args:
      path: The study, `FILE[:ARGUMENT]`.
      workdir: Its folder.
      workers: Number of simultaneous runs.
      time_budget: In seconds.
      done: Folders of results whose runs are not repeated.
      fast_cpu: Whether the runs use the settings for CPUs.

    Raises:
      UserError: The study or the folder is invalid, or runs failed.
    """
    name, study = load_study(path)
    records = Records(workdir, name, file_name(study.config))
    runner = Runner(
        study,
        records,
        workers=workers,
        time_budget=time_budget,
        done=done,
        fast_cpu=fast_cpu,
    )
    failed = runner.run()
    missing = runner.missing()
    console = Console(highlight=False, soft_wrap=True)
    if failed:
        raise UserError(
            f"{len(failed)} runs failed (see {workdir}/failed and {workdir}/logs); the "
            "same command tries them again"
        )
    if missing:
        console.print(
            f"{missing} runs are still to be done; the same command continues",
            markup=False,
        )
    else:
        console.print(
            f"all runs are done; python launch/report.py --workdir={workdir} "
            "--output=DIR makes tables, figures and a page",
            markup=False,
        )


def dry_run(
    path: str,
    workdir: str,
    *,
    workers: int = 1,
    done: Sequence[str] = (),
    fast_cpu: bool = True,
) -> float:
    """Prints the number of runs and their hours, estimated from a few timed steps.

    Returns:
      Hours of the runs that are still to be done.
    """
    name, study = load_study(path)
    records = Records(workdir, name, file_name(study.config))
    runner = Runner(study, records, workers=workers, done=done, fast_cpu=fast_cpu)
    figures = runner.estimate()
    rows: dict[tuple[str, str, str], list[float]] = collections.defaultdict(list)
    finished = records.summaries()
    plan = runner.planner.plan(finished)
    to_do = plan.to_do(finished, records.is_here)
    for planned in to_do:
        key = (planned.phase, planned.setting, planned.arm)
        rows[key].append(figures[planned.program]["total"])
    done_of_it = sum(planned.id in finished for planned in plan.runs)
    table = Table(title=f"{path}: {len(plan.runs)} runs, {done_of_it} done")
    for column in ("phase", "setting", "arm", "runs", "step, ms", "hours"):
        left = column in ("phase", "setting", "arm")
        table.add_column(column, justify="left" if left else "right")
    milliseconds = {
        (r.phase, r.setting, r.arm): 1000 * figures[r.program]["step"]
        for r in plan.runs
        if r.program in figures
    }
    for key, seconds in rows.items():
        table.add_row(
            *key,
            str(len(seconds)),
            f"{milliseconds[key]:.1f}",
            f"{sum(seconds) / 3600:.2f}",
        )
    everything = [s for seconds in rows.values() for s in seconds]
    # Runs that wait for the tuning are taken to last as long as the known ones.
    mean = sum(everything) / len(everything) if everything else 0.0
    total = (sum(everything) + plan.waiting * mean) / workers
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"{len(everything) + plan.waiting} runs are still to be done"
        + (f", {plan.waiting} of them after tuning" if plan.waiting else "")
        + f": {duration(total)} h with {workers} at a time, compilation not counted",
        markup=False,
        soft_wrap=True,
    )
    return total / 3600
