import io
import json

import numpy as np
import pytest
from rich.console import Console

from aaren_impl import Hawkes, chirps
from aaren_impl.saved import classify_file, event_lines, forecast_file, train_task

QUIET = Console(file=io.StringIO())


@pytest.fixture
def events(tmp_path):
    drawn = Hawkes().sample(6, seed=0, min_events=4, max_events=8)
    rows = [f"{i},{1000 * t},{'xyz'[k]}" for i, s in enumerate(drawn) for t, k in zip(*s, strict=True)]
    file = tmp_path / "events.csv"
    file.write_text("\n".join(["id,time,mark", *rows]))
    return file


def test_events_are_answered_as_they_come_and_sequences_do_not_mix(events, tmp_path, monkeypatch):
    found = train_task("event", "aaren", data=events, steps=3, out_dir=tmp_path, console=QUIET)
    assert found["better_than_trivial"] == (found["nll"] < found["poisson_nll"])
    folder = tmp_path / "event"
    answers = list(event_lines(folder, str(events)))
    assert len(answers) == len(events.read_text().splitlines()) - 1
    assert all(
        a["next_time"] > a["time"] and a["next_mark"] in "xyz" and 1 / 3 <= a["probability"] <= 1 for a in answers
    )
    last = [a for a in answers if a["sequence"] == "5"]
    lines = [line for line in events.read_text().splitlines() if line.startswith("5,")]

    def source():
        # The answer to a line comes before the next is asked for
        for line in lines:
            yield line + "\n"
            seen.append(line)

    class Input(io.StringIO):
        def __iter__(self):
            return source()

    seen = []
    monkeypatch.setattr("sys.stdin", Input())
    for i, answer in enumerate(event_lines(folder, "-")):
        assert answer == last[i]
        assert len(seen) == i


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,1,x\na,0.5,x\n", "line 2: times must not go back"),
        ("a,1,q\n", "one of the marks x, y, z"),
        ("a,1\n", "line 1 must have"),
        ("id,time,mark\na,nan,x\n", "line 2 must have"),
    ],
)
def test_lines_that_are_no_events_are_named(events, tmp_path, text, message):
    train_task("event", "gru", data=events, steps=1, out_dir=tmp_path, console=QUIET)
    file = tmp_path / "other.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        list(event_lines(tmp_path / "event", str(file)))


def test_a_series_is_continued_in_its_own_unit(tmp_path):
    t = np.arange(72)
    file = tmp_path / "months.csv"
    file.write_text("\n".join(["month,sales", *(f"m{i},{500 + 90 * np.sin(i / 2)}" for i in t)]))
    train_task("forecast", "aaren", data=file, steps=3, out_dir=tmp_path, console=QUIET)
    ahead = forecast_file(tmp_path / "forecast", str(file))
    assert list(ahead.columns) == ["sales"]
    assert list(ahead.index) == list(range(72, 78))
    assert 200 < ahead["sales"].mean() < 800
    file.write_text("other\n1\n")
    with pytest.raises(ValueError, match="numeric columns sales"):
        forecast_file(tmp_path / "forecast", str(file))
    file.write_text("sales\n1\n")
    with pytest.raises(ValueError, match="at least 12 rows"):
        forecast_file(tmp_path / "forecast", str(file))
    with pytest.raises(ValueError, match="must be longer"):
        train_task("forecast", "aaren", data=file, out_dir=tmp_path, console=QUIET)


@pytest.mark.filterwarnings("ignore:no better than")
def test_sequences_of_a_ts_file_are_classified(tmp_path):
    x, y = chirps(24, length=20)
    file = tmp_path / "made.ts"
    cases = [
        ",".join(map(str, case[: 12 + i % 5, 0])) + f":{'abc'[k]}" for i, (case, k) in enumerate(zip(x, y, strict=True))
    ]
    file.write_text("\n".join(["@classLabel true a b c", "@data", *cases]))
    found = train_task("classify", "aaren", data=file, steps=3, out_dir=tmp_path, console=QUIET)
    assert found["accuracy"] == pytest.approx(1 - found["error"])
    answers = classify_file(tmp_path / "classify", str(file))
    assert answers["label"].tolist() == ["abc"[k] for k in y]
    assert set(answers["predicted"]) <= set("abc")


def test_a_folder_that_holds_no_model_of_the_task_is_named(events, tmp_path):
    with pytest.raises(ValueError, match="must be a folder that `train` wrote"):
        forecast_file(tmp_path, str(events))
    train_task("event", "linear", data=events, steps=1, out_dir=tmp_path, console=QUIET)
    with pytest.raises(ValueError, match="is a model of the task event, not of forecast"):
        forecast_file(tmp_path / "event", str(events))
    assert json.loads((tmp_path / "event" / "task.json").read_text())["marks"] == ["x", "y", "z"]
