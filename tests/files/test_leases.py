"""Reads into leased memory, and files opened past the page cache."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import random
import sys

import pytest

from clearway import _compiled
from clearway.buffers import Pool
from clearway.files import open_file

from ..support.loops import cancelled, run
from ..support.net import settle

pytestmark = [
    pytest.mark.usefixtures("way"),
    pytest.mark.skipif(
        sys.version_info < (3, 12) and bool(_compiled.uncompiled_modules()),
        reason="uncompiled leases need the buffer protocol of Python 3.12",
    ),
]

DATA = random.Random(4).randbytes(300_000)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


def test_reads_into_leases(factory, path):
    async def main():
        async with open_file(path, "rb") as file:
            got = b""
            while True:
                with await file.read_lease(65536) as lease:
                    if not lease:
                        break
                    assert await file.tell() == len(got) + len(lease)
                    got += lease.view
            assert got == DATA
            with await file.pread_lease(100, 299_950) as lease:
                assert bytes(lease) == DATA[299_950:]
            with await file.pread_lease(10, 10**9) as lease:
                assert not lease
            with pytest.raises(ValueError, match="do not fit"):
                await file.read_lease(65537)
            await file.seek(0)
            await file.readline()
            at = await file.tell()
            with await file.read_lease(50) as lease:
                assert lease.view == DATA[at : at + 50]

    run(factory, main)


def test_a_pool_that_is_lent_out_makes_readers_wait(factory, path):
    pool = Pool(1000, 2)

    async def main():
        async with open_file(path, "rb", pool=pool) as file:
            first = await file.pread_lease(1000, 0)
            second = await file.pread_lease(1000, 1000)
            waiting = asyncio.ensure_future(file.pread_lease(500, 2000))
            await settle()
            assert not waiting.done()
            await cancelled(waiting)
            waiting = asyncio.ensure_future(file.pread_lease(500, 2000))
            await settle()
            first.release()
            with await waiting as third:
                assert third.view == DATA[2000:2500]
            second.release()
        assert pool.statistics().lent == 0

    run(factory, main)


def test_cancelled_reads_give_their_blocks_back(factory, path):
    pool = Pool(4096, 4, alignment=4096)

    async def main():
        async with open_file(path, "rb", pool=pool) as file:
            for turns in range(20):
                tasks = [
                    asyncio.ensure_future(file.pread_lease(4096, at * 4096)) for at in range(6)
                ]
                for _ in range(turns % 5):
                    await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
                for lease in await asyncio.gather(*tasks, return_exceptions=True):
                    if not isinstance(lease, BaseException):
                        lease.release()
                assert pool.statistics().lent == 0

    run(factory, main)


@pytest.fixture
def direct(path):
    """A file on a file system that has O_DIRECT."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError as error:
        assert error.errno == errno.EINVAL
        pytest.skip("the file system of the temporary directory has no O_DIRECT")
    return path


def test_past_the_page_cache(factory, direct):
    async def main():
        async with open_file(direct, "r+b", direct=True) as file:
            assert await file.read(5) == DATA[:5]
            assert await file.read(100_000) == DATA[5:100_005]
            assert await file.readline() == DATA[100_005:].split(b"\n")[0] + b"\n"
            assert await file.pread(4096, 8192) == DATA[8192:12288]
            assert await file.pread(5000, 299_000) == DATA[299_000:]
            assert await file.pread(10, 10**6) == b""
            with await file.pread_lease(4096, 4096) as lease:
                assert lease.view == DATA[4096:8192]
            await file.seek(0)
            assert await file.read() == DATA
            aligned = mmap.mmap(-1, 8192)
            assert await file.preadinto(aligned, 4096) == 8192
            assert aligned[:] == DATA[4096:12288]
            aligned[:] = b"x" * 8192
            assert await file.pwrite(aligned, 0) == 8192
            assert await file.pwrite(b"y" * 4096, 8192) == 4096  # not aligned in memory
            for data, offset in ((b"z" * 100, 0), (b"z" * 4096, 100)):
                with pytest.raises(ValueError, match="multiples of 4096"):
                    await file.pwrite(data, offset)
            await file.flush(fsync=True)
        assert direct.read_bytes() == b"x" * 8192 + b"y" * 4096 + DATA[12288:]

    run(factory, main)


def test_many_at_once_past_the_page_cache(factory, direct):
    pool = Pool(4096, 16, alignment=4096)

    async def main():
        async with open_file(direct, "rb", direct=True, pool=pool) as file:

            async def read(at):
                with await file.pread_lease(4096, at) as lease:
                    assert lease.view == DATA[at : at + 4096]

            await asyncio.gather(*(read(at) for at in range(0, 290_000, 4096)))

    run(factory, main)
