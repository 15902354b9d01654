"""The claims of the paper that a test can decide, a test each."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mossformer2_impl import (
    DilatedFSMN,
    JointAttention,
    MossFormer2,
    RecurrentModule,
    best_order,
    decode,
    encode,
    evaluate,
    joint_attention,
    joint_attention_naive,
    pairwise_si_sdr,
    pit_loss,
    si_sdr,
    talkers,
    train,
)
from mossformer2_impl.experiments import held_out
from mossformer2_impl.mixing import MixtureDataset
from mossformer2_impl.recurrent import OverTime
from shared_impl.testing import assert_causal, assert_forms_agree


def weights(model):
    return sum(p.numel() for p in model.parameters())


def seeded(model):
    """Weights away from their start, where queries and keys are next to nothing."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_((1.0 if "gamma" in name else 0.05) * torch.randn(p.shape, generator=g))
    return model.eval()


def test_the_sizes_are_those_of_the_paper():
    assert weights(JointAttention(512)) == 1_687_811
    assert weights(RecurrentModule(512)) == 568_065
    with torch.device("meta"):
        assert weights(MossFormer2()) == 55_735_394
        assert weights(MossFormer2(recurrent="none")) == 42_101_834


def test_global_attention_is_the_same_multiplied_from_the_right():
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 50, d, generator=g).double() for d in (8, 8, 12))
    assert torch.allclose((q @ k.mT / 50) @ v, q @ (k.mT @ v) / 50, atol=1e-12)
    zero = torch.zeros_like(q)
    assert torch.allclose(joint_attention(zero, q, zero, k, v, 16), (q @ k.mT / 50) @ v, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_linear_attention_equals_all_against_all_for_any_length(causal):
    def inputs(length, dtype):
        g = torch.Generator().manual_seed(length)
        return {
            name: torch.randn(2, length, d, generator=g, dtype=dtype)
            for name, d in (("q", 6), ("q_global", 6), ("k", 6), ("k_global", 6), ("values", 10))
        }

    forms = {
        "naive": lambda **x: joint_attention_naive(**x, group=16, causal=causal),
        "linear": lambda **x: joint_attention(**x, group=16, causal=causal),
    }
    assert_forms_agree(forms, inputs, lengths=(1, 2, 15, 16, 17, 48, 50), rtol=1e-10, atol=1e-12)


def test_padding_to_whole_groups_changes_nothing():
    g = torch.Generator().manual_seed(0)
    q, q_global, k, k_global, v = (torch.randn(1, 41, d, generator=g).double() for d in (6, 6, 6, 6, 10))
    plain = joint_attention(q, q_global, k, k_global, v, 16)
    padded = [torch.nn.functional.pad(x, (0, 0, 0, 7)) for x in (q, q_global, k, k_global, v)]
    # the divisor of the global part is the number of true frames
    padded[1] = padded[1] * 48 / 41
    assert torch.allclose(joint_attention(*padded, 16)[:, :41], plain, atol=1e-12)
    whole = [joint_attention(*(x[:, :1] for x in (q, q_global, k, k_global, v)), group) for group in (1, 16, 300)]
    assert all(torch.isfinite(x).all() for x in whole)


def test_items_of_a_batch_do_not_touch():
    model = seeded(MossFormer2.preset("tiny")).double()
    wave = torch.randn(3, 1500, generator=torch.Generator().manual_seed(0)).double()
    alone = torch.cat([model(one[None]) for one in wave])
    assert torch.allclose(model(wave), alone, atol=1e-10)


@pytest.mark.parametrize("memory", ["gfsmn", "fsmn", "blstm", "none"])
def test_the_causal_form_does_not_see_the_future(memory):
    model = seeded(MossFormer2.preset("tiny", causal=True, recurrent=memory, group=16, lorder=5)).double()
    g = torch.Generator().manual_seed(0)
    frames = torch.randn(1, 70, 64, generator=g).double()
    # speakers are mixed into one so that time stays the axis
    assert_causal(lambda x: model.network(x).sum(1), frames, rtol=1e-7, atol=1e-9)
    wave = torch.randn(1, 600, generator=g).double()
    other = torch.cat([wave[:, :320], torch.randn(1, 280, generator=g).double()], 1)
    # a frame looks 15 samples ahead
    assert torch.allclose(model(wave)[..., :304], model(other)[..., :304], atol=1e-10)
    assert not torch.allclose(model(wave)[..., 320:], model(other)[..., 320:], atol=1e-6)


def reference(estimate, target):
    """SI-SDR in NumPy, as the formula has it."""
    e, s = estimate - estimate.mean(), target - target.mean()
    along = (e @ s) * s / (s @ s)
    return 10 * np.log10((along @ along) / ((e - along) @ (e - along)))


@settings(max_examples=30, deadline=None)
@given(samples=st.integers(8, 500), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 1000))
def test_si_sdr_is_the_formula_and_does_not_depend_on_the_scale(samples, scale, seed):
    rng = np.random.default_rng(seed)
    target, noise = rng.standard_normal((2, samples))
    estimate = target + 0.3 * noise + 0.1
    found = si_sdr(torch.from_numpy(estimate), torch.from_numpy(target))
    assert float(found) == pytest.approx(reference(estimate, target), abs=1e-8)
    assert float(si_sdr(torch.from_numpy(-scale * estimate), torch.from_numpy(target))) == pytest.approx(
        float(found), abs=1e-8
    )
    short = si_sdr(torch.from_numpy(estimate).float(), torch.from_numpy(target).float())
    assert float(short) == pytest.approx(float(found), abs=1e-3)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_permutation_loss_is_the_best_of_all_orders_by_either_method(n):
    g = torch.Generator().manual_seed(n)
    targets = torch.randn(5, n, 200, generator=g).double()
    estimates = targets[:, torch.randperm(n, generator=g)] + torch.randn(5, n, 200, generator=g).double()
    by_hand = []
    for e, s in zip(estimates.numpy(), targets.numpy(), strict=True):
        scores = [np.mean([reference(e[p], s[i]) for i, p in enumerate(o)]) for o in permutations(range(n))]
        by_hand.append(-max(scores))
    expected = pytest.approx(np.mean(by_hand), abs=1e-8)
    for method in ("auto", "brute", "hungarian"):
        loss, order = pit_loss(estimates, targets, method=method)
        assert float(loss) == expected
        assert torch.equal(order, best_order(pairwise_si_sdr(estimates, targets), method="brute"))
    assert float(pit_loss(estimates, targets.flip(1))[0]) == expected
    assert float(pit_loss(estimates.flip(1), targets)[0]) == expected


