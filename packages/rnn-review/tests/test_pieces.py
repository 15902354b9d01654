"""Edges of every module: what is refused, and what the generators and searches give."""

import math

import pytest
import torch
from torch import nn

from rnn_review_impl import (
    RNN,
    RTRL,
    ElmanCell,
    GRUCell,
    JacobianProbe,
    JordanCell,
    LSTMCell,
    SequenceNet,
    bits_per_char,
    bleu,
    bptt,
    clip_norm,
    decoding,
    edit_distance,
    error_rate,
    exact_match_f,
    jacobians_reference,
    make_optimizer,
    pascanu_regularizer,
    perplexity,
    tasks,
    tbptt,
    to_torch,
)  # fmt: skip
from rnn_review_impl.decoding import _reorder
from rnn_review_impl.ntm import NTM
from rnn_review_impl.rnn import make_cell
from rnn_review_impl.seq2seq import Decoder, Seq2Seq
from rnn_review_impl.training import _local, _whole, detach


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_jordan_feeds_its_output_back_and_can_be_taught():
    cell = JordanCell(input_size=2, hidden_size=4, output_size=3, mu=0.5)
    x = torch.randn(2, 5, 2)
    y, (special, last) = cell(x)
    expected = sum(0.5 ** (3 - t) * y[:, t] for t in range(4))
    assert torch.allclose(special, expected, atol=1e-6)
    assert torch.equal(last, y[:, -1])
    assert torch.allclose(cell.teach(x, y), y, atol=1e-6)
    assert not torch.allclose(cell.teach(x, y + 1)[:, 1:], y[:, 1:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RNN(cell="lstn", input_size=1, hidden_size=1), "cell must be one of elman.*got 'lstn'"),
        (lambda: RNN(input_size=1, hidden_size=0), "hidden_size must be positive, got 0"),
        (lambda: RNN(input_size=1, hidden_size=1, dropout=1.0), "dropout must be in"),
        (lambda: RNN(input_size=1, hidden_size=2)(torch.zeros(1, 2, 3)), "with 1 features, got shape"),
        (lambda: RNN(input_size=1, hidden_size=2)(torch.full((1, 2, 1), math.nan)), "x must be finite"),
        (lambda: RNN(input_size=1, hidden_size=2)(torch.zeros(1, 2, 1), lengths=torch.tensor([3])), "from 0 to 2"),
        (
            lambda: (net := RNN(input_size=1, hidden_size=2))(torch.zeros(1, 2, 1), net.initial_state(3)),
            r"state must be 2 tensors of shape \(1, 2\)",
        ),
        (lambda: to_torch(RNN(cell="lstm-1997", input_size=1, hidden_size=2)), "to have a torch module"),
        (lambda: NTM(input_size=1, output_size=1, shifts=2), "shifts must be odd"),
        (lambda: bleu([], []), "equally many"),
        (lambda: bleu(["a"], [[]]), "at least one for each hypothesis"),
        (lambda: tasks.encode("aXb", "ab"), "got 'X'"),
        (lambda: tasks.reber_legal("BTBTXSEPE"), "must be an embedded Reber string"),
        (lambda: make_optimizer("adamm", [nn.Parameter(torch.zeros(1))]), "name must be one of sgd"),
        (lambda: clip_norm([torch.tensor([math.nan])], 1.0), "gradients must be finite"),
        (lambda: perplexity(1.0, 0), "tokens must be positive"),
        (lambda: error_rate([[]], [[]]), "must not be empty"),
        (lambda: decoding.ctc_beam(torch.zeros(2, 3), blank=3), "blank must be below 3"),
        (lambda: decoding.ctc_greedy(torch.zeros(2, 3), blank=-1), "blank must be below 3"),
        (lambda: decoding._check_frames(torch.zeros(2, 3, 4), 0), r"one sequence, got shape \(2, 3, 4\)"),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_empty_sequence_and_an_empty_hypothesis_have_an_answer():
    y, state = RNN(input_size=2, hidden_size=3)(torch.zeros(2, 0, 2))
    assert y.shape == (2, 0, 3)
    assert float(state[0][0].abs().sum()) == 0
    assert bleu([""], [["a b"]]) == 0
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "ab") == 2
    assert exact_match_f("a b", "a b") == 1
    assert exact_match_f("", "a") == 0
    assert perplexity(2 * math.log(8), 2) == pytest.approx(8)
    assert bits_per_char(2 * math.log(8), 2) == pytest.approx(3)


