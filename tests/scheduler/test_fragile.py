"""Containers that compare keys while they are half changed: nothing is suspended there, but everywhere around."""

from __future__ import annotations

import collections
import functools
import itertools
import operator
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from clearway.scheduler import rules

from .host import Host, declines, run


@pytest.mark.parametrize("place", ["hash", "look-up", "eviction"])
def test_lru_cache_is_not_suspended(place: str) -> None:
    """CPython's cache has its list half linked then, and would crash or hang (gh-94879)."""

    class Key:
        def __init__(self, number: int) -> None:
            self.number = number

        def __hash__(self) -> int:
            if spins["hash"]:
                spins.pop("hash")()
            return 0

        def __eq__(self, other: object) -> bool:
            assert isinstance(other, Key)
            for name, numbers in (("look-up", {3, 1}), ("eviction", {2, 1})):
                if {self.number, other.number} == numbers and spins[name]:
                    spins.pop(name)()
            return self.number == other.number

    @functools.lru_cache(maxsize=2)
    def cached(key: Key) -> None:
        pass

    spins: Any = collections.defaultdict(lambda: None)

    def step(host: Host, spin: Callable[[], None]) -> None:
        one, two, three = Key(1), Key(2), Key(3)
        for key in (one, two, one):  # two is thrown out next, but one is met first
            cached(key)
        spins[place] = spin
        cached(three)

    declines(rules.U5, step)


@pytest.mark.parametrize("maxsize", [0, 2, None])
def test_what_lru_cache_calls_is_suspended(maxsize: int | None) -> None:
    async def main(host: Host) -> None:
        flags: list[bool] = []

        @functools.lru_cache(maxsize)
        def cached(number: int, *, word: str = "") -> int:
            while not flags:
                pass
            flags.clear()
            return number

        for number, keywords in ((1, {}), (2, {"word": "a"}), (3, {}), (4, {"word": "b"})):
            host.call_soon(flags.append, True)
            assert cached(number, **keywords) == number

    run(main)


class Key:
    """All collide; calls ``when_compared`` or ``when_hashed`` once."""

    def __init__(
        self,
        number: int,
        when_compared: Callable[[], None] | None = None,
        when_hashed: Callable[[], None] | None = None,
    ) -> None:
        self.number = number
        self.when_compared = when_compared
        self.when_hashed = when_hashed

    def __hash__(self) -> int:
        call, self.when_hashed = self.when_hashed, None
        if call is not None:
            call()
        return 0

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Key)
        for key in (self, other):
            call, key.when_compared = key.when_compared, None
            if call is not None:
                call()
        return self.number == other.number


def ordered() -> OrderedDict[Key, int]:
    return OrderedDict((Key(number), number) for number in range(3))


#: Each calls ``key.__eq__``.
FRAGILE: dict[str, Callable[[Key], Any]] = {
    "key in set": lambda key: key in {Key(1), Key(2)},
    "set.add": lambda key: {Key(1), Key(2)}.add(key),
    "set.discard": lambda key: {Key(1), Key(2)}.discard(key),
    "set.remove": lambda key: {Key(1), Key(2)}.remove(key),
    "set.update": lambda key: {Key(1), Key(2)}.update([key]),
    "set.update(dict)": lambda key: {Key(1), Key(2)}.update({key: 1}),
    "set | set": lambda key: {Key(1), Key(2)} | {key},
    "set & set": lambda key: {Key(1), Key(2)} & {key},
    "set - set": lambda key: {Key(1), Key(2)} - {key},
    "set ^ set": lambda key: {Key(1), Key(2)} ^ {key},
    "set == set": lambda key: {Key(1), Key(2)} == {Key(1), key},
    "set <= set": lambda key: {key} <= {Key(1), Key(2)},
    "set.isdisjoint": lambda key: {Key(1), Key(3)}.isdisjoint([key]),
    "set.intersection_update": lambda key: {Key(1), Key(2)}.intersection_update([key]),
    "set display": lambda key: {Key(1), key},
    "set comprehension": lambda key: {each or each for each in (Key(1), key)},
    "frozenset": lambda key: frozenset([Key(1), key]),
    "OrderedDict[key] = 0": lambda key: operator.setitem(ordered(), key, 0),
    "del OrderedDict[key]": lambda key: operator.delitem(ordered(), key),
    "OrderedDict.move_to_end": lambda key: ordered().move_to_end(key),
    "OrderedDict.pop": lambda key: ordered().pop(key),
    "OrderedDict.setdefault": lambda key: ordered().setdefault(key, 0),
    "OrderedDict.popitem": lambda key: OrderedDict([(key, 0), (Key(3), 0)]).popitem(),
    "OrderedDict.items": lambda key: list(OrderedDict([(key, 0), (Key(3), 0)]).items()),
    "OrderedDict == OrderedDict": lambda key: OrderedDict([(key, 0)]) == OrderedDict([(Key(2), 0)]),
    "OrderedDict.copy": lambda key: OrderedDict([(key, 0), (Key(3), 0)]).copy(),
    "OrderedDict.update": lambda key: ordered().update([(key, 0)]),
    "groupby": lambda key: list(itertools.groupby([key, Key(2)])),
    "a group": lambda key: list(next(itertools.groupby([Key(2), key]))[1]),
}


