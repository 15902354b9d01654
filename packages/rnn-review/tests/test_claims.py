"""The survey's claims, a test each."""

import itertools
import math
import random

import pytest
import torch
from torch import nn

from rnn_review_impl import (
    NTM,
    RNN,
    RTRL,
    ElmanCell,
    JacobianProbe,
    JordanCell,
    LSTMCell,
    SequenceNet,
    bleu,
    bptt,
    clip_norm,
    elman_bptt_reference,
    from_torch,
    lstm_sequence,
    tbptt,
    to_torch,
)
from rnn_review_impl.decoding import beam_search, greedy
from rnn_review_impl.ntm import address, address_reference, write
from rnn_review_impl.rnn import make_cell

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def half_square(y, target):
    return (y - target).square().sum() / 2


def problem(cell, length=7, batch=2):
    net = SequenceNet(cell, 2)
    return net, torch.randn(batch, length, cell.input_size), torch.randn(batch, length, 2)


def differ(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("backend", ["auto", "loop"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_claim_1_cells_equal_torch_with_copied_weights(kind, backend):
    theirs = kind(3, 5, 2, batch_first=True, bidirectional=True)
    ours = from_torch(theirs)
    ours.backend = backend
    x = torch.randn(2, 6, 3)
    expected, final = theirs(x)
    y, state = ours(x)
    assert (y - expected).abs().max() < 1e-12
    h = final[0] if kind is nn.LSTM else final
    assert (torch.stack([s[0] for s in state]) - h).abs().max() < 1e-12
    assert (to_torch(ours)(x)[0] - expected).abs().max() < 1e-12


def test_claim_1_the_1997_cell_is_a_forget_gate_of_one_and_zero_peepholes_are_none():
    old = LSTMCell(input_size=3, hidden_size=4, variant="1997")
    new, peep = (LSTMCell(input_size=3, hidden_size=4, variant=v) for v in ("forget", "peephole"))
    with torch.no_grad():
        for ours, theirs in zip(old.parameters(), new.parameters(), strict=True):
            i, g, o = ours.chunk(3)
            theirs.copy_(torch.cat([i, torch.zeros_like(i), g, o]))
        new.bias[4:8] = 1e3
    x = torch.randn(2, 5, 3)
    assert torch.allclose(old(x)[0], new(x)[0], atol=1e-12)
    peep.load_state_dict({**new.state_dict(), "peephole": torch.zeros(3, 4)})
    assert torch.equal(peep(x)[0], new(x)[0])
    with torch.no_grad():
        peep.peephole += 1
    assert not torch.allclose(peep(x)[0], new(x)[0], atol=1e-3)


@pytest.mark.parametrize("variant", ["1997", "forget", "peephole"])
@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("lengths", [None, [5, 0, 3]])
def test_claim_1_the_fused_sequence_equals_the_loop_in_values_and_gradients(variant, truncated, lengths):
    cell = LSTMCell(input_size=4, hidden_size=6, variant=variant, truncated=truncated)
    if variant == "peephole":
        nn.init.normal_(cell.peephole)
    lengths = None if lengths is None else torch.tensor(lengths)
    inputs = [torch.randn(3, 5, 4, requires_grad=True), *(torch.randn(3, 6, requires_grad=True) for _ in range(2))]
    weights = [torch.randn(3, 5, 6), torch.randn(3, 6), torch.randn(3, 6)]
    found = []
    for form in (cell.unroll, lambda *given: lstm_sequence(cell, *given)):
        y, (h, s) = form(inputs[0], tuple(inputs[1:]), lengths)
        total = sum((part * w).sum() for part, w in zip((y, h, s), weights, strict=True))
        found.append([y, h, s, *torch.autograd.grad(total, [*inputs, *cell.parameters()], materialize_grads=True)])
    for ours, oracle in zip(*found, strict=True):
        assert torch.allclose(ours, oracle, atol=1e-12)
    y, _ = lstm_sequence(cell, inputs[0], tuple(inputs[1:]))
    with pytest.raises(RuntimeError, match='need the loop over steps: backend="loop"'):
        torch.autograd.grad(y.sum(), cell.weight_h, create_graph=True)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "linear"])
def test_claim_2_manual_bptt_equals_autograd_and_finite_differences(activation):
    net, x, y = problem(ElmanCell(input_size=3, hidden_size=4, activation=activation))
    found = bptt(net, x, y, half_square)
    assert differ(found, elman_bptt_reference(net, x, y)) < 1e-10
    weight, step = net.cell.weight_h, 1e-6
    with torch.no_grad():
        for i, j in itertools.product(range(4), range(4)):
            weight[i, j] += step
            above = half_square(net(x)[0], y)
            weight[i, j] -= 2 * step
            below = half_square(net(x)[0], y)
            weight[i, j] += step
            assert abs((above - below) / (2 * step) - found["cell.weight_h"][i, j]) < 1e-7


RTRL_CELLS = ["elman", "elman-sigmoid", "gru", "lstm", "lstm-1997", "lstm-peephole", "truncated", "jordan"]


def made(kind):
    if kind == "jordan":
        return JordanCell(input_size=3, hidden_size=4, output_size=2)
    if kind == "truncated":
        return LSTMCell(input_size=3, hidden_size=4, variant="1997", truncated=True)
    cell = make_cell(kind, input_size=3, hidden_size=4)
    for extra in cell.extras():
        nn.init.normal_(extra)
    return cell


@pytest.mark.parametrize("kind", RTRL_CELLS)
def test_claim_2_rtrl_equals_bptt_for_every_cell(kind):
    net, x, y = problem(made(kind), length=3 if kind == "jordan" else 7)
    assert differ(bptt(net, x, y, half_square), RTRL(net).run(x, y, half_square)) < 1e-10


def test_claim_2_rtrl_equals_finite_differences():
    net, x, y = problem(made("lstm-peephole"), length=5)
    found, step = RTRL(net).run(x, y, half_square), 1e-5
    for name, weight in net.named_parameters():
        flat = weight.data.view(-1)
        for i in range(0, len(flat), 7):
            value = float(flat[i])
            flat[i] = value + step
            above = half_square(net(x)[0], y)
            flat[i] = value - step
            below = half_square(net(x)[0], y)
            flat[i] = value
            assert abs((above - below) / (2 * step) - found[name].reshape(-1)[i]) < 1e-8


def test_claim_2_memory_of_bptt_grows_with_the_length_and_that_of_tbptt_and_rtrl_does_not():
    def kept(form, length):
        """Most numbers that autograd, or the influence, holds at once."""
        net, x, y = problem(ElmanCell(input_size=3, hidden_size=4), length=length)
        sizes, window = [], []

        def pack(tensor):
            window.append(tensor.numel())
            return tensor

        def ended(_):
            sizes.append(sum(window))
            window.clear()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            if form == "bptt":
                bptt(net, x, y, half_square)
                ended(None)
            elif form == "tbptt":
                tbptt(net, x, y, half_square, k1=5, k2=10, on_window=ended)
            else:
                learner = RTRL(net)
                for x_t, target in zip(x.unbind(1), y.unbind(1), strict=True):
                    learner.step(x_t, target, half_square)
                    ended(None)
                sizes.append(learner.influence.numel())
        return max(sizes)

    assert kept("bptt", 80) > 3.5 * kept("bptt", 20)
    assert kept("tbptt", 80) == kept("tbptt", 20)
    assert kept("rtrl", 80) == kept("rtrl", 20)
    small, large = (RTRL(SequenceNet(ElmanCell(input_size=1, hidden_size=n), 1)) for n in (8, 16))
    for learner in (small, large):
        learner.run(torch.randn(1, 2, 1), torch.randn(1, 2, 1), half_square)
    assert 6 < large.influence.numel() / small.influence.numel() < 8


def test_claim_2_tbptt_equals_bptt_when_k2_covers_the_sequence_and_not_before():
    net, x, y = problem(LSTMCell(input_size=3, hidden_size=4))
    full = bptt(net, x, y, half_square)
    for k1 in (1, 2, 7):
        assert differ(full, tbptt(net, x, y, half_square, k1=k1, k2=7)) < 1e-12
    # by hand: every third step's loss goes back four steps at most, from the state that was carried on
    parts = []
    for begin, end in ((0, 3), (3, 6), (6, 7)):
        start = max(0, end - 4)
        with torch.no_grad():
            state = net.cell(x[:, :start])[1]
        loss = half_square(net(x[:, start:end], state)[0][:, begin - start :], y[:, begin:end])
        parts.append(torch.autograd.grad(loss, list(net.parameters())))
    by_hand = {name: sum(g) for (name, _), g in zip(net.named_parameters(), zip(*parts, strict=True), strict=True)}
    assert differ(by_hand, tbptt(net, x, y, half_square, k1=3, k2=4)) < 1e-12
    assert differ(full, tbptt(net, x, y, half_square, k1=2, k2=2)) > 1e-3
    with pytest.raises(ValueError, match="k2 must be at least k1, got k1=3, k2=2"):
        tbptt(net, x, y, half_square, k1=3, k2=2)


def test_claim_2_snap_1_equals_rtrl_for_a_diagonal_matrix_and_not_otherwise():
    net, x, y = problem(ElmanCell(input_size=3, hidden_size=4))
    assert differ(RTRL(net).run(x, y, half_square), RTRL(net, mode="snap1").run(x, y, half_square)) > 1e-3
    with torch.no_grad():
        net.cell.weight_h.copy_(torch.diag(torch.rand(4)))
    exact, cheap = RTRL(net).run(x, y, half_square), RTRL(net, mode="snap1").run(x, y, half_square)
    assert differ(exact, cheap) < 1e-12


@pytest.mark.parametrize("make", [ElmanCell, LSTMCell])
def test_claim_2_uoro_is_unbiased(make):
    net, x, y = problem(make(input_size=2, hidden_size=2), length=3, batch=1)
    exact = bptt(net, x, y, half_square)["cell.weight_x"]
    # copies in a batch draw signs of their own: a run is the sum of a hundred draws
    x, y = x.expand(100, -1, -1), y.expand(100, -1, -1)
    runs = [RTRL(net, mode="uoro", seed=s).run(x, y, half_square)["cell.weight_x"] / 100 for s in range(20)]
    drawn = torch.stack(runs)
    spread = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - exact).abs() < 4.5 * spread + 1e-9).all()


