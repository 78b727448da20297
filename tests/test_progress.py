"""The progress line, with a clock of the test's own."""

import io

from tersor.progress import ProgressLine


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_with_the_time_left_on_terminals():
    clock, stream = Clock(), Terminal()
    line = ProgressLine(stream, clock)
    clock.now = 60.0
    line("quantizing", 25, 100)
    shown = stream.getvalue()
    assert shown.startswith("\r[#######.")
    assert " 25% 3:00 left" in shown
    assert "quantizing" in shown
    line.close()
    assert stream.getvalue().endswith("\r")
    assert len(shown) <= 80


def test_hours_are_told_as_such():
    clock, stream = Clock(), Terminal()
    line = ProgressLine(stream, clock)
    clock.now = 100.0
    line("", 1, 100)
    assert "2:45:00 left" in stream.getvalue()


def test_new_work_has_a_clock_of_its_own():
    clock, stream = Clock(), Terminal()
    line = ProgressLine(stream, clock)
    clock.now = 1000.0
    line("collecting", 10, 10)
    line("quantizing", 0, 10)
    clock.now = 1010.0
    line("quantizing", 5, 10)
    assert stream.getvalue().rstrip().endswith("50% 0:10 left    quantizing")
    line("quantizing", 1, 10)  # less done than before: the next pass
    clock.now = 1019.0
    line("quantizing", 2, 10)
    assert "20% 0:36 left" in stream.getvalue()


def test_few_lines_elsewhere():
    clock, stream = Clock(), io.StringIO()
    line = ProgressLine(stream, clock)
    for second in range(1, 101):
        clock.now = float(second)
        line("w", second, 100)
    lines = stream.getvalue().splitlines()
    assert lines[0] == " 10% w, 1:30 left"
    assert len(lines) == 10
    assert "\r" not in stream.getvalue()


def test_slow_work_tells_that_it_lives():
    clock, stream = Clock(), io.StringIO()
    line = ProgressLine(stream, clock)
    for second in range(0, 100, 5):
        clock.now = float(second)
        line("w", 1, 100)
    assert len(stream.getvalue().splitlines()) == 3


def test_short_work_and_no_stream_are_silent():
    clock, stream = Clock(), io.StringIO()
    line = ProgressLine(stream, clock)
    clock.now = 4.0
    line("w", 99, 100)
    line.close()
    assert stream.getvalue() == ""
    quiet = ProgressLine(None, clock)
    clock.now = 1000.0
    quiet("w", 1, 0)
    quiet.close()


def test_names_of_strangers_cannot_write_to_the_terminal():
    clock, stream = Clock(), Terminal()
    line = ProgressLine(stream, clock)
    clock.now = 1.0
    line("a\x1b[31m\n", 1, 2)
    assert "\x1b" not in stream.getvalue()
    assert "\n" not in stream.getvalue()
