import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s4_impl import data, listops, synthetic
from shared_impl.data import DataError


def small_rules(**changes):
    return listops.ListOpsRules(
        **{"n_train": 60, "n_val": 10, "n_test": 10, "min_length": 8, "max_length": 60} | changes
    )


# ListOps


def test_listops_values_equal_those_of_the_written_expressions():
    generated = listops.generate_listops(small_rules(n_train=300))
    for tokens, value in generated:
        assert listops.evaluate_expression(listops.decode_tokens(tokens)) == value


def test_listops_lengths_lie_strictly_between_the_limits_and_expressions_are_unique():
    generated = listops.generate_listops(small_rules(n_train=300))
    assert generated.lengths.min() > 8
    assert generated.lengths.max() < 60
    assert len({tokens.tobytes() for tokens, _ in generated}) == len(generated)


def test_listops_at_the_benchmark_lengths_is_deep_and_wide_but_never_beyond_the_rules():
    generated = listops.generate_listops(listops.ListOpsRules(n_train=100, n_val=1, n_test=1))
    assert generated.lengths.min() >= 501
    assert generated.lengths.max() <= 1999
    deepest = 0
    for tokens, value in generated:
        depth, arguments = 0, [0]
        for token in tokens:
            if token == listops.CLOSE:
                assert 2 <= arguments.pop() <= 10
            else:
                arguments[-1] += 1
                if token >= listops.OPERATOR_0:
                    arguments.append(0)
            depth = max(depth, len(arguments) - 1)
        deepest = max(deepest, depth)
        assert listops.evaluate_expression(listops.decode_tokens(tokens)) == value
    # operators stand on levels 1 to 9 of the 10, the last level holds digits only
    assert deepest == 9


def test_listops_shares_of_operators_and_values_follow_the_rules():
    generated = listops.generate_listops(listops.ListOpsRules(n_train=400, n_val=1, n_test=1))
    counts = np.bincount(generated.tokens, minlength=len(listops.VOCABULARY))
    operators, digits = counts[listops.OPERATOR_0 : listops.CLOSE], counts[listops.DIGIT_0 : listops.OPERATOR_0]
    assert np.allclose(operators / operators.sum(), 0.25, atol=0.01)
    assert np.allclose(digits / digits.sum(), 0.1, atol=0.005)
    assert counts[listops.CLOSE] == operators.sum()


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("7", 7),
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[MED 1 2 3 8 ]", 2),
        ("[SM 9 9 [MED 5 6 ] ]", 3),
        ("[MIN 3 [SM 5 5 ] ]", 0),
    ],
)
def test_an_expression_has_the_value_of_its_operators(expression, value):
    assert listops.evaluate_expression(expression) == value
    assert listops.decode_tokens(listops.encode_tokens(expression)) == expression


@pytest.mark.parametrize("expression", ["[MAX 1 2", "1 2", "] 3", "[AVG 1 2 ]", "[MAX ]"])
def test_a_malformed_expression_is_refused(expression):
    with pytest.raises(ValueError, match="expression"):
        listops.evaluate_expression(expression)


def test_parentheses_of_the_released_files_are_dropped_when_encoding():
    written = "( ( ( [MAX 2 ) 9 ) ] )"
    assert listops.decode_tokens(listops.encode_tokens(written)) == "[MAX 2 9 ]"


