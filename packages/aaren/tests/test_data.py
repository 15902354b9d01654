import numpy as np
import pytest

from aaren_impl import Hawkes, load_uea, read_events, read_ts
from aaren_impl.data import ett_splits, read_series, splits
from aaren_impl.hawkes import EventSequence, check_sequences, poisson_nll
from aaren_impl.tasks import forecasts, pack
from aaren_impl.training import Plan


def test_the_true_likelihood_is_that_of_a_poisson_process_without_excitation():
    process = Hawkes(mu=(0.5, 1.5), alpha=((0.0, 0.0), (0.0, 0.0)))
    drawn = process.sample(3, seed=1, min_events=5, max_events=9)
    waits = np.concatenate([np.diff(s.times, prepend=0) for s in drawn])
    marks = np.concatenate([s.marks for s in drawn])
    expected = (2.0 * waits - np.log(np.array([0.5, 1.5])[marks])).mean()
    assert process.nll(drawn) == pytest.approx(expected, rel=1e-12)


def test_the_true_likelihood_is_that_of_the_sum_over_all_pairs_of_events():
    process = Hawkes()
    mu, alpha = np.asarray(process.mu), np.asarray(process.alpha)
    drawn = process.sample(4, seed=3, min_events=3, max_events=12)
    total = 0.0
    for times, marks in drawn:
        end = times[-1]
        for t, k in zip(times, marks, strict=True):
            past = times < t
            total -= np.log(mu[k] + (alpha[k, marks[past]] * np.exp(-process.beta * (t - times[past]))).sum())
        total += mu.sum() * end
        total += (alpha[:, marks].sum(0) * (1 - np.exp(-process.beta * (end - times))) / process.beta).sum()
    assert process.nll(drawn) == pytest.approx(total / sum(len(s.times) for s in drawn), rel=1e-10)


def test_no_other_process_explains_the_draws_better_than_the_true_one():
    process = Hawkes()
    drawn = process.sample(60, seed=0)
    assert all(50 <= len(s.times) <= 200 for s in drawn)
    truth = process.nll(drawn)
    assert truth < Hawkes(beta=3.0).nll(drawn)
    assert truth < Hawkes(mu=(0.4, 0.2, 0.2)).nll(drawn)
    assert truth < poisson_nll(drawn, drawn, 3)
    with pytest.raises(ValueError, match="spectral radius"):
        Hawkes(beta=0.5)
    with pytest.raises(ValueError, match="n and min_events"):
        process.sample(2, min_events=9, max_events=8)


