"""The command line as a process: on a terminal, interrupted, in a pipe."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import final

import pytest
from cli_cases import OWN, TILED, called, enter_folder, environment, numbers_of

from eigenscope.cli import main
from eigenscope.store import Run


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    return enter_folder(tmp_path, monkeypatch)


# A shell's background jobs ignore Ctrl-C, and so would their children.
LISTENING = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('eigenscope', run_name='__main__', alter_sys=True)"
)


@final
class Terminal:
    """The command line on a terminal of its own."""

    def __init__(self, *words: str, **changes: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", LISTENING, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(**changes),
        )
        os.close(slave)
        os.set_blocking(self._master, False)

    def read_until(self, pattern: str, *, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not re.search(pattern, self.shown):
            assert time.monotonic() < end, self.shown
            time.sleep(0.01)
            try:
                self.shown += os.read(self._master, 65536).decode(errors="replace")
            except BlockingIOError:
                continue
            except OSError:  # the process has ended
                raise AssertionError(self.shown) from None


def test_a_terminal_shows_the_time_left_and_ctrl_c_leaves_a_run_that_goes_on():
    terminal = Terminal(*TILED, "--out", "run", PAUSE="0.5")
    with terminal.process:
        terminal.read_until(
            r"Jacobian: +25%\|.*\| 1/4 \[00:\d\d<\d\d:\d\d, .*(it/s|s/it)"
        )
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until(
            r"interrupted; .*: eigenscope jacobian --resume --out run\r\n"
        )
    assert terminal.process.returncode == 130
    assert "Traceback" not in terminal.shown
    run = Run.open(Path("run"))
    assert not run.is_complete
    assert 1 <= run.open_array("jacobian").num_written < 4
    main(["jacobian", "--resume", "--out", "run"])
    main([*TILED, "--out", "whole"])
    assert numbers_of(Path("run")) == numbers_of(Path("whole"))


def test_a_pipe_gets_the_results_alone():
    found = called(*OWN, "--out", "run")
    assert (found.returncode, found.stderr) == (0, "")
    lines = found.stdout.splitlines()
    assert lines[0].split()[:3] == ["output", "layout", "D"]
    assert lines[-1] == "page:    run/index.html"


def test_a_reader_that_has_gone_ends_the_command_quietly():
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-m", "eigenscope", "info"],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment(),
        timeout=300,
        check=False,
    )
    os.close(writing)
    assert (process.returncode, process.stderr) == (1, b"")
