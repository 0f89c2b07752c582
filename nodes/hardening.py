"""What a process that holds keys or data does before it loads any: it leaves no core file, and lets nobody look inside.

The soft limit of core files is 0, which systems without more go by. On Linux the process is not dumpable either
(prctl(2), PR_SET_DUMPABLE): no core dump is written, to a file or to a handler, and no other process of the same user may
attach to it or read its memory. Who is root may do all of that in any case.

Debuggers and profilers (gdb, py-spy, rr) need what this forbids. `SMPC_FL_DEBUGGABLE=1` in the environment leaves all as it
was, and a node says so in its log, loudly.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

SWITCH = "SMPC_FL_DEBUGGABLE"
_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4  # <linux/prctl.h>


def harden() -> bool:
    """For the whole process, from now on; children that it forks inherit it, programs that it starts only the limit.

    False if the system has no more than the limit, or if the switch forbids it."""
    if os.environ.get(SWITCH) == "1":
        return False
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    return _undumpable()


def _undumpable() -> bool:
    if sys.platform != "linux":
        return False
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (AttributeError, OSError, TypeError):  # another C library, or none to ask
        return False
    return bool(prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 and prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 0)


def harden_node() -> None:
    """As `harden`, and one line in the log where it is not all that it should be."""
    if harden():
        return
    import structlog  # not for the command line, which hardens itself at every call

    log = structlog.get_logger()
    if os.environ.get(SWITCH) == "1":
        log.warning(
            "DEBUGGABLE",
            message=f"{SWITCH}=1: core dumps of this process, and debuggers, can read its keys and data. Not for real data",
        )
    else:
        log.warning(
            "hardening", message="this system cannot keep other processes of the same user out of this one's memory"
        )
