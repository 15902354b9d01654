"""Reading data sets that exist only as pickles, without running anything that the pickle names.

A pickle is a program: `pickle.load` imports and calls what it names. This reader interprets the same opcodes but
imports and calls nothing for them. The names it knows stand for constructions of its own: containers, numpy arrays
and scalars, scipy sparse matrices. Array sizes, dtypes and sparse indices are checked before anything is built from
them, because numpy and scipy believe what a pickled state says. Every other name is refused where it is met.

A short pickle can also ask for much: copies of one large value over and over, keys whose hash takes for ever,
containers nested until the stack overflows. What is built is therefore counted against the length of the pickle,
nesting is bounded, and messages never print a value whole.
"""

import codecs
import collections
import math
import pickletools
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared_impl.data_error import DataError

__all__ = ["load_restricted_pickle"]

_NUMBERS = frozenset(["INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"])
_TEXTS = frozenset(["UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"])
_BYTES = frozenset(["BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"])
_CONSTANTS = _NUMBERS | _TEXTS | _BYTES
_PYTHON2_STRINGS = frozenset({"STRING", "BINSTRING", "SHORT_BINSTRING"})
_LITERALS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_CONTAINERS: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_IGNORED = frozenset({"PROTO", "FRAME"})
_SPARSE = {f"scipy.sparse.{fmt}_{kind}" for fmt in ("csr", "csc", "coo") for kind in ("matrix", "array")}
_FACTORIES: dict[str, Callable[[], Any]] = {
    f"builtins.{kind.__name__}": kind for kind in (list, dict, set, tuple, int, float, str, bool)
}
_BUILT_PER_BYTE = 16
"""What may be built for each byte of the pickle: bytes of arrays, and eight for each item of a container or key."""
_BUILT_AT_LEAST = 1 << 20
_DEEPEST = 100
"""Containers within containers; numpy has 64 dimensions, people's data a handful of levels."""
_MOST_INNER = 16
"""Tuples directly within a tuple that is a key; four levels of them are looked through."""
_DTYPE_CODE = re.compile(r"[biufcSUO][0-9]*")


class _Unfinished:
    """Something that only REDUCE or BUILD may take; it never becomes part of the data."""


class _Name(_Unfinished):
    """A global of the allow-list. It stands for a construction below; the object of that name is not looked up."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Arguments(_Unfinished):
    """A tuple that holds names."""

    def __init__(self, items: tuple[Any, ...]) -> None:
        self.items = items


class _Dtype(_Unfinished):
    """A dtype whose byte order comes with BUILD."""

    def __init__(self, code: str) -> None:
        self.code = code


class _Array(_Unfinished):
    """An array whose content comes with BUILD."""


class _Sparse(_Unfinished):
    """A sparse matrix whose content comes with BUILD."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Mark:
    pass


_MARK = _Mark()


def load_restricted_pickle(
    source: Path | str | bytes,
    encoding: str = "latin1",
    *,
    constructions: Mapping[str, Callable[..., Any]] | None = None,
) -> Any:
    """Read a pickle of plain data: builtin containers and numbers, `defaultdict`, `OrderedDict`, numpy arrays, scalars
    and dtypes (booleans, numbers, strings, objects that are themselves plain data), scipy csr, csc and coo matrices,
    also under the module names of old versions.

    Args:
        source: a file, or the bytes of one.
        encoding: of the strings of Python 2; "bytes" leaves them as bytes.
        constructions: further names ("module.name") and what they stand for: functions of plain data, which are trusted
            with whatever the pickle gives them.

    Raises:
        DataError: if the pickle names anything else (the message has the name), is cut short, contradicts itself, nests
            deeper than 100 containers, or asks for far more than it holds.
    """
    if isinstance(source, bytes):
        label, content = "the pickle", source
    else:
        label = str(source)
        try:
            content = Path(source).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {label}: {error}") from error
    reader = _Reader(label, content, encoding, constructions or {})
    try:
        result = reader.read()
        reader.check_depth(result)
        return result
    except DataError:
        raise
    except (
        ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError, MemoryError,
        struct.error, Warning,
    ) as error:  # fmt: skip
        raise DataError(
            f"{label} is no readable pickle: {type(error).__name__}: {str(error)[:200]}; it is damaged or cut short: "
            "delete it and fetch it again"
        ) from error


