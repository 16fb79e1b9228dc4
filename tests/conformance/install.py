"""Puts a loop factory where upstream's tests create their loops. Runs in the child only."""

from __future__ import annotations

import asyncio
import importlib
import sys
import types
from asyncio import unix_events
from collections.abc import Callable
from typing import Any

from . import suites

SHORT_NAMES = {
    "asyncio": "asyncio:SelectorEventLoop",
    "clearway": "clearway:new_event_loop",
    "uvloop": "uvloop:new_event_loop",
}
# The loop that defines right and wrong; the skip table does not apply to it.
CONTROL = SHORT_NAMES["asyncio"]


class Factory:
    """Makes the loops under test and counts them.

    Parameters: ``spec`` is "module:attribute"; ``options`` are the keyword arguments of each call.
    Attributes: ``made`` counts the loops made here, ``escaped`` those of the standard library that
    a test made behind our back (always 0 for the control).
    Raises ImportError or AttributeError when the factory does not exist.
    """

    def __init__(self, spec: str, options: dict[str, Any]) -> None:
        module, _, attribute = spec.partition(":")
        target: Any = importlib.import_module(module)
        for name in attribute.split("."):
            target = getattr(target, name)
        self.target: Callable[..., asyncio.AbstractEventLoop] = target
        self.spec = spec
        self.options = options
        self.made = 0
        self.escaped = 0

    def __call__(self) -> asyncio.AbstractEventLoop:
        # Counted before the call: a constructor that raises has been asked for a loop as well.
        self.made += 1
        return self.target(**self.options)


def install(factory: Factory) -> None:
    """Make the default policy construct loops with ``factory`` and count the loops that escape.

    The policy *class* is changed, not the policy: upstream resets the policy to None in every
    tearDownModule, and what asyncio then makes afresh must still give our loop.
    Raises RuntimeError when asyncio.new_event_loop() does not reach the factory.
    """
    stock: Any = unix_events._UnixSelectorEventLoop
    if factory.spec != CONTROL:
        init = stock.__init__

        def counting_init(self: Any, *args: Any, **kwargs: Any) -> None:
            if type(self) is stock:
                factory.escaped += 1
            init(self, *args, **kwargs)

        stock.__init__ = counting_init
    # Python 3.14 renamed the class.
    policies = ("_UnixDefaultEventLoopPolicy", "_DefaultEventLoopPolicy")
    policy: Any = next(
        getattr(unix_events, name) for name in policies if hasattr(unix_events, name)
    )
    policy._loop_factory = staticmethod(factory)
    loop = asyncio.new_event_loop()
    loop.close()
    if factory.made != 1:
        raise RuntimeError("asyncio.new_event_loop() does not reach the loop factory")
    factory.made = 0


class _LoopClass(type):
    """A stand-in for the class SelectorEventLoop: calling it asks the factory."""

    factory: Factory

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.factory()

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, asyncio.SelectorEventLoop)


class _AsyncioWithFactory(types.ModuleType):
    """The module asyncio as one test module sees it: only SelectorEventLoop differs."""

    def __init__(self, factory: Factory) -> None:
        super().__init__("asyncio")
        self.SelectorEventLoop = _LoopClass("SelectorEventLoop", (), {"factory": factory})

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


def adapt_module(module: types.ModuleType, factory: Factory) -> None:
    """Change what upstream's modules take for granted about the standard library's loop.

    ``asyncio.SelectorEventLoop`` is rebound where a module names it, and ``close_loop`` of the
    common base class, which looks at ``loop._default_executor``, goes by the public methods for a
    loop that has no such attribute.
    """
    utils = sys.modules.get(suites.PREFIX + "utils")
    base = getattr(utils, "TestCase", None)
    if base is not None and base.close_loop is not _close_loop:
        _close_loop.original = base.close_loop
        base.close_loop = staticmethod(_close_loop)
    if module.__name__.removeprefix(suites.PREFIX) in suites.NAMES_THE_CLASS:
        vars(module)["asyncio"] = _AsyncioWithFactory(factory)


class _CloseLoop:
    """Stands for ``test_utils.TestCase.close_loop``."""

    original: Callable[[Any], None]

    def __call__(self, loop: Any) -> None:
        if not hasattr(loop, "_default_executor"):
            if not loop.is_closed():
                loop.run_until_complete(loop.shutdown_default_executor())
                loop.close()
            # The rest of upstream's method closes again, which is allowed, and waits for the
            # child watcher.
            loop = _ClosedLoop()
        self.original(loop)


class _ClosedLoop:
    _default_executor = None

    def close(self) -> None:
        pass


_close_loop = _CloseLoop()


def adapt_class(module: str, cls: type, factory: Factory) -> type:
    """Subclass an upstream test class so that its loops come from ``factory``.

    The subclass keeps the name, so that ids are those of upstream.
    """
    members: dict[str, Any] = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    method = suites.LOOP_METHODS.get((module, cls.__name__))
    if method is not None:
        members[method] = lambda self: factory()
    if (module, cls.__name__) in suites.RUNNER_CLASSES:
        members["new_loop"] = lambda self: _loop_for_runner(factory)
    if (module, cls.__name__) in suites.DRAINED:
        members["_run_loop"] = lambda self, loop: _drain(loop)
    upstream: Any = getattr(cls, "new_test_loop", None)
    if upstream is not None:

        def new_test_loop(self: Any, gen: Any = None) -> Any:
            if gen is not None:
                return upstream(self, gen)  # its fake clock follows the generator
            loop = factory()
            self.set_event_loop(loop)
            return loop

        members["new_test_loop"] = new_test_loop
    if getattr(cls, "loop_factory", None) is not None:
        # IsolatedAsyncioTestCase since 3.13: a class may pin the standard library's loop.
        members["loop_factory"] = staticmethod(factory)
    return type(cls.__name__, (cls,), members)


def _drain(loop: asyncio.AbstractEventLoop) -> None:
    for _ in range(suites.DRAIN_TURNS):
        loop.run_until_complete(asyncio.sleep(0))


def _loop_for_runner(factory: Factory) -> Any:
    """A loop that remembers in ``shutdown_ag_run`` that asynchronous generators were shut down."""
    loop: Any = factory()
    original = loop.shutdown_asyncgens
    loop.shutdown_ag_run = False

    async def shutdown_asyncgens() -> None:
        loop.shutdown_ag_run = True
        await original()

    loop.shutdown_asyncgens = shutdown_asyncgens
    return loop
