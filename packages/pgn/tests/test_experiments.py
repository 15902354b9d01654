import json

import pytest

from pgn_impl import experiments
from pgn_impl.comparison import ABLATIONS, ablate, compare_models
from pgn_impl.data import synthetic_series
from pgn_impl.experiments import MAIN, PAPER, SCALES, reproduce_table1, run_once, univariate
from pgn_impl.models import HORIZONS
from pgn_impl.training import Recipe


@pytest.fixture(scope="module")
def series():
    return synthetic_series(1500)


def test_the_presets_are_those_of_the_table():
    assert SCALES["paper"].horizons == HORIZONS == (168, 336, 720, 1440)
    assert [SCALES["paper"].seeds_of(model) for model in (*MAIN, "seasonal")] == [5, 3, 3, 3, 1]
    assert [SCALES["cpu"].seeds_of(model) for model in MAIN] == [2, 2, 2, 2]
    assert SCALES["paper"].recipe == SCALES["cpu"].recipe == Recipe(25, 5, 32, 1e-3, 0.9)


def test_the_paper_s_numbers_give_its_average_gains():
    # the last row of its table: mean over the tasks of how much lower TPGN's MSE is
    for model, gain in {"witran": 14.08, "itransformer": 21.40, "dlinear": 32.75, "patchtst": 37.44}.items():
        lower = [
            100 * (1 - PAPER[data]["tpgn"][horizon][0] / PAPER[data][model][horizon][0])
            for data in PAPER
            for horizon in HORIZONS
        ]
        assert sum(lower) / len(lower) == pytest.approx(gain, abs=0.02)


def test_a_run_repeats_and_counts_its_parameters(series):
    data = univariate(series, 24, seq_len=48)
    recipe = Recipe(max_steps=4)
    one, again = (run_once(data, "tpgn", 0, recipe=recipe, d_model=3) for _ in range(2))
    assert {**one, "seconds": 0} == {**again, "seconds": 0}
    assert one["mse"] != run_once(data, "tpgn", 1, recipe=recipe, d_model=3)["mse"]
    assert one["mse"] != one["all_mse"]  # the last incomplete batch
    assert run_once(data, "last", 0)["parameters"] == 0


def test_an_interrupted_table_is_a_record_of_what_ran_and_goes_on(tmp_path, monkeypatch, series):
    asked = []

    def run(data, model, seed, **_):
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append((model, data.pred_len, seed))
        return {"mse": 0.2 + seed, "mae": 0.3, "seconds": 6.0}

    monkeypatch.setattr(experiments, "run_once", run)
    monkeypatch.setattr(experiments, "load", lambda name, data_dir: synthetic_series(9000))
    options = {"preset": "cpu", "out_dir": tmp_path, "work": tmp_path / "work", "data": ["ETTh1"], "models": ["tpgn"]}
    with pytest.raises(KeyboardInterrupt):
        reproduce_table1(**options)
    assert asked == [("tpgn", 168, 0), ("tpgn", 720, 0), ("tpgn", 168, 1)]  # seeds come last
    record = json.loads((tmp_path / "table1-cpu.json").read_text())
    assert any("1 of the preset's 4 runs are missing" in note for note in record["notes"])
    again = reproduce_table1(**options, finished_only=True)
    assert [row.value for row in again.rows] == [row["value"] for row in record["rows"]]
    with pytest.raises(ValueError, match="finished_only needs finished runs of the preset cpu, got none"):
        reproduce_table1(**options | {"work": tmp_path / "none"}, finished_only=True)
    assert [(row["task"], row["n"]) for row in record["rows"][::2]] == [
        ("ETTh1, 168 to 168", 2), ("ETTh1, 168 to 720", 1),
    ]  # fmt: skip
    asked.clear()
    record = reproduce_table1(**options)
    assert asked == [("tpgn", 720, 1)]
    assert record.rows[0].value == pytest.approx(0.7)
    assert record.rows[0].paper == 0.1061
    assert record.rows[0].note == "+559.8 %"
    assert not any("missing" in note for note in record.notes)


def test_models_are_compared_on_the_same_windows(series, tmp_path):
    record = compare_models(
        series, freq="h", models=["seasonal", "nlinear"], horizons=[24, 30], seeds=[0, 1], out_dir=tmp_path, window=48,
        recipe=Recipe(max_steps=3),
    )  # fmt: skip
    rows = {(row.task, row.model, row.metric): row for row in record.rows}
    assert len(rows) == 2 * 2 * 2
    assert rows["synthetic, 48 to 24", "seasonal naive", "MSE"].n == 1  # nothing random
    assert rows["synthetic, 48 to 30", "NLinear", "MAE"].n == 2
    own = run_once(univariate(series, 24, seq_len=48), "seasonal", 0)
    assert rows["synthetic, 48 to 24", "seasonal naive", "MSE"].value == own["all_mse"]
    with pytest.raises(ValueError, match="models must be of last, seasonal"):
        compare_models(series, freq="h", models=["x"], horizons=[24], seeds=[0], out_dir=tmp_path)


def test_every_ablation_is_measured(series, tmp_path):
    record = ablate(
        series, freq="h", horizons=[24], seeds=[0], out_dir=tmp_path, window=48, recipe=Recipe(max_steps=2)
    )  # fmt: skip
    assert {row.model for row in record.rows} == set(ABLATIONS)
    assert (tmp_path / "ablation-synthetic.json").is_file()
