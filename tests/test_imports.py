"""Who may import whom: only down the floors."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

from introspect_jax.explain import render

PACKAGE = ROOT / "introspect_jax"
# What a room may import of this package, beside itself, `errors` and `arrays`.
ALLOWED = {
    "errors": set(),
    "arrays": set(),
    "keys": set(),
    "interrupts": set(),
    "paths": set(),
    "processes": set(),
    "options": set(),
    "doors": {"options"},
    "machine": {"introspect_jax"},
    "cpu": {"machine"},
    "convolutions": {"cpu", "explain"},
    "explain": set(),
    "objectives": set(),
    "evaluate": set(),
    "models": {"convolutions", "doors", "options"},
    "data": {"doors", "options", "paths"},
    "optimizers": {"doors", "options"},
    "introspection": {"explain", "objectives"},
    "binding": {"explain", "models"},
    "methods": {"binding", "doors", "explain", "introspection", "keys", "models"}
    | {"objectives", "options", "paths"},
    "train": {"cpu", "data", "evaluate", "explain", "keys", "methods", "models"}
    | {"interrupts", "optimizers", "processes"},
    "config": {"binding", "data", "methods", "models", "optimizers", "options"}
    | {"train"},
    "trained": {"data", "models"},
    "pretrained": {"binding", "config", "data", "doors", "machine", "models", "paths"}
    | {"restore", "train", "trained"},
    "restore": {
        "binding",
        "config",
        "data",
        "methods",
        "models",
        "optimizers",
        "paths",
        "train",
    }
    | {"trained"},
    "report": {
        "binding",
        "cpu",
        "data",
        "evaluate",
        "explain",
        "machine",
        "models",
        "paths",
        "processes",
        "restore",
        "train",
        "trained",
    },
    "workdir": {"config", "paths", "processes", "train"},
    "writer": {"processes", "train"},
    "teacher_data": {"config", "data", "restore"},
    "teachers": {"config", "cpu", "data", "methods", "models", "paths", "processes"}
    | {"restore", "teacher_data", "train", "workdir"},
    "method_files": {"methods", "paths", "processes", "train"},
    "run": {
        "binding",
        "data",
        "method_files",
        "paths",
        "processes",
        "report",
        "restore",
    }
    | {"teachers", "train", "workdir", "writer"},
    "cli": {"config", "data", "interrupts", "methods", "models", "optimizers"}
    | {"processes"},
    "__init__": {"explain", "objectives", "introspection"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.module == "introspect_jax":
                yield from (f"introspect_jax.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_imports_go_down():
    seen = set()
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        seen.add(room)
        for name in imports(path):
            if name.split(".")[0] != "introspect_jax":
                continue
            other = name.split(".")[1] if "." in name else name
            assert other in ALLOWED[room] | {room, "errors", "arrays"}, (
                f"{path} -> {name}"
            )
    assert seen == set(ALLOWED)


def test_the_package_knows_nothing_of_studies():
    for path in PACKAGE.rglob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] != "studies", f"{path} -> {name}"


def nodes(kind):
    """`(file, node)` of a kind in the package."""
    for path in PACKAGE.rglob("*.py"):
        file = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kind):
                yield file, node


def test_how_devices_share_a_step_is_known_to_one_file():
    readers = {file for file, node in nodes(ast.Attribute) if node.attr == "mode"}
    # Images of Pillow have a mode of their own.
    assert readers == {"train/parallel.py", "data/images.py"}
    words = {"mode", "pmapped"}
    named = {file for file, node in nodes(ast.Constant) if node.value in words}
    assert named == {"train/parallel.py"}


def test_the_last_layer_is_known_to_the_classifier():
    """Others ask the network, `models.last_layer`."""
    found = {
        file
        for file, node in nodes(ast.Subscript)
        if isinstance(node.slice, ast.Constant) and node.slice.value == "head"
    }
    assert found == {"models/classifier.py"}


def test_what_other_projects_take_needs_jax_alone():
    rooms = [PACKAGE / "arrays.py", PACKAGE / "introspection.py"]
    for room in ("explain", "objectives"):
        rooms += (PACKAGE / room).rglob("*.py")
    # JAX needs SciPy itself; matplotlib is imported when a picture is drawn.
    known = {"jax", "jaxtyping", "numpy", "scipy", "introspect_jax", "matplotlib"}
    for path in rooms:
        for name in imports(path):
            top = name.split(".")[0]
            assert top in known | sys.stdlib_module_names, f"{path} -> {name}"


def test_importing_the_package_brings_no_framework():
    program = (
        "import sys, jax, jax.numpy\n"
        # JAX itself imports etils where it is installed.
        "before = set(sys.modules)\n"
        "import introspect_jax\n"
        "from introspect_jax.explain import agreement, metrics, render\n"
        "from introspect_jax.objectives import components, losses, targets\n"
        "heavy = {'tensorflow', 'flax', 'haiku', 'equinox', 'matplotlib', "
        "'tensorflow_datasets', 'orbax', 'optax', 'sklearn', 'torch', 'absl', "
        "'chex', 'etils', 'ml_collections', 'scipy.stats', 'jax.scipy.stats'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    assert printed(program) == "[]"


def test_a_picture_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pictures need matplotlib") as caught:
        render.new_figure(1, 1, (2.0, 2.0))
    assert str(caught.value).endswith(': pip install "introspect-jax[train]"')


def test_the_trainer_without_its_packages_says_what_to_install():
    program = (
        "import runpy, sys\n"
        "sys.modules['ml_collections'] = None\n"
        "runpy.run_path('launch/main.py')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error: the trainer needs ml_collections: pip install -e '.[train]'\n"
    )


def test_training_needs_linen_and_no_other_framework():
    """Flax's package loads its parts late: linen brings no NNX."""
    program = (
        "import sys, introspect_jax.run\n"
        "unused = {'flax.nnx', 'tensorflow', 'haiku', 'equinox', 'torch'}\n"
        "print(sorted((unused | {'flax.linen'}) & set(sys.modules)))"
    )
    assert printed(program) == "['flax.linen']"


def printed(program: str) -> str:
    """What the program prints in a process of its own."""
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.strip()