def test_events_are_read_and_padded(tmp_path):
    file = tmp_path / "events.csv"
    file.write_text("id,time,mark\na,0.5,buy\nb,1,sell\na,2,sell\n")
    sequences, names = read_events(file)
    assert names == ["buy", "sell"]
    gaps, marks, mask = pack(sequences)
    assert gaps.tolist() == [[0.5, 1.5], [1.0, 1.0]]
    assert marks.tolist() == [[0, 1], [1, 0]]
    assert mask.tolist() == [[True, True], [True, False]]
    assert read_events(file, ["sell", "wait", "buy"])[0][0].marks.tolist() == [2, 0]
    with pytest.raises(ValueError, match="mark 'sell' is not known; known are buy"):
        read_events(file, ["buy"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"id,time,mark\na,2,x\na,1,x\n", "must not go back"),
        (b"id,time,mark\na,soon,x\n", "line 2 must have"),
        (b"id,time,mark\na,inf,x\n", "times must be finite"),
        (b"id,time\na,1\n", "must have rows"),
        (b"id,time,mark\n", "must have rows"),
        (b"", "cannot be read as CSV"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_bad_event_files_are_refused(tmp_path, text, message):
    file = tmp_path / "events.csv"
    file.write_bytes(text)
    with pytest.raises(ValueError, match=message):
        read_events(file)


def test_unknown_marks_and_empty_sequences_are_refused():
    with pytest.raises(ValueError, match="marks must lie in 0 to 2"):
        check_sequences([EventSequence(np.array([1.0]), np.array([2]))], 2)
    with pytest.raises(ValueError, match="whole numbers"):
        check_sequences([EventSequence(np.array([1.0]), np.array([0.5]))], 2)
    with pytest.raises(ValueError, match="at least one sequence"):
        check_sequences([])
    with pytest.raises(ValueError, match="at least one event"):
        check_sequences([EventSequence(np.array([]), np.array([]))])
    with pytest.raises(ValueError, match="go back"):
        check_sequences([EventSequence(np.array([2.0, 1.0]), np.array([0, 0]))])


TS = "# made\n@classLabel true a b\n@data\n1,2,3:4,5,6:a\n7,8:9,10:b\n"


def test_a_ts_file_is_read_and_bad_ones_refused(tmp_path):
    file = tmp_path / "made.ts"
    file.write_text(TS)
    x, y = read_ts(file)
    assert [case.tolist() for case in x] == [[[1, 4], [2, 5], [3, 6]], [[7, 9], [8, 10]]]
    assert y.tolist() == ["a", "b"]
    file.write_text("@DATA\n1,2:a\n3,4:b\n")
    assert read_ts(file)[0].shape == (2, 2, 1)
    for text, message in {
        "@data\n": "behind a line @data",
        "@data\n1,x:a\n": "no number",
        "@data\n1,?:a\n": "no number",
        "@data\n1:a\n1:2:b\n": "same number of channels",
        "@data\n1,2:3:b\n": "of one length",
        "@data\n1,nan:a\n": "must be finite",
        "@classLabel false\n@data\n1,2\n": "class labels",
    }.items():
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_ts(file)
    with pytest.raises(ValueError, match="cannot be read"):
        read_ts(tmp_path / "none.ts")


def test_a_uea_set_is_found_in_the_folder_that_is_named(tmp_path, monkeypatch):
    place = tmp_path / "Made"
    place.mkdir()
    for part in ("TRAIN", "TEST"):
        (place / f"Made_{part}.ts").write_text(TS)
    monkeypatch.setenv("AAREN_UEA_DIR", str(tmp_path))
    (train, labels), (test, _) = load_uea("Made")
    assert len(train) == len(test) == len(labels) == 2
    with pytest.raises(ValueError, match="AAREN_UEA_DIR"):
        load_uea("Other")


def test_scaling_knows_the_training_rows_alone_and_later_parts_begin_with_their_context(tmp_path):
    values = np.arange(20.0)[:, None] ** 2
    parts = splits(values, (10, 14, 20), context=3)
    assert [len(parts[name]) for name in ("train", "valid", "test")] == [10, 7, 9]
    assert parts["train"].mean() == pytest.approx(0, abs=1e-6)
    assert parts["train"].std() == pytest.approx(1, abs=1e-6)
    assert parts["test"][0] == pytest.approx((values[11] - values[:10].mean()) / values[:10].std(), rel=1e-6)
    with pytest.raises(ValueError, match="train must have at least context"):
        forecasts("aaren", {"train": parts["train"]}, Plan(steps=1), context=8, horizon=8)
    file = tmp_path / "series.csv"
    file.write_text("date,x\n2020-01-01,1\n2020-01-02,2\n")
    assert read_series(file).to_dict("list") == {"x": [1, 2]}
    file.write_text("date,x\n2020-01-01,1\n2020-01-02,\n")
    with pytest.raises(ValueError, match="without missing values"):
        read_series(file)


@pytest.mark.data
def test_etts_test_months_are_the_usual_ones():
    parts = ett_splits("ETTh1", 96)
    assert [len(parts[name]) for name in ("train", "valid", "test")] == [8640, 2976, 2976]
    assert np.abs(parts["train"].mean(0)).max() < 1e-4