def test_claim_3_clipping_keeps_the_direction():
    gradients = [torch.randn(3, 4), torch.randn(5)]
    before = torch.cat([g.flatten() for g in gradients])
    assert clip_norm(gradients, 0.5) == pytest.approx(float(before.norm()))
    after = torch.cat([g.flatten() for g in gradients])
    assert float(after.norm()) == pytest.approx(0.5)
    assert float(nn.functional.cosine_similarity(before, after, dim=0)) == pytest.approx(1)
    assert clip_norm(gradients, 9.0) == pytest.approx(0.5)
    assert torch.equal(after, torch.cat([g.flatten() for g in gradients]))


@pytest.mark.parametrize("rho", [0.8, 1.0, 1.1])
def test_claim_4_gradients_of_a_linear_net_follow_the_spectral_radius(rho):
    cell = ElmanCell(input_size=2, hidden_size=8, activation="linear")
    with torch.no_grad():
        weight = torch.randn(8, 8)
        cell.weight_h.copy_(weight * rho / torch.linalg.eigvals(weight).abs().max())
    norms = JacobianProbe(cell).norms(torch.randn(1, 200, 2))
    fitted = (norms[199] / norms[50]) ** (1 / 149)
    assert fitted == pytest.approx(rho, rel=0.05)


def test_claim_4_the_constant_error_carousel_keeps_the_gradient_at_one():
    cell = LSTMCell(input_size=2, hidden_size=4)
    with torch.no_grad():
        cell.weight_x.zero_(), cell.weight_h.zero_(), cell.bias.zero_()
        cell.bias[:4], cell.bias[4:8] = -1e3, 1e3
    assert JacobianProbe(cell, part=1).norms(torch.randn(1, 100, 2)) == pytest.approx([1.0] * 100)


