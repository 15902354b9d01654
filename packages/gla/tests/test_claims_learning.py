"""The paper's statements about learning, at the small scale of the `cpu` presets. Minutes each."""

import pytest
import torch

from gla_impl import GLAConfig, GLAForCausalLM, comparison_config, loss_by_position
from gla_impl.experiments import LM_TABLES, MQAR_TABLES, train_mqar
from gla_impl.lm import evaluate_loss, train_lm
from gla_impl.text import tiny_shakespeare_corpus

pytestmark = pytest.mark.slow


@pytest.mark.timeout(3000)
def test_claim_8_recall_is_best_with_the_vector_gate_then_fixed_decay_then_none():
    table = MQAR_TABLES["mqar", "cpu"]
    (task,) = table.tasks
    like = GLAConfig(
        vocab_size=table.vocab_size, d_model=table.widths[0], n_layers=2, n_heads=table.n_heads, ffn_width=0
    )
    accuracy = {
        name: train_mqar(comparison_config(name, like), table, task, lr=table.lrs[0])[2]
        for name in ("gla", "gla-fixed", "linear-attention")
    }
    assert accuracy["gla"] > 0.9
    # two hundredths for the noise of a single seed
    assert accuracy["gla"] >= accuracy["gla-fixed"] - 0.02
    assert accuracy["gla-fixed"] >= accuracy["linear-attention"] - 0.02


@pytest.fixture(scope="module")
def shakespeare_models():
    table = LM_TABLES["shakespeare", "cpu"]
    corpus = tiny_shakespeare_corpus()
    like = GLAConfig(
        vocab_size=len(corpus.vocabulary), d_model=table.d_model, n_layers=table.n_layers, n_heads=table.n_heads
    )
    models = {}
    for name in ("gla", "linear-attention", "transformer++"):
        torch.manual_seed(0)
        models[name] = GLAForCausalLM(comparison_config(name, like))
        train_lm(models[name], corpus, table.recipe)
    return table, corpus, models


@pytest.mark.data("tinyshakespeare")
@pytest.mark.timeout(3000)
def test_claim_9_the_gate_lowers_the_loss_and_keeps_up_with_a_transformer_of_equal_size(shakespeare_models):
    table, corpus, models = shakespeare_models
    loss = {
        name: evaluate_loss(model, corpus.valid, seq_len=table.recipe.seq_len)["loss"] for name, model in models.items()
    }
    assert loss["gla"] < loss["linear-attention"] - 0.05
    assert loss["gla"] < loss["transformer++"] + 0.05


@pytest.mark.data("tinyshakespeare")
@pytest.mark.timeout(3000)
def test_claim_11_gla_reads_on_beyond_the_length_it_was_trained_at_and_the_transformer_does_not(shakespeare_models):
    _, corpus, models = shakespeare_models
    rise = {}
    for name in ("gla", "transformer++"):
        loss = loss_by_position(models[name], corpus.valid, length=4096)
        rise[name] = (loss[2048:].mean() - loss[128:256].mean()).item()
    assert rise["gla"] < 0.1
    assert rise["transformer++"] > rise["gla"] + 0.1
