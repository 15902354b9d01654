"""JRT-Prompt (section 3.2): the context twice, for any prompt and any pretrained model."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .documents import FIELDS, PLAIN, TASKS, answers, contains, exact_match, f1, prompt

__all__ = ["JRTPrompt", "ReadTwice", "evaluate_prompt", "fit_context", "read_twice", "truncate_around"]


def read_twice(text: str, opening: str = "", repeats: int = 2) -> str:
    """Any prompt, `repeats` times, a line apart; `opening` (the question, say) stands before each but the last.

    Raises:
        ValueError: if the text is empty, or repeats is below 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    if not text.strip():
        raise ValueError("text must not be empty")
    return ((f"{opening} " if opening else "") + text + "\n") * (repeats - 1) + text


@dataclass(frozen=True)
class JRTPrompt:
    """A prompt around a context and a question: that of one of the six tasks, or one of your own.

    Args:
        template: a task (fda, swde, squad, nq, triviaqa, drop), or a text with {context} and {question} in it; that is
            the usual prompt, before which "{question} {context}" goes when it is read twice.

    Raises:
        ValueError: if the template is neither.
    """

    template: str = "squad"

    def __post_init__(self) -> None:
        if self.template not in TASKS and not all(name in self.template for name in ("{context}", "{question}")):
            raise ValueError(
                f"template must be one of {', '.join(TASKS)} or hold {{context}} and {{question}}, "
                f"got {self.template!r}"
            )

    def wrap(self, context: str, question: str, repeats: int = 2) -> str:
        """The prompt with the context read once (the usual one), twice (JRT-Prompt) or more often.

        Raises:
            ValueError: if context or question is empty, or repeats is below 1.
        """
        if not context.strip() or not question.strip():
            raise ValueError("context and question must not be empty")
        if self.template in TASKS:
            document = {
                "text": context, "key": question, "context": context, "question": question, "orig_question": question,
            }  # fmt: skip
            if self.template == "squad":
                document["text"] = f"{context} {question}"
            return prompt(self.template, document, repeats)
        if repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {repeats}")
        # not str.format: a context may hold braces of its own
        before, _, rest = self.template.partition("{context}")
        usual = before.replace("{question}", question) + context + rest.replace("{question}", question)
        if "{question}" in before and "{context}" in rest:
            raise ValueError("template must hold {context} once")
        return f"{question} {context}\n" * (repeats - 1) + usual


