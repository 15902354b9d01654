"""Each reader works on a tiny archive of the same form as the real one, and says what is missing."""

import os
import pickle
import tarfile
import wave

import numpy as np
import pytest

from s4_impl import archives
from shared_impl.data import DataError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IMPL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("IMPL_DATA_DIR", raising=False)


def packed(folder, name, archive):
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / name, arcname=name)
    return archive


def cifar_batches(folder, *, binary, rng):
    folder.mkdir(parents=True)
    expected = {}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        pixels, labels = rng.integers(0, 256, (10, 3072), dtype=np.uint8), np.arange(10)
        expected[name] = (pixels, labels)
        if binary:
            rows = np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
        else:
            with (folder / name).open("wb") as file:
                pickle.dump({b"data": pixels, b"labels": labels.tolist(), b"batch_label": b"x"}, file, protocol=2)
    return expected


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("as_archive", [False, True])
def test_cifar10_reads_both_versions_packed_or_not(tmp_path, binary, as_archive):
    name = "cifar-10-batches-bin" if binary else "cifar-10-batches-py"
    root = tmp_path / "root"
    expected = cifar_batches(root / name, binary=binary, rng=np.random.default_rng(0))
    if as_archive:
        other = tmp_path / "packed"
        other.mkdir()
        packed(root, name, other / f"cifar-10-{'binary' if binary else 'python'}.tar.gz")
        root = other
    task = archives.cifar10_task(root)
    assert [len(split) for split in task.splits] == [40, 10, 10]
    pixels, labels = expected["test_batch"]
    assert np.array_equal(task.test.inputs[3], pixels[3].reshape(3, 1024).T)
    assert np.array_equal(task.test.targets, labels)
    grey = archives.cifar10_task(root, grayscale=True).test.inputs
    assert grey.shape == (10, 1024, 1)
    assert abs(int(grey[0, 0, 0]) - pixels[0, [0, 1024, 2048]] @ [0.299, 0.587, 0.114]) <= 0.5


def test_a_cifar_batch_that_would_run_code_is_refused(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    cifar_batches(folder, binary=False, rng=np.random.default_rng(0))

    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'attacked'}",)

    (folder / "data_batch_1").write_bytes(pickle.dumps({b"data": Attack(), b"labels": []}))
    with pytest.raises(DataError):
        archives.cifar10_task(tmp_path)
    assert not (tmp_path / "attacked").exists()


def imdb_folder(root):
    for part in ("train", "test"):
        for label, words in (("pos", "good great"), ("neg", "bad awful")):
            folder = root / "aclImdb" / part / label
            folder.mkdir(parents=True)
            for i in range(20):
                (folder / f"{i}_7.txt").write_text(f"{words} {'é' if part == 'test' else ''} film", encoding="utf-8")


def test_imdb_reads_reviews_by_character_with_the_vocabulary_of_the_training_reviews(tmp_path):
    imdb_folder(tmp_path)
    task = archives.imdb_task(tmp_path, min_count=1)
    assert [len(split) for split in task.splits] == [36, 4, 40]
    row, length, label = task.test.inputs[0], task.test.lengths[0], task.test.targets[0]
    text = "".join(task.vocabulary[i] if i > 2 else "?" for i in row[: length - 1])
    assert text == "bad awful ? film"
    assert label == 0
    assert row[length - 1] == task.vocabulary.index("<eos>")
    assert archives.imdb_task(tmp_path, l_max=8).train.inputs.shape[1] == 8
    assert "b" not in archives.imdb_task(tmp_path, min_count=30).vocabulary


