"""What squeue and sacct print is read whatever else is in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.dispatch.base import QueueUnavailable
from agenttts.dispatch.slurm.queue_reader import QueueRow, job_ids, read_sacct, read_squeue

HEADER = "JOBID|STATE|REASON|COMMENT\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("123", ["123"]),
        ("123_4", ["123_4"]),
        ("123_[5-7]", ["123_5", "123_6", "123_7"]),
        ("123_[5-9%2]", [f"123_{n}" for n in range(5, 10)]),
        ("123_[1,3,7-8%4]", ["123_1", "123_3", "123_7", "123_8"]),
        ("123_[0-8:4]", ["123_0", "123_4", "123_8"]),
        ("123+0", ["123+0"]),
        ("123_[1,3,...]", None),
        ("123_[0-9999999]", None),
        ("123_[]", None),
        ("123_[a-b]", None),
        *[(text, []) for text in ("", "JOBID", "12 3", "x123", "123.batch", "123_", "_4", "123_4_5", "123_[5", "-1", "１２３", "123+", "123_4+0")],
    ],
)  # fmt: skip
def test_job_ids_are_read_strictly(text, expected):
    assert job_ids(text) == expected


def test_rows_among_what_is_none():
    answer = read_squeue(
        (
            "*** maintenance on Sunday | all nodes ***\n"
            + HEADER
            + "7_0|RUNNING|None|agenttts batch=r-1\n"
            "8|PENDING|(Priority)|two lines\n"
            "second line | of it\n"
            "9|a|b\n"
            "10|COMPLETED|None|a | b || c\r\n"
            "11_[2-3%1]|PENDING|JobArrayTaskLimit|\n"
            "12|PENDING|ReqNodeNotAvail, UnavailableNodes:n[1-2]|(null)\n"
            "\n"
        ).encode()
        + b"13|RUNNING|None|\xff\xfe caf\xe9\n"
    )
    assert answer.complete
    assert list(answer.rows) == ["7_0", "8", "10", "11_2", "11_3", "12", "13"]
    assert answer.rows["7_0"] == QueueRow("RUNNING", "None", "agenttts batch=r-1")
    assert answer.rows["10"].comment == "a | b || c"
    assert answer.rows["12"].reason == "ReqNodeNotAvail, UnavailableNodes:n[1-2]"
    assert answer.rows["13"].comment == "\ufffd\ufffd caf\ufffd"


@pytest.mark.parametrize("answer", [b"", b"\n", HEADER.encode(), b"*** banner ***\n" + HEADER.encode()])  # fmt: skip
def test_an_empty_queue(answer):
    assert read_squeue(answer).rows == {}
    assert read_squeue(answer).complete


@pytest.mark.parametrize(
    "answer", [b"slurm_load_jobs error: Unexpected message received\n", b"<html>\n", b"\xff\xff\xff"]
)  # fmt: skip
def test_an_answer_without_a_row_or_a_header_is_none(answer):
    with pytest.raises(
        QueueUnavailable, match="no line of the output of squeue can be read"
    ) as caught:
        read_squeue(answer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "end",
    ["7_1", "7_1|PEND", "7_1|PENDING|Prio", "JOBID|STA", "7_1|PENDING|Priority|", "7_1|RUNNING|None|agenttts batch=r-1"],
)  # fmt: skip
def test_an_answer_that_was_cut_off_is_known_to_be(end):
    answer = read_squeue((HEADER + "7_0|RUNNING|None|x\n" + end).encode())
    assert list(answer.rows) == ["7_0"]
    assert not answer.complete


ROWS = st.builds(
    "{}|{}|{}|{}".format,
    st.one_of(st.integers(1, 9999).map(str), st.integers(0, 99).map("7_{}".format)),
    st.sampled_from(["RUNNING", "PENDING", "COMPLETED"]),
    st.sampled_from(["None", "Priority"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12),
)


@given(st.lists(ROWS, max_size=5), st.data())
def test_of_an_answer_cut_off_anywhere_no_row_is_read_otherwise(rows, data):
    whole = (HEADER + "".join(f"{row}\n" for row in rows)).encode()
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    expected = read_squeue(whole)
    assert expected.complete
    try:
        found = read_squeue(cut)
    except QueueUnavailable:
        return
    assert found.rows.items() <= expected.rows.items()
    assert found.complete == (
        not cut or cut.endswith(b"\n") or not cut.rpartition(b"\n")[2].strip()
    )
    accounts = b"JobID|State\n7_0|RUNNING\n7_1|COMPLETED"
    assert list(read_sacct(accounts).rows) == ["7_0"]
    assert not read_sacct(accounts).complete


def test_elements_that_cannot_be_told_make_an_answer_incomplete():
    answer = read_squeue((HEADER + "7_[1,3,...]|PENDING|None|x\n8|RUNNING|None|\n").encode())
    assert list(answer.rows) == ["8"]
    assert not answer.complete


def test_sacct_s_rows():
    answer = read_sacct(b"JobID|State\n7_0|CANCELLED by 1000\n7_[2-3%1]|PENDING\n8|TIMEOUT\n9|CANCELLED+\nnoise\n")  # fmt: skip
    assert {job: row.state for job, row in answer.rows.items()} == {
        "7_0": "CANCELLED",
        "7_2": "PENDING",
        "7_3": "PENDING",
        "8": "TIMEOUT",
        "9": "CANCELLED",
    }


@given(st.binary(max_size=400))
def test_no_answer_does_worse_than_to_be_unavailable(answer):
    for read in (read_squeue, read_sacct):
        try:
            found = read(answer)
        except QueueUnavailable:
            continue
        assert all(job_ids(job) == [job] for job in found.rows)


# What looks like a line of squeue, cut, shuffled and mixed with anything.
PARTS = st.sampled_from(["7_0", "123", "5_[1-3]", "|", "PENDING", "RUNNING", "None", "%", "[", "]", " ", "\n", "\r\n", "\0", "batch=r-1", "CANCELLED by 0", "…"])  # fmt: skip


@given(st.lists(PARTS, max_size=40).map("".join))
def test_no_line_like_a_row_does_worse_either(text):
    try:
        found = read_squeue(text.encode())
    except QueueUnavailable:
        return
    assert all(job_ids(job) == [job] for job in found.rows)


OWN = [
    ("7_0", QueueRow("RUNNING", "None", "agenttts batch=r-1")),
    ("7_1", QueueRow("PENDING", "Priority", "agenttts batch=r-1 a | b")),
    ("81", QueueRow("COMPLETED", "None", "agenttts batch=r-2 element=3")),
]
# Lines of others: anything, but for what only squeue could have written of the jobs above.
FOREIGN = st.one_of(
    st.binary(max_size=60), st.lists(PARTS, max_size=9).map("".join).map(str.encode)
)
FOREIGN = FOREIGN.filter(lambda line: not any(job.encode() in line for job, _ in OWN))


@given(st.lists(FOREIGN, min_size=len(OWN) + 1, max_size=len(OWN) + 1), st.permutations(OWN))
def test_rows_of_ours_are_never_lost_among_others(foreign, own):
    answer = foreign[0] + b"\n"
    for (job, row), other in zip(own, foreign[1:], strict=True):
        answer += f"{job}|{row.state}|{row.reason}|{row.comment}\n".encode() + other + b"\n"
    found = read_squeue(answer).rows
    for job, row in own:
        assert found[job] == row


@pytest.mark.parametrize(
    ("number", "node"),
    [("7_0 n1", "n1"), ("7_0 ", ""), ("7_0", ""), ("7_0 gpu-[1-2]", ""), ("7_0 a,b", ""), ("7_0 gpu-1.site", "gpu-1.site"), ("7_0 (null)", "")],
)  # fmt: skip
def test_squeue_says_where_a_job_runs(number, node):
    answer = f"JOBID NODELIST|STATE|REASON|COMMENT\n{number}|FAILED|None|a | b\n".encode()
    assert read_squeue(answer).rows == {"7_0": QueueRow("FAILED", "None", "a | b", node)}


@pytest.mark.parametrize(
    ("row", "node"), [("7|FAILED|n1", "n1"), ("7|FAILED|None assigned", ""), ("7|FAILED|", ""), ("7|FAILED|n[1-2]", "")]
)  # fmt: skip
def test_sacct_says_where_a_job_ran(row, node):
    answer = f"JobID|State|NodeList\n{row}\n".encode()
    assert read_sacct(answer).rows == {"7": QueueRow("FAILED", node=node)}
