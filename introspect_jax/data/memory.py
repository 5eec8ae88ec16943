"""What can be held at once, as far as the system tells."""

import os


def host_bytes() -> float:
    """The memory of this machine; infinite where the system cannot say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return float("inf")


def describe(count: float) -> str:
    """Bytes for people, as in `12.3 GB`."""
    return f"{count / 1e9:,.1f} GB"
