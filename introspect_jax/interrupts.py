"""Ctrl-C, once and twice: what is being written is finished, without a trace."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator

# Within this of the last one, a Ctrl-C is the same one: keys bounce, and people are
# impatient.
_SAME_SECONDS = 1.0
_last = float("-inf")


def is_new() -> bool:
    """Whether this Ctrl-C came more than a second after the last one."""
    global _last
    before, _last = _last, time.monotonic()
    return _last - before > _SAME_SECONDS


def install() -> None:
    """Makes Ctrl-C raise one KeyboardInterrupt, however often it is pressed within a
    second. For commands, in their main thread."""

    def interrupt(number, frame):
        del number, frame
        if is_new():
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


def ignore() -> None:
    """Ignores Ctrl-C from now on, while the process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def deferred(what: str) -> Iterator[None]:
    """Context in which a Ctrl-C is raised at the end; a second one, more than a second
    later, is raised at once.

    Args:
      what: Is being done, as in "the checkpoint is being written".
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    pending = False

    def remember(number, frame):
        del number, frame
        nonlocal pending
        if not is_new():
            pending = True
            return
        if pending:
            raise KeyboardInterrupt
        pending = True
        print(f"{what}; Ctrl-C again does not wait", file=sys.stderr, flush=True)

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pending:
        raise KeyboardInterrupt
