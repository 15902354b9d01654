import pytest
import torch

from tcnca_impl import LMConfig, TCNCAForCausalLM
from tcnca_impl.generation import next_token


@pytest.fixture
def model():
    return TCNCAForCausalLM(
        LMConfig(vocab_size=9, d_model=8, n_layers=1, ffn=8, chunk=4, kernel=3, depth=2, dilation_factor=3)
    )


def test_greedy_text_is_that_of_the_whole_sequence_again_and_again(model):
    ids = torch.randint(0, 9, (2, 5))
    found, again = model.generate(ids, 6), ids
    model.eval()
    for _ in range(6):
        again = torch.cat([again, model(again).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(found, again)


def test_prompts_padded_on_the_left_are_continued_as_alone(model):
    ids = torch.randint(0, 9, (3, 7))
    starts = (0, 2, 5)
    mask = torch.arange(7) >= torch.tensor(starts).unsqueeze(1)
    together = model.generate(ids, 5, attention_mask=mask.long())
    for row, start in enumerate(starts):
        assert torch.equal(together[row, start:], model.generate(ids[row : row + 1, start:], 5)[0])


def test_a_row_ends_with_its_end_token(model):
    ids = torch.randint(0, 9, (4, 5))
    free = model.generate(ids, 8)[:, 5:]
    end = int(free[0, 0])
    found = model.generate(ids, 8, eos_token_id=end, pad_token_id=0)[:, 5:]
    for row, unbound in zip(found.tolist(), free.tolist(), strict=True):
        stop = unbound.index(end) + 1 if end in unbound else 8
        assert row == unbound[:stop] + [0] * (8 - stop)


def test_sampling_keeps_to_the_most_probable():
    logits = torch.tensor([[0.0, 3.0, 2.0, -1.0]]).repeat(200, 1)
    generator = torch.Generator().manual_seed(0)
    assert set(next_token(logits, do_sample=True, top_k=2, generator=generator).tolist()) == {1, 2}
    assert set(next_token(logits, do_sample=True, top_p=0.5, generator=generator).tolist()) == {1}
    assert set(next_token(logits, do_sample=True, temperature=0.01, generator=generator).tolist()) == {1}
    assert set(next_token(logits).tolist()) == {1}


def test_a_penalty_keeps_from_repeating(model):
    found = model.generate(torch.tensor([[1]]), 8, repetition_penalty=1e6)[0].tolist()
    assert len(set(found)) == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be positive"),
        ({"top_k": 0}, "top_k must be positive"),
        ({"top_p": 0.0}, "top_p must be positive"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"eos_token_id": 9}, r"eos_token_id must lie in 0 \.\. 8"),
        ({"attention_mask": torch.tensor([[1, 0, 1]])}, "0 on the left only"),
        ({"attention_mask": torch.tensor([[1, 1, 0]])}, "0 on the left only"),
    ],
)
def test_options_out_of_range_are_named(options, message, model):
    with pytest.raises(ValueError, match=message):
        model.generate(torch.tensor([[1, 2, 3]]), **{"max_new_tokens": 1, **options})
