from pathlib import Path

import psutil
import pytest

from eigenscope import budget
from eigenscope.budget import (
    Share,
    available_memory,
    format_bytes,
    parse_bytes,
    resolve,
    rows_within,
)

SIZES = {
    123: 123,
    "123": 123,
    "123 B": 123,
    "2kB": 2_000,
    "500MB": 500_000_000,
    "4GiB": 4 * 2**30,
    " 1.5 gib ": 3 * 2**29,
    "0.1TB": 10**11,
    "1PiB": 2**50,
    "9007199254740993": 2**53 + 1,  # not through a float
}


@pytest.mark.parametrize(("size", "num_bytes"), SIZES.items())
def test_a_size_is_read_in_decimal_and_binary_units(size, num_bytes):
    assert parse_bytes(size) == num_bytes


@pytest.mark.parametrize(("memory", "half"), [("3kB", 1500), (7, 3), (None, 250)])
def test_a_share_is_a_part_of_what_is_given_or_of_half_of_what_is_free(
    memory, half, monkeypatch
):
    monkeypatch.setattr(budget, "available_memory", lambda: 1000)
    share = Share.of(memory, 2)
    assert (resolve(share), share.parts) == (half, 2)


@pytest.mark.message
@pytest.mark.parametrize("size", ["lots", "4 gigs", "4G", "-1GB", "1e9", "", -5])
def test_what_is_no_size_is_refused_with_the_units(size):
    with pytest.raises(ValueError, match=r"KiB, MiB.*got .*; write for example 4GiB"):
        parse_bytes(size)


@pytest.mark.message
@pytest.mark.parametrize("size", ["0", 0, "0.5B"])
def test_less_than_a_byte_is_refused(size):
    with pytest.raises(ValueError, match=r"at least 1 byte; got"):
        parse_bytes(size)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (5 * 2**30, "5.0 GiB"),
        (2**62, "4096.0 PiB"),
    ],
)
def test_bytes_are_written_in_the_largest_unit(num_bytes, text):
    assert format_bytes(num_bytes) == text


@pytest.mark.parametrize("num_bytes", [1, 1000, 123_456, 2**20 - 1, 7 * 10**12])
def test_a_written_size_reads_back_within_its_one_decimal(num_bytes):
    assert parse_bytes(format_bytes(num_bytes)) == pytest.approx(num_bytes, rel=0.05)


def test_available_memory_is_at_most_what_the_machine_has():
    assert 0 < available_memory() <= psutil.virtual_memory().total


def version_2(root: Path, *, limit: str) -> None:
    inner = root / "sys/fs/cgroup/outer/inner"
    inner.mkdir(parents=True)
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/outer/inner\n")
    for folder, allowed in ((inner, "max"), (inner.parent, limit)):
        (folder / "memory.max").write_text(f"{allowed}\n")
        (folder / "memory.current").write_text("700\n")
        (folder / "memory.stat").write_text("anon 500\ninactive_file 200\n")


def version_1(root: Path, *, limit: str) -> None:
    folder = root / "sys/fs/cgroup/memory"
    folder.mkdir(parents=True)
    (root / "proc/self").mkdir(parents=True)
    # As in a container: the path is the host's and does not exist here.
    (root / "proc/self/cgroup").write_text("7:cpu:/\n4:memory:/docker/abc\n0::/\n")
    (folder / "memory.limit_in_bytes").write_text(limit)
    (folder / "memory.usage_in_bytes").write_text("700")
    (folder / "memory.stat").write_text("cache 300\ntotal_inactive_file 200\n")


@pytest.mark.parametrize("container", [version_1, version_2])
@pytest.mark.parametrize(("limit", "left"), [("1000", 500), ("400", 0)])
def test_a_containers_limit_counts_when_it_is_lower(
    tmp_path, monkeypatch, container, limit, left
):
    container(tmp_path, limit=limit)
    monkeypatch.setattr(budget, "_SYSTEM_ROOT", tmp_path)
    assert available_memory() == left


@pytest.mark.parametrize("container", [version_1, version_2])
def test_a_container_without_a_limit_leaves_the_machines_memory(
    tmp_path, monkeypatch, container
):
    container(tmp_path, limit=str(2**63 - 4096) if container is version_1 else "max")
    monkeypatch.setattr(budget, "_SYSTEM_ROOT", tmp_path)
    assert available_memory() > 2**20


def test_no_control_groups_leave_the_machines_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "_SYSTEM_ROOT", tmp_path)
    assert available_memory() > 2**20


def test_a_stated_budget_is_taken_and_the_default_is_half(monkeypatch):
    monkeypatch.setattr(budget, "available_memory", lambda: 1001)
    assert resolve("3kB") == 3000
    assert resolve(None) == 500


@pytest.mark.message
def test_a_default_budget_without_memory_is_refused(monkeypatch):
    monkeypatch.setattr(budget, "available_memory", lambda: 1)
    with pytest.raises(ValueError, match=r"none left; free some, or state the budget"):
        resolve(None)


@pytest.mark.parametrize(
    ("given", "row", "minimum", "multiple_of", "rows"),
    [
        (100, 10, 1, 1, 10),
        (109, 10, 1, 1, 10),
        (99, 10, 1, 4, 8),
        (80, 10, 5, 8, 8),
        (30, 10, 3, 1, 3),
    ],
)
def test_rows_are_the_most_that_fit(given, row, minimum, multiple_of, rows):
    assert rows_within(given, row, minimum=minimum, multiple_of=multiple_of) == rows


@pytest.mark.message
def test_a_budget_below_the_fewest_rows_says_what_is_needed():
    expected = (
        r"at least 8 rows of 1\.5 KiB, 12\.0 KiB \(12288 bytes\) together; got "
        r"1000 B \(1000 bytes\); give more with memory=12288 \(--memory 12288\)"
    )
    with pytest.raises(ValueError, match=expected):
        rows_within(1000, 1536, minimum=5, multiple_of=8)


def test_the_memory_that_a_refusal_asks_for_is_enough():
    for row in (999, 1537, 123_457, 10**9 + 7):
        with pytest.raises(ValueError, match="at least") as refusal:
            rows_within(1, row, minimum=3)
        asked = str(refusal.value).split("memory=")[1].split(" ")[0]
        assert rows_within(parse_bytes(asked), row, minimum=3) >= 3
