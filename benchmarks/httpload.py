"""Run the HTTP load generator and print its report in the form that ``runner`` reads: one class of requests.

    python benchmarks/httpload.py PROGRAM --port N [options of PROGRAM]

This process sleeps while the generator works.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def flatten(report: dict[str, Any]) -> dict[str, Any]:
    """The fast class's figures beside the account of server and generator. ``errors`` is what did not end well."""
    fast = report.pop("fast")
    wrong = ("not_2xx", "connect_errors", "broken", "unfinished")
    return {**report, **fast, "errors": sum(fast[name] for name in wrong)}


def main() -> int:
    done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, text=True)
    if done.returncode == 0:
        print(json.dumps(flatten(json.loads(done.stdout))))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
