"""Leases: windows that share memory, are counted, and answer nothing once released."""

from __future__ import annotations

import array
import gc
import subprocess
import sys
import warnings

import pytest

from clearway.buffers import Lease, Memory, Pool, track_leaks
from clearway.buffers.lease import is_tracking, wrapped_account


@pytest.fixture
def pool():
    return Pool(block_size=64, blocks=4)


def filled(pool, data):
    lease = pool.take_nowait()
    with lease.view as view:
        view[: len(data)] = data
    lease.truncate(len(data))
    return lease


def test_a_lease_speaks_the_buffer_protocol(pool):
    with filled(pool, b"hello world") as lease:
        assert len(lease) == lease.nbytes == 11
        assert bytes(lease) == b"hello world"
        assert memoryview(lease) == b"hello world"
        assert lease[0] == ord("h") and lease[-1] == ord("d")
        assert b"".join([lease, b"!"]) == b"hello world!"
        assert not lease.readonly
        assert bool(lease)


def test_an_index_beyond_the_end_is_an_error(pool):
    with filled(pool, b"abc") as lease:
        for index in (3, -4):
            with pytest.raises(IndexError):
                lease[index]


def test_a_slice_shares_the_memory(pool):
    with filled(pool, b"hello world") as lease, lease[6:] as word:
        assert bytes(word) == b"world"
        with lease.view as view:
            view[6:11] = b"there"
        assert bytes(word) == b"there"
        assert bytes(lease[-5:-1]) == b"ther"
        assert len(lease[4:2]) == 0 and not lease[4:2]
        with pytest.raises(ValueError, match="step"):
            lease[::2]


def test_memory_returns_with_the_last_lease_whatever_the_order(pool):
    lease = filled(pool, b"hello")
    part = lease[1:3]
    shared = lease.share()
    lease.release()
    assert pool.statistics().lent == 1
    assert bytes(part) == b"el" and bytes(shared) == b"hello"
    shared.release()
    assert pool.statistics().lent == 1
    part.release()
    assert pool.statistics().lent == 0


def test_a_released_lease_answers_nothing(pool):
    lease = filled(pool, b"secret")
    lease.release()
    assert lease.released
    uses = [
        lambda: len(lease),
        lambda: lease.nbytes,
        lambda: lease.readonly,
        lambda: lease.view,
        lambda: memoryview(lease),
        lambda: bytes(lease),
        lambda: lease[0],
        lambda: lease[1:2],
        lambda: lease.share(),
        lambda: lease.retain(),
        lambda: lease.release(),
        lambda: lease.truncate(0),
        lambda: lease.find(b"s"),
        lambda: lease.__enter__(),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="released"):
            use()
    assert "released" in repr(lease)


def test_views_forbid_the_release(pool):
    lease = filled(pool, b"hello")
    view = lease.view
    with pytest.raises(BufferError, match="1 view"):
        lease.release()
    with pytest.raises(BufferError, match="1 view"):
        lease.truncate(2)
    assert view == b"hello" and not lease.released
    part = view[1:]
    view.release()
    with pytest.raises(BufferError):
        lease.release()
    part.release()
    lease.release()
    assert pool.statistics().lent == 0


def test_retain_counts(pool):
    lease = filled(pool, b"x").retain()
    lease.release()
    assert not lease.released
    lease.release()
    assert lease.released
    assert pool.statistics().lent == 0


def test_a_block_may_pass_the_lease_on(pool):
    with filled(pool, b"x") as lease:
        lease.release()
    with pytest.raises(KeyError), filled(pool, b"x") as lease:
        raise KeyError
    assert lease.released and pool.statistics().lent == 0


def test_truncate(pool):
    with filled(pool, b"hello") as lease:
        lease.truncate(2)
        assert bytes(lease) == b"he"
        for wrong in (3, -1):
            with pytest.raises(ValueError, match="truncate"):
                lease.truncate(wrong)


@pytest.mark.parametrize("needle", [b"\n", b"\r\n", b"lo w", b"absent", b"hello world!\r\nx"])
@pytest.mark.parametrize("bounds", [(), (3,), (4, 9), (0, 5), (20,), (13, 99)])
def test_find_is_that_of_bytes(pool, needle, bounds):
    data = b"hello world!\r\n"
    with filled(pool, data) as lease:
        assert lease.find(needle, *bounds) == data.find(needle, *bounds)


