"""From scores to sequences: greedy, sampled and beam search of a decoder; CTC without and with a beam."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import check_positive

__all__ = ["Step", "beam_search", "ctc_beam", "ctc_greedy", "ctc_likelihood_reference", "greedy", "sample"]

Step = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""(last symbols (k,), state) to (log-probabilities (k, vocabulary), state); a state is nested tuples, batch first"""


def _reorder(state: Any, index: Tensor) -> Any:
    if isinstance(state, Tensor):
        return state[index]
    if isinstance(state, tuple | list):
        parts = [_reorder(part, index) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    return state


def beam_search(
    step: Step, state: Any, *, bos: int, eos: int, width: int = 4, max_length: int = 50, alpha: float = 0.0
) -> tuple[list[int], float]:
    """The likeliest sequence found with `width` hypotheses, without eos, and its log-probability over ((5+l)/6)^alpha.

    Probabilities are never renormalised. A beam wider than the vocabulary takes all there is; a hypothesis that has
    not ended by `max_length` counts as it is.

    Raises:
        ValueError: if width or max_length is not positive, or eos is outside the vocabulary.
    """
    check_positive(width=width, max_length=max_length)
    beams: list[tuple[list[int], float]] = [([], 0.0)]
    done: list[tuple[list[int], float]] = []

    def norm(length: int) -> float:
        return float(((5 + length) / 6) ** alpha)

    for length in range(1, max_length + 1):
        last = torch.tensor([words[-1] if words else bos for words, _ in beams])
        scores, state = step(last, state)
        if not 0 <= eos < scores.shape[1]:
            raise ValueError(f"eos must be below the vocabulary of {scores.shape[1]}, got {eos}")
        if bool(scores.isnan().any()):
            raise ValueError("step must give log-probabilities, got NaN")
        total = scores.double() + torch.tensor([score for _, score in beams], dtype=torch.float64)[:, None]
        values, places = total.flatten().topk(min(width, total.numel()))
        parents, kept = [], []
        for value, place in zip(values.tolist(), places.tolist(), strict=True):
            parent, word = divmod(place, scores.shape[1])
            if value == -math.inf:
                continue
            if word == eos:
                done.append((beams[parent][0], value / norm(length)))
            else:
                kept.append(([*beams[parent][0], word], value))
                parents.append(parent)
        if not kept:
            break
        beams, state = kept, _reorder(state, torch.tensor(parents))
        # with alpha = 0 scores only fall, so no hypothesis can overtake any more
        if alpha == 0 and done and max(score for _, score in done) >= kept[0][1]:
            break
    else:
        done += [(words, score / norm(len(words))) for words, score in beams]
    return max(done, key=lambda one: one[1]) if done else ([], -math.inf)


def greedy(step: Step, state: Any, *, bos: int, eos: int, max_length: int = 50) -> tuple[list[int], float]:
    """The likeliest symbol at every step."""
    return beam_search(step, state, bos=bos, eos=eos, width=1, max_length=max_length)


def sample(
    step: Step, state: Any, *, bos: int, eos: int, max_length: int = 50, temperature: float = 1.0, seed: int = 0
) -> list[int]:
    """Symbols drawn by their probabilities, sharpened below temperature 1.

    Raises:
        ValueError: if the temperature is not positive.
    """
    check_positive(temperature=temperature, max_length=max_length)
    generator, words = torch.Generator().manual_seed(seed), []
    word = bos
    for _ in range(max_length):
        scores, state = step(torch.tensor([word]), state)
        word = int(torch.multinomial((scores[0] / temperature).softmax(0), 1, generator=generator))
        if word == eos:
            break
        words.append(word)
    return words


def ctc_greedy(log_probs: Float[Tensor, "length symbols"], *, blank: int = 0) -> list[int]:
    """The likeliest symbol at every step, repetitions joined, blanks removed.

    Raises:
        ValueError: if log_probs are no matrix (one sequence at a time) or blank is no symbol.
    """
    _check_frames(log_probs, blank)
    return [symbol for symbol, _ in itertools.groupby(log_probs.argmax(1).tolist()) if symbol != blank]


def _check_frames(log_probs: Tensor, blank: int) -> None:
    if log_probs.ndim != 2:
        raise ValueError(f"log_probs must be (length, symbols), one sequence, got shape {tuple(log_probs.shape)}")
    if not 0 <= blank < log_probs.shape[1]:
        raise ValueError(f"blank must be below {log_probs.shape[1]}, got {blank}")


def ctc_beam(log_probs: Float[Tensor, "length symbols"], *, width: int = 10, blank: int = 0) -> tuple[list[int], float]:
    """Prefix beam search (Graves 2006): the labelling with the largest sum over paths found, and its log-likelihood.

    Raises:
        ValueError: if width is not positive or blank is no symbol.
    """
    check_positive(width=width)
    _check_frames(log_probs, blank)
    if bool(log_probs.isnan().any()):
        raise ValueError("log_probs must be numbers, got NaN")
    # prefix to log-likelihoods (ending in a blank, ending in its last symbol)
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    for frame in log_probs.double().tolist():
        ends: dict[tuple[int, ...], list[list[float]]] = defaultdict(lambda: [[], []])
        for prefix, (in_blank, in_symbol) in beams.items():
            both = _add([in_blank, in_symbol])
            ends[prefix][0].append(both + frame[blank])
            if prefix:
                ends[prefix][1].append(in_symbol + frame[prefix[-1]])
            for symbol, score in enumerate(frame):
                if symbol != blank:
                    again = bool(prefix) and prefix[-1] == symbol
                    ends[(*prefix, symbol)][1].append((in_blank if again else both) + score)
        found = {prefix: (_add(a), _add(b)) for prefix, (a, b) in ends.items()}
        beams = dict(sorted(found.items(), key=lambda item: -_add(list(item[1])))[:width])
    best = max(beams, key=lambda prefix: _add(list(beams[prefix])))
    return list(best), _add(list(beams[best]))


def _add(logs: list[float]) -> float:
    top = max(logs, default=-math.inf)
    return top if top == -math.inf else top + math.log(sum(math.exp(v - top) for v in logs))


def ctc_likelihood_reference(log_probs: Tensor, labels: list[int], *, blank: int = 0) -> float:
    """Log-likelihood of a labelling by summing over every path; the oracle, for a handful of steps."""
    rows = log_probs.double().tolist()
    paths = itertools.product(range(log_probs.shape[1]), repeat=len(rows))
    return _add(
        [
            sum(row[symbol] for row, symbol in zip(rows, path, strict=True))
            for path in paths
            if [s for s, _ in itertools.groupby(path) if s != blank] == labels
        ]
    )
