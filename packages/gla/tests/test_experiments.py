import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

from gla_impl import GLAConfig, GLAForCausalLM, Vocabulary
from gla_impl.experiments import (
    LM_TABLES,
    MQAR_TABLES,
    MQARTable,
    mqar_accuracy,
    position_bins,
    reproduce,
    train_mqar,
)
from gla_impl.lm import LMRecipe
from gla_impl.mqar import mqar_data
from gla_impl.text import Corpus
from shared_impl.results import Record

TINY_TABLE = MQARTable(
    models=("gla", "linear-attention"),
    vocab_size=16,
    tasks=((8, (1, 2)),),
    widths=(16,),
    lrs=(1e-2,),
    n_train=64,
    n_test=20,
    steps=2,
    batch_size={8: 8},
    seeds=2,
)


class Oracle(GLAForCausalLM):
    """Reads the answer off the sequence: the accuracy function must give it 1."""

    def __init__(self):
        super().__init__(GLAConfig(vocab_size=64, d_model=64, n_layers=1))
        torch.nn.init.eye_(self.lm_head.weight)

    def backbone(self, inputs, state=None, attention_mask=None):
        hidden = torch.zeros(*inputs.shape, 64)
        for row, ids in enumerate(inputs.tolist()):
            answers = dict(zip(ids[0:8:2], ids[1:8:2], strict=True))
            for place, token in enumerate(ids):
                hidden[row, place, answers.get(token, 0)] = 1
        return hidden, None


def test_accuracy_is_one_for_a_model_that_looks_the_answer_up_and_chance_for_a_new_one():
    data = mqar_data(100, vocab_size=64, seq_len=32, n_pairs=4)
    assert mqar_accuracy(Oracle(), data, batch_size=30) == 1.0
    model = GLAForCausalLM(GLAConfig(vocab_size=64, d_model=16, n_layers=1, n_heads=2, ffn_width=0))
    assert mqar_accuracy(model, data) < 0.15


def test_a_model_learns_the_only_pair_there_is():
    table = dataclasses.replace(TINY_TABLE, n_train=2000, n_test=100, steps=60, batch_size={8: 32})
    config = GLAConfig(vocab_size=16, d_model=32, n_layers=1, n_heads=2, ffn_width=0)
    _, _, accuracy = train_mqar(config, table, (8, (1,)), lr=1e-2)
    assert accuracy > 0.9


def test_mqar_table_writes_a_record_and_does_not_train_twice(tmp_path):
    options = {"out_dir": tmp_path / "out", "work_dir": tmp_path / "work", "table": TINY_TABLE}
    record = reproduce("mqar", "cpu", **options)
    assert [row.model for row in record.rows] == ["gla", "linear-attention"]
    assert record.rows[0].n == 2
    assert record.seeds == [0, 1]
    saved = Record.load(tmp_path / "out" / "mqar-cpu.json")
    assert saved.rows == record.rows
    assert (tmp_path / "out" / "mqar-cpu.png").stat().st_size > 5000
    before = sorted(p.stat().st_mtime_ns for p in (tmp_path / "work").rglob("model.safetensors"))
    assert len(before) > 0
    again = reproduce("mqar", "cpu", **options)
    assert again.rows == record.rows
    assert before == sorted(p.stat().st_mtime_ns for p in (tmp_path / "work").rglob("model.safetensors"))


def small_corpus():
    text = "the quick brown fox jumps over the lazy dog. " * 120
    vocabulary = Vocabulary.of(text, "char")
    ids = vocabulary.encode(text)
    return Corpus("foxes", ids[:4000], ids[4000:], vocabulary)


@pytest.mark.parametrize("experiment", ["shakespeare", "length"])
def test_language_model_tables_write_their_records(tmp_path, monkeypatch, experiment):
    monkeypatch.setattr("gla_impl.experiments.tiny_shakespeare_corpus", small_corpus)
    recipe = LMRecipe(steps=6, batch_size=2, seq_len=64, eval_every=3, max_eval_tokens=256)
    table = dataclasses.replace(
        LM_TABLES[experiment, "cpu"],
        models=("gla", "transformer++"),
        d_model=16,
        n_layers=1,
        n_heads=2,
        recipe=recipe,
        max_length=256,
    )
    record = reproduce(experiment, "cpu", out_dir=tmp_path, work_dir=tmp_path / "work", table=table)
    saved = json.loads((tmp_path / f"{experiment}-cpu.json").read_text())
    assert {row["model"] for row in saved["rows"]} == {"gla", "transformer++"}
    assert all(0 < row["value"] < 4 for row in saved["rows"])
    assert not any("taken over" in note for note in record.notes)
    again = reproduce(experiment, "cpu", out_dir=tmp_path, work_dir=tmp_path / "work", table=table)
    assert again.rows == record.rows
    assert any("taken over" in note for note in again.notes)
    if experiment == "length":
        assert [row.metric for row in record.rows[:2]] == ["loss at places 0-64", "loss at places 128-256"]
    assert (tmp_path / saved["plots"][0]).is_file()


def test_length_takes_over_the_models_of_shakespeare():
    assert LM_TABLES["length", "cpu"].recipe == LM_TABLES["shakespeare", "cpu"].recipe
    assert set(LM_TABLES["length", "cpu"].models) <= set(LM_TABLES["shakespeare", "cpu"].models)


def test_paper_preset_is_the_originals_grid():
    table = MQAR_TABLES["mqar", "paper"]
    assert table.vocab_size == 8192
    assert table.tasks == ((64, (4,)), (128, (8,)), (256, (16,)), (512, (64,)))
    np.testing.assert_allclose(table.lrs, [1e-4, 10**-3.3333333, 10**-2.6666667, 1e-2], rtol=1e-6)
    # 64 epochs whatever the batch
    for length, batch in table.batch_size.items():
        assert table.steps_at(length) == 64 * 100_000 // batch
    assert not table.random_filler


@pytest.mark.parametrize(
    ("length", "last"), [(4096, (2048, 4096)), (256, (128, 256)), (300, (256, 300)), (64, (0, 64))]
)
def test_bins_double_and_cover_the_sequence(length, last):
    bins = position_bins(length)
    assert bins[0][0] == 0
    assert bins[-1] == last
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bins))


def test_unknown_experiment_is_refused(tmp_path):
    # by the shape-and-type checks of the tests, in use by the function itself
    with pytest.raises(Exception, match="slimpajama"):
        reproduce("slimpajama", "cpu", out_dir=tmp_path, work_dir=tmp_path)