def test_claim_5_a_bidirectional_net_sees_past_and_future_a_forward_net_the_past():
    for bidirectional in (False, True):
        net = RNN(cell="lstm", input_size=2, hidden_size=3, bidirectional=bidirectional)
        x = torch.randn(1, 6, 2, requires_grad=True)
        (seen,) = torch.autograd.grad(net(x)[0][0, 3].sum(), x)
        reach = (seen[0].abs().sum(1) > 0).tolist()
        assert reach == [True] * 4 + [bidirectional] * 2
    with pytest.raises(ValueError, match="reads the future"):
        net.step(torch.randn(1, 2))


def head(n=5, w=3, batch=2):
    return {
        "memory": torch.randn(batch, n, w), "key": torch.randn(batch, w), "beta": torch.rand(batch, 1) * 5,
        "gate": torch.rand(batch, 1), "shift": torch.randn(batch, 3).softmax(1), "gamma": 1 + torch.rand(batch, 1) * 3,
        "before": torch.randn(batch, n).softmax(1),
    }  # fmt: skip


def test_claim_6_addresses_are_distributions_and_equal_the_loops():
    given = head()
    w = address(**given)
    assert (w >= 0).all()
    assert torch.allclose(w.sum(1), torch.ones(2))
    assert torch.allclose(w, address_reference(**given), atol=1e-12)
    assert torch.isfinite(address(**{**given, "gamma": torch.full((2, 1), 1e4)})).all()


