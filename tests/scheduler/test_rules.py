"""Each rule, alone: while it applies no step is suspended, and the refusal is counted under its number."""

from __future__ import annotations

import asyncio
import gc
import pathlib
import re
import socket
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from clearway.scheduler import domains, rules
from clearway.scheduler.critical import critical

from .host import Host, declines, run


def module_with(source: str, name: str, **values: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__.update(values)
    exec(compile(source, f"<{name}>", "exec"), module.__dict__)
    return module


def test_u0_nobody_else_has_anything_to_do() -> None:
    async def main(host: Host) -> None:
        scheduler = host._scheduler
        while scheduler.declined[rules.U0] < 3:
            pass
        assert scheduler.suspensions == 0

    run(main)


def test_u1_the_loop_is_closed() -> None:
    def step(host: Host, spin: Callable[[], None]) -> None:
        host.is_closed = lambda: True  # type: ignore[method-assign]
        spin()
        del host.is_closed

    declines(rules.U1, step)


def test_u2_a_critical_section() -> None:
    def step(host: Host, spin: Callable[[], None]) -> None:
        with critical(), critical():
            spin()

    declines(rules.U2, step)


def test_u2_a_task_that_is_not_preemptible() -> None:
    async def main(host: Host) -> None:
        scheduler = host._scheduler
        flags: list[bool] = []

        async def steadfast() -> None:
            domains.preemptible_var.set(False)
            host.call_soon(flags.append, True)
            while scheduler.declined[rules.U2] < 3:
                pass
            assert not flags

        await asyncio.create_task(steadfast())

    run(main)


def test_u3_a_trace_function() -> None:
    def step(host: Host, spin: Callable[[], None]) -> None:
        old = sys.gettrace()
        sys.settrace(lambda *_: None)
        try:
            spin()
        finally:
            sys.settrace(old)

    declines(rules.U3, step)


def test_u3_a_profile_function() -> None:
    def step(host: Host, spin: Callable[[], None]) -> None:
        sys.setprofile(lambda *_: None)
        try:
            spin()
        finally:
            sys.setprofile(None)

    declines(rules.U3, step)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring came with 3.12")
def test_u3_inside_a_monitoring_callback() -> None:
    def step(host: Host, spin: Callable[[], None]) -> None:
        monitoring = sys.monitoring
        tool = 4
        monitoring.use_tool_id(tool, "test")

        def target() -> None:
            pass

        def callback(*_: Any) -> Any:
            monitoring.set_local_events(tool, target.__code__, 0)
            spin()

        monitoring.register_callback(tool, monitoring.events.PY_START, callback)
        monitoring.set_local_events(tool, target.__code__, monitoring.events.PY_START)
        try:
            target()
        finally:
            monitoring.free_tool_id(tool)

    declines(rules.U3, step)


def test_u4_a_c_call_that_is_no_wait() -> None:
    async def main(host: Host) -> None:
        import re

        scheduler = host._scheduler
        flags: list[bool] = []
        host.call_soon(flags.append, True)
        pattern = re.compile("(?:a|aa)+$")
        n = 20
        while not scheduler.declined[rules.U4]:
            n += 1
            with critical():  # so that only the call itself can be met
                pass
            pattern.match("a" * n + "b")
            assert n < 40

    run(main)


def test_u5_native_code_of_somebody_else() -> None:
    ctypes = pytest.importorskip("ctypes")

    def step(host: Host, spin: Callable[[], None]) -> None:
        ctypes.CFUNCTYPE(None)(spin)()

    declines(rules.U5, step)


def test_u6_a_finaliser() -> None:
    def step(host: Host, spin: Callable[[], None]) -> None:
        class Dying:
            def __del__(self) -> None:
                spin()

        Dying()

    declines(rules.U6, step)


def test_u6_a_weak_reference_callback() -> None:
    def step(host: Host, spin: Callable[[], None]) -> None:
        class Node:
            pass

        node = Node()
        reference = weakref.ref(node, lambda _: spin())
        del node
        assert reference() is None

    declines(rules.U6, step)


def test_u6_the_collector() -> None:
    def step(host: Host, spin: Callable[[], None]) -> None:
        class Node:
            other: Any

        a, b = Node(), Node()
        a.other, b.other = b, a
        reference = weakref.ref(a, lambda _: spin())
        del a, b
        gc.collect()
        assert reference() is None

    declines(rules.U6, step)


def test_u7_a_module_body() -> None:
    def step(host: Host, spin: Callable[[], None]) -> None:
        module_with("spin()", "half_made", spin=spin)

    declines(rules.U7, step)


@pytest.mark.parametrize("name", rules.DENIED_MODULES)
def test_u7_a_denied_module(name: str) -> None:
    """Each row is looked up as it is written: a module, what lies below it, or a part of one."""
    module, _, last = name.rpartition(".")

    def step(host: Host, spin: Callable[[], None]) -> None:
        if last.startswith("_") and last[1:2].isupper():
            source = f"class {last}:\n    def f(self):\n        spin()\ndef f(): {last}().f()"
            module_with(source, module, spin=spin).f()
        else:
            module_with("def f():\n    spin()", name, spin=spin).f()
            module_with("def f():\n    spin()", name + ".below", spin=spin).f()

    declines(rules.U7, step, quantum=0.0005)


def test_u7_a_socket_is_closed_in_one_go() -> None:
    """What closes it may forget it right after; a step that were cancelled in between would not come to that."""

    def step(host: Host, spin: Callable[[], None]) -> None:
        class Socket(socket.socket):
            def _real_close(self) -> None:  # type: ignore[override]
                spin()
                super()._real_close()  # type: ignore[misc]

        Socket().close()

    declines(rules.U7, step)


def test_u7_deny_and_allow() -> None:
    source = "def f():\n    spin()"

    def denied(host: Host, spin: Callable[[], None]) -> None:
        module_with(source, "some_library.pool", spin=spin).f()

    rules.deny("some_library", "because the test says so")
    try:
        declines(rules.U7, denied)
    finally:
        rules.allow("some_library")

    async def allowed(host: Host) -> None:
        flags: list[bool] = []
        host.call_soon(flags.append, True)

        def spin() -> None:
            while not flags:
                pass

        module_with(source, "some_library.pool", spin=spin).f()

    run(allowed)
    with pytest.raises(TypeError):
        rules.deny(None)  # type: ignore[arg-type]


def test_u7_a_verdict_keeps_no_code_alive() -> None:
    """A module that is imported again and again leaves new code behind each time, with all its constants."""
    module = module_with("import sys\nasync def f(seen):\n    seen(sys._getframe())", "some_module")
    verdicts: list[str | None] = []

    def see(frame: types.FrameType) -> None:
        verdicts.append(rules.judge_frames(frame, False))

    with pytest.raises(StopIteration):
        module.f(see).send(None)
    assert verdicts == [None]
    code = weakref.ref(module.f.__code__)
    del module
    gc.collect()
    assert code() is None


def test_u7_frames_that_await_the_step_do_not_count() -> None:
    """A framework's ``async def`` around the user's handler stands at an await: anybody may run."""
    framework = module_with(
        "async def serve(handler):\n    return await handler()", "aiohttp.web_protocol"
    )
    plain = module_with("def serve(handler):\n    return handler()", "aiohttp.web_protocol")

    async def main(host: Host) -> None:
        flags: list[bool] = []

        async def handler() -> str:
            host.call_soon(flags.append, True)
            while not flags:
                pass
            return "answer"

        assert await framework.serve(handler) == "answer"

    run(main)

    def step(host: Host, spin: Callable[[], None]) -> None:
        plain.serve(spin)

    declines(rules.U7, step)


def test_u7_an_import_in_a_task_is_not_suspended_half_way(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_made_module.py").write_text(
        "first = 1\nfor _ in range(10**6):\n    pass\nsecond = 2\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    async def main(host: Host) -> None:
        seen: list[bool] = []

        async def other() -> None:
            module = sys.modules.get("half_made_module")
            seen.append(module is None or hasattr(module, "second"))

        asyncio.create_task(other())
        import half_made_module  # type: ignore[import-not-found]

        assert half_made_module.second == 2
        while not seen:
            pass
        assert seen == [True]

    run(main, quantum=0.0005)
    sys.modules.pop("half_made_module", None)


def test_u8_a_lock_made_before_start_up() -> None:
    import _thread

    lock = _thread.RLock()

    def step(host: Host, spin: Callable[[], None]) -> None:
        with lock:
            spin()

    declines(rules.U8, step)


def test_u9_steps_of_one_domain_do_not_interleave() -> None:
    async def main(host: Host) -> None:
        order: list[str] = []
        outside: list[bool] = []

        async def inside(name: str) -> None:
            order.append(f"{name} begins")
            while len(outside) < (1 if name == "a" else 2):
                pass
            order.append(f"{name} ends")

        async def other() -> None:
            outside.append(True)
            await asyncio.sleep(0.001)
            outside.append(True)

        with domains.domain("orders"):
            tasks = [asyncio.create_task(inside(name)) for name in "ab"]
        tasks.append(asyncio.create_task(other()))
        await asyncio.gather(*tasks)
        assert order == ["a begins", "a ends", "b begins", "b ends"]

    run(main)


def test_every_rule_has_a_reason_and_every_denied_module_too() -> None:
    assert [text[:2] for text in rules.RULES] == [f"U{i}" for i in range(10)]
    assert all(len(reason) > 10 for reason in rules.DENIED_MODULES.values())


def test_the_documented_tests_of_each_rule_exist() -> None:
    root = pathlib.Path(__file__).parents[2]
    text = (root / "docs" / "unsafe-points.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| U")]
    assert [row[2:4] for row in rows] == [f"U{number}" for number in range(10)]
    for line in text.splitlines():
        for file, names in re.findall(
            r"`([\w/]*test_\w+\.py)`(?:: ((?:`test_\w+`[^`;|]*)+))?", line
        ):
            path = root / file if "/" in file else root / "tests" / "scheduler" / file
            source = path.read_text()
            for name in re.findall(r"`(test_\w+)`", names):
                assert f"def {name}(" in source, (file, name)


def test_logging_from_two_tasks_neither_deadlocks_nor_mixes_records() -> None:
    import io
    import logging

    stream = io.StringIO()
    logger = logging.Logger("interleaved")
    logger.addHandler(logging.StreamHandler(stream))

    async def main(host: Host) -> None:
        async def talk(name: str) -> None:
            for i in range(400):
                logger.warning("%s says %d%s", name, i, "." * 50)
                sum(j for j in range(300))

        await asyncio.gather(*(asyncio.create_task(talk(name)) for name in "abc"))
        assert host._scheduler.suspensions > 0

    run(main, quantum=0.0005)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1200
    for name in "abc":
        mine = [line for line in lines if line.startswith(name)]
        assert mine == [f"{name} says {i}{'.' * 50}" for i in range(400)]
