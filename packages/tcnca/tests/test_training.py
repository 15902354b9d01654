import pytest
import torch

from shared_impl.train import count_parameters
from tcnca_impl import ClassifierConfig, LMConfig, TCNCAForCausalLM, select_tcn
from tcnca_impl.data import bytes_of
from tcnca_impl.experiments import EXPERIMENTS
from tcnca_impl.training import at_equal_parameters, linear_decay, listops_task, train_bytes


def test_models_are_brought_to_equal_parameters_by_their_feed_forward_width():
    for architecture in ("tcnca", "mega", "tcn-mlp", "transformer"):
        config = at_equal_parameters(LMConfig(architecture=architecture, d_model=32, n_layers=2), 60_000)
        with torch.device("meta"):
            assert count_parameters(TCNCAForCausalLM(config)) == pytest.approx(60_000, abs=70)
    with pytest.raises(ValueError, match="parameters must be at least"):
        at_equal_parameters(ClassifierConfig(), 10)


def test_the_rate_rises_and_falls_linearly():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule, rates = linear_decay(optimizer, 10, 4), []
    for _ in range(11):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[4:] == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])


def test_no_expression_is_in_two_parts():
    task = listops_task(30, 10, max_length=24)
    rows = [tuple(row) for split in (task.train, task.val, task.test) for row in split.x.tolist()]
    assert len(set(rows)) == 50


def test_a_text_that_repeats_is_learned_and_a_chunk_for_the_test_is_taken_back():
    model = TCNCAForCausalLM(LMConfig(d_model=16, n_layers=1, ffn=16, chunk=8, kernel=3, depth=2, dilation_factor=2))
    text = bytes_of(b"abcdefgh" * 60)
    found = train_bytes(
        model, text, text, length=16, batch=8, steps=60, lr=1e-2, window_chunks=[1, 2], test_chunk=16, windows=8
    )  # fmt: skip
    assert found["bits"] < 1 < 2.9 < found["unigram"]
    assert model.config.chunk == model.blocks[0].layer.attention.chunk == 8


def test_a_model_that_is_no_better_than_frequencies_is_warned_of():
    model = TCNCAForCausalLM(LMConfig(d_model=16, n_layers=1, ffn=16, chunk=8))
    text = bytes_of(b"ab" * 100)
    with pytest.warns(UserWarning, match="are not below"):
        train_bytes(model, text, text, length=8, batch=2, steps=2, windows=2)


def test_the_search_gives_shapes_that_reach_the_length():
    found = select_tcn(64, d_model=8, chunk=16, kernels=(3, 5), depths=(3,), rounds=1, training=True)
    assert [c.kernel for c in sorted(found, key=lambda c: c.kernel)] == [3, 5]
    assert all(c.receptive_field >= 64 for c in found)
    assert found[0].speed >= found[1].speed


def test_the_full_recipes_are_declared_with_the_paper_s_numbers():
    runs = EXPERIMENTS["arena"].runs["paper"]
    assert {run.data for run in runs} == {"listops", "text", "retrieval", "image", "pathfinder", "path-x"}
    assert all((run.data, run.model) in EXPERIMENTS["arena"].table.paper for run in runs)
    assert {run.data for run in EXPERIMENTS["text"].runs["paper"]} == {"enwik8"}