@pytest.mark.parametrize("cell", ["lstm", "gru", "elman"])
def test_the_loop_and_the_kernel_agree_also_in_gradients(cell):
    torch.manual_seed(0)
    net = RNN(cell=cell, input_size=3, hidden_size=4, layers=2, bidirectional=True)
    x, lengths = torch.randn(3, 7, 3), torch.tensor([7, 0, 4])
    found = []
    for backend in ("auto", "loop"):
        net.backend = backend
        net.zero_grad()
        y, _ = net(x, lengths=lengths)
        y.square().sum().backward()
        found.append([y, *(p.grad.clone() for p in net.parameters())])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_saved_network_comes_back(tmp_path):
    net = RNN(cell="lstm-peephole", input_size=2, hidden_size=3).eval()
    net.save_pretrained(tmp_path)
    x = torch.randn(1, 4, 2)
    assert torch.equal(RNN.from_pretrained(tmp_path)(x)[0], net(x)[0])


def test_the_regulariser_is_zero_for_an_orthogonal_linear_net_and_pulls_on_the_recurrent_matrix():
    net = SequenceNet(ElmanCell(input_size=2, hidden_size=4, activation="linear"), 1)
    x, y = torch.randn(2, 6, 2), torch.randn(2, 6, 1)

    def loss(out, target):
        return (out - target).square().sum()

    assert pascanu_regularizer(net, x, y, loss).item() < 1e-8
    with torch.no_grad():
        net.cell.weight_h *= 0.5
    value = pascanu_regularizer(net, x, y, loss)
    assert value.item() == pytest.approx(5 * 0.25, rel=1e-4)
    assert float(torch.autograd.grad(value, net.cell.weight_h)[0].norm()) > 0
    with pytest.raises(ValueError, match="only state, got LSTMCell"):
        pascanu_regularizer(SequenceNet(LSTMCell(input_size=2, hidden_size=4), 1), x, y, loss)


@pytest.mark.parametrize("controller", ["lstm", "feedforward"])
def test_the_turing_machine_steps_as_it_runs_and_learns(controller):
    torch.manual_seed(0)
    net = NTM(input_size=3, output_size=2, controller=controller, hidden_size=8, rows=6, width=4, read_heads=2)
    x, state, outputs = torch.randn(2, 5, 3), None, []
    for t in range(5):
        y, state = net.step(x[:, t], state)
        assert torch.allclose(state.weights.sum(2), torch.ones(2, 3))
        outputs.append(y)
    assert torch.allclose(net(x)[0], torch.stack(outputs, 1))
    net(x)[0].sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert not detach(state).memory.requires_grad
    assert _reorder(state, torch.tensor([1])).memory.shape == (1, 6, 4)
    with pytest.raises(ValueError, match=r"state must be of batch size 3 .* got \(2, 6, 4\)"):
        net.step(torch.randn(3, 3), state)


def test_ctc_beam_finds_the_likeliest_labelling_and_greedy_joins_repetitions():
    import itertools

    torch.manual_seed(1)
    for _ in range(5):
        log_probs = torch.randn(4, 3).log_softmax(1)
        labels = [list(w) for n in range(5) for w in itertools.product((1, 2), repeat=n)]
        score = {tuple(w): decoding.ctc_likelihood_reference(log_probs, w) for w in labels}
        found, value = decoding.ctc_beam(log_probs, width=100)
        assert tuple(found) == max(score, key=score.get)
        assert value == pytest.approx(max(score.values()))
        short = [w for w in labels if 0 < len(w) <= 2]
        for w in short:
            loss = nn.functional.ctc_loss(log_probs[:, None], torch.tensor([w]), (4,), (len(w),), reduction="sum")
            expected = score[tuple(w)]
            assert (-float(loss) == pytest.approx(expected, abs=1e-4)) or expected == -math.inf
    path = torch.eye(3)[[1, 1, 0, 1, 2, 2]].log()
    assert decoding.ctc_greedy(path) == [1, 1, 2]


def test_every_embedded_reber_string_is_legal_and_its_frame_is_remembered():
    for text in tasks.embedded_reber(50, generator()):
        legal = tasks.reber_legal(text)
        assert all(symbol in may for symbol, may in zip(text[1:], legal, strict=True))
        assert legal[-2] == {text[1]}


