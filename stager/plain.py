"""Dataclasses that cost next to nothing to make.

The standard library writes the methods of each class as source text and compiles that, in every process anew: 0.2 to
0.5 ms of CPU a class, and 20 ms of the 95 that a cluster's node took to start (measured, Python 3.11). Here all classes
share the same few functions, which go by the names of the fields. It is a part of what dataclasses can do, and that
part does the same; type checkers take it for the original, and so do `dataclasses.fields`, `asdict` and `replace`.
For classes that are made at every start; the others may use the original. `slots` is for type checkers alone.
"""

# ruff: noqa: ANN401 - a field holds anything

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from dataclasses import asdict, dataclass, field, replace
    from typing import Any, NoReturn

    __all__ = ["asdict", "dataclass", "field", "replace"]

_MISSING = object()
_FIELDS = "__plain_fields__"


class _Field:
    """What a class says of one of its fields."""

    __slots__ = ("compare", "default", "factory", "keyword", "metadata", "name", "repr")

    def __init__(
        self,
        *,
        default: object = _MISSING,
        default_factory: Callable[[], object] | None = None,
        repr: bool = True,  # noqa: A002 - as above
        compare: bool = True,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.default = default
        self.factory = default_factory
        self.repr = repr
        self.compare = compare
        self.metadata = metadata or {}
        self.name = ""
        self.keyword = False

    def value(self, given: dict[str, Any]) -> object:
        """Return what was given for it, and take that out, or else the default. Raises TypeError."""
        if self.name in given:
            return given.pop(self.name)
        if self.factory is not None:
            return self.factory()
        if self.default is _MISSING:
            raise TypeError(f"nothing is given for {self.name!r}")
        return self.default


class _Original:
    """The fields as `dataclasses` wants to see them: made when it first looks."""

    def __get__(self, _instance: object, owner: Any) -> Any:
        import dataclasses

        rows = [(each.name, object, dataclasses.field(metadata=each.metadata, kw_only=True)) for each in fields(owner)]
        made: Any = dataclasses.make_dataclass(owner.__name__, rows)
        owner.__dataclass_fields__ = made.__dataclass_fields__
        return made.__dataclass_fields__


def fields(cls: Any) -> tuple[_Field, ...]:
    """Return the fields of a class made here, or of its instance: `name`, `metadata`."""
    found: tuple[_Field, ...] = getattr(cls, _FIELDS)
    return found


def _dataclass(
    cls: Any = None,
    /,
    *,
    frozen: bool = False,
    slots: bool = False,  # noqa: ARG001 - as dataclasses.dataclass
    kw_only: bool = False,
) -> Any:
    def make(cls: Any) -> Any:
        own = {name: _own(cls, name, keyword=kw_only) for name in cls.__annotations__}
        inherited = {each.name: each for each in getattr(cls, _FIELDS, ())}
        setattr(cls, _FIELDS, tuple((inherited | own).values()))
        cls.__dataclass_fields__ = _Original()
        methods: dict[str, Any] = {"__init__": _init, "__repr__": _repr, "__eq__": _eq}
        methods["__hash__"] = _hash if frozen else None
        methods |= {"__setattr__": _refuse, "__delattr__": _refuse} if frozen else {}
        for name, method in methods.items():
            if cls.__dict__.get(name) is None:
                setattr(cls, name, method)
        return cls

    return make if cls is None else make(cls)


def _own(cls: Any, name: str, *, keyword: bool) -> _Field:
    said = cls.__dict__.get(name, _MISSING)
    found = said if isinstance(said, _Field) else _Field(default=said)
    found.name, found.keyword = name, keyword
    if found is said:
        delattr(cls, name)
    return found


def _init(self: Any, /, *values: object, **given: Any) -> None:
    known = fields(self)
    places = [each for each in known if not each.keyword]
    if len(values) > len(places):
        raise TypeError(f"{len(values)} values are given for {len(places)} fields")
    # Not by attribute: whoever is frozen refuses that.
    self.__dict__.update((each.name, value) for each, value in zip(places, values, strict=False))
    for each in known:
        if each.keyword or each.name not in self.__dict__:
            self.__dict__[each.name] = each.value(given)
    if given:
        raise TypeError(f"there is no field {next(iter(given))!r}, or it is given twice")
    if hasattr(self, "__post_init__"):
        self.__post_init__()


def _repr(self: Any) -> str:
    shown = ", ".join(f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr)
    return f"{type(self).__qualname__}({shown})"


def _values(self: Any) -> tuple[object, ...]:
    return tuple(getattr(self, each.name) for each in fields(self) if each.compare)


def _eq(self: Any, other: object) -> bool:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _refuse(self: object, name: str, _value: object = None) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"{type(self).__name__}.{name} is never changed")


def _replace(one: Any, /, **changes: object) -> Any:
    return type(one)(**{**{each.name: getattr(one, each.name) for each in fields(one)}, **changes})


def _asdict(one: Any) -> Any:
    if isinstance(one, tuple):
        return tuple(map(_asdict, one))
    return {each.name: _asdict(getattr(one, each.name)) for each in fields(one)} if hasattr(one, _FIELDS) else one


if not TYPE_CHECKING:
    asdict, dataclass, field, replace = _asdict, _dataclass, _Field, _replace
