"""Containers of CPython that compare keys while they are half changed.

``functools.lru_cache``, ``set``, ``OrderedDict`` and ``itertools.groupby`` do: when another step comes into the same
container while one is suspended in the ``__eq__`` of a key, links and entries that the C code still points to are
gone, and the process crashes or never returns (threads crash it just so: CPython gh-94879 for the cache). Lists,
dictionaries and deques notice. So nothing is suspended that is called from those functions (rule U5).

They have no names on the stack that we could rely on, so we let them compare keys that look at it. The functions
that are not there when a list or a dictionary compares are the container's own. This module is never compiled.
"""

from __future__ import annotations

import functools
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from clearway.scheduler import _native

Stack = tuple[tuple[int, int], ...]
Call = tuple[Callable[[Any], Any], Any]

_observed: set[Stack] | None = None


def _observe() -> None:
    if _observed is not None:
        _observed.add(tuple(_native.native_addresses()))


class _Key:
    """All collide. Looks at the native stack when it is compared, or when it is hashed if ``hashes`` says so."""

    def __init__(self, number: int, *, hashes: bool = False) -> None:
        self.number = number
        self.hashes = hashes

    def __hash__(self) -> int:
        if self.hashes:
            _observe()
        return 0

    def __eq__(self, other: object) -> bool:
        _observe()
        return isinstance(other, _Key) and other.number == self.number


def _watch(calls: Iterable[Call]) -> set[Stack]:
    """The native stacks that are seen from keys in these calls: from the key outward to where they were made."""
    global _observed
    found: set[Stack] = set()
    for function, argument in calls:
        _observed = found
        try:
            _native.call_from_c(function, argument)
        finally:
            _observed = None
    return found


def learn() -> None:
    """Tell the unwinder; once per process.

    :raises RuntimeError: one of the containers was not found.
    """
    harmless = {function for stack in _watch(_harmless_calls()) for function, _ in stack}
    _learn_lru_cache()
    _learn_comparing(
        "set",
        _set_calls(_colliding),
        (*_set_calls(_hashing), *_set_calls(_generating)),
        harmless,
    )
    _learn_comparing("itertools.groupby", _groupby_calls(True), _groupby_calls(False), harmless)
    own = {
        function
        for stack in _watch(_ordered_dict_calls())
        for function, _ in stack
        if function not in harmless
    }
    _add("OrderedDict", own)


def _add(name: str, functions: Iterable[int], safe_addresses: Iterable[int] = ()) -> None:
    if not functions:
        raise RuntimeError(f"calibration failed: {name} was not found on the native stack")
    for function in functions:
        _native.add_fragile(function, 0)
    for address in safe_addresses:
        _native.add_fragile(0, address)


def _harmless_calls() -> Iterable[Call]:
    """Ways in which keys are hashed and compared, and Python called, that allow for anything to happen meanwhile."""
    one, two, same, hashed = _Key(1), _Key(2), _Key(2), _Key(3, hashes=True)
    table: dict[_Key, int] = {one: 1, two: 2}
    listed = [one, two]
    yield from (
        (listed.index, same),
        (listed.__contains__, same),
        (listed.__eq__, [two, one]),
        ((one, two).__eq__, (two, one)),
        (deque(listed).__contains__, same),
        (table.get, same),
        (table.__contains__, same),
        (table.__getitem__, same),
        (table.__eq__, {one: 1, same: 2}),
        (table.setdefault, same),
        (functools.partial(table.__setitem__, same), 3),
        (functools.partial(table.pop, same), None),
        (table.update, {one: 2, same: 2}),
        (table.update, [(one, 1), (_Key(2), 2)]),
        (dict, [(one, 1), (two, 2)]),
        (dict.fromkeys, listed),
        (list, map(table.get, (one, _Key(2)))),
        (table.__delitem__, _Key(1)),
        (hash, hashed),
        (list, map(hash, (hashed,))),
        (table.get, hashed),
        (table.setdefault, hashed),
        (functools.partial(table.__setitem__, hashed), 3),
        (functools.partial(table.pop, hashed), None),
    )
    for consumer in (list, tuple, dict.fromkeys, any, sorted, deque, max, dict):
        yield consumer, _pairs()


def _pairs() -> Iterator[tuple[int, int]]:
    _observe()
    yield 0, 0


