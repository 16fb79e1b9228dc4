"""Every test of files runs with reads on the spot where possible and with all operations elsewhere."""

from __future__ import annotations

import pytest

from clearway.files import _host, _moving


@pytest.fixture(params=["at once", "elsewhere"])
def way(request, monkeypatch):
    """Whether cached data may be moved on the spot; else the ring or a thread carries out everything."""
    if request.param == "elsewhere":
        monkeypatch.setattr(_moving.Mover, "inline", False)
    return request.param


class HeldBack:
    """Requests that are not carried out before the test says so."""

    def __init__(self):
        self.waiting = []

    def release(self):
        """Carry out all that wait, in this thread, and tell their loops."""
        requests, self.waiting = self.waiting, []
        for host, request in requests:
            request.do()
            host.loop.call_soon(request.run)


@pytest.fixture
def held_back(monkeypatch):
    """Holds back every operation on files and lets the test carry them out."""
    held = HeldBack()
    monkeypatch.setattr(_moving.Mover, "inline", False)
    monkeypatch.setattr(
        _host.Host, "_start", lambda host, request: held.waiting.append((host, request))
    )
    make = _host.Host.__init__

    def without_ring(host, loop):
        make(host, loop)
        host._ring = None

    monkeypatch.setattr(_host.Host, "__init__", without_ring)
    return held
