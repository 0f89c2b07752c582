"""Where each role can be killed: every record that it writes and every message that it sends, before and after.

A node that has died of one is armed with the next, so a chain goes through several rounds, and through several crashes of
one round where the points follow each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def _both(*points: str) -> list[str]:
    return [f"kill:{point}:{when}:1" for point in points for when in ("before", "after")]


def _of(records: Sequence[str], messages: Sequence[str]) -> list[str]:
    return _both(*(f"persist:{kind}" for kind in records), *(f"send:{kind}" for kind in messages))


OWNER = [
    *_of(["job", "Accepted", "Reporting"], ["SeedReport"]),
    "kill:persist:bulk:before:1",
    "kill:compute:vector:before:1",
    "kill:send:SeedReport:before:2",  # one seed holder has its share, the other has not
    *_of(["Done", "Closed", "erase"], ["VectorReport", "Reported"]),
]
AGGREGATOR = [
    *_of(["Prepared", "Accepted", "SeedTaken", "VectorAdded"], ["Prekey", "Endorsement", "Receipt"]),
    "kill:persist:bulk:before:1",
    "kill:send:Receipt:before:3",  # two seeds and a vector are acknowledged in every round
    *_of(["Frozen", "Voted", "Released", "Closed", "erase"], ["FrozenList", "Vote", "PartialSum"]),
]
COORDINATOR = [
    *_of(["start", "attempt", "Opened", "Made", "Agreed"], ["PrekeyRequest", "ManifestOffer", "RoundOffer"]),
    "kill:send:ManifestOffer:before:2",
    "kill:send:RoundOffer:before:2",
    "kill:value:write:before:2",
    "kill:persist:bulk:before:1",
    "kill:send:Votes:before:2",
    *_of(["Summed", "result", "erase", "end"], ["FrozenLists", "Votes", "ReleaseReceipt"]),
]
CHAINS = {"owner-2": OWNER, "aggregator-1": AGGREGATOR, "coordinator": COORDINATOR}


def repeated(chain: Iterable[str], times: int) -> list[str]:
    return [*chain] * times


DISK = {
    "aggregator-1": [
        "ENOSPC:persist:Prepared:before:1-3",
        "EIO:persist:bulk:before:1-2",
        "ENOSPC:persist:SeedTaken:before:2-4",
        "EIO:persist:Voted:before:1",
        "ENOSPC:persist:Released:before:1-3",
        "EIO:persist:Closed:before:1-2",
    ],
    "coordinator": [
        "ENOSPC:persist:attempt:before:1-2",
        "EIO:persist:Made:before:1-2",
        "ENOSPC:persist:bulk:before:1-2",
        "ENOSPC:value:write:before:2-3",  # the first is the model that the run begins with
        "EIO:persist:result:before:1",
        "EIO:persist:end:before:1-2",
    ],
    "owner-2": ["ENOSPC:persist:Reporting:before:1-3", "EIO:persist:bulk:before:5-6", "EIO:persist:Done:before:1-2"],
}
"""Each is met once, and waited for. An owner writes its bulk again with every try: the fifth is of another round."""

NOT_REPEATABLE = [
    "kill:compute:vector:before:1",
    "kill:persist:bulk:before:1",
    "kill:persist:Reporting:before:1",
    "kill:persist:Reporting:after:1",
    "kill:send:SeedReport:before:1",
    "kill:send:SeedReport:after:1",
    "kill:send:SeedReport:after:2",
    "kill:send:VectorReport:before:1",
    "kill:send:VectorReport:after:1",
    "kill:persist:Done:before:1",
]
