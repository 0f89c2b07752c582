"""`nodes.uploads`: so many bytes at a time, first come first served, buffers used again, nothing held by the cancelled."""

from __future__ import annotations

import asyncio

import numpy as np

from smpc_fl.nodes.uploads import Upload, Uploads

WORD = np.dtype("<u4")


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_as_many_as_fit_and_the_others_in_their_order() -> None:
    room = Uploads(100)
    first, second = await room.begin(60), await room.begin(30)
    entered: list[int] = []

    async def enter(number: int, size: int) -> Upload:
        upload = await room.begin(size)
        entered.append(number)
        return upload

    waiting = [asyncio.create_task(enter(number, size)) for number, size in enumerate((50, 5, 70))]
    await settle()
    assert entered == []  # 5 would fit, but comes after 50
    first.close()
    await settle()
    assert entered == [0, 1]
    second.close()
    (await waiting[0]).close()
    await settle()
    assert entered == [0, 1, 2]
    (await waiting[1]).abandoned()
    (await waiting[2]).close()


async def test_two_whatever_their_size() -> None:
    room = Uploads(1)
    one, other = await room.begin(1000), await room.begin(1000)
    third = asyncio.create_task(room.begin(1000))
    await settle()
    assert not third.done()
    one.close()
    one.close()  # once is enough, twice gives no second place
    fourth = asyncio.create_task(room.begin(1000))
    await settle()
    assert third.done()
    assert not fourth.done()
    other.close()
    (await third).close()
    (await fourth).close()


async def test_who_is_cancelled_holds_nothing() -> None:
    room = Uploads(1)
    held = [await room.begin(10), await room.begin(10)]
    in_line, granted = asyncio.create_task(room.begin(10)), asyncio.create_task(room.begin(10))
    await settle()
    in_line.cancel()
    await settle()
    held[0].close()  # grants the place to the other one, which is cancelled before it wakes
    granted.cancel()
    await settle()
    assert granted.cancelled()
    again = await room.begin(10)
    again.close()
    held[1].close()


async def test_buffers_are_used_again_and_overwritten_when_a_round_ends() -> None:
    room = Uploads(100)
    upload = await room.begin(10)
    words = upload.words(4, WORD)
    words[:] = 7
    upload.close()
    room.forget()
    assert not words.any()
    again = await room.begin(10)
    assert again.words(4, WORD) is words
    other = await room.begin(10)
    assert other.words(5, WORD).size == 5
    other(memoryview(b"known already: dropped"))
    again.close()
    other.close()