def test_aan_reads_pairs_of_documents(tmp_path):
    for part in ("train", "eval", "test"):
        lines = [f'{i % 2}.0\tid{i}\tid{i + 1}\ta "quoted text {i}\tshort' for i in range(6)]
        (tmp_path / f"new_aan_pairs.{part}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    task = archives.aan_task(tmp_path)
    assert task.train.inputs.shape == (6, 2, 17)
    assert task.train.lengths.tolist()[0] == [17, 6]
    assert task.test.targets.tolist() == [0, 1, 0, 1, 0, 1]
    assert "".join(task.vocabulary[i] for i in task.train.inputs[0, 0, :9]) == 'a "quoted'


def pathfinder_folder(root, size):
    from PIL import Image

    folder = root / f"pathfinder{size}" / "curv_contour_length_14"
    (folder / "metadata").mkdir(parents=True)
    (folder / "imgs" / "0").mkdir(parents=True)
    lines = []
    for i in range(20):
        Image.fromarray(np.full((size, size), 10 * i, dtype=np.uint8)).save(folder / "imgs" / "0" / f"sample_{i}.png")
        lines.append(f"imgs/0 sample_{i}.png {i} {i % 2} 1.8 2 3 4")
    (folder / "imgs" / "0" / "sample_20.png").touch()  # the release has an image of no bytes
    lines.append("imgs/0 sample_20.png 20 1 1.8 2 3 4")
    (folder / "metadata" / "0.npy").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("size", [32, 128])
def test_pathfinder_reads_the_release_of_the_benchmark(tmp_path, size):
    pathfinder_folder(tmp_path, size)
    task = archives.pathfinder_task(tmp_path, resolution=size)
    assert task.name == ("pathfinder" if size == 32 else "pathx")
    assert [len(split) for split in task.splits] == [16, 2, 2]
    for split in task.splits:
        assert np.array_equal(split.inputs[:, 0, 0] // 10 % 2, split.targets)
        assert split.inputs.shape[1:] == (size * size, 1)


def test_a_damaged_pathfinder_image_is_named(tmp_path):
    folder = pathfinder_folder(tmp_path, 32)
    (folder / "imgs" / "0" / "sample_3.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"sample_3\.png"):
        archives.pathfinder_task(tmp_path)


def write_wav(path, samples, rate=16_000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, dtype="<i2").tobytes())


def test_speech_commands_reads_whole_seconds_of_ten_words(tmp_path):
    rng = np.random.default_rng(0)
    for word in archives.SC10_WORDS:
        for i in range(8):
            write_wav(tmp_path / word / f"{i}.wav", rng.integers(-3000, 3000, 16_000))
        write_wav(tmp_path / word / "short.wav", rng.integers(-3000, 3000, 9000))
    task = archives.speech_commands_task(tmp_path)
    assert sum(len(split) for split in task.splits) == 80
    assert task.train.inputs.shape[1:] == (16_000, 1)
    assert task.train.inputs.std() == pytest.approx(1, abs=0.01)
    half = archives.speech_commands_task(tmp_path, rate=2)
    assert np.array_equal(half.test.inputs, task.test.inputs[:, ::2])
    write_wav(tmp_path / "yes" / "0.wav", rng.integers(-3000, 3000, 16_000), rate=8000)
    with pytest.raises(DataError, match="16 kHz"):
        archives.speech_commands_task(tmp_path)
    (tmp_path / "yes" / "0.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match="cannot read"):
        archives.speech_commands_task(tmp_path)


def test_wikitext103_sorts_its_vocabulary_by_frequency(tmp_path):
    text = " the cat <unk> the \n the dog \n" * 4
    for part in ("train", "valid", "test"):
        (tmp_path / f"wiki.{part}.tokens").write_text(text + (" zebra " if part == "test" else ""))
    task = archives.wikitext103_task(tmp_path, length=8)
    assert task.vocabulary[0] == "the"
    assert task.train.inputs.shape[1] == 8
    assert np.array_equal(task.train.inputs[0, 1:], task.train.targets[0, :-1])


@pytest.mark.parametrize(
    ("reader", "name"),
    [
        (archives.cifar10_task, "cifar10"),
        (archives.imdb_task, "imdb"),
        (archives.aan_task, "aan"),
        (archives.pathfinder_task, "pathfinder"),
        (archives.speech_commands_task, "speech_commands"),
        (archives.wikitext103_task, "wikitext103"),
    ],
)
def test_what_is_missing_is_named_with_where_to_get_it_and_where_to_put_it(reader, name, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=rf"{name} is not here: get .* from https://.* and put it into .*{name}"):
        reader()
    empty = tmp_path / "mirror" / name
    empty.mkdir(parents=True)
    monkeypatch.setenv("IMPL_DATA_DIR", str(tmp_path / "mirror"))
    with pytest.raises(DataError, match="does not hold"):
        reader()
    with pytest.raises(DataError, match="no such folder"):
        reader(tmp_path / "nowhere")


def test_a_truncated_archive_is_an_error(tmp_path):
    imdb_folder(tmp_path)
    archive = packed(tmp_path, "aclImdb", tmp_path / "aclImdb_v1.tar.gz")
    whole = archive.read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    (other / "aclImdb_v1.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError):
        archives.imdb_task(other)
