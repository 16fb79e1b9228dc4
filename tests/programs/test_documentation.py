"""The lines of docs/integrations.md that are Python: each is in the text as it is run here."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from tornado.ioloop import IOLoop

import clearway
from tests.support.programs import ROOT

LINES = {
    "anyio": 'anyio.run(main, backend_options={"loop_factory": clearway.new_event_loop})',
    "plain": "clearway.run(main())",
    "runner": "asyncio.Runner(loop_factory=clearway.new_event_loop)",
    "tornado": "IOLoop(asyncio_loop=clearway.new_event_loop())",
    "aiohttp": "web.run_app(app, loop=clearway.new_event_loop())",
}


async def main() -> bool:
    return isinstance(asyncio.get_running_loop(), clearway.EventLoop)


def application() -> Any:
    """An application that ends as soon as it has begun, and tells on which loop."""
    app = web.Application()
    seen: list[bool] = []

    async def end(_: web.Application) -> None:
        seen.append(await main())
        asyncio.get_running_loop().call_soon(_interrupt)

    app.on_startup.append(end)
    return app, seen


def _interrupt() -> None:
    raise web.GracefulExit


@pytest.mark.parametrize("name", LINES)
def test_a_line_of_the_documentation(name: str) -> None:
    assert LINES[name] in Path(ROOT / "docs" / "integrations.md").read_text()
    app, seen = application()
    names = {"anyio": anyio, "asyncio": asyncio, "clearway": clearway, "IOLoop": IOLoop, "web": web}
    result = eval(LINES[name], names | {"main": main, "app": app})
    if name == "runner":
        with result as runner:
            result = runner.run(main())
    elif name == "tornado":
        loop, result = result, result.run_sync(main)
        loop.close()
    elif name == "aiohttp":
        result = seen == [True]
    assert result is True
