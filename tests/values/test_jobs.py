"""Jobs have one spelling, whose digest is what owners approve."""

from __future__ import annotations

import msgspec
import pytest

from smpc_fl.errors import BadInput, MalformedMessage
from smpc_fl.jobs import (
    AggregateJob,
    Evaluation,
    Job,
    LocalTraining,
    Stop,
    TrainJob,
    decode_job,
    encode_job,
    job_digest,
)
from smpc_fl.learning.strategies import FedAvg, FedSGD

JOBS: list[Job] = [
    TrainJob(plan=b"{}", inputs="x", targets="y", rounds=3),
    TrainJob(
        plan=b"{}", inputs="x", targets="y", rounds=1, strategy=FedSGD(lr=0.5, weights="equal"),
        local=LocalTraining(optimizer="adam"), evaluation=Evaluation(fraction=0.2), stop=Stop(target=0.9),
        ring_bits=64, update_bits=16, seed=bytes(range(16)),
    ),
    AggregateJob(expression=b"e", reduce="mean", shape=[2, 3], bound=8.0, weights=[1.0, 0.5]),
    AggregateJob(expression=b"e", reduce="sum", shape=[], bound=8.0, ring_bits=23),
    AggregateJob(expression=b"e", reduce="sum", shape=[], bound=8.0, ring_bits="fit"),
]  # fmt: skip


@pytest.mark.parametrize("job", JOBS)
def test_a_job_comes_back_as_it_was(job: Job) -> None:
    data = encode_job(job)
    assert decode_job(data) == job
    assert len(job_digest(data)) == 32


def test_every_option_changes_the_digest() -> None:
    digests = {job_digest(encode_job(job)) for job in JOBS}
    digests.add(job_digest(encode_job(msgspec.structs.replace(JOBS[0], strategy=FedAvg(server_lr=0.5)))))
    digests.add(job_digest(encode_job(msgspec.structs.replace(JOBS[0], clip=1.0))))
    assert len(digests) == len(JOBS) + 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        encode_job(JOBS[0])[:-1],
        encode_job(JOBS[0]) + b"\0",
        b"\x81\xa4type\xa8TrainJob",
        b"\x81\xa1\xff\x01",
    ],
)
def test_other_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_job(data)


def test_another_spelling_of_a_job_is_malformed() -> None:
    fields = msgspec.msgpack.decode(encode_job(JOBS[0]))
    reordered = dict(reversed(fields.items()))
    with pytest.raises(MalformedMessage, match="one canonical spelling"):
        decode_job(msgspec.msgpack.encode(reordered))


@pytest.mark.parametrize(
    "field",
    [
        {"clip": 0.0}, {"rounds": -1}, {"max_samples": 0}, {"seed": b"short"}, {"extra": 1}, {"ring_bits": 7},
        {"ring_bits": 65}, {"ring_bits": "fits"}, {"ring_bits": 23.5}, {"update_bits": 1}, {"update_bits": "fit"},
    ],
)  # fmt: skip
def test_values_out_of_range_do_not_decode(field: dict[str, object]) -> None:
    fields = msgspec.msgpack.decode(encode_job(JOBS[0])) | field
    with pytest.raises(MalformedMessage):
        decode_job(msgspec.msgpack.encode(fields, order="deterministic"))


@pytest.mark.parametrize(
    "field",
    [
        {"weights": []}, {"weights": [1.0, 5e-324]}, {"weights": [2.0]}, {"shape": [1 << 20, 1 << 20]}, {"shape": [1 << 31]},
        {"shape": [1 << 30] * 16}, {"bound": float("nan")},
    ],
)  # fmt: skip
def test_an_aggregate_that_no_manifest_could_state_does_not_decode(field: dict[str, object]) -> None:
    fields = msgspec.msgpack.decode(encode_job(JOBS[2])) | field
    with pytest.raises(MalformedMessage):
        decode_job(msgspec.msgpack.encode(fields, order="deterministic"))


def test_an_aggregate_over_the_cap_is_the_callers_mistake() -> None:
    with pytest.raises(BadInput, match="reduce first"):
        AggregateJob(expression=b"e", reduce="sum", shape=[1 << 30, 2], bound=8.0)