@pytest.mark.parametrize("name", FRAGILE)
def test_a_comparison_is_not_suspended(name: str) -> None:
    def step(host: Host, spin: Callable[[], None]) -> None:
        FRAGILE[name](Key(2, when_compared=spin))

    declines(rules.U5, step)


class Made:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        call()

    def __lt__(self, other: object) -> bool:
        self.call()
        return False

    def __getattr__(self, name: str) -> None:
        self.call()

    @property
    def attribute(self) -> None:
        self.call()


def yields(call: Callable[[], None], *values: Any) -> Iterator[Any]:
    call()
    yield from values


#: Each calls ``spin``, beside and inside what the rule is about.
ALLOWED: dict[str, Callable[[Callable[[], None]], Any]] = {
    "list.index": lambda spin: [Key(1), Key(2)].index(Key(2, spin)),
    "key in list": lambda spin: Key(2, spin) in [Key(1), Key(2)],
    "list == list": lambda spin: [Key(1), Key(2)] == [Key(1), Key(2, spin)],
    "deque.remove": lambda spin: collections.deque([Key(1), Key(2)]).remove(Key(2, spin)),
    "dict[key]": lambda spin: {Key(1): 0, Key(2): 0}[Key(2, spin)],
    "dict[key] = 0": lambda spin: operator.setitem({Key(1): 0}, Key(2, spin), 0),
    "dict.get": lambda spin: {Key(1): 0, Key(2): 0}.get(Key(2, spin)),
    "dict.pop": lambda spin: {Key(1): 0, Key(2): 0}.pop(Key(2, spin)),
    "dict.setdefault": lambda spin: {Key(1): 0, Key(2): 0}.setdefault(Key(2, spin)),
    "dict.update": lambda spin: {Key(1): 0, Key(2): 0}.update({Key(2, spin): 1}),
    "dict == dict": lambda spin: {1: Key(1), 2: Key(2)} == {1: Key(1), 2: Key(2, spin)},
    "hash": lambda spin: hash(Key(1, None, spin)),
    "hash in dict": lambda spin: {}.get(Key(1, None, spin)),
    "hash in set": lambda spin: Key(1, None, spin) in {Key(1)},
    "hash in set.add": lambda spin: set().add(Key(1, None, spin)),
    "hash in set.update": lambda spin: set().update([Key(1, None, spin)]),
    "set of a generator": lambda spin: set(yields(spin, 1, 2)),
    "frozenset of a generator": lambda spin: frozenset(yields(spin, 1, 2)),
    "set.update with a generator": lambda spin: {1, 2}.update(yields(spin, 1, 2)),
    "set.difference of a generator": lambda spin: {1, 2}.difference(yields(spin, 1, 2)),
    "set.intersection of a generator": lambda spin: {1, 2}.intersection(yields(spin, 1, 2)),
    "OrderedDict of a generator": lambda spin: OrderedDict(yields(spin, (1, 2))),
    "key of groupby": lambda spin: list(itertools.groupby([1], lambda _: spin())),
    "key of groupby in a group": lambda spin: list(
        next(itertools.groupby([1, 2], lambda number: spin() if number == 2 else None))[1]
    ),
    "groupby of a generator": lambda spin: list(itertools.groupby(yields(spin, 1))),
    "sorted": lambda spin: sorted([1], key=lambda _: spin()),
    "sorted by comparison": lambda spin: sorted([Made(spin), Made(spin)]),
    "max": lambda spin: max([1], key=lambda _: spin()),
    "any": lambda spin: any(yields(spin, 1)),
    "map": lambda spin: list(map(spin.__class__.__call__, [spin])),
    "chain": lambda spin: list(itertools.chain(yields(spin, 1), [2])),
    "partial": lambda spin: functools.partial(lambda _: spin(), 1)(),
    "reduce": lambda spin: functools.reduce(lambda *_: spin(), [1, 2]),
    "re.sub": lambda spin: re.sub("a", lambda _: (spin(), "")[1], "a"),
    "__init__": lambda spin: Made(spin),
    "__getattr__": lambda spin: getattr(Made(lambda: None), "missing", spin()),
    "property": lambda spin: Made(spin).attribute,
    "str.join": lambda spin: "".join(yields(spin, "a")),
    "dict of a generator": lambda spin: dict(yields(spin, (1, 2))),
    "defaultdict": lambda spin: collections.defaultdict(spin)[1],
    "Counter": lambda spin: collections.Counter(yields(spin, 1, 2)),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_allows_for_it_is_suspended(name: str) -> None:
    async def main(host: Host) -> None:
        flags: list[bool] = []

        def spin() -> None:
            flags.clear()
            host.call_soon(flags.append, True)
            while not flags:
                pass

        ALLOWED[name](spin)
        assert flags

    run(main)
