"""The reader of pickles opens plain data of every protocol and runs nothing."""

import builtins
import collections
import contextlib
import copyreg
import io
import os
import pathlib
import pickle
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared_impl.data import DataError, load_restricted_pickle

PROTOCOLS = range(6)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if scipy.sparse.issparse(a):
        return a.shape == b.shape and a.dtype == b.dtype and (a != b).nnz == 0
    if isinstance(a, np.ndarray | np.generic):
        if a.dtype.kind == "O":
            return a.shape == b.shape and all(map(same, a.ravel(), b.ravel()))
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(same, a.values(), b.values()))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


DICT_OF_LISTS = collections.defaultdict(list, {0: [1, 2], 1: [0]})
MATRIX = scipy.sparse.random(7, 5, density=0.4, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
PLAIN = {
    "numbers": [0, -1, 255, 65536, 2**40, -(2**100), 1.5, float("inf"), True, False, None, 1 + 2j],
    "texts": ["", "plain", "Zürich \U0001f600", b"", b"\x00\xff", bytearray(b"ab")],
    "containers": [(), (1,), (1, 2, 3, 4), {1, 2}, frozenset({3}), {"a": {"b": []}}, [[[]]], set(), frozenset()],
    "defaultdict": DICT_OF_LISTS,
    "OrderedDict": collections.OrderedDict([("b", 1), ("a", 2)]),
    "float array": np.arange(6.0).reshape(2, 3),
    "Fortran array": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
    "big-endian array": np.arange(3, dtype=">i2"),
    "bool array": np.array([True, False]),
    "empty array": np.empty((0, 3), np.float32),
    "array of no dimension": np.array(3.5),
    "string arrays": [np.array(["ab", "c"]), np.array([b"ab", b"c"])],
    "object array": np.array([[1, 2], None, "x", np.arange(2)], dtype=object),
    "the same array twice": [np.arange(2)] * 2,
    "scalars": [np.float32(1.5), np.int64(-3), np.bool_(True), np.str_("ab"), np.complex128(1j)],
    "csr": MATRIX,
    "csc": MATRIX.tocsc(),
    "coo": MATRIX.tocoo(),
    "csr array": scipy.sparse.csr_array(MATRIX),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", PLAIN)
def test_plain_data_is_read_as_pickle_reads_it(kind: str, protocol: int) -> None:
    content = pickle.dumps(PLAIN[kind], protocol)
    assert same(load_restricted_pickle(content), PLAIN[kind])


def test_identity_and_the_factory_are_kept() -> None:
    shared = [1]
    first, second, table = load_restricted_pickle(pickle.dumps([shared, shared, DICT_OF_LISTS]))
    assert first is second
    assert table.default_factory is list
    array = load_restricted_pickle(pickle.dumps([np.arange(2)] * 2))
    assert array[0] is array[1]
    array[0][0] = 9  # and arrays can be written to


def test_a_list_that_holds_itself_is_read() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    result = load_restricted_pickle(pickle.dumps(loop))
    assert result[1] is result


@settings(max_examples=60, deadline=None)
@given(
    array=hnp.arrays(
        st.one_of(hnp.integer_dtypes(endianness="?"), hnp.floating_dtypes(endianness="?"), hnp.boolean_dtypes()),
        hnp.array_shapes(min_dims=0, min_side=0, max_dims=4),
    ),
    protocol=st.sampled_from(PROTOCOLS),
)
def test_any_numeric_array_survives(array: np.ndarray, protocol: int) -> None:
    assert same(load_restricted_pickle(pickle.dumps({"a": array}, protocol)), {"a": array})


# What Python 2 and old versions of numpy and scipy wrote.
OLD_CSR = (
    b"\x80\x02cscipy.sparse.csr\ncsr_matrix\n)\x81}(U\x06_shapeK\x01K\x02\x86"
    + b"".join(
        b"U"
        + bytes([len(name)])
        + name
        + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K"
        + bytes([n])
        + b"\x85cnumpy\ndtype\nU\x02"
        + code
        + b"K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U" + bytes([len(raw)]) + raw + b"tb"
        for name, code, n, raw in (
            (b"data", b"f4", 1, struct.pack("<f", 1.5)),
            (b"indices", b"i4", 1, struct.pack("<i", 1)),
            (b"indptr", b"i4", 2, struct.pack("<2i", 0, 1)),
        )
    )
    + b"ub."
)


def test_matrices_of_python_2_under_old_module_names_are_read() -> None:
    matrix = load_restricted_pickle(OLD_CSR)
    assert type(matrix) is scipy.sparse.csr_matrix
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix.toarray(), [[0, 1.5]])


def test_containers_of_python_2_are_read() -> None:
    content = b"\x80\x02c__builtin__\nset\n](U\x02\xe9tU\x01be\x85Rc__builtin__\nlist\n]K\x01a\x85R\x86."
    assert load_restricted_pickle(content) == ({"ét", "b"}, [1])
    assert load_restricted_pickle(content, encoding="bytes") == ({b"\xe9t", b"b"}, [1])
    table = load_restricted_pickle(b"\x80\x02ccollections\ndefaultdict\nc__builtin__\nlist\n\x85RK\x00]K\x01as.")
    assert table == {0: [1]}
    assert table.default_factory is list


class Calls:
    """Pickles to a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


class Plain:
    pass


def touch(path: str) -> None:
    Path(path).write_text("run")


HOSTILE = {
    "os.system": Calls(os.system, "exit 1"),
    "builtins.eval": Calls(builtins.eval, "1 + 1"),
    "builtins.exec": Calls(builtins.exec, "raise SystemExit"),
    "builtins.getattr": Calls(getattr, "text", "upper"),
    "builtins.open": Calls(open, "/dev/null"),
    "nested in a list": [1, [Calls(os.system, "exit 1")]],
    "nested in the arguments": Calls(len, Calls(builtins.eval, "1")),
    "as a key": {(1, Calls(builtins.eval, "1")): 2},
    "in an object array": np.array([Calls(os.system, "exit 1"), 1], dtype=object),
    "numpy.load": Calls(np.load, "x.npy"),
    "numpy.memmap": Calls(np.memmap, "/dev/null"),
    "numpy.vectorize": Calls(np.vectorize, len),
    "numpy.fromfile": Calls(np.fromfile, "/dev/null"),
    "an object": Plain(),
    "a class": Plain,
    "a builtin as a value": [list],
    "range": range(3),
    "structured array": np.zeros(2, dtype=[("a", "f4"), ("b", "O")]),
    "dates": np.array(["2020-01-01"], dtype="datetime64[D]"),
    "defaultdict of a function": collections.defaultdict(touch),
    "matrix": np.ma.masked_array([1]),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_everything_else_is_refused(kind: str, protocol: int) -> None:
    content = pickle.dumps(HOSTILE[kind], protocol)
    with pytest.raises(DataError, match=r"only plain data, numpy arrays and scipy sparse matrices are read"):
        load_restricted_pickle(content)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_run_and_the_message_has_the_name(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps([1, Calls(os.mkdir, str(tmp_path / "made"))], protocol)
    (tmp_path / "evil.pickle").write_bytes(content)
    with pytest.raises(DataError, match=r"evil\.pickle: the pickle names (posix|nt)\.mkdir, which is refused"):
        load_restricted_pickle(tmp_path / "evil.pickle")
    assert not (tmp_path / "made").exists()
    pickle.loads(content)
    assert (tmp_path / "made").exists()  # the ordinary reader does run it


HAND_MADE = {
    "os.system by GLOBAL": (b"cos\nsystem\n(S'exit 1'\ntR.", "os.system"),
    "os.system by STACK_GLOBAL": (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x06exit 1\x85R.", "os.system"),
    "os.system by INST": (b"(S'exit 1'\nios\nsystem\n.", "INST"),
    "os.system by OBJ": (b"(cos\nsystem\nS'exit 1'\no.", "os.system"),
    "OBJ of an allowed name": (b"(cbuiltins\nlist\no.", "OBJ"),
    "NEWOBJ_EX": (b"\x80\x04cbuiltins\nlist\n)}\x92.", "NEWOBJ_EX"),
    "a name never called": (b"cos\nsystem\n0N.", "os.system"),
    "a dotted path": (b"\x80\x04\x8c\x05numpy\x8c\x0ef2py.os.system\x93.", "f2py.os.system"),
    "a dotted path below an allowed name": (b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.", "ndarray.__init__"),
    "an allowed name of another module": (b"cevil\nndarray\n.", "evil.ndarray"),
    "a module beside an allowed one": (b"cnumpy.core.multiarray.evil\n_reconstruct\n.", "evil._reconstruct"),
    "a sparse name of another format": (b"cscipy.sparse.evil\ncsr_matrix\n.", "scipy.sparse.evil.csr_matrix"),
    "a sparse function": (b"cscipy.sparse\nload_npz\n.", "scipy.sparse.load_npz"),
    "extension code": (b"\x80\x02\x82\x01.", "EXT1"),
    "extension code of two bytes": (b"\x80\x02\x83\x01\x01.", "EXT2"),
    "extension code of four bytes": (b"\x80\x02\x84\x01\x01\x00\x00.", "EXT4"),
    "persistent id": (b"Psomething\n.", "PERSID"),
    "binary persistent id": (b"K\x01Q.", "BINPERSID"),
    "out-of-band buffer": (b"\x80\x05\x97.", "NEXT_BUFFER"),
    "a call of data": (b"]K\x01\x85R.", "calls something that is no name"),
    "a call of what only names": (b"cnumpy\nndarray\nK\x02\x85R.", "calls numpy.ndarray"),
    "an object of a container": (b"\x80\x02cbuiltins\nlist\n)\x81.", "builtins.list"),
    "state for a list": (b"]}b.", "sets the state of a list"),
    "state for a name": (b"cbuiltins\nlist\n}b.", "sets the state of a _Name"),
    "state for a matrix class": (b"cscipy.sparse._csr\ncsr_matrix\nN}S'toarray'\nNs\x86b.", "sets the state"),
    "an object by copyreg": (b"ccopy_reg\n_reconstructor\n(cbuiltins\nlist\ncbuiltins\nobject\nNtR.", "builtins.list"),
    "an encoding that decodes": (b"c_codecs\nencode\n(VeJw=\nVzlib\ntR.", "other than latin1"),
    "another class of array": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\nlist\n(I0\ntS'b'\ntR.",
        "another class",
    ),
    "a key nested so deep that hashing it ends the interpreter": (
        b"\x80\x02}K\x01" + b"\x85" * 200_000 + b"K\x01s.",
        "nested too deep",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HAND_MADE)
def test_hand_made_tricks_are_refused(kind: str) -> None:
    content, message = HAND_MADE[kind]
    with pytest.raises(DataError) as caught:
        load_restricted_pickle(content)
    assert message in str(caught.value)


def test_an_extension_code_that_is_registered_and_cached_is_refused() -> None:
    code = 0xF0
    copyreg.add_extension("os", "getcwd", code)
    try:
        content = pickle.dumps(Calls(os.getcwd), 2).replace(b"cposix\ngetcwd\n", b"\x82\xf0")
        assert pickle.loads(content) == os.getcwd()  # from now on the code is in the interpreter's cache
        with pytest.raises(DataError, match="EXT1"):
            load_restricted_pickle(content)
    finally:
        copyreg.remove_extension("os", "getcwd", code)
        copyreg.clear_extension_cache()


def array_pickle(shape: bytes, dtype: bytes, state: bytes, content: bytes) -> bytes:
    """An array whose parts contradict each other, as no numpy would write it."""
    return (
        b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01"
        + shape
        + b"cnumpy\ndtype\nX"
        + struct.pack("<I", len(dtype))
        + dtype
        + b"K\x00K\x01\x87R"
        + state
        + b"b\x89"
        + content
        + b"tb."
    )


STATE = b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
LYING_ARRAYS = {
    "fewer bytes than items": array_pickle(b"K\x09\x85", b"f8", STATE, b"C\x08" + bytes(8)),
    "more bytes than items": array_pickle(b"K\x01\x85", b"f8", STATE, b"C\x09" + bytes(9)),
    "a negative shape": array_pickle(b"J\xff\xff\xff\xff\x85", b"f8", STATE, b"C\x08" + bytes(8)),
    "a shape that overflows": array_pickle(b"\x8a\x08" + bytes(7) + b"\x40\x85", b"f8", STATE, b"C\x00"),
    "raw bytes as objects": array_pickle(b"K\x01\x85", b"O8", STATE, b"C\x08" + b"A" * 8),
    "a dtype of fields": array_pickle(b"K\x01\x85", b"f8,O", STATE, b"C\x08" + bytes(8)),
    "a dtype with a wrong size": array_pickle(
        b"K\x01\x85", b"f8", STATE.replace(b"J\xff\xff\xff\xff", b"K\x01", 1), b"C\x08" + bytes(8)
    ),
    "a dtype with fields in its state": array_pickle(b"K\x01\x85", b"V8", STATE, b"C\x08" + bytes(8)),
    "a dtype without state": array_pickle(b"K\x01\x85", b"f8", STATE, b"C\x08" + bytes(8)).replace(STATE + b"b", b""),
}  # fmt: skip


def test_the_template_of_the_lying_arrays_is_sound() -> None:
    honest = array_pickle(b"K\x01\x85", b"f8", STATE, b"C\x08" + struct.pack("<d", 2.5))
    assert same(load_restricted_pickle(honest), np.array([2.5]))


@pytest.mark.parametrize("kind", LYING_ARRAYS)
def test_arrays_that_contradict_themselves_are_refused(kind: str) -> None:
    with pytest.raises(DataError):
        load_restricted_pickle(LYING_ARRAYS[kind])


@pytest.mark.parametrize("indices", [[0, 7], [0, -1]])
@pytest.mark.parametrize("fmt", ["csr", "csc", "coo"])
def test_a_sparse_matrix_with_an_index_outside_is_refused(fmt: str, indices: list[int]) -> None:
    matrix = scipy.sparse.eye_array(2, format=fmt)
    if fmt == "coo":
        matrix.coords = (np.array(indices, dtype=np.int32), matrix.coords[1])
    else:
        matrix.indices = np.array(indices, dtype=np.int32)
    with pytest.raises(DataError, match="damaged or cut short"):
        load_restricted_pickle(pickle.dumps(matrix))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_cut_anywhere_is_an_error(protocol: int) -> None:
    content = pickle.dumps({"a": np.arange(4), "b": [MATRIX, "text", (1, 2.5)]}, protocol)
    for end in range(len(content)):
        with pytest.raises(DataError):
            load_restricted_pickle(content[:end])


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=60))
def test_any_bytes_are_data_or_an_error(content: bytes) -> None:
    with contextlib.suppress(DataError):
        load_restricted_pickle(content + b".")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_flipped_byte_is_data_or_an_error(data: st.DataObject) -> None:
    content = bytearray(OLD_CSR)
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DataError):
        load_restricted_pickle(bytes(content))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*absent\.pickle"):
        load_restricted_pickle(tmp_path / "absent.pickle")


@pytest.mark.data("planetoid")
def test_every_pickle_of_planetoid_is_read_as_pickle_reads_it() -> None:
    from shared_impl.data import fetch, shared_registry

    names = [name for name in shared_registry().dataset("planetoid").files if not name.endswith(".index")]
    paths = [fetch("planetoid", name) for name in names]
    assert len(paths) == 14
    compare_with_pickle(paths)


@pytest.mark.data
def test_every_pickle_of_hypergcn_is_read_as_pickle_reads_it() -> None:
    folder = Path(os.environ["IMPL_DATA_DIR"]) / "hypergcn_citation"
    if not folder.is_dir():
        pytest.skip(f"not at hand: {folder}")
    paths = sorted(folder.rglob("*.pickle"))
    assert len(paths) > 30
    compare_with_pickle(paths)


def compare_with_pickle(paths: list[Path]) -> None:

    for path in paths:
        ours = load_restricted_pickle(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the ordinary reader imports modules that numpy and scipy deprecate
            theirs = pickle.load(io.BytesIO(path.read_bytes()), encoding="latin1")
        assert same(ours, theirs), path


def many_small_arrays(n: int) -> bytes:
    return pickle.dumps([np.full(3, i) for i in range(n)], protocol=2)


def test_work_grows_with_the_number_of_arrays_and_not_with_its_square() -> None:
    """Counted, not timed: places that BUILD looks at in the memo."""
    from shared_impl.restricted_pickle import _Reader

    class Counting(dict[int, Any]):
        looks = 0

        def __getitem__(self, key: int) -> Any:
            Counting.looks += 1
            return super().__getitem__(key)

        def items(self) -> Any:
            raise AssertionError("the whole memo is searched")

    reader = _Reader("test", many_small_arrays(500), "latin1", {})
    reader.memo = Counting()
    assert len(reader.read()) == 500
    assert Counting.looks < 20 * 500


def nested(depth: int) -> bytes:
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


def test_containers_nest_a_hundred_deep_and_no_deeper() -> None:
    assert load_restricted_pickle(nested(100)) == pickle.loads(nested(100))
    for depth in (101, 5000, 200_000):
        with pytest.raises(DataError, match="nested deeper"):
            load_restricted_pickle(nested(depth))


def laughs(levels: int, *, kind: bytes = b"l", end: bytes = b".") -> bytes:
    """Each level holds the one before ten times."""
    content = b"\x80\x02(K\x01" + kind + b"q\x00"
    for level in range(1, levels):
        content += b"(" + b"h" + bytes([level - 1]) + b"".join(b"h" + bytes([level - 1]) for _ in range(9))
        content += kind + b"q" + bytes([level])
    return content + end


@pytest.mark.parametrize("kind", [b"l", b"t"], ids=["lists", "tuples"])
def test_shared_containers_are_read_in_linear_time(kind: bytes) -> None:
    value = load_restricted_pickle(laughs(60, kind=kind))
    for _ in range(59):
        assert len(value) == 10
        value = value[0]
    assert list(value) == [1]


@pytest.mark.parametrize(
    "content",
    [
        laughs(60, kind=b"t", end=b"K\x01}q\x7fh;K\x01s."),  # as a key
        laughs(60, kind=b"t", end=b"c__builtin__\nset\n(h;lR."),  # in a set, which hashes
        laughs(60, end=b"c__builtin__\nset\n(h;K\x02tR."),  # in a message
        laughs(60, end=b"cnumpy\ndtype\nh;\x85R."),
        laughs(
            60,
            end=b"cnumpy\ndtype\n(X\x02\x00\x00\x00i4K\x00K\x01tR(K\x03h;NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.",
        ),
    ],
    ids=["key", "set", "arguments", "dtype", "state"],
)
def test_what_is_refused_is_refused_at_once(content: bytes) -> None:
    with pytest.raises(DataError) as caught:
        load_restricted_pickle(content)
    assert len(str(caught.value)) < 500


def test_copies_of_one_large_value_are_counted_against_the_pickle() -> None:
    text = b"X" + struct.pack("<I", 1_000_000) + b"a" * 1_000_000 + b"q\x00"
    encode = b"c_codecs\nencode\nq\x010h\x01h\x00X\x06\x00\x00\x00latin1q\x02\x86R"
    again = b"h\x01h\x00h\x02\x86R"
    with pytest.raises(DataError, match="far more than it holds"):
        load_restricted_pickle(b"\x80\x02" + text + encode + again * 2000 + b".")
    items = b"(" + b"K\x01" * 100_000 + b"lq\x00"
    copies = b"c__builtin__\nlist\nq\x01" + b"h\x01h\x00\x85R" * 20_000
    with pytest.raises(DataError, match="far more than it holds"):
        load_restricted_pickle(b"\x80\x02" + items + copies + b".")


@pytest.mark.parametrize("shape", [(10**12,), (0, 10**30), (1,) * 40])
def test_shapes_that_cannot_be_are_refused(shape: tuple[int, ...]) -> None:
    state = (1, shape, np.dtype("S1"), False, b"")
    with pytest.raises(DataError):
        load_restricted_pickle(array_with_state(state))
    with pytest.raises(DataError):
        load_restricted_pickle(array_with_state((1, (10**9,), np.dtype("S"), False, b"")))


def array_with_state(state: Any) -> bytes:
    class Array:
        def __reduce__(self) -> Any:
            from numpy._core.multiarray import _reconstruct

            return _reconstruct, (np.ndarray, (0,), b"b"), state

    return pickle.dumps(Array(), protocol=2)


def test_further_names_stand_for_functions_of_plain_data() -> None:
    content = pickle.dumps(pathlib.PurePosixPath("a/b"), protocol=2)
    name = f"{pathlib.PurePosixPath.__module__}.PurePosixPath"
    with pytest.raises(DataError, match="PurePosixPath, which is refused"):
        load_restricted_pickle(content)
    assert load_restricted_pickle(content, constructions={name: lambda *parts: "/".join(parts)}) == "a/b"
