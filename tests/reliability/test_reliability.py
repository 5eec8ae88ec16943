"""A little of each script, with their own judgement; all of it is run by hand."""

import contextlib
import pathlib
import shutil

import bad_configs
import bombs
import config_cases
import image_cases
import images
import pytest
import unpickle
from etils import epath

from introspect_jax.data.images import decode
from introspect_jax.errors import UserError
from introspect_jax.pretrained import files, sidecar
from introspect_jax.train.files import read_json, read_lines

# ml_collections reads config files by a way that Python gives up.
READS_CONFIGS = pytest.mark.filterwarnings("ignore:the load_module")


@pytest.mark.filterwarnings("ignore")
def test_folders_of_images():
    rows = images.do_cases()
    assert len(rows) > 90
    assert [row for row in rows if row[2]] == []
    told, wrong = images.damage(70)
    assert wrong == []
    assert min(told["read"], told["refused"]) > 5


def test_the_judge_of_images_can_say_no(tmp_path):
    images.make_folder(tmp_path)
    assert "shape" in images.judge(tmp_path, image_cases.PIXELS)
    (tmp_path / "a" / "x.png").write_bytes(b"")
    assert "refused" in images.judge(tmp_path, image_cases.LEFT_OUT)
    assert "does not name" in images.judge(tmp_path, image_cases.REFUSED, "b/x.png")
    (tmp_path / "a" / "x.png").write_bytes(image_cases.encoded(image_cases.corner()))
    assert "without a word" in images.judge(tmp_path, image_cases.REFUSED, "a/x.png")
    assert "wrong pixels" in images.judge(
        tmp_path, image_cases.PIXELS, pixels=image_cases.plain((0, 0, 0))
    )


@READS_CONFIGS
def test_configs_with_a_mistake(tmp_path):
    loader, verdicts = bad_configs.Loader(), []
    for case in config_cases.draw_cases(20, 5, "digits"):
        arguments = config_cases.command_line(case, tmp_path)
        verdict, line = bad_configs.attempt(arguments, tmp_path, loader)
        assert verdict != "failure", (case.describe(), line)
        verdicts.append(verdict)
    assert min(verdicts.count("accepted"), verdicts.count("refused")) > 1


@READS_CONFIGS
def test_parts_from_outside_with_a_mistake(tmp_path):
    loader = bad_configs.Loader()
    rows = bad_configs.judge_listed(loader, late=False)
    assert len(rows) > 60
    assert [row for row in rows if row["verdict"] == "failure"] == []
    options = ("model.name=outside:takes_width", "model.options.width=3")
    for fields in (options, ("data.name=outside:good", "method.name=standard")):
        fields = config_cases.flags_of((*fields, "batch_size=32"))
        assert bad_configs.attempt(fields, tmp_path, loader) == ("accepted", "")


@READS_CONFIGS
def test_a_config_that_breaks_the_code_is_a_failure(monkeypatch, tmp_path):
    """Whatever it breaks: the judge knows a stack trace and a hang from an answer."""
    case = config_cases.Case("digits", None, "", "seed", 3, "zero", True)
    arguments = config_cases.command_line(case, tmp_path)

    def breaks(*given, **more):
        raise KeyError("seed")

    monkeypatch.setattr(bad_configs.run, "run", breaks)
    verdict, line = bad_configs.attempt(arguments, tmp_path, bad_configs.Loader())
    assert verdict == "failure"
    assert line.startswith("KeyError: 'seed'")
    monkeypatch.setattr(bad_configs, "IN_PROCESS_SECONDS", 1)

    def hangs(*given, **more):
        while True:
            pass

    monkeypatch.setattr(bad_configs.run, "run", hangs)
    verdict, line = bad_configs.attempt(arguments, tmp_path, bad_configs.Loader())
    assert (verdict, line[:7]) == ("failure", "TooLong")


def test_cases_are_the_same_for_everyone():
    first, again = config_cases.draw_cases(30, 1), config_cases.draw_cases(30, 1)
    assert [c.describe() for c in first] == [c.describe() for c in again]
    assert {c.kind for c in config_cases.draw_cases(300, 2)} >= set(config_cases.KINDS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_nothing_in_a_folder_is_run():
    assert unpickle.main(every=8)["failures"] == []


def _read_sidecar(path):
    shutil.copy(path, f"{path}.json")
    sidecar.read(path)


@pytest.mark.filterwarnings("ignore")
def test_bombs_in_files_that_are_read_as_text(tmp_path):
    """The reading of a run's files, without a run; and the hook that watches sees."""
    bench = bombs.Bench(pathlib.Path(tmp_path).resolve())
    assert unpickle.control(bench) == []
    readers = [read_json, read_lines, files.read]
    readers += [lambda path: decode(path.read_bytes(), 3), _read_sidecar]
    for name, content in bench.bombs.items():
        (bench.now / name).write_bytes(content)
        path = epath.Path(bench.now / name)
        with bench.watch.looking():
            for read in readers:
                with contextlib.suppress(UserError, OSError):
                    read(path)
        assert bench.watch.seen == [], name
        assert not bench.canary.exists()
        assert bench.watch.opened
