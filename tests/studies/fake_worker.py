"""Workers that train nothing: the runner is what is tested."""

import json
import os
import pathlib
import time


def work(connection, stop, cpus, fast_cpu):
    """As `studies.worker.work`; the name of the arm's method says what happens."""
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        config, folder = job["config"], pathlib.Path(job["folder"])
        name, id = config["method"]["name"], job["id"]
        if job["kind"] == "time":
            connection.send(("timed", id, {"step": 0.01, "total": 36.0}))
            continue
        if name == "label_smoothing" and not (folder / "again").exists():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "again").write_text("")
            connection.send(("failed", id, "no luck"))
            continue
        if name == "confidence_penalty":
            os._exit(3)
        if name == "complement_entropy":
            connection.send(("step", id, 1))
            while not stop.value:
                time.sleep(0.01)
            connection.send(("stopped", id, None))
            continue
        folder.mkdir(parents=True, exist_ok=True)
        scores = {"top1": 0.5 + config["seed"] / 1000}
        summary = {
            "seconds": 1.0,
            "test": {"last": scores},
            "validation": {"last": scores},
            "pid": os.getpid(),
            "cpus": cpus,
        }
        (folder / "summary.json").write_text(json.dumps(summary))
        connection.send(("done", id, None))


def refuse(connection, stop, cpus, fast_cpu):
    """As a worker that is not alone on an accelerator."""
    connection.send(("refused", "", "several workers are for CPUs; use --workers=1"))