def test_find_stays_within_the_lease(pool):
    with filled(pool, b"ab\r\ncd\r\n") as lease, lease[:3] as part:
        assert part.find(b"\r\n") == -1
        with pytest.raises(ValueError, match="empty"):
            lease.find(b"")
        with pytest.raises(ValueError, match="negative"):
            lease.find(b"a", -1)


def test_of_wraps_a_buffer_of_the_users():
    data = bytearray(b"hello")
    lease = Lease.of(data)
    assert bytes(lease[1:3]) == b"el" and not lease.readonly
    with pytest.raises(BufferError):
        data.append(1)  # its memory must not move
    lease.release()
    data.append(1)
    assert Lease.of(b"bytes").readonly
    assert len(Lease.of(array.array("d", [1.0, 2.0]))) == 16
    assert len(Lease.of(b"")) == 0
    assert len(Lease.of(Lease.of(b"nested"))) == 6


def test_of_refuses_what_has_no_contiguous_buffer():
    with pytest.raises(TypeError):
        Lease.of("text")
    with pytest.raises(BufferError):
        Lease.of(memoryview(b"abcdef")[::2])
    with pytest.raises(TypeError, match=r"Lease\.of"):
        Lease()


def test_a_read_only_lease_gives_read_only_views():
    with Lease.of(b"constant") as lease, lease.view as view:
        assert view.readonly
        with pytest.raises(TypeError):
            view[0] = 0


def test_copies_are_counted(pool):
    with filled(pool, b"hello") as lease:
        before = pool.account.copied
        bytes(lease)
        bytes(lease[1:3])
        assert pool.account.copied - before == 7
    before = wrapped_account.copied
    with Lease.of(b"abc") as lease:
        bytes(lease)
    assert wrapped_account.copied - before == 3


def test_a_dropped_lease_goes_back(pool):
    lease = filled(pool, b"x")
    part = lease[:1]
    del lease
    gc.collect()
    assert pool.statistics().lent == 1
    del part
    gc.collect()
    assert pool.statistics().lent == 0


def test_a_lease_in_a_circle_of_references_goes_back(pool):
    class Holder:
        pass

    holder = Holder()
    holder.me = holder
    holder.lease = pool.take_nowait()
    holder.pool = pool
    del holder
    gc.collect()
    assert pool.statistics().lent == 0


@pytest.fixture
def tracking():
    before = is_tracking()
    track_leaks(True)
    yield
    track_leaks(before)


def take_for_test(pool):
    return pool.take_nowait()


def test_a_leak_says_where_it_was_taken(pool, tracking):
    lease = take_for_test(pool)
    with pytest.warns(ResourceWarning, match=r"64 bytes of Block") as caught:
        del lease
        gc.collect()
    text = str(caught[0].message)
    assert "take_for_test" in text and "test_lease.py" in text
    assert pool.statistics().lent == 0


def test_released_and_wrapped_leases_are_no_leaks(pool, tracking):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lease = pool.take_nowait()
        bytes(lease[2:4])  # the slice is dropped while the lease is held
        lease.release()
        del lease
        Lease.of(b"abc")
        gc.collect()


def test_development_mode_tracks_from_the_start():
    code = (
        "from clearway.buffers import Pool; p = Pool(64, 1); p.take_nowait(); print(p.statistics())"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, check=True
    )
    assert "ResourceWarning" in done.stderr and "<string>" in done.stderr
    assert "lent=0" in done.stdout


def test_memory_hears_of_each_time_it_becomes_idle():
    class Region(Memory):
        idled = 0

        def idle(self):
            self.idled += 1

    region = Region(bytearray(b"0123456789"))
    first, second = region.lend(2, 5), region.lend()
    assert bytes(first) == b"234" and bytes(second) == b"0123456789"
    first.release()
    assert region.idled == 0 and region.holds == 1
    second.release()
    assert region.idled == 1 and region.holds == 0
    region.lend().release()
    assert region.idled == 2
    for wrong in ((5, 2), (-1, 3), (0, 11)):
        with pytest.raises(ValueError, match="not within"):
            region.lend(*wrong)


def test_memory_that_was_given_back_is_lent_no_more():
    memory = Memory(bytearray(b"abc"))
    memory.lend().release()
    with pytest.raises(ValueError, match="given back"):
        memory.lend()
