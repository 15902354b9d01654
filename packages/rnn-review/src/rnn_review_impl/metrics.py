"""How sequences are judged (section 5.1.3 and 2.5): BLEU, perplexity, bits a character, edit distance."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from .checks import check_choice, check_positive

__all__ = ["Bleu", "bits_per_char", "bleu", "edit_distance", "error_rate", "exact_match_f", "perplexity"]

Tokens = str | Sequence[str]
Smoothing = Literal["none", "floor", "add-k", "exp"]


class Bleu(float):
    """The score in percent, with what it was made of."""

    precisions: list[float]
    brevity_penalty: float
    hypothesis_length: int
    reference_length: int


def _words(text: Tokens) -> list[str]:
    return text.split() if isinstance(text, str) else list(text)


def _ngrams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def bleu(
    hypotheses: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    *,
    order: int = 4,
    smoothing: Smoothing = "none",
    value: float | None = None,
    effective_order: bool = False,
) -> Bleu:
    """Corpus BLEU in percent: clipped n-gram precisions, their geometric mean, the brevity penalty.

    Precisions are summed over the corpus. The reference length is that closest to the hypothesis, of two the shorter.
    Smoothing of counts that are 0 as sacrebleu has it: "floor" (0.1), "add-k" (1, for n > 1), "exp" (halved each time).
    The survey's criticism stands: the score ignores meaning, and means little for a single sentence.

    Args:
        hypotheses: texts (split at blanks) or lists of tokens; an empty one scores 0.
        references: for each hypothesis, one or several.
        effective_order: leave out orders longer than the hypothesis.

    Raises:
        ValueError: if there are no hypotheses, numbers differ, or one has no reference.
    """
    check_choice("smoothing", smoothing, ("none", "floor", "add-k", "exp"))
    check_positive(order=order)
    if isinstance(hypotheses, str) or any(isinstance(own, str) for own in references):
        raise ValueError("hypotheses must be a list of texts, references a list of lists of texts")
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(f"hypotheses and references must be equally many, got {len(hypotheses)} and {len(references)}")
    right, total = [0] * order, [0] * order
    length = wanted = 0
    for number, (hypothesis, given) in enumerate(zip(hypotheses, references, strict=True)):
        words, truths = _words(hypothesis), [_words(reference) for reference in given]
        if not truths:
            raise ValueError(f"references must have at least one for each hypothesis, got none for number {number}")
        length += len(words)
        wanted += min((abs(len(truth) - len(words)), len(truth)) for truth in truths)[1]
        for n in range(1, order + 1):
            counts, most = _ngrams(words, n), Counter[tuple[str, ...]]()
            for truth in truths:
                most |= _ngrams(truth, n)
            right[n - 1] += (counts & most).total()
            total[n - 1] += counts.total()
    penalty = 1.0 if length >= wanted else math.exp(1 - wanted / length) if length else 0.0
    precisions, reached = _precisions(right, total, smoothing, value)
    used = precisions[:reached] if effective_order else precisions
    score = 0.0
    if used and min(used) > 0:
        score = 100 * penalty * math.exp(sum(map(math.log, used)) / len(used))
    result = Bleu(score)
    result.precisions, result.brevity_penalty = precisions, penalty
    result.hypothesis_length, result.reference_length = length, wanted
    return result


def _precisions(right: list[int], total: list[int], smoothing: str, value: float | None) -> tuple[list[float], int]:
    """Precision of each order, and the orders there are n-grams of; without a hit of any order all are 0."""
    precisions, halving, reached = [0.0] * len(right), 1.0, 0
    if not any(right):
        return precisions, reached
    k = (1.0 if value is None else value) if smoothing == "add-k" else 0.0
    for n, (hits, count) in enumerate(zip(right, total, strict=True)):
        more = k if n else 0.0
        if count + more == 0:
            break
        reached = n + 1
        if hits + more > 0:
            precisions[n] = (hits + more) / (count + more)
        elif smoothing == "exp":
            halving *= 2
            precisions[n] = 1 / (halving * count)
        elif smoothing == "floor":
            precisions[n] = (0.1 if value is None else value) / count
    return precisions, reached


def perplexity(total_nll: float, tokens: int) -> float:
    """exp of the mean negative log-likelihood (nats) a token; comparable for one vocabulary only.

    Raises:
        ValueError: if there are no tokens or the sum is not a number.
    """
    check_positive(tokens=tokens)
    if math.isnan(total_nll):
        raise ValueError("total_nll must be a number, got NaN")
    mean = total_nll / tokens
    return math.exp(mean) if mean < 700 else math.inf


def bits_per_char(total_nll: float, characters: int) -> float:
    """The mean negative log-likelihood a character in bits, from nats.

    Raises:
        ValueError: if there are no characters or the sum is not a number.
    """
    check_positive(characters=characters)
    if math.isnan(total_nll):
        raise ValueError("total_nll must be a number, got NaN")
    return total_nll / characters / math.log(2)


def edit_distance(a: Sequence[object], b: Sequence[object]) -> int:
    """Fewest insertions, deletions and substitutions that turn a into b (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (left != right))
    return row[-1]


def error_rate(hypotheses: Sequence[Sequence[object]], references: Sequence[Sequence[object]]) -> float:
    """Edit distance summed over pairs, over the references' length: label, character or word error rate.

    Raises:
        ValueError: if numbers differ or the references are empty altogether.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"hypotheses and references must be equally many, got {len(hypotheses)} and {len(references)}")
    length = sum(map(len, references))
    if not length:
        raise ValueError("references must not be empty altogether")
    return sum(edit_distance(h, r) for h, r in zip(hypotheses, references, strict=True)) / length


def exact_match_f(hypothesis: Tokens, reference: Tokens, *, alpha: float = 0.9) -> float:
    """METEOR's harmonic mean of unigram precision and recall by exact matches, without stems, synonyms or order."""
    words, truth = _words(hypothesis), _words(reference)
    hits = (Counter(words) & Counter(truth)).total()
    if not hits:
        return 0.0
    precision, recall = hits / len(words), hits / len(truth)
    return precision * recall / (alpha * precision + (1 - alpha) * recall)
