"""What the language itself does between two bytecodes, and where it calls Python from C."""

from __future__ import annotations

import abc
import collections
import contextlib
import contextvars
import dataclasses
import enum
import functools
import gc
import heapq
import itertools
import operator
import re
import sys
import weakref
from collections.abc import Generator, Iterator
from typing import Any

variable: contextvars.ContextVar[int] = contextvars.ContextVar("language", default=-1)


def with_sort_keys(seed: int) -> Any:
    def key(number: int) -> int:
        return (number * 7919 + seed) % 101

    def compare(a: int, b: int) -> int:
        return key(a) - key(b)

    return sorted(range(20), key=key), sorted(range(12), key=functools.cmp_to_key(compare))


def with_generators(seed: int) -> Any:
    """Delegation three deep, with values sent, exceptions thrown in and values returned."""
    log: list[Any] = []

    def innermost(n: int) -> Generator[int, int | None, str]:
        total = 0
        for i in range(n):
            try:
                received = yield i * seed
            except LookupError as error:
                log.append(("caught", str(error), sys.exc_info()[1] is error))
                continue
            total += received or 0
        return f"{n}:{total}"

    def middle() -> Generator[int, int | None, list[str]]:
        results = []
        for n in range(1, 5):
            try:
                results.append((yield from innermost(n)))
            finally:
                log.append(n)
        return results

    def outer() -> Generator[int, int | None, None]:
        log.append((yield from middle()))

    generator = outer()
    values = [next(generator)]
    with contextlib.suppress(StopIteration):
        for i in itertools.count():
            values.append(generator.throw(LookupError(i)) if i % 4 == 3 else generator.send(i))
    left = middle()
    next(left)
    left.close()
    return values, log, sys.exc_info()


def with_exceptions(seed: int) -> Any:
    seen: list[Any] = []

    def deep(n: int) -> None:
        if n == 0:
            raise ValueError(seed)
        try:
            deep(n - 1)
        except ValueError as error:
            if n % 2:
                raise ValueError(n) from error
            raise
        finally:
            seen.append((n, type(sys.exc_info()[1]).__name__))

    def handles(n: int) -> Iterator[str]:
        # A generator has a stack of handled exceptions of its own.
        for i in range(n):
            try:
                raise KeyError(i)
            except KeyError:
                yield repr(sys.exc_info()[1])

    def overrides() -> int:
        for i in range(5):
            try:
                raise OSError(i)
            except OSError:
                continue
            finally:
                seen.append(i)
        return seed

    try:
        try:
            deep(5)
        except ValueError as error:
            inside = list(handles(3))
            seen.append(sys.exc_info()[1] is error)
            chain: list[str] = []
            cause: BaseException | None = error
            while cause is not None:
                chain.append(repr(cause))
                cause = cause.__cause__ or cause.__context__
            seen.append((inside, chain))
            raise KeyError(seed) from None
    except KeyError as error:
        seen.append((error.args[0], repr(error.__cause__), repr(error.__context__)))
    seen.append(overrides())
    return seen, sys.exc_info()


def with_exception_groups(seed: int) -> Any:
    caught: list[Any] = []

    def member(i: int) -> Exception:
        try:
            raise (ValueError, TypeError, LookupError)[i % 3](i * seed)
        except Exception as error:
            return error

    try:
        raise ExceptionGroup("many", [member(i) for i in range(7)])
    except* ValueError as group:
        caught.append([repr(error) for error in group.exceptions])
    except* (TypeError, LookupError) as group:
        caught.append(repr(group.subgroup(lambda error: isinstance(error, TypeError))))
    return caught


def with_recursion(seed: int) -> Any:
    """The limit is met, and the same afterwards; C calls nest as deep as they did."""

    def forever(n: int) -> int:
        return forever(n + 1) + 1

    def ackermann(m: int, n: int) -> int:
        if not m:
            return n + 1
        return ackermann(m - 1, ackermann(m, n - 1) if n else 1)

    class Nested:
        def __init__(self, depth: int) -> None:
            self.depth = depth

        def __repr__(self) -> str:
            return f"<{[Nested(self.depth - 1)] if self.depth else seed}>"

    met = 0
    for _ in range(2):
        try:
            forever(0)
        except RecursionError:
            met += 1
    return met, ackermann(2, 3), repr(Nested(12))


