import pytest
import torch

from ptrnet_impl import PointerNetwork, Seq2Seq, Seq2SeqAttention, teacher_forcing_loop
from shared_impl.pretrained import WeightsError

X = torch.rand(3, 6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LENGTHS = torch.tensor([6, 4, 5])
TARGETS = torch.tensor([[1, 2, 3, 0, -1], [0, 1, -1, -1, -1], [4, 3, -1, -1, -1]])

NETWORKS = {
    "plain": {},
    "glimpses": {"glimpses": 2},
    "clipped": {"clip": 3.0},
    "two directions": {"bidirectional": True},
    "embedded, biases": {"embedding": 4, "attention_bias": True},
}


def network(cls=PointerNetwork, **options):
    torch.manual_seed(1)
    if cls is not PointerNetwork:
        options = {"n_max": 6, **options}
    return cls(**{"hidden": 8, **options}).double()


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_forward_equals_the_loop_over_steps(options):
    model = network(**options)
    fast, slow = model(X, LENGTHS, TARGETS), teacher_forcing_loop(model, X, TARGETS, LENGTHS)
    torch.testing.assert_close(fast.exp(), slow.exp(), rtol=1e-9, atol=1e-12)
    parameters = list(model.parameters())
    picked = TARGETS.clamp(min=0)[..., None]
    loss = lambda log_probs: log_probs.gather(2, picked).sum()  # noqa: E731
    for one, other in zip(
        torch.autograd.grad(loss(fast), parameters), torch.autograd.grad(loss(slow), parameters), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)


def test_without_an_end_symbol_too():
    model = network(end_symbol=False)
    targets = torch.tensor([[5, 4, 3, 2, 1, 0], [0, 1, 2, 3, -1, -1], [0, 1, 2, 3, 4, -1]])
    torch.testing.assert_close(
        model(X, LENGTHS, targets).exp(), teacher_forcing_loop(model, X, targets, LENGTHS).exp(), rtol=1e-9, atol=1e-12
    )


def test_what_stands_behind_the_end_of_an_instance_does_not_matter():
    model = network()
    other = X.clone()
    other[1, 4:] = float("nan")
    other[2, 5] = 7.0
    torch.testing.assert_close(model(other, LENGTHS, TARGETS), model(X, LENGTHS, TARGETS))


@pytest.mark.parametrize("cls", [Seq2Seq, Seq2SeqAttention])
def test_baselines_step_by_step_and_all_at_once_agree(cls):
    model = network(cls)
    memory, state = model.encode(X, LENGTHS)
    inputs, found = model.first_input(memory), []
    for i in range(TARGETS.shape[1]):
        logits, state = model.step(memory, state, inputs)
        found.append(logits)
        inputs = model.chosen_input(memory, TARGETS[:, i : i + 1])[:, 0]
    logits = torch.stack(found, 1).masked_fill(~memory.present[:, None], -torch.inf)
    torch.testing.assert_close(logits.log_softmax(-1), model(X, LENGTHS, TARGETS))


@pytest.mark.parametrize("cls", [Seq2Seq, Seq2SeqAttention])
def test_a_fixed_dictionary_takes_fewer_points_and_no_more(cls):
    model = network(cls)
    assert model(X[:, :3], None, TARGETS[:, -1:]).shape == (3, 1, 4)
    with pytest.raises(ValueError, match="at most n_max = 6 points"):
        model.decode(torch.rand(1, 7, 2))


def test_the_loss_is_the_mean_over_steps_that_count():
    model = network()
    log_probs = model(X, LENGTHS, TARGETS)
    steps = [(0, 0, 1), (0, 1, 2), (0, 2, 3), (0, 3, 0), (0, 4, 6), (1, 0, 0), (1, 1, 1), (1, 2, 6), (2, 0, 4),
             (2, 1, 3), (2, 2, 6)]  # fmt: skip
    expected = -sum(log_probs[step] for step in steps) / len(steps)
    torch.testing.assert_close(model.loss(X, TARGETS, LENGTHS), expected)
    likelihood = torch.stack([sum(log_probs[step] for step in steps if step[0] == row) for row in range(3)])
    torch.testing.assert_close(model.log_likelihood(X, TARGETS, LENGTHS), likelihood)


def test_without_an_end_nothing_behind_the_points_counts():
    model = network(end_symbol=False)
    targets = torch.tensor([[0, 1, 2, 3, 4, 5], [3, 2, 1, 0, -1, -1]])
    short = model.log_likelihood(X[1:2, :4], targets[1:, :4])
    torch.testing.assert_close(model.log_likelihood(X[:2], targets, LENGTHS[:2])[1:], short)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([[6, -1]], "below the number of points .from 0., got 6 in row 0 with 6 points"),
        ([[-2, -1]], "-1 .end. or an index, got -2"),
        ([[-1, 2]], "nothing but -1 behind"),
    ],
)
def test_wrong_targets_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        network()(X[:1], None, torch.tensor(targets))


