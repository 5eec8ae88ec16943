"""Programs of `launch/`, run by copies of a process that has imported the packages.

Importing them is most of what a command costs that ends with a mistake.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import quick

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Of the environment: programs are compiled as quickly as can be.
SETTINGS = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": quick.FLAGS,
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
}
# A copy for each command; its exit status is printed.
PROGRAM = """
import json, os, runpy, sys
import introspect_jax.cli, introspect_jax.run, introspect_jax.report.explain_run
for line in sys.stdin:
    script, arguments, folder, output = json.loads(line)
    copy = os.fork()
    if not copy:
        os.chdir(folder)
        for number, name in ((1, "stdout"), (2, "stderr")):
            file = os.open(os.path.join(output, name), os.O_CREAT | os.O_WRONLY)
            os.dup2(file, number)
        sys.argv = [script, *arguments]
        runpy.run_path(script, run_name="__main__")
        sys.exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]), flush=True)
"""


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command ended with."""

    returncode: int
    stdout: str
    stderr: str


@contextlib.contextmanager
def commands():
    """`(name of the script, *arguments, folder=ROOT) -> Done`."""
    process = subprocess.Popen(
        # Nothing runs in the threads that JAX warns of.
        [sys.executable, "-W", "ignore:os.fork", "-c", PROGRAM],
        env=os.environ | SETTINGS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def command(script, *arguments, folder=ROOT):
        with tempfile.TemporaryDirectory() as output:
            path = str(ROOT / "launch" / f"{script}.py")
            job = (path, [str(word) for word in arguments], str(folder), output)
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            status = int(process.stdout.readline())
            said = pathlib.Path(output)
            return Done(
                status, (said / "stdout").read_text(), (said / "stderr").read_text()
            )

    with process:
        yield command
        process.stdin.close()