def test_listops_comes_from_the_cache_the_second_time(tmp_path):
    rules = small_rules()
    first = listops.listops(rules, cache=tmp_path)
    (file,) = tmp_path.glob("*.npz")
    written = file.stat().st_mtime_ns
    second = listops.listops(rules, cache=tmp_path)
    assert file.stat().st_mtime_ns == written
    assert [len(part) for part in second] == [60, 10, 10]
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.tokens, b.tokens)
        assert np.array_equal(a.targets, b.targets)
    listops.listops(small_rules(seed=1), cache=tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 2


def test_a_changed_cache_file_is_noticed(tmp_path):
    listops.listops(small_rules(), cache=tmp_path)
    (file,) = tmp_path.glob("*.npz")
    with np.load(file) as stored:
        content = dict(stored)
    content["targets"] = (content["targets"] + 1) % 10
    np.savez_compressed(file, **content)
    with pytest.raises(DataError, match="has changed"):
        listops.listops(small_rules(), cache=tmp_path)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be read"):
        listops.listops(small_rules(), cache=tmp_path)


@pytest.mark.parametrize(
    "changes", [{"n_train": 0}, {"min_length": 60}, {"max_depth": 1}, {"max_args": 1}, {"min_length": -1}]
)
def test_impossible_rules_are_refused(changes):
    with pytest.raises(ValueError, match="must be"):
        small_rules(**changes)


def test_rules_with_too_few_expressions_are_an_error_not_an_endless_loop():
    with pytest.raises(ValueError, match="too few different expressions"):
        listops.generate_listops(listops.ListOpsRules(n_train=50, n_val=1, n_test=1, min_length=0, max_length=3))


def test_the_listops_task_pads_at_the_end_and_marks_the_end(tmp_path, monkeypatch):
    monkeypatch.setenv("IMPL_CACHE_DIR", str(tmp_path))
    task = data.listops_task(small_rules())
    for row, length in zip(task.train.inputs, task.train.lengths, strict=True):
        assert row[length - 1] == listops.EOS
        assert (row[length:] == listops.PAD).all()
        assert (row[: length - 1] >= listops.DIGIT_0).all()


# generated signals


@given(lag=st.integers(1, 62))
@settings(max_examples=20, deadline=None)
def test_the_delayed_signal_is_the_signal(lag):
    signal, delayed = synthetic.delay(np.random.default_rng(0), 3, length=63, lag=lag)
    assert np.array_equal(delayed[:, lag:], signal[:, :-lag])
    assert not delayed[:, :lag].any()


def test_band_limited_noise_has_no_power_above_the_band_and_variance_one():
    noise = synthetic.white_noise(np.random.default_rng(0), 50, 256, bandwidth=0.25)
    power = np.abs(np.fft.rfft(noise)) ** 2
    assert power[:, 34:].max() < 1e-6 * power.max()
    assert noise.std(axis=1) == pytest.approx(1.0, abs=1e-3)


def test_the_adding_problem_adds_the_two_marked_numbers():
    inputs, targets = synthetic.adding(np.random.default_rng(0), 20, length=31)
    for sequence, target in zip(inputs, targets, strict=True):
        marked = sequence[sequence[:, 1] == 1, 0]
        assert len(marked) == 2
        assert target == pytest.approx(marked.sum())


def test_the_copying_task_asks_for_its_beginning():
    inputs, targets = synthetic.copying(np.random.default_rng(0), 5, length=20, n_memorize=4)
    assert inputs.shape == (5, 28)
    assert np.array_equal(inputs[:, :4], targets)
    assert (inputs[:, 4:24] == 8).all()
    assert (inputs[:, 24:] == 9).all()


@pytest.mark.parametrize("size", [16, 32])
def test_the_dots_of_mini_pathfinder_are_joined_exactly_for_label_one(size):
    from scipy.ndimage import binary_dilation, label

    images, labels = synthetic.mini_pathfinder(np.random.default_rng(1), 8, size=size, n_distractors=0)
    for image, is_joined in zip(images, labels, strict=True):
        # close the gaps between the dashes: what is left are the curves
        component, _ = label(binary_dilation(image > 0, iterations=1), structure=np.ones((3, 3)))
        dots, n_dots = label(image == 255)
        if n_dots < 2:
            continue  # two dots that touch
        ends = [set(np.unique(component[dots == i])) - {0} for i in (1, 2)]
        if is_joined:
            assert ends[0] & ends[1]
    assert 0 < labels.mean() < 1


@pytest.mark.parametrize(
    "call",
    [
        lambda rng: synthetic.delay(rng, 1, length=10, lag=10),
        lambda rng: synthetic.adding(rng, 1, length=1),
        lambda rng: synthetic.copying(rng, 1, n_tokens=0),
        lambda rng: synthetic.mini_pathfinder(rng, 1, size=8),
        lambda rng: synthetic.white_noise(rng, 1, 10, bandwidth=2.0),
    ],
)
def test_generators_refuse_what_they_cannot_make(call):
    with pytest.raises(ValueError, match="must"):
        call(np.random.default_rng(0))


# splits


@given(st.lists(st.integers(0, 3), min_size=40, max_size=120), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_a_stratified_split_uses_every_example_once_and_keeps_proportions(labels, seed):
    labels = np.array(labels)
    parts = data.stratified_split(labels, (0.6, 0.2, 0.2), seed)
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    for value in np.unique(labels):
        n = (labels == value).sum()
        assert abs((labels[parts[0]] == value).sum() - 0.6 * n) <= 1


def test_digits_are_the_same_for_a_seed_and_no_image_is_in_two_splits():
    first, again, other = data.digits_task(0), data.digits_task(0), data.digits_task(1)
    assert data.content_hash(first) == data.content_hash(again) != data.content_hash(other)
    assert [len(split) for split in first.splits] == [1258, 180, 359]
    seen = [image.tobytes() for split in first.splits for image in split.inputs]
    assert len(seen) == 1797
    assert first.train.inputs.shape[1:] == (64, 1)
    assert first.train.inputs.min() == -1
    assert first.train.inputs.max() == 1


def test_bit_reversal_is_a_permutation_that_undoes_itself_for_powers_of_two():
    assert sorted(data.bit_reversal(784)) == list(range(784))
    order = data.bit_reversal(64)
    assert np.array_equal(order[order], np.arange(64))
    assert list(data.bit_reversal(8)) == [0, 4, 2, 6, 1, 5, 3, 7]


@given(st.integers(1, 20), st.integers(1, 10), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_forecasts_never_leave_their_split(context, horizon, stride):
    series = np.arange(100.0)[:, None]
    past, future = data.forecasting_windows(series, 40, 70, context=context, horizon=horizon, stride=stride)
    assert future.min() >= 40
    assert future.max() < 70
    assert np.array_equal(past[:, -1] + 1, future[:, 0])
    assert (np.diff(np.concatenate([past, future], axis=1), axis=1) == 1).all()


def test_a_context_that_leaves_no_window_is_refused():
    with pytest.raises(ValueError, match="leave no window"):
        data.forecasting_windows(np.zeros((50, 1)), 0, 50, context=45, horizon=10)


def test_text_is_cut_into_windows_whose_targets_are_one_character_ahead():
    task = data.character_text(length=16, text="hello world, this is a text. " * 30)
    for split in task.splits:
        assert np.array_equal(split.inputs[:, 1:], split.targets[:, :-1])
        assert np.array_equal(split.inputs[1:, 0], split.targets[:-1, -1])
    assert "".join(task.vocabulary[i] for i in task.train.inputs[0]) == "hello world, thi"
    with pytest.raises(DataError, match="not learnt"):
        data.encode_text("ß", task.vocabulary)
    with pytest.raises(DataError, match="too short"):
        data.character_text(length=500, text="short")


def test_limiting_a_task_takes_only_so_many_examples():
    task = data.digits_task(0).limited(10, 5)
    assert [len(split) for split in task.splits] == [10, 5, 359]


# real files


@pytest.mark.data
def test_pixel_mnist_of_the_test_images_is_split_without_overlap():
    task = data.pixel_mnist(source="t10k")
    permuted = data.pixel_mnist(source="t10k", permuted=True)
    assert [len(split) for split in task.splits] == pytest.approx([8000, 1000, 1000], abs=10)
    assert sum(len(split) for split in task.splits) == 10_000
    assert np.array_equal(task.train.inputs[:, data.bit_reversal(784)], permuted.train.inputs)
    assert any("10,000 test images" in note for note in task.notes)


@pytest.mark.data
def test_etth1_is_scaled_by_the_training_months_and_its_splits_do_not_leak():
    task = data.etth1_task(context=96, horizon=24, relative=False)
    assert [len(split) for split in task.splits] == [12 * 720 - 96 - 23, 4 * 720 - 23, 4 * 720 - 23]
    train_end = np.concatenate([task.train.inputs[0, :96, 0], task.train.targets[:, 0, 0]])
    assert train_end.mean() == pytest.approx(0, abs=0.02)
    assert train_end.std() == pytest.approx(1, abs=0.02)
    # the first forecast of the validation begins where the last one of the training ends
    assert task.val.inputs[0, 95, 0] == task.train.targets[-1, -1, 0]
    assert (task.train.inputs[:, 96:] == 0).all()
    relative = data.etth1_task(context=96, horizon=24)
    last = task.test.inputs[:, 95:96]
    assert np.array_equal(relative.test.targets, task.test.targets - last)
    assert np.array_equal(relative.test.inputs[:, :96], task.test.inputs[:, :96] - last)


@pytest.mark.data
def test_tiny_shakespeare_has_65_characters():
    assert data.character_text(length=128).d_output == 65
