import pytest
import torch

from shared_impl.bench import Benchmark, Case, Setting, fitted_slope, run_benchmark
from shared_impl.results import Record, Row


def cases(setting):
    for size in (10, 20):
        x = torch.ones(size)
        found = yield Case(
            f"{size} numbers", {"loop": lambda x=x: [float(v) for v in x], "sum": x.sum}, "loop", 2, size
        )
        assert found.keys() == {"loop", "sum"}
    yield Row("parity", "sum", "largest difference", 0.0, higher_is_better=False)
    yield "the peer is not installed"


def test_cases_become_ratios_and_their_seconds_stay_in_the_record(tmp_path):
    run_benchmark("shared_impl", "toy", Benchmark("Sums", cases, xlabel="numbers"), Setting(), tmp_path)
    record = Record.load(tmp_path / "bench_toy.json")
    assert [(row.task, row.model, row.metric) for row in record.rows] == [
        ("10 numbers", "sum", "times as fast as loop"),
        ("20 numbers", "sum", "times as fast as loop"),
        ("parity", "sum", "largest difference"),
    ]
    assert record.config["timings"]["10 numbers"]["loop"]["median_s"] > 0
    assert record.notes == ["the peer is not installed"]
    assert record.plots == ["bench_toy.png"]
    assert (tmp_path / "bench_toy.png").stat().st_size > 1000


def test_a_list_of_cases_serves_as_well(tmp_path):
    one = Case("one", {"a": lambda: 1, "b": lambda: 2}, "a", 1)
    assert len(run_benchmark("shared_impl", "toy", Benchmark("Two", lambda s: [one]), Setting(), tmp_path).rows) == 1


def test_the_slope_of_a_power_is_its_exponent():
    assert fitted_slope([1, 2, 4, 8], [3 * n**2 for n in (1, 2, 4, 8)]) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="at least 2"):
        fitted_slope([1], [1])