def test_a_target_among_the_padding_is_refused():
    with pytest.raises(ValueError, match="got 4 in row 1 with 4 points"):
        network()(X, LENGTHS, torch.tensor([[4], [4], [4]]))


def test_wrong_inputs_are_refused():
    model = network()
    with pytest.raises(ValueError, match="targets must be given"):
        model(X)
    with pytest.raises(ValueError, match=r"targets must be \(3, m\) with m > 0"):
        model(X, None, TARGETS[:, :0])
    with pytest.raises(ValueError, match="input_dim = 2 numbers a point, got 3"):
        model.decode(torch.rand(1, 4, 3))
    with pytest.raises(ValueError, match="at least one instance with one point"):
        model.decode(torch.rand(2, 0, 2))
    with pytest.raises(ValueError, match="lengths must be from 1 to 6, got 0 to 6"):
        model.decode(X, torch.tensor([6, 0, 3]))
    with pytest.raises(ValueError, match="x must be finite"):
        model.decode(X * float("nan"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "hidden must be a positive integer, got 0"),
        ({"input_dim": 0}, "input_dim must be a positive integer"),
        ({"hidden": 7, "bidirectional": True}, "hidden must be even"),
        ({"glimpses": -1}, "glimpses must be a number from 0 on"),
        ({"input_scale": 0.0}, "input_scale must be positive"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PointerNetwork(**options)


def test_weights_are_drawn_as_the_paper_has_them():
    model = PointerNetwork(hidden=32, input_scale=0.08)
    assert all(p.abs().max() <= 0.08 for p in model.parameters())
    wide = PointerNetwork(hidden=32)
    assert wide.encoder.weight_ih_l0.abs().max() > 0.9
    assert wide.encoder.weight_hh_l0.abs().max() <= 0.08


@pytest.mark.parametrize("cls", [PointerNetwork, Seq2Seq, Seq2SeqAttention])
def test_a_saved_model_is_the_same_when_loaded(cls, tmp_path):
    model = network(cls).float()
    model.save_pretrained(tmp_path)
    loaded = cls.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(X, LENGTHS, TARGETS), model(X, LENGTHS, TARGETS))
    with pytest.raises(WeightsError):
        cls.from_pretrained(tmp_path, hidden=4)


@pytest.mark.gpu
def test_the_network_on_a_gpu_gives_the_same():
    model = network()
    expected = model.log_likelihood(X, TARGETS, LENGTHS)
    found = model.cuda().log_likelihood(X.cuda(), TARGETS.cuda(), LENGTHS.cuda())
    torch.testing.assert_close(found.cpu(), expected)
    assert model.decode(X.cuda(), method="beam", width=3, constraint="distinct").indices.is_cuda


def test_numbers_that_are_no_indices_are_refused():
    # the checks themselves: in tests the annotations refuse such arguments before them
    model, x = PointerNetwork(hidden=8), torch.rand(2, 5, 2)
    with pytest.raises(ValueError, match="targets must be integers"):
        model._checked_targets(model.encode(x)[0], torch.zeros(2, 3))
    with pytest.raises(ValueError, match="lengths must be 2 integers"):
        model._checked(x, torch.tensor([5.0, 5.0]))
    with pytest.raises(ValueError, match="lengths must be 2 integers"):
        model._checked(x, torch.tensor([5]))


def test_a_tiny_temperature_draws_the_likeliest():
    torch.manual_seed(0)
    model, x = PointerNetwork(hidden=8), torch.rand(3, 5, 2)
    greedy = model.decode(x, constraint="permutation")
    drawn = model.decode(x, method="sample", constraint="permutation", temperature=1e-39)
    assert torch.equal(drawn.indices, greedy.indices)
