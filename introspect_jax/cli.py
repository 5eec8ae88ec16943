"""Command lines: parses flags into a checked config, and prints errors as one line."""

import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from introspect_jax import data, interrupts, methods, models, optimizers
from introspect_jax.config import default_config, fields, is_option, lock, validate
from introspect_jax.errors import Stopped, UserError, nearest
from introspect_jax.processes import STOPPED, leave

FAILED, INTERRUPTED = 1, 130
# Shells expand `~` at the start of a word only.
_HOME = re.compile(r"^(--?[\w.]+=)~/")


def define_config_flag() -> None:
    """Defines `--config=FILE[:ARGUMENT]` and `--config.FIELD=VALUE`."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "A file of configs/, with :ARGUMENT where it takes one; --config.FIELD=VALUE "
        "sets a field; --config.model.name=help (data, method, optimizer) lists names.",
        lock_config=False,
        # Fields that are not there are refused by the locks of the config itself, but
        # for those of `options` (config.lock).
        accept_new_attributes=True,
    )


def define_cpu_flag() -> None:
    """Defines `--fast_cpu`."""
    flags.DEFINE_bool(
        "fast_cpu",
        True,
        "Settings with which JAX is faster on CPUs (introspect_jax/cpu.py); results "
        "agree to rounding.",
    )


def run(main: Callable[[], None]) -> None:
    """Parses the flags and calls `main`; a UserError ends the command in one line."""

    def guarded(_: Sequence[str]) -> None:
        try:
            interrupts.install()
            main()
        except UserError as error:
            _fail(str(error))
        except KeyboardInterrupt:
            interrupts.ignore()
            print("interrupted; the same command continues", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            # What was to be written is. The usual way out waits for threads of Orbax
            # and of other processes, which answer an interrupt with stack traces.
            os._exit(INTERRUPTED)
        except Stopped as stopped:
            print(f"{stopped}; the same command continues", file=sys.stderr)
            sys.exit(STOPPED)

    # Class names, folders and tables have characters that a console may lack.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # Orbax reports every file at level INFO; --verbosity=0 shows that.
    logging.set_verbosity(logging.WARNING)
    app.run(guarded, flags_parser=_parse)


def read_config() -> tuple[str, ConfigDict]:
    """Returns the name and the config of the flags, checked and locked.

    Raises:
      UserError: none was given, or its values cannot be.
    """
    config = flags.FLAGS.config
    if config is None:
        raise UserError(f"--config is missing; there are: {', '.join(_configs())}")
    validate(config)
    flag = cast(Any, flags.FLAGS["config"])
    path, _, argument = flag.config_filename.partition(":")
    name = os.path.splitext(os.path.basename(path))[0]
    if argument:
        name += "-" + re.sub(r"[^\w.]+", "-", argument)
    return name, lock(config)


def _parse(argv: Sequence[str]) -> list[str]:
    """Calls `FLAGS(argv)` and reports errors in one line; ml_collections raises
    many."""
    for door in (models.DOOR, data.DOOR, methods.DOOR, optimizers.DOOR):
        if any(re.fullmatch(rf"--?config\.{door.field}\.name=help", w) for w in argv):
            print(door.describe())
            sys.exit(0)
    argv = [_HOME.sub(lambda m: m[1] + os.path.expanduser("~/"), word) for word in argv]
    try:
        _check_config_path(argv)
        rest = flags.FLAGS(argv)
    except UserError as error:
        _fail(str(error))
    except flags.UnrecognizedFlagError as error:
        known = [f"--{name}" for name in flags.FLAGS]
        guess = nearest(f"--{error.flagname}", known)
        _fail(f"unknown flag --{error.flagname}{guess}")
    except Exception as error:  # a config file is a program and may raise anything
        _fail(_explain(argv, error))
    if len(rest) > 1:
        _fail(f"unexpected argument {rest[1]!r}; flags are written --name=value")
    return rest


def _overrides(argv: Sequence[str]) -> list[str]:
    """Returns the dotted fields that the command line sets."""
    found = (re.match(r"--?(?:no)?config\.([\w.]+)", word) for word in argv[1:])
    return [match[1] for match in found if match]


def _explain(argv: Sequence[str], error: Exception) -> str:
    known = fields(default_config())
    for name in _overrides(argv):
        if name not in known and not is_option(name):
            inside = sorted(k for k in known if k.startswith(f"{name}."))
            if inside:
                return f"config.{name} is a group; set one of: {', '.join(inside)}"
            return f"unknown field config.{name}{nearest(name, known)}"
    if isinstance(error, flags.Error):
        return _one_line(error)
    return f"the config cannot be read: {_one_line(error)}"


def _check_config_path(argv: Sequence[str]) -> None:
    for word, following in itertools.pairwise([*argv[1:], ""]):
        match = re.fullmatch(r"--?config(?:=(.*))?", word)
        if not match:
            continue
        path = (match[1] if match[1] is not None else following).partition(":")[0]
        if not os.path.isfile(path):
            guess = nearest(path, _configs())
            raise UserError(
                f"no config file {path!r}{guess}; there are: {', '.join(_configs())}"
            )


def _configs() -> list[str]:
    if not os.path.isdir("configs"):
        return ["(none: run from the folder that holds configs/)"]
    names = sorted(n for n in os.listdir("configs") if n.endswith(".py"))
    return [os.path.join("configs", name) for name in names]


def _one_line(error: Exception) -> str:
    """Returns the message of an error; of a stack trace in it, the last line and the
    last place outside of the library that reads configs."""
    # A locked config lists its fields after the message.
    text = str(error).strip().partition(" Other fields present:")[0]
    if "Traceback" in text:
        places = re.findall(r'File "([^"]+)", line (\d+)', text)
        place = [p for p in places if "ml_collections" not in p[0]][-1]
        return f"{text.splitlines()[-1]} ({place[0]}, line {place[1]})"
    line = text.splitlines()[0] if text else "no message"
    return line if isinstance(error, flags.Error) else f"{type(error).__name__}: {line}"


def _fail(message: str) -> NoReturn:
    leave(FAILED, f"error: {message}")
