"""What CONTRIBUTING shows runs as it stands there."""

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_examples_run_one_after_the_other(tmp_path, monkeypatch):
    from rich.console import Console

    from shared_impl.bench import Setting
    from shared_impl.cli import UserError
    from shared_impl.experiments import reproduce

    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 7
    names = {}
    for block in blocks:
        exec(compile(block, "CONTRIBUTING.md", "exec"), names)

    console = Console(quiet=True)
    record = reproduce(
        "shared_impl", names["EXPERIMENTS"]["table1"], preset="cpu", out_dir=tmp_path, work=tmp_path / "work",
        device="cpu", console=console,
    )  # fmt: skip
    assert len(record.rows) == 4
    assert {(row.task, row.model): row.paper for row in record.rows}["digits, width 64", "ours"] == 91.0
    with pytest.raises(UserError, match="RETNET_OFFICIAL_DIR"):
        list(names["BENCHMARKS"]["official"].cases(Setting(True, 0, "cpu")))
    assert names["again"].layer.in_features == 8
    assert (tmp_path / "results" / "by-hand-cpu.json").is_file()
    assert set(names["demo"](seed=0, device="cpu", out_dir=tmp_path, console=console)) == {1, 10, 100}
    assert (tmp_path / "demo.png").is_file()
