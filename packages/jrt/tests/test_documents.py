import json

import pytest

from jrt_impl.documents import FIELDS, TASKS, answers, contains, exact_match, f1, load_documents, prompt

ROW = {
    "text": "Alan was born in London. Where was Alan born? ", "context": "Alan was born in London. Question: x",
    "question": "Where was Alan born?", "orig_question": "Where was Alan born?", "key": "birthplace", "value": "London",
    "answers": ["London", "Maida Vale"],
}  # fmt: skip


def test_squad_puts_question_and_context_before_its_own_prompt():
    assert prompt("squad", ROW, 1) == "Alan was born in London. Where was Alan born?"
    assert prompt("squad", ROW) == (
        "Where was Alan born? Alan was born in London. \nAlan was born in London. Where was Alan born?"
    )


def test_what_the_text_ends_in_is_asked_once():
    row = {**ROW, "text": "A firm.Name:name:", "key": "name", "context": "A firm...who?Who?", "question": "who?"}
    assert prompt("fda", row, 1) == "A firm. Name:"
    assert prompt("swde", {**row, "text": "A firm.\nSummary of information above... name:"}, 1) == "A firm. Name:"
    assert prompt("drop", row, 1) == "A firm. who?"
    assert prompt("triviaqa", {**row, "context": "[DOC]A [PAR]firm. Who?"}) == (
        "Where was Alan born? A firm.\nA firm. who?"
    )


def test_nq_takes_the_question_off_once_and_by_case_when_read_once():
    row = {**ROW, "context": "A firm. who?who?", "question": "who?", "orig_question": "who is it:"}
    assert prompt("nq", row, 1) == "A firm. who?. who?"
    assert prompt("nq", row, 2) == "who is it A firm.\nA firm. who?"
    assert prompt("nq", row, 3) == "who is it A firm.\nwho is it A firm.\nA firm. who?"


@pytest.mark.parametrize("task", TASKS)
def test_bad_documents_are_named(task):
    with pytest.raises(ValueError, match=f"document of {task} must have text in"):
        prompt(task, {})
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        prompt(task, ROW, 0)
    with pytest.raises(ValueError, match="must have an answer"):
        answers(task, {"value": "", "answers": []})
    empty = {**ROW, "text": " ", "context": "."}
    with pytest.raises(ValueError, match="a text and a question"):
        prompt(task, empty)


def test_answers_are_one_or_several():
    assert answers("fda", ROW) == ["London"]
    assert answers("nq", ROW) == ["London", "Maida Vale"]
    with pytest.raises(ValueError, match="task must be one of"):
        answers("mmlu", ROW)


def test_scores_are_those_of_the_tasks():
    assert contains("born in LONDON, 1912", ["Paris", "london"])
    assert not contains("a+b", ["a.b"])
    assert exact_match("The  London!", ["london"])
    assert not exact_match("in London", ["London"])
    assert f1("in London town", ["London"]) == pytest.approx(0.5)
    assert f1("", [""]) == 1.0
    assert f1("x", ["y", "z"]) == 0.0


@pytest.mark.parametrize("as_list", [True, False])
def test_documents_are_read_from_json_lines_and_lists(tmp_path, as_list):
    rows = [{field: ROW[field] for field in FIELDS["nq"]}, {"context": "c", "question": "q", "answer": "a"}]
    path = tmp_path / "nq.json"
    path.write_text(json.dumps(rows) if as_list else "\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert load_documents(path, "nq") == rows


@pytest.mark.parametrize(
    ("content", "match"),
    [("", "at least one document"), ("{", "a JSON object a line"), ("[1]", "document 1 must have"),
     ('{"context": "c"}', "document 1 must have")],
)  # fmt: skip
def test_files_that_hold_something_else_are_named(tmp_path, content, match):
    path = tmp_path / "rows.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=match):
        load_documents(path, "squad")
