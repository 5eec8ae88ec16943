"""The code blocks of README, CONTRIBUTING and docs, and the commands in them."""

import dataclasses
import pathlib
import re
import shlex

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
LANGUAGES = ("python", "bash", "diff", "text")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
# A Python block that begins so is a file, not part of the page's program.
FILE = re.compile(r"# ([\w/]+\.py)\n")
# What the first word of a command may be, beside `python launch/NAME.py`.
KINDS = ("cd", "mypy", "pip", "pytest", "ruff", "sbatch")
SCRIPT = re.compile(r"(?:\.\./)*launch/(\w+)\.(?:py|sh)")
_VARIABLE = re.compile(r"([A-Z_]+)=(.*)")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of a block.

    Attributes:
      words: The program and its arguments.
      variables: Environment variables that are set before them.
    """

    words: list[str]
    variables: dict[str, str]

    @property
    def kind(self) -> str:
        """One of `KINDS`, or the name of a program of `launch/`.

        Raises:
          ValueError: There is no way to run it.
        """
        first, *rest = self.words
        if first in KINDS:
            return first
        script = SCRIPT.fullmatch(rest[0] if first == "python" and rest else first)
        if not script:
            raise ValueError(f"no test runs {shlex.join(self.words)!r}")
        return script[1]


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
      page: The file.
      line: Number of its first line.
      language: What follows the fence.
      text: What is in it.
    """

    page: pathlib.Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}, line {self.line}:\n{self.text}"

    @property
    def file(self) -> str | None:
        """The path of a block that is a file."""
        named = FILE.match(self.text)
        return named[1] if named else None

    @property
    def code(self) -> str:
        """The text with its lines where they are on the page, for tracebacks."""
        return "\n" * (self.line - 1) + self.text

    @property
    def commands(self) -> list[Command]:
        """Of a `bash` block; lines and `&&` separate them."""
        found = []
        for line in self.text.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                words = shlex.split(part, comments=True)
                variables = {}
                while words and (named := _VARIABLE.fullmatch(words[0])):
                    variables[named[1]] = named[2]
                    words = words[1:]
                if words:
                    found.append(Command(words, variables))
        return found


def blocks(page: pathlib.Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text()
    return [
        Block(page, text[: found.start(2)].count("\n") + 1, found[1], found[2])
        for found in FENCE.finditer(text)
    ]


def prose(page: pathlib.Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text())
