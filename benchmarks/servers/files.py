"""A server of one directory, of a chosen kind: ours, nginx, or aiohttp's FileResponse.

Run as a program by the harness; prints one line of JSON with its port and the process that serves, and dies with
whoever started it::

    python benchmarks/servers/files.py --kind uring|epoll|nginx|aiohttp --directory DIR [--core N]

nginx is Debian's (``apt-get install nginx-light``): one worker, sendfile and tcp_nopush on as in Debian's own
configuration, no log.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = ("uring", "epoll", "nginx", "aiohttp")

NGINX = """
daemon off;
master_process off;
pid {work}/pid;
error_log {work}/errors;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    {temporary}
    server {{ listen 127.0.0.1:{port}; root {directory}; }}
}}
"""
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
#: Seconds for a server to begin to listen.
START_S = 15.0


def die_with_parent() -> None:
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def say(port: int, pid: int, **more: object) -> None:
    print(json.dumps({"port": port, "pid": pid, **more}), flush=True)


def clearway(engine: str, directory: str) -> None:
    command = [sys.executable, "-m", "clearway", "serve", directory, "--port=0", "--quiet"]
    process = subprocess.Popen(
        [*command, f"--engine={engine}"],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r":(\d+)/$", line)
    if found is None:
        sys.exit(f"clearway serve did not start: {line}")
    say(int(found[1]), process.pid)
    process.wait()


def nginx(_: str, directory: str) -> None:
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        sys.exit("nginx is not installed: apt-get install nginx-light")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as work:
        paths = "\n".join(f"{name}_temp_path {work}/{name};" for name in _TEMPORARY)
        configuration = Path(work) / "nginx.conf"
        configuration.write_text(
            NGINX.format(work=work, temporary=paths, port=port, directory=directory)
        )
        process = subprocess.Popen(
            [program, "-c", str(configuration), "-e", f"{work}/errors"], preexec_fn=die_with_parent
        )
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit("nginx did not start: " + (Path(work) / "errors").read_text())
                time.sleep(0.01)
        say(port, process.pid)
        process.wait()


def aiohttp(_: str, directory: str) -> None:
    import uvloop
    from aiohttp import web

    async def serve(request: web.Request) -> web.FileResponse:
        return web.FileResponse(Path(directory) / request.match_info["name"])

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/{name}", serve)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server: Any = site._server
        say(server.sockets[0].getsockname()[1], os.getpid())
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


START: dict[str, Callable[[str, str], None]] = {
    "uring": clearway,
    "epoll": clearway,
    "nginx": nginx,
    "aiohttp": aiohttp,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="a server of files")
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--directory", required=True)
    parser.add_argument("--core", type=int, default=-1)
    args = parser.parse_args()
    die_with_parent()
    if args.core >= 0:
        os.sched_setaffinity(0, {args.core})
    START[args.kind](args.kind, args.directory)


if __name__ == "__main__":
    main()
