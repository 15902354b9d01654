import json
import sys

import pytest

from shared_impl.results import (
    Record,
    Row,
    kept_run,
    markdown_table,
    plot_curves,
    plot_scores,
    rich_table,
    summarise,
    write_atomically,
)


@pytest.fixture
def record(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/toy-impl", "reproduce", "--out", "/somewhere/results"])
    record = Record.start("toy_impl", "table1", preset="cpu", seeds=[0, 1], config={"width": 64})
    record.add(Row("digits", "toy", "accuracy", 0.93456, spread=0.01, n=2, paper=0.95))
    record.add(Row("digits", "LSTM", "loss", 0.0000123, higher_is_better=False, note="a | b"))
    return record


def test_a_record_survives_the_file(record, tmp_path):
    path = record.save(tmp_path / "results")
    assert path.name == "table1-cpu.json"
    assert Record.load(path) == record
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_record_says_how_it_was_made_and_no_path_of_the_machine(record, tmp_path):
    record.save(tmp_path)
    fields = json.loads((tmp_path / "table1-cpu.json").read_text())
    assert fields["command"] == "toy-impl reproduce --out results"
    assert fields["seeds"] == [0, 1]
    assert fields["versions"]["numpy"]
    assert fields["threads"] >= 1
    assert fields["processor"]
    assert fields["duration_s"] >= 0
    assert fields["started"].endswith("+00:00")
    assert "/somewhere" not in json.dumps(fields)


def test_benchmarks_have_their_own_names(tmp_path):
    record = Record.start("toy_impl", "kernel", preset="cpu", seeds=[0], kind="bench")
    record.add(Row("L=1024", "fast", "ratio", 3.0))
    assert record.save(tmp_path).name == "bench_kernel.json"


def test_an_empty_or_broken_result_is_not_recorded(tmp_path):
    record = Record.start("toy_impl", "table1", preset="cpu", seeds=[0])
    with pytest.raises(ValueError, match="no rows"):
        record.save(tmp_path)
    record.add(Row("digits", "toy", "accuracy", float("nan")))
    with pytest.raises(ValueError, match=r"not finite.*digits"):
        record.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rows": []}', '{"rows": [{"x": 1}]}'])
def test_a_file_that_is_no_record_is_named(text, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"broken\.json is not a record"):
        Record.load(path)


def test_tables_show_every_number_once(record):
    table = markdown_table([record])
    assert "|  | toy | LSTM |" in table
    assert "| digits: accuracy ↑ | 0.935 ± 0.010 [0.950] |  |" in table
    assert "| digits: loss ↓ |  | 1.2e-05 |" in table
    assert "`toy-impl reproduce --out results`" in table
    assert "official" not in table
    assert rich_table(record).row_count == 2


def test_summarise():
    assert summarise([1.0]) == (1.0, None)
    assert summarise([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
    with pytest.raises(ValueError, match="empty"):
        summarise([])


def test_curves_are_drawn(tmp_path):
    path = plot_curves(
        tmp_path / "a" / "x.png", {"one": ([1, 2], [3, 4])}, xlabel="x", ylabel="y", logx=True, logy=True
    )
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="2 x values but 1"):
        plot_curves(path, {"one": ([1, 2], [3])}, xlabel="x", ylabel="y")
    with pytest.raises(ValueError, match="empty"):
        plot_curves(path, {}, xlabel="x", ylabel="y")


def test_scores_are_drawn(tmp_path):
    path = plot_scores(
        tmp_path / "a" / "x.png", {"one": [1.0, 2.0], "two": [3.0]}, xlabel="accuracy", paper={"two": 2.5, "three": 9.0}
    )
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="'two' has no scores"):
        plot_scores(path, {"one": [1.0], "two": []}, xlabel="x")
    with pytest.raises(ValueError, match="empty"):
        plot_scores(path, {}, xlabel="x")


def test_a_run_that_is_kept_is_not_made_again(tmp_path):
    settings = {"seed": 0, "lr": 0.1}
    assert kept_run(tmp_path, "m", settings, None) is None
    assert kept_run(tmp_path, "m", settings, lambda: {"mse": 1.0}) == {"mse": 1.0}
    assert kept_run(tmp_path, "m", {"lr": 0.1, "seed": 0}, lambda: {"mse": 2.0}) == {"mse": 1.0}
    assert kept_run(tmp_path, "m", {**settings, "lr": 0.2}, lambda: {"mse": 2.0}) == {"mse": 2.0}
    assert kept_run(tmp_path, "other", settings, None) is None


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(TypeError):
        write_atomically(path, 3)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
