"""The memory of this machine."""

import os


def host_bytes() -> float:
    """Returns the memory in bytes, infinite if the system cannot tell."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return float("inf")


def describe(count: float) -> str:
    """Formats a number of bytes, as in `12.3 GB`."""
    return f"{count / 1e9:,.1f} GB"