class _Reader:
    """The stack machine of the pickle format, for data only."""

    def __init__(
        self, label: str, content: bytes, encoding: str, constructions: Mapping[str, Callable[..., Any]]
    ) -> None:
        self.label, self.content, self.encoding, self.constructions = label, content, encoding, constructions
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.places: dict[int, list[int]] = {}
        """where the memo holds an unfinished object, by its id"""
        self.left = max(_BUILT_AT_LEAST, _BUILT_PER_BYTE * len(content))

    def spend(self, amount: int) -> None:
        """Count what is about to be built."""
        self.left -= amount
        if self.left < 0:
            raise self.refuse("it asks for far more than it holds")

    def check_depth(self, value: Any) -> None:
        """Refuse deep nesting, which would end in a crash wherever the value is compared or printed. A container may
        hold itself."""
        path: list[tuple[int, Any]] = [(id(value), iter(_items(value)))]
        above: set[int] = {id(value)}
        depths: dict[int, int] = {}
        deepest = [1]
        while path:
            key, items = path[-1]
            for item in items:
                if isinstance(item, _ATOMS) or id(item) in depths:
                    deepest[-1] = max(deepest[-1], 1 + depths.get(id(item), 0))
                    continue
                if id(item) in above:
                    continue
                path.append((id(item), iter(_items(item))))
                above.add(id(item))
                deepest.append(1)
                if len(path) > _DEEPEST:
                    raise self.refuse(f"containers nested deeper than {_DEEPEST}")
                break
            else:
                path.pop()
                above.discard(key)
                depths[key] = depth = deepest.pop()
                if len(path) + depth > _DEEPEST:
                    raise self.refuse(f"containers nested deeper than {_DEEPEST}")
                if deepest:
                    deepest[-1] = max(deepest[-1], depth + 1)

    def refuse(self, what: str) -> DataError:
        return DataError(f"{self.label}: {what}; only plain data, numpy arrays and scipy sparse matrices are read")

    def read(self) -> Any:
        for opcode, argument, _ in pickletools.genops(self.content):
            name = opcode.name
            if name in _CONSTANTS:
                self.stack.append(argument)
            elif name in _PYTHON2_STRINGS:
                raw = str(argument).encode("latin1")
                self.stack.append(raw if self.encoding == "bytes" else raw.decode(self.encoding))
            elif name in _LITERALS:
                self.stack.append(_LITERALS[name])
            elif name in _CONTAINERS:
                self.stack.append(_CONTAINERS[name]())
            elif name == "STOP":
                return self.pop()
            elif name not in _IGNORED:
                handler = _HANDLERS.get(name)
                if handler is None:
                    raise self.refuse(f"the opcode {name} is refused")
                handler(self, argument)
        raise ValueError("no end")

    # Taking from the stack

    def pop(self) -> Any:
        value = self.stack.pop()
        if isinstance(value, _Unfinished | _Mark):
            raise self.refuse(f"{self.describe(value)} where a value should be")
        return value

    def pop_to_mark(self, *, names: bool = False) -> list[Any]:
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise IndexError("no mark")
        items = self.stack[start + 1 :]
        del self.stack[start:]
        for item in items:
            if isinstance(item, _Unfinished) and not names:
                raise self.refuse(f"{self.describe(item)} where a value should be")
        return items

    def describe(self, value: Any) -> str:
        if isinstance(value, _Name):
            return f"the name {value.name}"
        if isinstance(value, _Mark):
            return "a mark"
        return "an unfinished object" if isinstance(value, _Unfinished) else _brief(value)

    def key(self, value: Any) -> Any:
        """The value, refused as a key if hashing it could take long, exhaust the stack or never end."""
        self.spend(_key_cost(value))
        return value

    def pairs(self, items: list[Any]) -> dict[Any, Any]:
        if len(items) % 2:
            raise ValueError("a key without a value")
        return dict(zip(map(self.key, items[::2]), items[1::2], strict=True))

    # Opcodes

    def mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def pop_one(self, _: Any) -> None:
        self.stack.pop()

    def pop_mark(self, _: Any) -> None:
        self.pop_to_mark(names=True)

    def dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def put(self, index: int) -> None:
        value = self.memo[index] = self.stack[-1]
        if isinstance(value, _Unfinished):
            self.places.setdefault(id(value), []).append(index)

    def memoize(self, _: Any) -> None:
        self.put(len(self.memo))

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def tuple_n(self, n: int) -> None:
        if len(self.stack) < n:
            raise IndexError("the stack is empty")
        items = self.stack[len(self.stack) - n :]
        del self.stack[len(self.stack) - n :]
        self.push_tuple(items)

    def push_tuple(self, items: list[Any]) -> None:
        if any(item is _MARK for item in items):
            raise self.refuse("a mark where a value should be")
        holds_names = any(isinstance(item, _Unfinished) for item in items)
        self.stack.append(_Arguments(tuple(items)) if holds_names else tuple(items))

    def tuple_marked(self, _: Any) -> None:
        self.push_tuple(self.pop_to_mark(names=True))

    def list_marked(self, _: Any) -> None:
        self.stack.append(self.pop_to_mark())

    def dict_marked(self, _: Any) -> None:
        self.stack.append(self.pairs(self.pop_to_mark()))

    def frozenset_marked(self, _: Any) -> None:
        self.stack.append(frozenset(map(self.key, self.pop_to_mark())))

    def append(self, _: Any) -> None:
        value = self.pop()
        self.top(list).append(value)

    def appends(self, _: Any) -> None:
        values = self.pop_to_mark()
        self.top(list).extend(values)

    def set_item(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self.top(dict)[self.key(key)] = value

    def set_items(self, _: Any) -> None:
        pairs = self.pairs(self.pop_to_mark())
        self.top(dict).update(pairs)

    def add_items(self, _: Any) -> None:
        values = self.pop_to_mark()
        self.top(set).update(map(self.key, values))

    def top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise TypeError(f"items for a {kind.__name__} meet a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def name(self, argument: str) -> None:
        self.push_name(*argument.split(" ", 1))

    def stack_name(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name that is no text")
        self.push_name(module, name)

    def push_name(self, module: str, name: str) -> None:
        known = _canonical(module, name)
        if not any(known in names for names in (_CONSTRUCTIONS, _ARGUMENT_NAMES, _SPARSE, self.constructions)):
            raise self.refuse(f"the pickle names {module[:100]}.{name[:100]}, which is refused")
        self.stack.append(_Name(known))

    def reduce(self, _: Any) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        items = arguments.items if isinstance(arguments, _Arguments) else arguments
        if not isinstance(called, _Name) or not isinstance(items, tuple):
            raise self.refuse("the pickle calls something that is no name")
        if called.name in self.constructions:
            if any(isinstance(item, _Unfinished) for item in items):
                raise self.refuse(f"unfinished objects for {called.name}")
            self.stack.append(self.constructions[called.name](*items))
        elif called.name in _CONSTRUCTIONS:
            self.stack.append(_CONSTRUCTIONS[called.name](self, *items))
        else:
            raise self.refuse(f"the pickle calls {called.name}")

    def new_object(self, _: Any) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, _Name) or called.name not in _SPARSE or arguments != ():
            raise self.refuse(f"the pickle makes an object of {self.describe(called)}")
        self.stack.append(_Sparse(called.name))

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(state, _Arguments) and isinstance(target, _Array):
            raise self.refuse("an unfinished dtype in an array")
        if isinstance(target, _Dtype):
            built: Any = self.finish_dtype(target, state)
        elif isinstance(target, _Array):
            _version, shape, dtype, fortran, content = state if len(state) == 5 else (1, *state)
            built = self.make_array(shape, dtype, "F" if fortran else "C", content)
        elif isinstance(target, _Sparse):
            built = self.make_sparse(target.name, state)
        else:
            raise self.refuse(f"the pickle sets the state of a {type(target).__name__}")
        # The memo may hold the unfinished object already.
        self.stack[-1] = built
        for index in self.places.pop(id(target), ()):
            if self.memo[index] is target:
                self.memo[index] = built

    # Constructions

    def make_dtype(self, code: Any, *_: Any) -> _Dtype:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(text, str) or not _DTYPE_CODE.fullmatch(text):
            raise self.refuse(f"the dtype {_brief(code)} is refused")
        return _Dtype(text)

    def finish_dtype(self, dtype: _Dtype, state: Any) -> np.dtype[Any]:
        # Besides the order, the state may only repeat what the code says: fields would be another dtype, and flags
        # that lie about objects would make numpy follow raw addresses. The flags are not even taken over.
        _version, order, subarray, names, fields, size = state[:6]
        order = order.decode("ascii") if isinstance(order, bytes) else order
        result: np.dtype[Any] = np.dtype(dtype.code)
        plain = (subarray, names, fields) == (None, None, None) and size in (-1, result.itemsize)
        if not plain or order not in ("<", ">", "=", "|"):
            raise self.refuse(f"a dtype {dtype.code} with another state is refused")
        return result if order in ("|", "=") else result.newbyteorder(">" if order == ">" else "<")

    def start_array(self, kind: Any, *_: Any) -> _Array:
        if not isinstance(kind, _Name) or kind.name != "numpy.ndarray":
            raise self.refuse("an array of another class than numpy.ndarray")
        return _Array()

    def make_scalar(self, dtype: Any, content: Any) -> Any:
        if isinstance(dtype, np.dtype) and dtype.kind == "O":
            raise self.refuse("a scalar of dtype object")
        return self.make_array((), dtype, "C", content)[()]

    def make_from_buffer(self, content: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> np.ndarray:
        if isinstance(dtype, np.dtype) and dtype.kind == "O":
            raise self.refuse("objects in a buffer")
        return self.make_array(shape, dtype, order, content)

    def make_array(self, shape: Any, dtype: Any, order: Any, content: Any) -> np.ndarray:
        if not isinstance(dtype, np.dtype):
            raise self.refuse("an array without a dtype")
        if not isinstance(shape, tuple) or len(shape) > 32 or order not in ("C", "F"):
            raise ValueError("an array of more than 32 dimensions, or of another order than C or F")
        if not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
            raise ValueError("an array of a shape that cannot be")
        size = math.prod(shape)
        if size and not dtype.itemsize:
            raise ValueError("an array of texts without letters")
        if dtype.kind == "O":
            if not isinstance(content, list) or len(content) != size:
                raise ValueError(f"an object array of shape {shape} without its {size} items")
            self.spend(8 * size)
            flat = np.empty(size, dtype=object)
            for i, item in enumerate(content):
                flat[i] = item
            return flat.reshape(shape, order=order)
        if isinstance(content, str | bytes | bytearray):
            self.spend(2 * len(content))
        raw = content.encode("latin1") if isinstance(content, str) else content
        if not isinstance(raw, bytes | bytearray) or len(raw) != size * dtype.itemsize:
            raise ValueError(f"an array of shape {shape} and dtype {dtype} without its {size * dtype.itemsize} bytes")
        return np.ndarray(shape, dtype, buffer=bytes(raw) or None, order=order).copy(order="K")

    def make_sparse(self, name: str, state: Any) -> Any:
        try:
            import scipy.sparse
        except ImportError as error:
            raise DataError(f"{self.label} holds a sparse matrix: install scipy to read it") from error
        state = {key.decode() if isinstance(key, bytes) else key: value for key, value in state.items()}
        shape = state["_shape"]
        if not isinstance(shape, tuple) or len(shape) != 2 or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("a sparse matrix of a shape that cannot be")
        kind = name.rpartition(".")[2]
        if kind.startswith("coo"):
            coordinates = state["coords"] if "coords" in state else (state["row"], state["col"])
            parts = (state["data"], *coordinates)
        else:
            parts = (state["data"], state["indices"], state["indptr"])
        if len(parts) != 3 or not all(isinstance(a, np.ndarray) and a.ndim == 1 for a in parts):
            raise ValueError("a sparse matrix that is not made of three arrays")
        if parts[0].dtype.kind not in "biufc" or any(a.dtype.kind not in "iu" for a in parts[1:]):
            raise ValueError("a sparse matrix of other things than numbers")
        data, *indices = parts
        self.spend(8 * sum(a.size for a in parts))
        content = (data, tuple(indices)) if kind.startswith("coo") else (data, *indices)
        matrix = getattr(scipy.sparse, kind)(content, shape=shape)
        if not kind.startswith("coo"):
            matrix.check_format(full_check=True)  # every index inside: scipy's C code trusts them
        return matrix

    def make_sparse_by_copyreg(self, kind: Any, parent: Any, state: Any) -> _Sparse:
        if not isinstance(kind, _Name) or kind.name not in _SPARSE or getattr(parent, "name", "") != "builtins.object":
            raise self.refuse(f"the pickle makes an object of {self.describe(kind)}")
        return _Sparse(kind.name)

    def make_container(self, kind: Callable[..., Any], *items: Any) -> Any:
        if len(items) > 1 or not all(isinstance(item, list | tuple) for item in items):
            raise self.refuse(f"a {kind.__name__} of something else than a list")
        self.spend(8 * sum(map(len, items)))
        if kind in (set, frozenset):
            return kind(map(self.key, *items)) if items else kind()
        if kind in (dict, collections.OrderedDict):
            return kind((self.key(key), value) for pairs in items for key, value in pairs)
        return kind(*items)

    def make_defaultdict(self, factory: Any = None, *items: Any) -> Any:
        if len(items) > 1 or not all(isinstance(item, list | tuple | dict) for item in items):
            raise self.refuse("a defaultdict of something else than pairs")
        pairs = [pair for item in items for pair in (item.items() if isinstance(item, dict) else item)]
        self.spend(8 * len(pairs))
        content = [(self.key(key), value) for key, value in pairs]
        if factory is None:
            return collections.defaultdict(None, content)
        if not isinstance(factory, _Name) or factory.name not in _FACTORIES:
            raise self.refuse("a defaultdict of another factory than a builtin container or number")
        return collections.defaultdict(_FACTORIES[factory.name], content)

    def make_bytes(self, text: Any = "", encoding: Any = "latin1") -> bytes:
        # How Python 3 writes bytes in protocols 0 to 2.
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise self.refuse("an encoding other than latin1")
        self.spend(len(text))
        return codecs.encode(text, "latin1")

    def make_bytearray(self, content: Any = b"", *encoding: Any) -> bytearray:
        raw = content if isinstance(content, bytes) else self.make_bytes(content, *encoding)
        self.spend(len(raw))
        return bytearray(raw)

    def make_complex(self, real: Any, imaginary: Any) -> complex:
        return complex(float(real), float(imaginary))


_ATOMS = (str, bytes, bytearray, bool, int, float, complex, type(None), np.generic)


def _items(value: Any) -> Iterable[Any]:
    """What a container holds directly."""
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        return list(value.flat)
    return ()


def _key_cost(value: Any, depth: int = 4) -> int:
    """How long hashing takes, in bytes.

    Raises:
        ValueError: if tuples nest too deep.
    """
    if isinstance(value, tuple):
        if depth == 0:
            raise ValueError("tuples nested too deep in a key")
        # no sum over a generator of shared tuples: each level is counted before the next is looked at
        cost = sum(8 + (item.bit_length() // 8 if isinstance(item, int) else 0) for item in value)
        inner = [item for item in value if isinstance(item, tuple)]
        if len(inner) > _MOST_INNER:
            raise ValueError("a key of too many tuples")
        return cost + sum(_key_cost(item, depth - 1) for item in inner)
    return value.bit_length() // 8 if isinstance(value, int) else 1


def _brief(value: Any) -> str:
    """A value in a message, in constant time whatever it is."""
    if isinstance(value, str | bytes):
        return repr(value[:60])
    if isinstance(value, float | bool | type(None)) or (isinstance(value, int) and value.bit_length() < 64):
        return repr(value)
    return f"a {type(value).__name__}"


def _canonical(module: str, name: str) -> str:
    """The one spelling of a name that several versions of Python, numpy and scipy spell differently."""
    module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
    if module.startswith("numpy.core."):
        module = "numpy._core." + module.removeprefix("numpy.core.")
    full = f"{module}.{name}"
    if module.startswith("scipy.sparse."):
        fmt = module.removeprefix("scipy.sparse.").removeprefix("_")
        if full in (f"scipy.sparse.{fmt}.{name}", f"scipy.sparse._{fmt}.{name}") and name.startswith(f"{fmt}_"):
            return f"scipy.sparse.{name}"
    return full


_ARGUMENT_NAMES = frozenset({"numpy.ndarray", "builtins.object", *_FACTORIES})

_CONSTRUCTIONS: dict[str, Callable[..., Any]] = {
    "numpy._core.multiarray._reconstruct": _Reader.start_array,
    "numpy._core.multiarray.scalar": _Reader.make_scalar,
    "numpy._core.numeric._frombuffer": _Reader.make_from_buffer,
    "numpy.dtype": _Reader.make_dtype,
    "collections.defaultdict": _Reader.make_defaultdict,
    "collections.OrderedDict": lambda reader, *items: reader.make_container(collections.OrderedDict, *items),
    "builtins.set": lambda reader, *items: reader.make_container(set, *items),
    "builtins.frozenset": lambda reader, *items: reader.make_container(frozenset, *items),
    "builtins.list": lambda reader, *items: reader.make_container(list, *items),
    "builtins.tuple": lambda reader, *items: reader.make_container(tuple, *items),
    "builtins.dict": lambda reader, *items: reader.make_container(dict, *items),
    "builtins.bytes": _Reader.make_bytes,
    "builtins.bytearray": _Reader.make_bytearray,
    "builtins.complex": _Reader.make_complex,
    "_codecs.encode": _Reader.make_bytes,
    "copyreg._reconstructor": _Reader.make_sparse_by_copyreg,
}

_HANDLERS: dict[str, Callable[[_Reader, Any], None]] = {
    "MARK": _Reader.mark,
    "POP": _Reader.pop_one,
    "POP_MARK": _Reader.pop_mark,
    "DUP": _Reader.dup,
    "PUT": _Reader.put,
    "BINPUT": _Reader.put,
    "LONG_BINPUT": _Reader.put,
    "MEMOIZE": _Reader.memoize,
    "GET": _Reader.get,
    "BINGET": _Reader.get,
    "LONG_BINGET": _Reader.get,
    "TUPLE": _Reader.tuple_marked,
    "TUPLE1": lambda reader, _: reader.tuple_n(1),
    "TUPLE2": lambda reader, _: reader.tuple_n(2),
    "TUPLE3": lambda reader, _: reader.tuple_n(3),
    "LIST": _Reader.list_marked,
    "DICT": _Reader.dict_marked,
    "FROZENSET": _Reader.frozenset_marked,
    "APPEND": _Reader.append,
    "APPENDS": _Reader.appends,
    "SETITEM": _Reader.set_item,
    "SETITEMS": _Reader.set_items,
    "ADDITEMS": _Reader.add_items,
    "GLOBAL": _Reader.name,
    "STACK_GLOBAL": _Reader.stack_name,
    "REDUCE": _Reader.reduce,
    "NEWOBJ": _Reader.new_object,
    "BUILD": _Reader.build,
}
