"""Whatever a question does to its process, an answer comes in time and the next question is answered."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from niwaki.verify.sandbox import Reply, Sandbox

PROGRAM = Path(__file__).with_name("sandboxed.py")
MEMORY_BYTES = 1 << 29
SUM = {"do": "add", "a": 2, "b": 3}


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox(PROGRAM)
    yield sandbox
    sandbox.close()


def ask(sandbox, question, limit_s=30.0, memory_bytes=MEMORY_BYTES):
    return sandbox.ask(question, limit_s=limit_s, memory_bytes=memory_bytes)


def test_a_question_is_answered(sandbox):
    assert ask(sandbox, SUM) == Reply(5)


@pytest.mark.parametrize("what", ["hang", "sleep"])
def test_a_stuck_question_is_given_up_and_the_next_one_answered(sandbox, what):
    assert ask(sandbox, {"do": what}, limit_s=0.5) == Reply(problem="timeout")
    assert ask(sandbox, SUM) == Reply(5)


def test_nothing_is_left_of_a_stuck_question(sandbox):
    nursery = ask(sandbox, {"do": "pid"}).value
    ask(sandbox, {"do": "sleep"}, limit_s=0.3)
    children = Path(f"/proc/{nursery}/task/{nursery}/children")
    ends_at = time.monotonic() + 30
    while children.exists() and children.read_text().split() and time.monotonic() < ends_at:
        time.sleep(0.02)
    assert not children.exists() or children.read_text().split() == []


def test_memory_beyond_the_cap_is_refused(sandbox):
    assert ask(sandbox, {"do": "eat", "num_bytes": 1 << 31}) == Reply(problem="died")
    assert ask(sandbox, {"do": "eat", "num_bytes": 1 << 20}) == Reply(1 << 20)


def test_a_question_that_kills_its_process_kills_no_other(sandbox):
    assert ask(sandbox, {"do": "die"}) == Reply(problem="died")
    assert ask(sandbox, {"do": "raise"}) == Reply(None)
    assert ask(sandbox, SUM) == Reply(5)


def test_a_dead_nursery_is_replaced(sandbox):
    nursery = ask(sandbox, {"do": "pid"}).value
    os.kill(nursery, signal.SIGKILL)
    assert ask(sandbox, SUM) == Reply(5)
    assert ask(sandbox, {"do": "pid"}).value != nursery


def test_a_nursery_that_is_silent_is_replaced(sandbox, monkeypatch):
    monkeypatch.setattr("niwaki.verify.sandbox._LONGEST_SILENCE_S", 0.5)
    silent = ask(sandbox, {"do": "pid"}).value
    os.kill(silent, signal.SIGSTOP)
    ends_at = time.monotonic() + 60
    replies = [ask(sandbox, SUM, limit_s=0.3)]
    while replies[-1] != Reply(5) and time.monotonic() < ends_at:
        replies.append(ask(sandbox, SUM, limit_s=0.3))
    assert set(replies[:-1]) == {Reply(problem="timeout")}
    assert replies[-1] == Reply(5)
    assert not _is_running(silent)


def test_a_stuck_question_ends_with_its_nursery():
    sandbox = Sandbox(PROGRAM)
    nursery = ask(sandbox, {"do": "pid"}).value
    asking = threading.Thread(target=ask, args=(sandbox, {"do": "sleep"}), kwargs={"limit_s": 20})
    asking.start()
    children = Path(f"/proc/{nursery}/task/{nursery}/children")
    if not children.exists():
        pytest.skip("needs /proc")
    while not (found := children.read_text().split()):
        time.sleep(0.02)
    sandbox.close()
    ends_at = time.monotonic() + 30
    while _is_running(int(found[0])) and time.monotonic() < ends_at:
        time.sleep(0.02)
    assert not _is_running(int(found[0]))
    while asking.is_alive():
        sandbox.close()
        asking.join(0.05)


def test_threads_ask_at_once_and_a_stuck_one_stops_no_other(sandbox):
    replies = {}

    def work(index):
        question = {"do": "hang"} if index == 3 else {"do": "add", "a": index, "b": 1}
        replies[index] = ask(sandbox, question, limit_s=2.0 if index == 3 else 60.0)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == {i: Reply(problem="timeout") if i == 3 else Reply(i + 1) for i in range(8)}


def test_a_forked_process_has_a_nursery_of_its_own(sandbox):
    mine = ask(sandbox, {"do": "pid"}).value
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        theirs.sendall(f"{ask(sandbox, {'do': 'pid'}).value} {ask(sandbox, SUM).value}".encode())
        sandbox.close()
        os._exit(0)
    os.waitpid(child, 0)
    nursery, value = ours.recv(100).split()
    assert int(nursery) != mine
    assert value == b"5"
    assert ask(sandbox, {"do": "pid"}).value == mine


def test_a_nursery_ends_with_the_process_that_started_it():
    code = (
        "from pathlib import Path; import sys; from niwaki.verify.sandbox import Sandbox\n"
        f"sandbox = Sandbox(Path({str(PROGRAM)!r}))\n"
        f"print(sandbox.ask({{'do': 'pid'}}, limit_s=30, memory_bytes={MEMORY_BYTES}).value, flush=True)\n"
        "import os; os._exit(1)"
    )
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={"PYTHONPATH": source}, check=False
    )
    nursery = int(done.stdout)
    ends_at = time.monotonic() + 30
    while _is_running(nursery) and time.monotonic() < ends_at:
        time.sleep(0.02)
    assert not _is_running(nursery)


def _is_running(pid):
    try:
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, FileNotFoundError):
        return False
