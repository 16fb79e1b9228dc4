#!/usr/bin/env python3
"""Everything a change must pass, on a clean checkout: `make lint` and `make test`.

All parts are run even when one fails, so that one run shows all there is to mend. The last line
counts tests, CPython's tests and lint tools alike; the exit code is 0 only when nothing failed and
something ran.
"""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "out" / "test"
#: Parts that leave a record of their tests; of the others the exit code is all there is.
COUNTED = ("unit", "conformance")


def main() -> int:
    os.chdir(ROOT)
    for stale in RESULTS.glob("*"):
        stale.unlink()
    passed = failed = 0
    for target in ("style", "types", "layers", "unit", "conformance"):
        print(f"== make {target}", flush=True)
        code = subprocess.run(["make", "--no-print-directory", target], check=False).returncode
        good, bad = count(target)
        if code != 0 and bad == 0:
            # It broke before, or beside, counting: a build error, a crash, a lint tool.
            print(f"make {target} failed with exit code {code}", flush=True)
            bad = 1
        elif code == 0 and target not in COUNTED:
            good = 1
        elif code == 0 and good == 0:
            print(f"make {target} succeeded and tested nothing", flush=True)
            bad += 1
        passed += good
        failed += bad
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def count(target: str) -> tuple[int, int]:
    """Passed and failed tests of a part, from the files that it leaves in out/test."""
    if target == "unit":
        return count_pytest(RESULTS / "pytest.xml")
    if target != "conformance":
        return 0, 0
    counts = [count_conformance(path) for path in sorted(RESULTS.glob("conformance-*.json"))]
    return sum(good for good, _ in counts), sum(bad for _, bad in counts)


def count_pytest(path: Path) -> tuple[int, int]:
    if not path.exists():
        return 0, 0
    good = bad = 0
    for suite in ElementTree.parse(path).iter("testsuite"):
        failures = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        bad += failures
        good += int(suite.get("tests", 0)) - failures - int(suite.get("skipped", 0))
    return good, bad


def count_conformance(path: Path) -> tuple[int, int]:
    report = json.loads(path.read_text())
    counts = report["counts"]
    bad = sum(counts.get(outcome, 0) for outcome in ("failed", "hung", "crashed", "lost"))
    # A problem of the run itself (a skip that matches nothing, say) fails it too.
    return counts.get("passed", 0), bad + len(report["problems"])


if __name__ == "__main__":
    sys.exit(main())
