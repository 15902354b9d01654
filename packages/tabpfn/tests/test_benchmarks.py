"""The benchmarks run and measure what they say."""

import pytest
import torch

from shared_impl.cli import UserError
from tabpfn_impl import benchmarks

CPU = torch.device("cpu")


def test_the_official_benchmark_says_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.delenv("TABPFN_OFFICIAL_DIR", raising=False)
    with pytest.raises(UserError, match="TABPFN_OFFICIAL_DIR"):
        benchmarks.run("official", device=CPU)
    monkeypatch.setenv("TABPFN_OFFICIAL_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"no tabpfn/transformer\.py"):
        benchmarks.run("official", device=CPU)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["prior", "predict", "cache", "attention", "train"])
def test_a_quick_benchmark_gives_a_ratio(what):
    record = benchmarks.run(what, device=CPU, quick=True)
    assert record.kind == "bench"
    assert all(row.value > 0 for row in record.rows)
    assert [row for row in record.rows if "times as fast" in row.metric]