def test_as_many_samples_come_out_as_went_in():
    torch.manual_seed(0)
    filters = torch.randn(4, 1, 16)
    for samples in range(16, 101):
        frames = encode(torch.randn(1, samples), filters, 8)
        assert frames.shape[1] == (samples - 16) // 8 + 1
        assert decode(frames, filters, samples).shape == (1, samples)
    frames = torch.randn(2, 7, 4)
    by_torch = torch.nn.functional.conv_transpose1d(frames.mT, filters, stride=8)[:, 0]
    assert torch.allclose(decode(frames, filters, 64), by_torch, atol=1e-5)
    model = MossFormer2.preset("tiny").eval()
    assert all(model(torch.randn(1, n)).shape == (1, 2, n) for n in (1, 15, 16, 17, 100))


@pytest.mark.parametrize(("depth", "frames"), [(1, 39), (2, 115)])
def test_the_memory_reaches_39_and_115_frames(depth, frames, monkeypatch):
    # its norm has statistics of the whole utterance
    monkeypatch.setattr(OverTime, "forward", lambda self, x: x)
    torch.manual_seed(0)
    memory = DilatedFSMN(4, depth=depth, grouping="paired").double()
    x = torch.randn(1, 301, 4).double().requires_grad_()
    (reach,) = torch.autograd.grad(memory(x)[0, 150].sum(), x)
    seen = torch.nonzero(reach[0].abs().sum(1))[:, 0]
    assert int(seen.max() - seen.min()) + 1 == frames
    assert int(seen.min() + seen.max()) == 300


def test_one_item_and_one_frame_work():
    for memory in ("gfsmn", "gfsmn-plain", "dfsmn", "fsmn", "blstm", "none"):
        model = MossFormer2.preset("tiny", recurrent=memory)
        for training in (True, False):
            out = model.train(training)(torch.randn(1, 16))
            assert out.shape == (1, 2, 16)
            assert torch.isfinite(out).all()


@pytest.mark.slow
def test_generated_talkers_come_apart_by_three_decibels():
    torch.manual_seed(0)
    model = MossFormer2.preset("tiny", dropout=0.0)
    data = MixtureDataset(talkers(40), seconds=1.0)
    items = held_out(talkers(10, seed=1), 10, seconds=2.0)
    result = train(model, data, items, steps=120, lr=3e-3, anneal=True, eval_every=30)
    curve = result.curve("si_sdri")[1]
    assert evaluate(model, items)["si_sdri"] >= 3
    assert curve[-1] > curve[0]
