"""Files that do something when they are taken for what they are not."""

import contextlib
import io
import json
import os
import pathlib
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from common import TooLong, limit
from etils import epath
from tiny import TINY

from introspect_jax import data, run
from introspect_jax.binding import for_pictures
from introspect_jax.config import default_config
from introspect_jax.errors import UserError
from introspect_jax.report.explain_run import explain_run
from introspect_jax.restore import load
from studies import command as study_command
from studies.design import file_name, load_study
from studies.pages.command import report
from studies.pages.index import write_index
from studies.plan import Planner
from studies.records import Records

ROOT = pathlib.Path(__file__).resolve().parents[2]

STUDY = """
from studies import Study, chain, point

def get_study(arg=None):
    return Study(
        question="Is anything run?",
        config={config!r},
        fields={{
            "model.name": {model!r}, "total_steps": 2, "batch_size": 32, "eval_steps": 1
        }},
        arms=chain(
            point("standard", {{"method.name": "standard"}}),
            point("smooth", {{"method.name": "label_smoothing"}}),
        ),
        seeds=range(1),
        baseline="standard",
    )
"""
SECONDS = 300


class Watch:
    """What the audit hook saw while it was looking; there is one for the process."""

    EVENTS = (
        "pickle.find_class",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.spawn",
        "os.fork",
        "pty.spawn",
        "subprocess.Popen",
    )

    # tensorboardX hands events to its writing thread through a queue, pickled.
    OWN = (("tensorboardX.proto.event_pb2", "Event"), ("builtins", "object"))

    def __init__(self, folder: pathlib.Path):
        """`folder` holds all that is planted."""
        self._folder, self._looking = str(folder), False
        self.seen: list[str] = []
        self.opened: set[str] = set()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, given: tuple) -> None:
        if not self._looking:
            return
        if event in self.EVENTS:
            if event == "subprocess.Popen" and list(given[1])[:2] == [
                "git",
                "describe",
            ]:
                return  # `machine.describe_versions` asks for the revision of the code
            if event == "pickle.find_class" and given in self.OWN:
                return
            self.seen.append(f"{event} {given!r}"[:200])
        elif event == "open" and str(given[0]).startswith(self._folder):
            self.opened.add(str(given[0]))
        elif event in ("exec", "import", "compile"):
            # Code objects, module files and sources: are they of the folder?
            named = [getattr(part, "co_filename", part) for part in given]
            if any(isinstance(n, str) and self._folder in n for n in named):
                self.seen.append(f"{event} {given!r}"[:200])

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """What happens inside is seen."""
        self.seen, self.opened, self._looking = [], set(), True
        try:
            yield
        finally:
            self._looking = False


class _Bomb:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def bombs(canary: pathlib.Path) -> dict[str, bytes]:
    """Kind -> content of a file that makes the canary where it is trusted."""
    command = f"touch {canary}"
    objects = np.empty(1, object)
    objects[0] = _Bomb(command)
    archive, array = io.BytesIO(), io.BytesIO()
    np.savez(archive, params=objects)
    np.save(array, objects, allow_pickle=True)
    call = f"__import__('os').system({command!r})"
    tags = {
        "py/object": "os.system",
        "py/reduce": [{"py/function": "os.system"}, {"py/tuple": [command]}],
        "step": f'!!python/object/apply:os.system ["{command}"]',
        "name": call,
        "id": call,
    }
    postscript = (
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
        f"(%pipe%{command}) (w) file\nshowpage\n%%EOF\n"
    )
    return {
        "pickle": pickle.dumps(_Bomb(command)),
        "pickle, protocol 0": pickle.dumps(_Bomb(command), protocol=0),
        "npz of objects": archive.getvalue(),
        "npy of objects": array.getvalue(),
        "JSON with tags": json.dumps(tags).encode(),
        "Python": f"{call}\n".encode(),
        "EPS": postscript.encode(),
    }


