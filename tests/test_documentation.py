"""README, CONTRIBUTING and docs: size, links, and the Python in them.

`test_documented_commands` runs the commands. A block that neither can run is an error.
"""

import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from documentation import LANGUAGES, PAGES, ROOT, blocks, prose
from tiny import TINY

from introspect_jax import class_similarity

README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
LINK = re.compile(r"\]\(([^()\s]+)\)")


def page_id(page):
    return page.stem


def test_the_readme_is_short():
    lines = README.read_text().splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 100


def test_the_commands_of_a_newcomer_are_in_the_readme():
    """Those that fresh environments are tested with, `.ci/run`."""
    text = README.read_text()
    assert (
        "pip install -r requirements.txt -e . && "
        "python launch/main.py --config=configs/digits.py\n"
    ) in text
    assert 'pip install -e ".[test]" && pytest -n logical --dist=loadfile\n' in text


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        if heading:
            assert heading in anchors(target), f"{page.name}: {link}"


def anchors(page):
    """The names that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.M)
    words = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
    return [title.replace(" ", "-") for title in words]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_there_is_a_way_to_run_every_block(page):
    for block in blocks(page):
        assert block.language in LANGUAGES, block
        if block.language == "bash":
            assert block.commands, block
            assert all(command.kind for command in block.commands), block
        # The others are run where their files are: test_documented_commands.
        if block.language in ("diff", "text"):
            assert page == CONTRIBUTING, block
    # Indented blocks would not be seen.
    assert not re.search(r"\n\n {4}(?![-*\d])", prose(page)), page


def test_the_rooms_are_those_that_there_are():
    (tree,) = [b for b in blocks(CONTRIBUTING) if b.language == "text"]
    package, *rows = tree.text.splitlines()
    inside = {row.split()[0] for row in rows if row.startswith("  ")}
    outside = {row.split()[0] for row in rows if not row.startswith(" ")}
    for folder, names in ((ROOT, outside), (ROOT / package, inside)):
        assert all((folder / name).exists() for name in names), names
    listed = {path.name for path in (ROOT / package).iterdir() if path.is_dir()}
    assert {name.strip("/") for name in inside} >= listed - {"__pycache__"}


def network():
    """What the snippets take as given: a function of images, and a batch."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = 0.1 * jax.random.normal(keys[0], (64, 10))

    def apply(params, x, train):
        del train
        return jnp.tanh(x).reshape(len(x), -1) @ params

    x, y = jax.random.normal(keys[1], (4, 8, 8, 1)), jnp.array([0, 3, 2, 9])
    return {
        "jax": jax,
        "jnp": jnp,
        "np": np,
        "apply": apply,
        "params": params,
        "logits_fn": lambda x: apply(params, x, train=False),
        "logits": apply(params, x, train=True),
        "x": x,
        "y": y,
        "num_classes": 10,
        "key": keys[2],
        "pixels": np.full((4, 8, 8, 1), 128, np.uint8),
    }


@pytest.fixture(scope="module")
def folder(command, tmp_path_factory):
    """Where snippets are run: as the checkout, with a run in `runs/baseline`."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(ROOT / "examples", folder / "examples")
    done = command(
        "main",
        f"--config={ROOT / 'configs' / 'digits.py'}",
        f"--config.model.name={TINY}",
        "--config.method.name=standard",
        "--config.total_steps=2",
        "--workdir=runs/baseline",
        folder=folder,
    )
    assert done.returncode == 0, done.stderr
    exported = f"--output={folder / 'net.safetensors'}"
    done = command("export", f"--workdir={folder / 'runs' / 'baseline'}", exported)
    assert done.returncode == 0, done.stderr
    return folder


def run_python(page):
    """Runs the program that the page's Python blocks are together; its variables."""
    names = network()
    for block in blocks(page):
        if block.language == "python":
            program = compile(block.code, str(page), "exec")
            exec(program, {"__name__": "page"} if block.file else names)
    return names


@pytest.mark.parametrize(
    "page",
    # What is added to the package is run in a copy of it.
    [page for page in PAGES if page != CONTRIBUTING],
    ids=page_id,
)
def test_python_blocks(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = run_python(page)
    if page == README:
        assert names["loss"].shape == (4,)
        assert names["names"] == tuple("0123456789")


def test_the_formula_on_the_page_is_the_default_similarity():
    page = ROOT / "docs" / "explanations.md"
    block = next(b for b in blocks(page) if "linear_transpose" in b.text)
    names = network()
    exec(block.text, names)
    wanted = class_similarity(names["logits_fn"], names["x"], names["y"])
    np.testing.assert_allclose(names["s"], wanted, rtol=1e-5, atol=1e-6)
