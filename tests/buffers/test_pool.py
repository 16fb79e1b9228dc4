"""Pools are bounded: who finds no block waits, in order, and nobody who gave up takes one along."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import threading

import pytest

from clearway.buffers import Pool, PoolClosed, PoolExhausted

from ..support.loops import run, until


def address(lease):
    with lease.view as view:
        return ctypes.addressof(ctypes.c_char.from_buffer(view))


@pytest.mark.parametrize("alignment", [1, 64, 512, 4096])
def test_blocks_are_aligned_and_apart(alignment):
    pool = Pool(block_size=1000, blocks=8, alignment=alignment)
    leases = [pool.take_nowait() for _ in range(8)]
    places = sorted(address(lease) for lease in leases)
    assert all(place % alignment == 0 for place in places)
    assert all(b - a >= 1000 for a, b in itertools.pairwise(places))
    assert all(len(lease) == 1000 for lease in leases)
    for lease in leases:
        lease.release()


def test_a_pool_is_bounded():
    pool = Pool(block_size=16, blocks=2, name="small")
    first, second = pool.take_nowait(), pool.take_nowait()
    with pytest.raises(PoolExhausted, match="'small' 2/2 blocks of 16 bytes"):
        pool.take_nowait()
    place = address(first)
    first.release()
    third = pool.take_nowait()
    assert address(third) == place, "the block given back last is lent next"
    figures = pool.statistics()
    assert (figures.blocks, figures.block_size) == (2, 16)
    assert (figures.lent, figures.peak, figures.takes, figures.waits) == (2, 2, 3, 0)
    second.release()
    third.release()
    assert pool.statistics().lent == 0


def test_a_truncated_block_is_whole_again_when_it_is_lent_next():
    pool = Pool(block_size=16, blocks=1)
    lease = pool.take_nowait()
    lease.truncate(3)
    lease.release()
    with pool.take_nowait() as lease:
        assert len(lease) == 16


@pytest.mark.parametrize(
    "wrong",
    [
        {"block_size": 0},
        {"blocks": 0},
        {"alignment": 0},
        {"alignment": 48},
        {"alignment": 8192},
    ],
)
def test_sizes_that_cannot_be(wrong):
    with pytest.raises(ValueError):
        Pool(**wrong)


def test_take_waits_in_order(factory):
    async def main():
        pool = Pool(block_size=16, blocks=1)
        got = []

        async def user(number):
            with await pool.take():
                got.append(number)
                await asyncio.sleep(0)

        held = await pool.take()
        users = [asyncio.create_task(user(number)) for number in range(5)]
        await until(lambda: pool.statistics().waiting == 5)
        with pytest.raises(PoolExhausted):
            pool.take_nowait()
        held.release()
        with pytest.raises(PoolExhausted):
            pool.take_nowait()  # the block belongs to who waited
        await asyncio.gather(*users)
        assert got == [0, 1, 2, 3, 4]
        figures = pool.statistics()
        assert (figures.lent, figures.peak, figures.waits, figures.waiting) == (0, 1, 5, 0)

    run(factory, main)


def test_who_gives_up_waiting_is_skipped(factory):
    async def main():
        pool = Pool(block_size=16, blocks=1)
        held = pool.take_nowait()
        first = asyncio.create_task(pool.take())
        second = asyncio.create_task(pool.take())
        await until(lambda: pool.statistics().waiting == 2)
        first.cancel()
        await asyncio.wait([first])
        assert pool.statistics().waiting == 1
        held.release()
        (await second).release()
        pool.take_nowait().release()

    run(factory, main)


def test_a_block_granted_to_who_is_cancelled_goes_to_the_next(factory):
    async def main():
        pool = Pool(block_size=16, blocks=1)
        held = pool.take_nowait()
        first = asyncio.create_task(pool.take())
        second = asyncio.create_task(pool.take())
        await until(lambda: pool.statistics().waiting == 2)
        held.release()  # granted to the first
        first.cancel()  # which does not run before it is cancelled
        await asyncio.wait([first])
        assert first.cancelled()
        (await second).release()
        assert pool.statistics().lent == 0

    run(factory, main)


def test_a_block_given_back_by_another_thread_wakes_the_loop(factory):
    async def main():
        pool = Pool(block_size=16, blocks=1)
        held = pool.take_nowait()
        waiting = asyncio.create_task(pool.take())
        await until(lambda: pool.statistics().waiting == 1)
        thread = threading.Thread(target=held.release)
        thread.start()
        (await waiting).release()
        thread.join()
        assert pool.statistics().lent == 0

    run(factory, main)


def test_closing_ends_the_waits_and_spares_the_leases(factory):
    async def main():
        pool = Pool(block_size=16, blocks=1)
        held = pool.take_nowait()
        waiting = asyncio.create_task(pool.take())
        await until(lambda: pool.statistics().waiting == 1)
        pool.close()
        pool.close()
        with pytest.raises(PoolClosed):
            await waiting
        with pytest.raises(PoolClosed):
            pool.take_nowait()
        with pytest.raises(PoolClosed):
            await pool.take()
        with held.view as view:
            view[:5] = b"still"
        assert bytes(held[:5]) == b"still"
        held.release()
        assert pool.statistics().lent == 0

    run(factory, main)


def test_a_waiter_whose_loop_is_closed_is_passed_over(factory):
    pool = Pool(block_size=16, blocks=1)
    held = pool.take_nowait()
    loop = factory()

    async def main():
        waiting = asyncio.ensure_future(pool.take())
        waiting._log_destroy_pending = False  # that is the test
        await until(lambda: pool.statistics().waiting == 1)
        return waiting

    waiting = loop.run_until_complete(main())
    loop.close()
    held.release()
    pool.take_nowait().release()
    del waiting