class Bench:
    """The folders, as they were made, and one copy at a time to plant in."""

    def __init__(self, base: pathlib.Path):
        self.base, self.whole, self.now = base, base / "whole", base / "now"
        self.canary = base / "canary"
        self.bombs = bombs(self.canary)
        self.watch = Watch(self.now)
        self.config = default_config()
        self.study_file = base / "study.py"

    def make(self) -> None:
        """A teacher, its student, a study, its results, and a folder of images."""
        config = self.config
        config.data.name, config.model.name = "digits", TINY
        config.batch_size, config.eval_batch_size = 32, 64
        config.total_steps, config.eval_steps, config.checkpoint_steps = 2, 1, 1
        taught = config.copy_and_resolve_references()
        taught.seed, taught.method.name = 7, "standard"
        self.now.mkdir()
        # Made where they will be read: a student knows where its teacher is.
        self._run(taught, "teacher")
        config.method.name, config.method.teacher = "kd", str(self.now / "teacher")
        self._run(config, "run")
        digits = str(ROOT / "configs" / "digits.py")
        self.study_file.write_text(STUDY.format(config=digits, model=TINY))
        name, study = load_study(str(self.study_file))
        planner = Planner(study)
        records = Records(str(self.now / "study"), name, file_name(study.config))
        plan = planner.plan({})
        for one in plan.runs:
            folder = records.folder(one.id)
            self._run(one.config, str(folder.relative_to(self.now)))
        records.write_study(study, planner, planner.plan(records.summaries()))
        records.write_failure(plan.runs[0], "no luck")
        report(str(self.now / "study"), str(self.now / "results" / "one"))
        for label in ("a", "b"):
            (self.now / "images" / label).mkdir(parents=True)
            for i in range(4):
                image = np.full((8, 8, 3), 90 + 10 * i, np.uint8)
                path = self.now / "images" / label / f"{i}.png"
                _save(image, path)
        self.now.rename(self.whole)

    def _run(self, config, folder: str) -> None:
        with config.unlocked():
            run.run("digits", config, str(self.now / folder), pictures=False)

    def files(self, folder: str) -> list[str]:
        """The files of a folder, relative to the base of all."""
        found = sorted(p for p in (self.whole / folder).rglob("*") if p.is_file())
        return [str(path.relative_to(self.whole)) for path in found]

    def readers(self) -> dict[str, Callable[[], Any]]:
        """Command -> what it calls."""
        now = self.now

        def explain():
            found = load(str(now / "run"))
            config = for_pictures(found.config)
            output = epath.Path(now / "run" / "explained")
            images = str(now / "images" / "a")
            explain_run(
                found, config, output, num_examples=2, metric_images=2, images=images
            )

        def images():
            config = default_config().data
            config.name, config.data_dir = "folder", str(now / "images")
            config.load_size, config.validation_fraction = 8, 0.0
            dataset = data.load(config)
            for split in (dataset.train, dataset.test):
                split.take(np.arange(len(split)))

        def done():
            # A folder of its own: all of its runs are done in the results.
            folder = str(now / "other_study")
            results = [str(now / "results" / "one")]
            study_command.run(str(self.study_file), folder, done=results)

        return {
            "main": lambda: run.run(
                "digits", self.config, str(now / "run"), pictures=False
            ),
            "evaluate": lambda: load(str(now / "run")),
            "teacher": lambda: load(str(now / "teacher")),
            "explain": explain,
            "images": images,
            "report": lambda: report(str(now / "study"), str(now / "results" / "one")),
            "index": lambda: write_index(str(now / "results")),
            "study": lambda: study_command.run(
                str(self.study_file), str(now / "study")
            ),
            "done": done,
        }

    def attempt(self, reader: str, planted: dict[str, bytes]) -> dict[str, Any]:
        """Puts the planted files into a fresh copy and reads it."""
        shutil.rmtree(self.now, ignore_errors=True)
        shutil.copytree(self.whole, self.now)
        for name, content in planted.items():
            (self.now / name).parent.mkdir(parents=True, exist_ok=True)
            (self.now / name).write_bytes(content)
        said = io.StringIO()
        outcome = "read"
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            limit(SECONDS),
            self.watch.looking(),
        ):
            try:
                self.readers()[reader]()
            except UserError as error:
                one = len(str(error).splitlines()) == 1
                outcome = "refused in one line" if one else "not one line"
            except (Exception, TooLong) as error:
                line = (str(error).splitlines() or [""])[0][:120]
                outcome = f"{type(error).__name__}: {line}"
        executed = list(self.watch.seen)
        if self.canary.exists():
            executed.append("the bomb went off")
            self.canary.unlink()
        seen = {name for name in planted if str(self.now / name) in self.watch.opened}
        return {"outcome": outcome, "executed": executed, "opened": len(seen)}


def _save(image: np.ndarray, path: pathlib.Path) -> None:
    from PIL import Image

    Image.fromarray(image).save(path)
