import pickle
import zipfile

import numpy as np
import pytest
import torch

from shared_impl.data import DataError
from tcnca_impl import associative_recall, delayed_copy, listops
from tcnca_impl.data import LISTOPS_TOKENS, bytes_of, read_enwik8, unigram_bits
from tcnca_impl.lra import lra_task, parse_listops


def _value(tokens):
    """An expression by recursion."""
    token = tokens.pop(0)
    if token.isdigit():
        return int(token)
    values = []
    while tokens[0] != "]":
        values.append(_value(tokens))
    tokens.pop(0)
    return {
        "[MIN": min(values), "[MAX": max(values), "[MED": int(np.median(values)), "[SM": sum(values) % 10
    }[token]  # fmt: skip


def test_expressions_of_listops_have_their_values_and_lengths_and_none_comes_twice():
    ids, values, lengths = listops(40, min_length=4, max_length=40)
    assert len({tuple(row) for row in ids.tolist()}) == 40
    for row, value, length in zip(ids, values, lengths, strict=True):
        tokens = [LISTOPS_TOKENS[i] for i in row[:length]]
        assert _value(tokens) == value
        assert not tokens
        assert not row[length:].any()
    assert bool((lengths >= 4).all())


def test_bounds_that_leave_no_expression_are_refused():
    with pytest.raises(ValueError, match="leave too few"):
        listops(2, min_length=1, max_length=2)