@pytest.mark.parametrize("controller", ["lstm", "feedforward"])
def test_claim_6_a_step_of_several_heads_equals_the_loops_over_heads_and_rows(controller):
    sizes = {"hidden_size": 8, "rows": 6, "width": 4, "read_heads": 2, "write_heads": 2, "shifts": 5}
    net = NTM(input_size=3, output_size=2, controller=controller, **sizes)
    state = net.initial_state(2)
    with torch.no_grad():
        for _ in range(4):
            x_t = torch.randn(2, 3)
            y, new = net.recur(x_t, state)
            expected, slow = net.recur_reference(x_t, state)
            assert torch.allclose(y, expected, atol=1e-12)
            for a, b in zip(new[:3], slow[:3], strict=True):
                assert torch.allclose(a, b, atol=1e-12)
            state = new


def test_claim_6_a_one_hot_shift_is_a_rotation_and_erasing_comes_before_adding():
    given = head() | {"gate": torch.zeros(2, 1), "gamma": torch.ones(2, 1)}
    for k in (-1, 0, 1):
        turned = address(**{**given, "shift": torch.eye(3)[k + 1].expand(2, 3)})
        assert torch.allclose(turned, given["before"].roll(k, 1), atol=1e-12)
    one = torch.eye(5)[:1]
    memory = write(torch.full((1, 5, 3), 7.0), one, torch.ones(1, 3), torch.full((1, 3), 2.0))
    assert torch.equal(memory[0, :, 0], torch.tensor([2.0, 7, 7, 7, 7]))


def chain(vocabulary, seed):
    table = torch.randn(vocabulary, vocabulary, generator=torch.Generator().manual_seed(seed)).mul(2).log_softmax(1)
    return lambda last, state: (table[last], state), table


def test_claim_7_an_exhaustive_beam_finds_the_best_and_width_one_is_greedy():
    scores = {1: 0.0, 3: 0.0, 81: 0.0}
    for seed in range(20):
        step, table = chain(3, seed)

        def total(words, table=table):
            path = [1, *words]
            return sum(float(table[a, b]) for a, b in itertools.pairwise(path))

        options = [w for n in range(4) for w in itertools.product((0, 1), repeat=n)]
        ended = {(*w, 2): total((*w, 2)) for w in options}
        cut = {w: total(w) for w in itertools.product((0, 1), repeat=4)}
        best = max([*ended.values(), *cut.values()])
        for width in scores:
            scores[width] += beam_search(step, (), bos=1, eos=2, width=width, max_length=4)[1]
        assert beam_search(step, (), bos=1, eos=2, width=81, max_length=4)[1] == pytest.approx(best)
        words, word = [], 1
        for _ in range(4):
            word = int(table[word].argmax())
            if word == 2:
                break
            words.append(word)
        assert greedy(step, (), bos=1, eos=2, max_length=4)[0] == words
    assert scores[1] <= scores[3] <= scores[81]


