"""Faults on purpose: a node that dies, is held, or finds the disk full, where it says so and at the time that is asked for.

For tests alone. Off unless `SMPC_FL_FAULT` is set when a node starts, to one or more, separated by commas, of

    ACTION:STEP:NAME:WHEN:COUNT     kill:persist:VectorAdded:before:2
    ACTION                          kill (SIGKILL to itself), stop (SIGSTOP), or an error of the disk: ENOSPC, EIO
    STEP:NAME                       persist:KIND    a record (or a named value) becomes durable; `bulk`, `erase`
                                    send:MESSAGE    a message goes to the transport
                                    compute:vector  an owner's job is run
                                    value:write     a run's value becomes durable
    WHEN                            before, after (errors of the disk: before)
    COUNT                           the n-th time that the node is there, or the n-th to the last: 2-9

A fault ends the process, pauses it, or makes a write fail: whatever can set a node's environment can do that anyway.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog

from smpc_fl.errors import ConfigInvalid

log = structlog.get_logger()
VARIABLE = "SMPC_FL_FAULT"
_SPELLING = re.compile(
    r"(?:(?:kill|stop):(?:persist|send|compute|value):\w+:(?:before|after)|(?:ENOSPC|EIO):(?:persist|value):\w+:before)"
    r":\d+(?:-\d+)?"
)


@dataclass
class Fault:
    action: str
    point: tuple[str, str, str]
    first: int
    last: int
    seen: int = 0


armed: Sequence[Fault] = ()
"""What is switched on. Callers look here first, so that nothing is spent on points in a node without faults."""


def arm(text: str) -> None:
    """Switch on what `text` says, nothing if it is empty. Raises `ConfigInvalid`."""
    global armed
    armed = [_read(each) for each in text.split(",")] if text else ()
    if armed:
        log.critical("THIS NODE FAILS ON PURPOSE: unset the variable unless this is a test", text=f"{VARIABLE}={text}")


def arm_from_environment() -> None:
    arm(os.environ.get(VARIABLE, ""))


def _read(text: str) -> Fault:
    if not _SPELLING.fullmatch(text):
        raise ConfigInvalid(f"{VARIABLE}: {text!r} is not ACTION:STEP:NAME:WHEN:COUNT: unset it unless this is a test")
    action, step, name, when, count = text.split(":")
    first, _, last = count.partition("-")
    return Fault(action, (step, name, when), int(first), int(last or first))


def at(step: str, names: Iterable[str], when: str) -> None:
    """The process is at these points. Raises `OSError` where the disk is to fail."""
    for name in names:
        for fault in armed:
            if fault.point == (step, name, when):
                fault.seen += 1
                if fault.first <= fault.seen <= fault.last:
                    _happen(fault.action)


def _happen(action: str) -> None:
    match action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case _:
            number = getattr(errno, action)
            raise OSError(number, os.strerror(number))