def test_generators_give_what_they_say():
    x, y = tasks.adding(500, 9, generator())
    assert torch.equal(x[:, :, 1].sum(1), torch.full((500,), 2.0))
    assert torch.allclose((x[:, :, 0] * x[:, :, 1]).sum(1), y)
    bits = tasks.temporal_xor(30, generator()).view(-1, 3)
    assert torch.equal(bits[:, 0] ^ bits[:, 1], bits[:, 2])
    x, y = tasks.copy_memory(2, 5, generator())
    assert torch.equal(x[:, :10], y[:, -10:])
    x, y = tasks.ntm_copy(2, 4, generator())
    assert torch.equal(x[:, :4, :8], y)
    bits, odd = tasks.parity(3, 6, generator())
    assert torch.equal(bits.sum(1) % 2, odd[:, -1])
    assert set(tasks.anbn(20, 3, generator())) == {"ab", "aabb", "aaabbb"}
    assert all(a == b[::-1] for a, b in tasks.reverse_strings(9, 5, generator()))
    assert set(tasks.letters(30, generator())) <= set("bagdiu")
    human, iso = tasks.dates(1, generator())[0]
    assert set(human) <= set(tasks.DATE_SYMBOLS)
    assert len(iso) == 10


@pytest.mark.parametrize("attention", [False, True])
def test_an_encoder_decoder_learns_three_strings_and_takes_no_notice_of_padding(attention):
    torch.manual_seed(0)
    net = Seq2Seq(source_vocabulary=6, target_vocabulary=6, hidden_size=16, attention=attention)
    source, lengths = torch.tensor([[3, 4, 5], [5, 3, 0], [4, 0, 0]]), torch.tensor([3, 2, 1])
    target = torch.tensor([[5, 4, 3, 2], [3, 5, 2, 0], [4, 2, 0, 0]])
    optimizer = torch.optim.Adam(net.parameters(), 0.04)
    for _ in range(50):
        optimizer.zero_grad()
        net.loss(source, lengths, target).backward()
        optimizer.step()
    assert net.translate_all(source, lengths) == [[5, 4, 3], [3, 5], [4]]
    for width in (1, 3, 50):
        answers = [net.translate(s[:n], width=width) for s, n in zip(source, lengths.tolist(), strict=True)]
        assert answers == [[5, 4, 3], [3, 5], [4]]
    padded = torch.cat([source, torch.zeros(3, 2, dtype=torch.long)], 1)
    assert net.loss(padded, lengths, target).item() == pytest.approx(net.loss(source, lengths, target).item(), abs=1e-6)
    with pytest.raises(ValueError, match="ids must be ids from 0 to 5, got 9"):
        net.translate(torch.tensor([9]))
    step, state = net.stepper(source[0])
    assert decoding.sample(step, state, bos=1, eos=2, temperature=0.1) == [5, 4, 3]


def test_a_decoder_starts_from_a_feature_vector():
    net = Decoder(vocabulary=5, hidden_size=4, features=7)
    logits, _ = net(torch.tensor([[1, 3]]), net.from_features(torch.randn(1, 7)))
    assert logits.shape == (1, 2, 5)
    with pytest.raises(ValueError, match="features must be positive"):
        Decoder(vocabulary=5, hidden_size=4).from_features(torch.randn(1, 7))


def test_the_truncated_training_of_1997_sends_no_gradient_through_the_output():
    cell = LSTMCell(input_size=2, hidden_size=3, variant="1997", truncated=True)
    x = torch.randn(1, 4, 2)
    h, _ = cell(x)
    plain = LSTMCell(input_size=2, hidden_size=3, variant="1997")
    plain.load_state_dict(cell.state_dict())
    assert torch.equal(h, plain(x)[0])
    a, b = (torch.autograd.grad(c(x)[0].sum(), c.weight_x)[0] for c in (cell, plain))
    assert not torch.allclose(a, b)


@pytest.mark.parametrize("name", ["elman", "irnn", "gru", "lstm", "lstm-1997", "lstm-peephole"])
def test_jacobians_unit_by_unit_are_those_of_the_whole_step(name):
    torch.manual_seed(0)
    cell = make_cell(name, input_size=2, hidden_size=3).double()
    x, state = torch.randn(2, 2).double(), tuple(torch.randn(2, 3).double() for _ in range(cell.parts))
    d, _ = jacobians_reference(cell, x, state)
    local, new = _local(cell, x, state)
    assert torch.allclose(_whole(cell, local), d, atol=1e-12)
    assert torch.allclose(torch.cat(new, 1), torch.cat(cell.step(x, state)[1], 1))