SENTENCES = [
    ("the cat sat on the mat", ["the cat sat on a mat", "a cat was on the mat today"]),
    ("there is a dog in the big garden", ["there is a dog in the garden", "a dog is in the garden there"]),
    ("one two three four five six", ["one two three four five seven", "one two three"]),
    ("short", ["a short one", "short"]),
]


@pytest.mark.parametrize("smoothing", ["none", "floor", "add-k", "exp"])
@pytest.mark.parametrize("kept", [[0], [1], [2], [3], [0, 1, 2, 3]])
def test_claim_8_bleu_equals_sacrebleu(kept, smoothing):
    import sacrebleu

    chosen = [SENTENCES[i] for i in kept]
    hypotheses, references = [h for h, _ in chosen], [r for _, r in chosen]
    theirs = sacrebleu.corpus_bleu(
        hypotheses, [list(r) for r in zip(*references, strict=True)], tokenize="none", smooth_method=smoothing,
        force=True,
    )  # fmt: skip
    assert bleu(hypotheses, references, smoothing=smoothing) == pytest.approx(theirs.score, abs=1e-6)


def test_claim_8_bleu_equals_sacrebleu_on_odd_cases():
    from sacrebleu.metrics import BLEU

    rng = random.Random(0)

    def sentence():
        return " ".join(rng.choice("abc") for _ in range(rng.choice((0, 1, 2, 3, 4, 5, 8))))

    for _ in range(300):
        n, smoothing, effective = rng.randint(1, 3), rng.choice(("none", "floor", "add-k", "exp")), rng.random() < 0.5
        hypotheses = [sentence() for _ in range(n)]
        references = [[sentence(), sentence()] for _ in range(n)]
        value = rng.choice((None, 0.3, 2.0)) if smoothing in ("floor", "add-k") else None
        theirs = BLEU(
            tokenize="none", smooth_method=smoothing, smooth_value=value, effective_order=effective, force=True
        ).corpus_score(hypotheses, [list(column) for column in zip(*references, strict=True)])
        ours = bleu(hypotheses, references, smoothing=smoothing, value=value, effective_order=effective)
        assert ours == pytest.approx(theirs.score, abs=1e-6)
        assert ours.brevity_penalty == pytest.approx(theirs.bp)
        assert [100 * p for p in ours.precisions] == pytest.approx(theirs.precisions)


def test_claim_8_bleu_equals_nltk_and_the_known_examples():
    assert bleu(["a b c d e"], [["a b c d e"]]) == pytest.approx(100)
    known = bleu(["the the the the the the the"], [["the cat is on the mat", "there is a cat on the mat"]])
    assert known.precisions[0] == pytest.approx(2 / 7)
    from nltk.translate import bleu_score

    # nltk counts one n-gram where a hypothesis is shorter than n; sacrebleu, and we, count none
    long = [(h.split(), [r.split() for r in rs]) for h, rs in SENTENCES if len(h.split()) >= 4]
    hypotheses, references = [h for h, _ in long], [rs for _, rs in long]
    assert bleu(hypotheses, references) == pytest.approx(100 * bleu_score.corpus_bleu(references, hypotheses), abs=1e-6)


@pytest.mark.parametrize("backend", ["auto", "loop"])
@pytest.mark.parametrize("cell", ["elman", "gru", "lstm"])
def test_claim_9_padding_changes_nothing(cell, backend):
    net = RNN(cell=cell, input_size=2, hidden_size=3, layers=2, bidirectional=True, backend=backend)
    x, lengths = torch.randn(3, 6, 2), torch.tensor([6, 3, 0])
    y, state = net(x, lengths=lengths)
    other, _ = net(torch.where((torch.arange(6) < lengths[:, None])[:, :, None], x, 99.0), lengths=lengths)
    assert torch.equal(y, other)
    alone, own = net(x[1:2, :3])
    assert torch.allclose(y[1, :3], alone[0], atol=1e-12)
    assert (y[1, 3:] == 0).all()
    assert (y[2] == 0).all()
    for ours, single in zip(state, own, strict=True):
        assert torch.allclose(ours[0][1], single[0][0], atol=1e-12)
        assert (ours[0][2] == 0).all()
