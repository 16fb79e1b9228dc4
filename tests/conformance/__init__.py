"""CPython's own asyncio tests as the oracle for an event loop.

``python -m tests.conformance --loop clearway --engine uring`` runs the test modules that ship with
the interpreter (``test.test_asyncio``) against a loop factory, each test in a process of its own.

* ``suites``   which upstream modules and classes run, and why the others do not
* ``skips``    the one table of tests that are not run, with the reason of each
* ``install``  puts the factory where upstream creates its loops
* ``child``    the process that lists or runs tests and reports them as JSON lines
* ``pool``     starts the children, enforces the time-outs, kills what hangs
* ``report``   the table, the JSON file and the verdict
"""