class Odd:
    """Equal by a computation, and hashed badly, so that look-ups compare."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        total = 0
        for digit in str(self.number):
            total += int(digit)
        return total % 5

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Odd) and str(self.number) == str(other.number)

    def __lt__(self, other: Odd) -> bool:
        return self.number % 17 < other.number % 17

    def __repr__(self) -> str:
        return f"Odd({self.number})"

    def __index__(self) -> int:
        return self.number


def with_hashes(seed: int) -> Any:
    table = {Odd(i * seed % 40): i for i in range(40)}
    some, others = {Odd(i) for i in range(0, 20, 2)}, {Odd(i) for i in range(0, 20, 3)}
    counted = collections.Counter(Odd(i % 7) for i in range(30))
    del table[Odd(0)]
    return (
        sorted(key.number for key in table),
        sorted(each.number for each in some & others),
        sorted(each.number for each in some ^ others),
        sorted((each.number, n) for each, n in counted.items()),
        Odd(21) in table,
        list(range(Odd(3), Odd(30), Odd(5))),
    )


def with_heaps(seed: int) -> Any:
    heap: list[Odd] = []
    for i in range(25):
        heapq.heappush(heap, Odd(i * seed * 31 % 97))
    first = [heapq.heappop(heap).number % 17 for _ in range(10)]
    merged = heapq.merge(*([Odd(j) for j in range(i, 12, 3)] for i in range(3)))
    return first, [each.number for each in merged], min(heap).number % 17


@functools.lru_cache(maxsize=8)
def _slow_square(number: Odd, seed: int) -> int:
    total = 0
    for _ in range(number.number):
        total += number.number
    return total * seed


def with_caches(seed: int) -> Any:
    """One cache for all, too small for what is asked of it."""

    class Holder:
        made = 0

        @functools.cached_property
        def value(self) -> list[int]:
            self.made += 1
            return [seed * i for i in range(5)]

    holder = Holder()
    squares = [_slow_square(Odd(i % 11), seed) for i in range(30)]
    return squares, holder.value is holder.value, holder.made


@functools.singledispatch
def _kind(value: Any) -> str:
    return "anything"


@_kind.register(int)
@_kind.register(Odd)
def _(value: Any) -> str:
    return type(value).__name__


def with_dispatch(seed: int) -> Any:
    class Later(Odd):
        pass

    _kind.register(Later, lambda value: "later")  # empties the cache for the others
    found = [_kind(value) for value in (1, "", Odd(1), 2.0, Later(seed), True)]
    match [seed, {"key": Odd(seed)}, *found]:
        case [int(number), {"key": Odd(number=inside)}, *rest] if number == inside:
            return number, rest
    return None


@dataclasses.dataclass(order=True)
class Record:
    sort: int = dataclasses.field(init=False, repr=False)
    name: str
    parts: list[Any] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.sort = sum(map(ord, self.name)) % 13


#: One object, shown by everybody at once.
SHARED = Record(
    "shared", [Record("inner", [Odd(1), {Odd(2): [Odd(3)]}, (Odd(4),)]), {"odd": Odd(5)}]
)


def with_dataclasses(seed: int) -> Any:
    records = [Record(f"name {i * seed}", [i, Odd(i)]) for i in range(8)]
    made = dataclasses.make_dataclass("Made", ["a", ("b", int, 5)], frozen=True)
    changed = dataclasses.replace(records[0], name="other")
    records[1].parts.append(records[1])  # a cycle: shown as "..."
    return (
        [record.name for record in sorted(records, key=operator.attrgetter("sort", "name"))],
        dataclasses.asdict(records[2])["name"],
        repr(made(seed)),
        repr(changed),
        repr(records[1]),
    )


def with_shared_representations(seed: int) -> Any:
    return repr(SHARED), repr([SHARED, SHARED.parts]), f"{SHARED.parts!r:.30}"


def with_classes(seed: int) -> Any:
    log: list[Any] = []

    class Field:
        def __set_name__(self, owner: type, name: str) -> None:
            self.name = name
            log.append((owner.__name__, name))

        def __get__(self, instance: Any, owner: Any = None) -> Any:
            return self if instance is None else instance.__dict__.get(self.name, seed)

        def __set__(self, instance: Any, value: int) -> None:
            instance.__dict__[self.name] = value * 2

    class Meta(abc.ABCMeta):
        @classmethod
        def __prepare__(cls, name: str, bases: Any, **options: Any) -> Any:
            return collections.OrderedDict(prepared=name)

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            instance = super().__call__(*args, **kwargs)
            instance.made_by = cls.__name__
            return instance

        def __instancecheck__(cls, instance: Any) -> bool:
            return hasattr(instance, "made_by")

    class Base(metaclass=Meta):
        one = Field()

        def __init_subclass__(cls, **options: Any) -> None:
            log.append((cls.__name__, sorted(options.items())))
            super().__init_subclass__()

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return f"no {name}"

        @abc.abstractmethod
        def method(self) -> Any: ...

    class Derived(Base, option=seed):
        two = Field()

        @property
        def both(self) -> Any:
            return self.one, self.two

        def method(self) -> Any:
            return super().one, self.missing

    class Colour(enum.Flag):
        RED = enum.auto()
        GREEN = enum.auto()
        BOTH = RED | GREEN

    derived = Derived()
    derived.one = seed
    with contextlib.suppress(TypeError):
        Base()
    Named = collections.namedtuple("Named", "a b")
    return (
        log,
        derived.both,
        derived.method(),
        isinstance(3, Base),
        derived.made_by,
        [member.name for member in Colour.BOTH],
        Named(1, seed)._replace(a=2),
    )


def with_operators(seed: int) -> Any:
    class Vector:
        __slots__ = ("values",)

        def __init__(self, *values: int) -> None:
            self.values = values

        def __add__(self, other: Any) -> Any:
            if not isinstance(other, Vector):
                return NotImplemented
            return Vector(*(a + b for a, b in zip(self.values, other.values, strict=True)))

        def __radd__(self, other: Any) -> Any:
            return self

        def __iter__(self) -> Iterator[int]:
            yield from self.values

        def __len__(self) -> int:
            return len(self.values)

        def __getitem__(self, index: Any) -> Any:
            return self.values[index]

        def __contains__(self, value: int) -> bool:
            return any(value == each for each in self)

        def __bool__(self) -> bool:
            return any(self.values)

        def __format__(self, spec: str) -> str:
            return spec.join(map(str, self))

    vectors = [Vector(i, i * seed, -i) for i in range(6)]
    first, *rest = sum(vectors)  # type: ignore[misc]
    groups = itertools.groupby(range(12), key=lambda n: n * seed % 4 // 2)
    return (
        first,
        rest,
        3 in vectors[3],
        [bool(vector) for vector in vectors],
        f"{vectors[2]:-}",
        list(map(sum, vectors)),
        [(key, list(group)) for key, group in groups],
        functools.reduce(lambda a, b: a * 3 + b, vectors[4], seed),
        list(itertools.accumulate(range(8), lambda a, b: a * seed + b)),
        re.sub(r"\d+", lambda m: f"<{int(m[0]) * seed}>", "1 and 22 and 333"),
        max(vectors, key=lambda vector: vector[1] % 5).values,
    )


def with_context(seed: int) -> Any:
    token = variable.set(seed)
    seen = [variable.get() for _ in range(8)]

    def inside(depth: int) -> int:
        variable.set(variable.get() + depth)
        if depth:
            seen.append(contextvars.copy_context().run(inside, depth - 1))
        return variable.get()

    seen.append(contextvars.copy_context().run(inside, 3))
    seen.append(variable.get())
    variable.reset(token)
    return seen, variable.get()


def with_finalisers(seed: int) -> Any:
    """Objects that end by count, by cycle, by weak reference: each exactly once, in the same order."""
    log: list[Any] = []

    class Ends:
        def __init__(self, name: str) -> None:
            self.name = name
            self.partner: Any = None

        def __del__(self) -> None:
            text = ""
            for letter in self.name:
                text += letter
            log.append(text)

    for i in range(4):
        Ends(f"count {i}")
    watched = Ends("watched")
    reference = weakref.ref(watched, lambda _: log.append("reference"))
    weakref.finalize(watched, log.append, "finalize")
    names = weakref.WeakValueDictionary({"watched": watched})
    keys = weakref.WeakKeyDictionary({watched: seed})
    before = len(names), len(keys)
    del watched
    one, other = Ends("cycle"), Ends("cycle")
    one.partner, other.partner = other, one
    del one, other
    gc.collect()
    return log, reference() is None, before, len(names), len(keys)


def with_context_managers(seed: int) -> Any:
    log: list[Any] = []

    @contextlib.contextmanager
    def step(name: str, *, swallow: bool = False) -> Iterator[str]:
        log.append(f"enter {name}")
        try:
            yield name
        except ValueError as error:
            log.append((name, repr(error), sys.exc_info()[1] is error))
            if not swallow:
                raise
        finally:
            log.append(f"leave {name}")

    with contextlib.ExitStack() as stack:
        stack.callback(log.append, "callback")
        stack.enter_context(step("outer", swallow=True))
        with step("a") as a, step("b") as b:
            log.append(a + b)
        with step("inner"), step("innermost"):
            raise ValueError(seed)
    return log, sys.exc_info()
