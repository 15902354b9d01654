"""What is timed against what, declared."""

import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from shared_impl.bench import Benchmark, Case, Setting, checkout_revision, fitted_slope, module_from_file
from shared_impl.results import Row

from .attention import masked_log_softmax, pointer_scores, pointer_scores_direct
from .model import PointerNetwork
from .official import CHECKOUT, blended_decode, checkout, from_shirgur
from .solver import PointerSolver
from .tasks import generate
from .tours import distance_matrix, held_karp, held_karp_loop

__all__ = ["BENCHMARKS"]


def _instances(setting: Setting, batch: int, n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(setting.seed)
    x = torch.rand(batch, n, 2, generator=generator)
    order = torch.stack([torch.randperm(n, generator=generator) for _ in range(batch)])
    return x.to(setting.device), order.to(setting.device)


def step_loop_loss(model: PointerNetwork, x: Tensor, targets: Tensor) -> Tensor:
    """The loss step by step, as re-implementations have it: an LSTM step, W1 e of all inputs again, all pairs' tanh."""
    memory, state = model.encode(x)
    inputs, total = model.first_input(memory), x.new_zeros(())
    for i in range(targets.shape[1]):
        output, state = model.decoder(inputs[:, None], state)
        keys = model.pointer.key(memory.encoded)
        scores = pointer_scores_direct(keys, model.pointer.query(output), model.pointer.v)
        log_probs = masked_log_softmax(scores, memory.present[:, None])[:, 0]
        total = total - log_probs.gather(1, targets[:, i : i + 1]).sum()
        inputs = model.chosen_input(memory, targets[:, i : i + 1])[:, 0]
    return total / targets.numel()


def whole_loss(model: PointerNetwork, x: Tensor, targets: Tensor) -> Tensor:
    """The decoder in one call, all pairs' tanh in one tensor."""
    memory, state = model.encode(x)
    inputs = torch.cat([model.first_input(memory)[:, None], model.chosen_input(memory, targets[:, :-1])], 1)
    output, _ = model.decoder(inputs, state)
    scores = pointer_scores_direct(memory.keys[0], model.pointer.query(output), model.pointer.v)
    log_probs = masked_log_softmax(scores, memory.present[:, None])
    return -log_probs.gather(2, targets[..., None]).mean()


def training(setting: Setting) -> Iterator[Case | Row | str]:
    """A teacher-forced training step (forward and backward) as n grows: H = 256, 32 instances."""
    hidden, batch = (32, 4) if setting.quick else (256, 32)
    torch.manual_seed(setting.seed)
    model = PointerNetwork(hidden=hidden, end_symbol=False).to(setting.device)
    for n in (5, 10) if setting.quick else (10, 25, 50, 75):
        x, order = _instances(setting, batch, n)

        def backward(loss: Tensor) -> None:
            model.zero_grad()
            loss.backward()

        forms = {
            "step by step": lambda x=x, order=order: backward(step_loop_loss(model, x, order)),
            "one call, all pairs at once": lambda x=x, order=order: backward(whole_loss(model, x, order)),
            "one call, in pieces (used)": lambda x=x, order=order: backward(model.loss(x, order)),
        }
        yield Case(f"n = {n}", forms, baseline="step by step", size=n, rounds=5)
    yield "the same loss by all three, to 1e-5 (tested); the last computes exponentials of n + m vectors, not n m tanh"


def scores(setting: Setting) -> Iterator[Case | Row | str]:
    """Scores of all pairs, forward and backward: time and peak memory."""
    hidden, batch = (32, 4) if setting.quick else (256, 16)
    for n in (8, 16) if setting.quick else (25, 50, 100, 150):
        generator = torch.Generator().manual_seed(setting.seed)
        keys, queries = (
            torch.randn(batch, n, hidden, generator=generator).to(setting.device).requires_grad_() for _ in range(2)
        )
        v = torch.randn(hidden, generator=generator).to(setting.device).requires_grad_()

        def run(form: object, keys: Tensor = keys, queries: Tensor = queries, v: Tensor = v) -> None:
            assert callable(form)
            torch.autograd.grad(form(keys, queries, v).sum(), (keys, queries, v))

        forms = {
            "all at once": partial(run, pointer_scores_direct),
            "in pieces": partial(run, pointer_scores),
        }
        yield Case(f"n = m = {n}", forms, baseline="all at once", size=n, rounds=5, memory=True)


def decoding(setting: Setting) -> Iterator[Case | Row | str]:
    """Greedy answers with what is kept between steps, against encoding again at each; and what a beam costs."""
    hidden, batch = (32, 4) if setting.quick else (256, 16)
    torch.manual_seed(setting.seed)
    model = PointerNetwork(hidden=hidden, end_symbol=False).to(setting.device).eval()
    sizes: list[float] = []
    times: list[float] = []
    for n in (5, 10) if setting.quick else (10, 20, 40):
        x, _ = _instances(setting, batch, n)
        forms: dict[str, Callable[[], object]] = {
            "encoded again": partial(greedy_by_encoding_again, model, x),
            "greedy": partial(model.decode, x, constraint="permutation"),
            "beam of 3": partial(model.decode, x, method="beam", width=3, constraint="permutation"),
        }
        found = yield Case(f"n = {n}", forms, baseline="encoded again", size=n, rounds=5)
        if found is not None:
            sizes.append(n)
            times.append(found["greedy"].median_s)
    if len(sizes) > 1:
        yield Row(
            f"n = {sizes[0]} to {sizes[-1]}", "greedy", "exponent of growth", fitted_slope(sizes, times),
            higher_is_better=False,
        )  # fmt: skip


@torch.no_grad()
def greedy_by_encoding_again(model: PointerNetwork, x: Tensor) -> Tensor:
    """Greedy permutations by a whole forward pass for every step."""
    chosen = x.new_zeros(x.shape[0], 0, dtype=torch.long)
    for _ in range(x.shape[1]):
        targets = torch.cat([chosen, x.new_full((len(x), 1), -1, dtype=torch.long)], 1)
        log_probs = model(x, None, targets)[:, -1]
        choice = log_probs.scatter(1, chosen, -torch.inf).argmax(1, keepdim=True)
        chosen = torch.cat([chosen, choice], 1)
    return chosen


def _held_karp(setting: Setting) -> Iterator[Case | Row | str]:
    """Exact tours: all instances and all sets of a size at once, against one entry at a time, and a solver on PyPI."""
    try:
        peer = importlib.import_module("python_tsp.exact").solve_tsp_dynamic_programming
    except ImportError:
        peer = None
        yield "python-tsp is not installed (extra peers)"
    for n, batch in ((5, 4), (6, 4)) if setting.quick else ((5, 256), (8, 128), (10, 64), (12, 16)):
        points = np.random.default_rng(setting.seed).random((batch, n, 2))
        forms: dict[str, Callable[[], object]] = {
            "entry by entry": lambda points=points: [held_karp_loop(p) for p in points],
            "in batches": lambda points=points: held_karp(points),
        }
        if peer is not None and n <= 10:
            forms["python-tsp"] = lambda points=points: [peer(distance_matrix(p)) for p in points]
        yield Case(f"{batch} instances of n = {n}", forms, baseline="entry by entry", size=n, rounds=3)


def official(setting: Setting) -> Iterator[Case | Row | str]:
    """The PyTorch re-implementation shirgur/PointerNet: equal weights, then a training step beside ours."""
    folder = checkout()
    if folder is None:
        yield Row("shirgur/PointerNet", "ours", "compared", 0.0, note=f"{CHECKOUT} names no checkout")
        yield f"set {CHECKOUT} to a checkout of shirgur/PointerNet"
        return
    theirs = module_from_file(folder / "PointerNet.py", "shirgur_pointer_net")
    yield f"shirgur/PointerNet at {checkout_revision(folder)}, one layer, one direction, unchanged"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that torch has given up since
        for n, batch in ((5, 2), (6, 2)) if setting.quick else ((5, 128), (10, 128), (50, 32)):
            torch.manual_seed(setting.seed)
            network = theirs.PointerNet(128, 256, 1, 0.0, False)
            x, order = _instances(Setting(seed=setting.seed), batch, n)
            ours = from_shirgur(network.state_dict())
            with torch.no_grad():
                wanted, chosen = network(x)
                found, answer = blended_decode(ours, network.decoder.hidden_out, x)
            difference = float((wanted - found).abs().max())
            yield Row(f"n = {n}", "ours", "largest difference of a probability", difference, higher_is_better=False)
            yield Row(f"n = {n}", "ours", "equal choices %", 100 * float((answer == chosen).float().mean()))

            def their_step(network: torch.nn.Module = network, x: Tensor = x, order: Tensor = order) -> None:
                network.zero_grad()
                probabilities, _ = network(x)
                (-probabilities.gather(2, order[..., None]).clamp_min(1e-9).log().mean()).backward()

            def our_step(ours: PointerNetwork = ours, x: Tensor = x, order: Tensor = order) -> None:
                ours.zero_grad()
                ours.loss(x, order).backward()

            yield Case(
                f"training step, n = {n}, {batch} instances", {"theirs": their_step, "ours": our_step},
                baseline="theirs", rounds=3,
            )  # fmt: skip


def defaults(setting: Setting) -> Iterator[Case | Row | str]:
    """`PointerSolver` as it comes on small sets: its score beside the answer that needs no learning."""
    rng = np.random.default_rng(setting.seed)
    quick = {"steps": 3, "hidden": 8} if setting.quick else {}
    sets: dict[str, tuple[str, object, object]] = {}
    values = [rng.random((6, 1)) * 100 for _ in range(60)]
    sets["60 lists of 6 numbers, sorted"] = ("custom", values, [np.argsort(v[:, 0]) for v in values])
    marked = [np.concatenate([rng.random((8, 1)), rng.integers(0, 2, (8, 1))], axis=1) for _ in range(200)]
    spans = [np.flatnonzero(m[:, 1] == 1) if m[:, 1].any() else np.array([0]) for m in marked]
    sets["200 lists of 8, the marked ones"] = ("custom", marked, spans)
    hulls, targets = generate("hull", 5, 36, rng)
    sets["36 hulls of 5 points, own examples"] = ("hull", list(hulls), [row[row >= 0] for row in targets])
    for task in ("hull", "tsp", "sort", "delaunay"):
        sets[f"{task}, generated, 5 to 8 points"] = (task, None, None)
    for label, (task, points, answers) in sets.items():
        solver = PointerSolver(task, n=(5, 8), random_state=setting.seed, **quick)  # type: ignore[arg-type]
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            solver.fit(points, answers)
        warned = "warned" if any(issubclass(w.category, UserWarning) for w in said) else ""
        yield Row(label, "PointerSolver()", "score", solver.score_, note=warned)
        yield Row(label, "needs no learning", "score", solver.trivial_score_)


BENCHMARKS: Mapping[str, Benchmark] = {
    "training": Benchmark("A teacher-forced training step, H = 256, 32 instances", training, xlabel="points"),
    "scores": Benchmark("Scores of all pairs, H = 256, 16 instances", scores, xlabel="points, and steps"),
    "decoding": Benchmark("Greedy answers, H = 256, 16 instances", decoding, xlabel="points"),
    "held_karp": Benchmark("Exact tours by the Held-Karp programme", _held_karp, xlabel="cities"),
    "official": Benchmark("Beside a public re-implementation", official),
    "defaults": Benchmark("The estimator as it comes", defaults),
}
