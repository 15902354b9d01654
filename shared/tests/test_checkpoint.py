import json
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared_impl import checkpoint
from shared_impl.checkpoint import CheckpointError

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
tensors = st.builds(
    lambda shape, dtype: (torch.randn(shape) * 3).to(dtype),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from([d for d in DTYPES if not d.is_complex]),
)
values = st.recursive(
    plain | tensors,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@given(values)
def test_any_nested_value_comes_back_through_json_as_it_was(value: object) -> None:
    tensors: dict[str, torch.Tensor] = {}
    structure = json.loads(json.dumps(checkpoint.flatten(value, tensors)))
    assert same(checkpoint.unflatten(structure, tensors), value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_checkpoint_gives_back_tensors_of_every_kind(tmp_path: Path, dtype: torch.dtype) -> None:
    matrix = torch.arange(12).view(3, 4).to(dtype)
    part = {"all": matrix, "transposed": matrix.T, "again": matrix, "number": matrix[0, 1], "none": matrix[:0]}
    path = checkpoint.write(tmp_path / "step-00000001", {"model": part, "loop": {"loss": math.inf, "tenth": 0.1}})
    read = checkpoint.read(path)
    assert same(read["model"], part)
    assert read["loop"] == {"loss": math.inf, "tenth": 0.1}


def test_counters_and_numpy_scalars_come_back() -> None:
    value = {"milestones": Counter([3, 3, 9]), "lr": np.float32(0.5)}
    assert checkpoint.unflatten(checkpoint.flatten(value, {}), {}) == {"milestones": Counter([3, 3, 9]), "lr": 0.5}


def test_what_is_neither_tensor_nor_plain_data_is_refused_by_its_path() -> None:
    with pytest.raises(CheckpointError, match="cannot save a/1: function"):
        checkpoint.flatten({"a": [1, lambda: None]}, {})


def test_every_truncation_and_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = checkpoint.write(tmp_path / "step-00000001", {"model": {"w": torch.ones(64)}, "loop": {"step": 1}})
    names = sorted(p.name for p in path.iterdir())
    assert names == ["manifest.json", "model.safetensors", "structure.json"]
    for name in names:
        whole = (path / name).read_bytes()
        for damaged in (whole[: len(whole) // 2], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
            (path / name).write_bytes(damaged)
            with pytest.raises(CheckpointError):
                checkpoint.read(path)
        (path / name).unlink()
        with pytest.raises(CheckpointError):
            checkpoint.read(path)
        (path / name).write_bytes(whole)
    assert checkpoint.read(path)["loop"] == {"step": 1}


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    path = checkpoint.write(tmp_path / "step-00000001", {"loop": {}})
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99, this version reads 1"):
        checkpoint.read(path)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        checkpoint.write(tmp_path / "step-00000002", {"model": {"w": torch.ones(4)}, "loop": object()})
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_are_found_newest_first_and_removed_but_for_those_to_keep(tmp_path: Path) -> None:
    for step in (5, 120, 30):
        checkpoint.write(checkpoint.path_of(tmp_path, "step", step), {"loop": step})
    checkpoint.write(checkpoint.path_of(tmp_path, "best", 7), {"row": {}})
    (tmp_path / "notes.txt").touch()
    assert list(checkpoint.find(tmp_path, "step")) == [120, 30, 5]
    checkpoint.keep_only(tmp_path, "step", {30, 120})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best-00000007",
        "notes.txt",
        "step-00000030",
        "step-00000120",
    ]


def test_writing_again_replaces(tmp_path: Path) -> None:
    path = checkpoint.write(tmp_path / "step-00000001", {"loop": 1})
    checkpoint.write(path, {"loop": 2})
    assert checkpoint.read(path) == {"loop": 2}
    assert list(tmp_path.iterdir()) == [path]


def test_the_generators_of_python_numpy_and_torch_go_on_where_they_were(tmp_path: Path) -> None:
    def draw() -> list[float]:
        normal = np.random.standard_normal()  # noqa: NPY002 - the global generator is under test
        return [random.random(), random.gauss(0, 1), float(normal), float(torch.randn(()))]

    draw()  # gauss keeps a second number back, in Python and in numpy
    state = checkpoint.rng_state(torch.device("cpu"))
    checkpoint.write(tmp_path / "step-00000001", {"rng": state})
    expected = [draw() for _ in range(3)]
    checkpoint.set_rng_state(checkpoint.read(tmp_path / "step-00000001")["rng"], torch.device("cpu"))
    assert [draw() for _ in range(3)] == expected