def test_recall_asks_for_the_value_of_a_key_that_was_seen():
    ids, targets, far = associative_recall(50, 33, vocab=10, chunk=8, generator=torch.Generator().manual_seed(0))
    assert ids.shape == (50, 33)
    for row, target, away in zip(ids.tolist(), targets.tolist(), far.tolist(), strict=True):
        pairs = dict(zip(row[0:-1:2], row[1:-1:2], strict=True))
        assert pairs[row[-1]] == target
        assert all(key < 5 <= value for key, value in pairs.items())
        assert away is (row[-1] not in row[32 // 8 * 8 : -1])


def test_a_copy_is_what_stood_before():
    ids, targets = delayed_copy(2, 20, 12)
    assert torch.equal(targets[:, 12:], ids[:, :8])
    assert bool((targets[:, :12] == -100).all())
    with pytest.raises(ValueError, match="delay < length"):
        delayed_copy(2, 20, 20)


def test_listops_is_read_from_the_benchmark_s_files(tmp_path):
    home = tmp_path / "lra_release" / "listops-1000"
    home.mkdir(parents=True)
    for part, digit in (("train", 4), ("val", 5), ("test", 6)):
        line = f"( ( ( [MAX {digit} ) 2 ) ] )\t{digit}\n"
        (home / f"basic_{part}.tsv").write_text("Source\tTarget\n" + line * 2, encoding="utf-8")
    task = lra_task("listops", tmp_path)
    assert [LISTOPS_TOKENS[i] for i in task.val.x[0]] == ["[MAX", "5", "2", "]"]
    assert task.test.y.tolist() == [6, 6]
    (home / "basic_val.tsv").write_text("Source\tTarget\n[SIN 2 ]\t1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"basic_val.tsv.*'\[SIN'"):
        lra_task("listops", tmp_path)
    with pytest.raises(ValueError, match="got 'x'"):
        parse_listops("[MAX x ]")


def test_text_is_read_from_the_reviews_as_they_are_published(tmp_path):
    for part in ("train", "test"):
        for label in ("neg", "pos"):
            folder = tmp_path / "aclImdb" / part / label
            folder.mkdir(parents=True)
            for i in range(5):
                (folder / f"{i}_1.txt").write_text(f"{label} {i}" * 3, encoding="utf-8")
    task = lra_task("text", tmp_path, max_length=8)
    assert (len(task.train), len(task.val), len(task.test)) == (9, 1, 10)
    assert task.test.lengths.tolist() == [8] * 10
    assert bytes((task.test.x[0] - 1).tolist()) == b"neg 0neg"
    assert task.test.y.tolist() == [0] * 5 + [1] * 5


def test_retrieval_is_read_from_the_benchmark_s_files(tmp_path):
    home = tmp_path / "tsv_data"
    home.mkdir()
    for part in ("train", "eval", "test"):
        (home / f"new_aan_pairs.{part}.tsv").write_text('1.0\tA\tB\tone "x\tfour\n0.0\tA\tC\ta\tb\n', encoding="utf-8")
    task = lra_task("retrieval", tmp_path)
    assert task.val.x.shape == (2, 2, 6)
    assert task.val.lengths.tolist() == [[6, 4], [1, 1]]
    assert task.val.y.tolist() == [1, 0]
    assert bytes((task.val.x[0, 1, :4] - 1).tolist()) == b"four"


def test_images_are_read_in_grey_from_cifar_s_pickles(tmp_path):
    home = tmp_path / "cifar-10-batches-py"
    home.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        pixels = np.zeros((2, 3072), dtype=np.uint8)
        pixels[0, :1024] = 200  # red
        (home / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": [3, 7]}, protocol=2))
    task = lra_task("image", tmp_path)
    assert (len(task.train), len(task.val), len(task.test)) == (9, 1, 2)
    assert task.test.x.shape == (2, 1024, 1)
    assert task.test.x[0, 0, 0] == 60
    assert task.test.y.tolist() == [3, 7]


@pytest.mark.parametrize(("name", "size"), [("pathfinder", 32), ("path-x", 128)])
def test_pathfinder_is_read_from_images_and_their_listing(name, size, tmp_path):
    image = pytest.importorskip("PIL.Image")
    home = tmp_path / f"pathfinder{size}" / "curv_contour_length_14"
    (home / "metadata").mkdir(parents=True)
    (home / "imgs" / "0").mkdir(parents=True)
    lines = []
    for i in range(10):
        file = home / "imgs" / "0" / f"sample_{i}.png"
        image.fromarray(np.full((size, size), i, dtype=np.uint8)).save(file)
        lines.append(f"imgs/0 sample_{i}.png {i} {i % 2} 0 0 0 0 14")
    (home / "imgs" / "0" / "sample_9.png").write_bytes(b"")  # the release has an empty one
    (home / "metadata" / "0.npy").write_text("\n".join(lines) + "\n", encoding="utf-8")
    task = lra_task(name, tmp_path)
    assert (len(task.train), len(task.val), len(task.test)) == (7, 1, 1)
    assert all(split.x.shape[1:] == (size * size, 1) for split in (task.train, task.val, task.test))
    assert task.test.y[0] == task.test.x[0, 0, 0] % 2


@pytest.mark.parametrize("name", ["listops", "text", "retrieval", "image", "pathfinder", "path-x"])
def test_files_that_are_not_there_are_named_with_their_source(name, tmp_path):
    with pytest.raises(DataError, match=r"does not hold .* get .*https://"):
        lra_task(name, tmp_path)
    with pytest.raises(ValueError, match="name must be one of"):
        lra_task("other", tmp_path)


def test_enwik8_is_read_packed_or_not_and_cut_90_5_5(tmp_path):
    content = bytes(range(100)) * 2
    (tmp_path / "enwik8").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "enwik8.zip", "w") as bundle:
        bundle.writestr("enwik8", content)
    for name in ("enwik8", "enwik8.zip"):
        parts = read_enwik8(tmp_path / name)
        assert [len(part) for part in parts] == [180, 10, 10]
        assert bytes(torch.cat(parts).tolist()) == content
    with pytest.raises(DataError, match="mattmahoney"):
        read_enwik8(tmp_path / "absent")
    (tmp_path / "short").write_bytes(b"a")
    with pytest.raises(DataError, match="at least 100"):
        read_enwik8(tmp_path / "short")


def test_a_text_of_one_byte_costs_almost_nothing():
    assert unigram_bits(bytes_of(b"a" * 10_000), bytes_of(b"a" * 10)) < 0.1
    assert unigram_bits(bytes_of(bytes(range(256)) * 9), bytes_of(b"a" * 10)) == pytest.approx(8)