def _learn_comparing(
    name: str, comparing: Iterable[Call], others: Iterable[Call], harmless: set[int]
) -> None:
    """The functions that compare; their ``other`` calls, of iterators, key functions and ``__hash__``, are safe."""
    functions = set()
    for stack in _watch(comparing):
        own = [function for function, _ in stack if function not in harmless]
        functions.update(own[:1])
    safe = {
        address for stack in _watch(others) for function, address in stack if function in functions
    }
    _add(name, functions, safe)


def _colliding() -> Iterable[_Key]:
    return [_Key(1), _Key(2)]


def _hashing() -> Iterable[_Key]:
    return [_Key(3, hashes=True)]


def _generating() -> Iterable[int]:
    _observe()
    yield 0  # not a key: a comparison must not be seen


def _set_calls(argument: Callable[[], Iterable[Any]]) -> Iterable[Call]:
    compare = argument is _colliding
    some: set[Any] = {_Key(1), _Key(2)} if compare else set()
    if argument is not _generating:
        for name in ("__contains__", "add", "discard", "__contains__"):
            yield getattr(set(some), name), list(argument())[-1]
    for name in (
        *("update", "difference_update", "intersection_update", "symmetric_difference_update"),
        *("union", "difference", "intersection", "symmetric_difference"),
        *("isdisjoint", "issubset", "issuperset"),
    ):
        operation = getattr(set(some), name)
        yield operation, argument()
        if compare:
            yield operation, set(argument())
            yield operation, dict.fromkeys(argument())
    if compare:
        for name in ("__eq__", "__le__", "__or__", "__and__", "__sub__", "__xor__", "remove"):
            yield getattr(set(some), name), _Key(2) if name == "remove" else set(argument())
    for factory in (set, frozenset):
        yield factory, argument()


def _groupby_calls(comparing: bool) -> Iterable[Call]:
    def key(number: int) -> _Key | int:
        if not comparing:
            _observe()
            return 0
        return _Key(number // 2)

    yield list, itertools.groupby(range(6), key)
    yield list, next(itertools.groupby(range(6), key))[1]
    if not comparing:
        yield list, itertools.groupby(_generating())
        yield list, next(itertools.groupby(itertools.chain([0], _generating())))[1]


def _ordered_dict_calls() -> Iterable[Call]:
    def made() -> OrderedDict[_Key, int]:
        return OrderedDict([(_Key(1), 1), (_Key(2), 2), (_Key(3), 3)])

    for hashes in (False, True):
        key = functools.partial(_Key, 2, hashes=hashes)
        yield functools.partial(made().__setitem__, key()), 0
        yield functools.partial(made().__setitem__, _Key(4, hashes=hashes)), 0
        yield made().__delitem__, key()
        yield made().move_to_end, key()
        yield functools.partial(made().move_to_end, key()), False
        yield functools.partial(made().pop, key()), None
        yield made().pop, key()
        yield made().setdefault, key()
        yield made().setdefault, _Key(4, hashes=hashes)
    for last in (True, False):
        yield made().popitem, last
    yield list, made().items()
    yield list, reversed(made())
    yield made().__eq__, made()
    yield OrderedDict.copy, made()


def _learn_lru_cache() -> None:
    """Learn where ``functools.lru_cache`` is when it calls the user's function, and where when it compares keys.

    Called from the same place, the native stacks are equal up to the function of CPython that makes these calls,
    counted from outside; there the return addresses part. The user's function may be suspended.
    """
    if type(functools.lru_cache(_observe)).__module__ != "functools":
        return  # written in Python

    @functools.lru_cache(maxsize=2)
    def in_function(number: int) -> None:
        _observe()

    @functools.lru_cache(maxsize=2)
    def cached(key: _Key) -> None:
        pass

    in_user_function = _watch([(in_function, 1)])
    # The oldest in use is not the oldest in the dictionary: only then is it compared when it is thrown out.
    one, two = _Key(1, hashes=True), _Key(2, hashes=True)
    for key in (one, two, one):
        cached(key)
    unsafe = _watch([(cached, _Key(3, hashes=True))])
    if len(in_user_function) != 1 or not unsafe:
        raise RuntimeError(
            "calibration failed: functools.lru_cache was not found on the native stack"
        )
    (safe,) = in_user_function
    for stack in unsafe:
        for unsafe_frame, safe_frame in zip(reversed(stack), reversed(safe), strict=False):
            if unsafe_frame != safe_frame:
                _native.add_fragile(unsafe_frame[0], safe_frame[1])
                break