def truncate_around(context: str, answer: str, words: int = 1000) -> str:
    """About `words` words of the context with the answer among them.

    Raises:
        ValueError: if the answer is not in the context, or does not fit.
    """
    found = context.lower().find(answer.lower())
    if found < 0:
        raise ValueError(f"answer must occur in the context, got {answer!r}")
    pieces = context.split()
    at = len(context[:found].split())
    start = max(0, min(at - words // 2, len(pieces) - words))
    cut = " ".join(pieces[start : start + words])
    if " ".join(answer.lower().split()) not in cut.lower():
        raise ValueError(f"words must leave room for the answer, got {words}")
    return cut


def fit_context(context: str, fits: Callable[[str], bool]) -> str:
    """The longest beginning of the context, in words, that `fits`: a prompt read twice has room for half a document.

    Raises:
        ValueError: if not even the first word fits.
    """
    if fits(context):
        return context
    pieces = context.split()
    low, high = 0, len(pieces)  # `low` words fit, `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(" ".join(pieces[:middle])) else (low, middle)
    if low == 0:
        raise ValueError("context does not fit: no room for its first word beside the question")
    return " ".join(pieces[:low])


class ReadTwice:
    """A pretrained model that answers questions about a context it is shown twice.

    Args:
        model: any causal LM with the `generate` of Hugging Face; `JRTForCausalLM` is one.
        tokenizer: called with a text and `return_tensors="pt"`, gives `input_ids`; and has `decode`.
        max_length: tokens of prompt and answer that the model can take; None: what its configuration says, if it does.
        long: whether a context too long is cut ("cut", at its end) or refused ("refuse").

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        template: str = "squad",
        repeats: int = 2,
        max_new_tokens: int = 48,
        max_length: int | None = None,
        long: str = "cut",
    ) -> None:
        if repeats < 1 or max_new_tokens < 1:
            raise ValueError(f"repeats and max_new_tokens must be at least 1, got {repeats} and {max_new_tokens}")
        if long not in ("cut", "refuse"):
            raise ValueError(f"long must be cut or refuse, got {long!r}")
        if max_length is None:
            config = getattr(model, "config", None)
            max_length = getattr(config, "max_position_embeddings", None)
        self.model, self.tokenizer, self.template = model, tokenizer, JRTPrompt(template)
        self.repeats, self.max_new_tokens, self.max_length, self.long = repeats, max_new_tokens, max_length, long

    @classmethod
    def from_pretrained(cls, name_or_path: str, **options: Any) -> "ReadTwice":
        """Model and tokenizer of the Hugging Face hub or a folder; needs the extra `transformers`.

        Raises:
            ImportError: if transformers is not installed.
            OSError: if there is no such model.
        """
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise ImportError("pretrained models need transformers: pip install 'jrt-impl[transformers]'") from error
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        return cls(AutoModelForCausalLM.from_pretrained(name_or_path).eval(), tokenizer, **options)

    def prompt(self, context: str, question: str) -> str:
        """What the model reads.

        Raises:
            ValueError: if it is too long and must not, or cannot, be cut.
        """

        def fits(context: str) -> bool:
            return self.max_length is None or self._tokens(wrap(context)) + self.max_new_tokens <= self.max_length

        def wrap(context: str) -> str:
            return self.template.wrap(context, question, self.repeats)

        if self.long == "cut":
            return wrap(fit_context(context, fits))
        if not fits(context):
            raise ValueError(f"context: {self._tokens(wrap(context))} tokens do not fit max_length {self.max_length}")
        return wrap(context)

    def complete(self, prompt: str) -> str:
        """The model's greedy continuation of a prompt, to the end of the line."""
        ids = self._ids(prompt)
        out = self.model.generate(ids, max_new_tokens=self.max_new_tokens, do_sample=False)
        said: str = self.tokenizer.decode(out[0, ids.shape[1] :].tolist())
        return said.partition("\n")[0]

    def __call__(self, context: str, question: str) -> str:
        """The answer."""
        return self.complete(self.prompt(context, question))

    def _ids(self, prompt: str) -> Any:
        ids = self.tokenizer(prompt, return_tensors="pt")["input_ids"]
        device = getattr(self.model, "device", None)
        return ids if device is None else ids.to(device)

    def _tokens(self, prompt: str) -> int:
        return int(self._ids(prompt).shape[1])


def evaluate_prompt(
    model: Any,
    tokenizer: Any,
    dataset: Iterable[Mapping[str, Any]],
    *,
    template: str = "squad",
    repeats: int = 2,
    max_new_tokens: int = 48,
    max_length: int | None = None,
    report: Callable[[str, bool], None] | None = None,
) -> dict[str, float]:
    """Scores of any causal LM with the Hugging Face `generate`, answering greedily, up to a newline.

    Args:
        dataset: documents of the task that `template` names, or rows with `context`, `question` and `answer`.
        max_length: of prompt and answer, in tokens; a longer prompt is refused, not cut behind one's back.
        report: called with each answer and whether it is right.

    Returns:
        `contains` (the score of the six tasks), `exact` and `f1` (SQuAD's), the number of questions, and the mean
        number of tokens of a prompt.

    Raises:
        ValueError: if there is no row, one lacks a field, or a prompt is too long.
    """
    reader = ReadTwice(
        model, tokenizer, template=template, repeats=repeats, max_new_tokens=max_new_tokens, max_length=max_length,
        long="refuse",
    )  # fmt: skip
    totals, count = {"contains": 0.0, "exact": 0.0, "f1": 0.0, "prompt_tokens": 0.0}, 0
    for row in dataset:
        text, wanted = _row(template, row, count, repeats, reader)
        tokens = reader._tokens(text)
        if reader.max_length is not None and tokens + max_new_tokens > reader.max_length:
            raise ValueError(f"dataset row {count}: {tokens} tokens do not fit max_length {reader.max_length}")
        said = reader.complete(text)
        hit = contains(said, wanted)
        if report is not None:
            report(said, hit)
        found = {"contains": float(hit), "exact": float(exact_match(said, wanted)), "f1": f1(said, wanted)}
        for name, value in (found | {"prompt_tokens": float(tokens)}).items():
            totals[name] += value
        count += 1
    if not count:
        raise ValueError("dataset must have at least one row, got none")
    return {**{name: total / count for name, total in totals.items()}, "questions": float(count)}


def _row(template: str, row: Mapping[str, Any], number: int, repeats: int, reader: ReadTwice) -> tuple[str, list[str]]:
    if template in TASKS and all(field in row for field in FIELDS[template]):
        return prompt(template, row, repeats), answers(template, row)
    if missing := [key for key in PLAIN if not row.get(key)]:
        raise ValueError(f"dataset row {number} must have {missing[0]}, got {sorted(row)}")
    return reader.template.wrap(row["context"], row["question"], repeats), [row["answer"]]
