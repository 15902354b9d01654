"""The benchmarks run and measure what they say."""

import pytest
import torch

from s4_impl import benchmarks
from shared_impl.cli import UserError

CPU = torch.device("cpu")


def test_the_official_benchmark_says_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.delenv("S4_OFFICIAL_DIR", raising=False)
    with pytest.raises(UserError, match="S4_OFFICIAL_DIR"):
        benchmarks.run("official", device=CPU)
    monkeypatch.setenv("S4_OFFICIAL_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"no models/s4/s4\.py"):
        benchmarks.run("official", device=CPU)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["kernel", "layer", "step"])
def test_a_quick_benchmark_gives_a_ratio_for_every_form(what):
    record = benchmarks.run(what, device=CPU, quick=True)
    assert record.kind == "bench"
    assert record.experiment == what
    assert all(row.value > 0 for row in record.rows)
    ratios = [row for row in record.rows if "times as fast" in row.metric]
    assert len({row.model for row in ratios}) >= 2