def test_the_jordan_net_has_an_empty_answer_of_its_own_width_and_can_be_probed():
    cell = JordanCell(input_size=2, hidden_size=5, output_size=3)
    y, _ = cell(torch.zeros(2, 0, 2))
    assert y.shape == (2, 0, 3)
    y, _ = cell(torch.randn(2, 4, 2), lengths=torch.tensor([4, 2]))
    assert (y[1, 2:] == 0).all()
    assert len(JacobianProbe(cell).norms(torch.randn(1, 4, 2))) == 4
    with pytest.raises(ValueError, match='mode must be "rtrl" for a JordanCell'):
        RTRL(SequenceNet(cell, 1), mode="snap1")


def test_truncated_bptt_takes_stacks_and_refuses_both_directions():
    torch.manual_seed(0)
    x, y = torch.randn(2, 6, 2), torch.randn(2, 6, 1)

    def loss(out, target):
        return (out - target).square().sum()

    net = SequenceNet(RNN(cell="gru", input_size=2, hidden_size=3, layers=2), 1)
    full, found = bptt(net, x, y, loss), tbptt(net, x, y, loss, k1=2, k2=6)
    assert all(torch.allclose(full[name], found[name], atol=1e-5) for name in full)
    with pytest.raises(ValueError, match="must read forward only"):
        tbptt(SequenceNet(RNN(input_size=2, hidden_size=3, bidirectional=True), 1), x, y, loss, k1=2, k2=2)
    with pytest.raises(ValueError, match="x must have at least one step"):
        tbptt(net, x[:, :0], y[:, :0], loss, k1=1, k2=1)
    with pytest.raises(ValueError, match="must be one cell, got RNN"):
        RTRL(net)
    with pytest.raises(ValueError, match="no LSTM, got"):
        RNN(cell="gru", backend="fused")


def test_gru_step_equals_sequence():
    cell = GRUCell(input_size=2, hidden_size=3)
    x, state = torch.randn(2, 5, 2), None
    y, _ = cell(x)
    for t in range(5):
        out, state = cell.step(x[:, t], state)
        assert torch.allclose(out, y[:, t], atol=1e-6)
    with pytest.raises(ValueError, match=r"state must be 1 tensors of shape \(2, 3\)"):
        cell.step(x[:, 0], cell.initial_state(4))


def square(out, target):
    return (out - target).square().sum()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RNN()(torch.zeros(1, 2, 1).double()), "x must be torch.float32, got torch.float64"),
        (lambda: RNN()(torch.ones(1, 2, 1), lengths=torch.tensor([True])), "lengths must be 1 integers"),
        (lambda: ElmanCell(input_size=1, hidden_size=True), "hidden_size must be a whole number"),
        (lambda: bptt(elman(), torch.zeros(1, 4, 1), torch.zeros(1, 1, 1), square), "targets must have the batch"),
        (
            lambda: tbptt(elman(), torch.zeros(1, 4, 1), torch.zeros(1, 3, 1), square, k1=2, k2=2),
            r"targets must have the batch and length of x, \(1, 4\), got \(1, 3, 1\)",
        ),
        (lambda: decoding.greedy(lambda w, s: (torch.full((1, 3), math.nan), s), None, bos=0, eos=1), "got NaN"),
        (lambda: decoding.ctc_beam(torch.full((2, 3), math.nan)), "log_probs must be numbers, got NaN"),
        (lambda: bits_per_char(math.nan, 3), "total_nll must be a number"),
        (lambda: tasks.adding(0, 5, generator()), "n must be positive, got 0"),
        (lambda: NTM(rows=4).step(torch.zeros(2, 9), NTM(rows=4, hidden_size=5).initial_state(2)), "same controller"),
        (lambda: Seq2Seq().translate(torch.tensor([99])), "ids must be ids from 0 to 41, got 99"),
    ],
)
def test_what_would_be_a_silent_wrong_number_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def elman():
    return SequenceNet(ElmanCell(input_size=1, hidden_size=2), 1)


def test_a_beam_wider_than_the_vocabulary_takes_all_there_is():
    table = torch.randn(3, 3, generator=generator()).log_softmax(1)
    wide, wider = (
        decoding.beam_search(lambda w, s: (table[w], s), None, bos=0, eos=1, width=width, max_length=3)
        for width in (27, 1000)
    )
    assert wide == wider
