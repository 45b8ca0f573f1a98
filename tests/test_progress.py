"""Progress is shown on a terminal and nowhere else."""

import io

import pytest

from eigenscope.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_what_is_done_how_far_it_is_and_the_time_left(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    assert list(progress(range(3), label="Gram", total=5, done=2)) == [0, 1, 2]
    shown = stream.getvalue()
    assert "Gram:  40%" in shown
    assert "2/5" in shown
    assert "<" in shown


@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_a_pipe_and_a_missing_stream_see_nothing(stream, monkeypatch):
    monkeypatch.setattr("sys.stderr", stream)
    assert list(progress(iter("ab"), label="Gram", total=2)) == ["a", "b"]
    assert stream is None or not stream.getvalue()
