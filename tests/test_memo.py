"""Laws of the memo: nothing is computed twice, a kill costs one line, types are those of JSON.

Faults these laws must catch: a value recomputed after a restart; a cut line that swallows the
next; a fresh job that sees a tuple where a resumed one sees a list.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from allot.memo import Memo

Value = dict[str, object]


def never() -> object:
    raise AssertionError("computed again")


def filled(path: Path) -> Memo:
    memo = Memo(path)
    for i in range(4):
        memo.put(f"key{i}", {"n": i, "values": [0.1 * i, 1e-300, 1 / 3]})
    return memo


def test_a_value_is_computed_once() -> None:
    memo, calls = Memo(), []
    for _ in range(3):
        memo.get("a", lambda: calls.append(1) or 7)
    assert calls == [1] and memo.get("a", never) == 7 and "a" in memo and "b" not in memo


def test_a_value_survives_a_restart_to_the_last_bit(tmp_path: Path) -> None:
    before = filled(tmp_path / "m")
    after = Memo(tmp_path / "m")
    for i in range(4):
        assert before.get(f"key{i}", never) == after.get(f"key{i}", never)


def test_a_fresh_job_sees_what_a_resumed_one_will(tmp_path: Path) -> None:
    memo = Memo(tmp_path / "m")
    fresh = memo.get("t", lambda: {"pair": (1, 2.5), 3: "number"})
    assert fresh == {"pair": [1, 2.5], "3": "number"} == Memo(tmp_path / "m").get("t", never)


@pytest.mark.parametrize("cut", (1, 2, 5, 30))
def test_a_line_cut_by_a_kill_is_dropped_and_appending_works_after(
    tmp_path: Path, cut: int
) -> None:
    path = tmp_path / "m"
    filled(path)
    path.write_bytes(path.read_bytes()[:-cut])
    resumed = Memo(path)
    assert "key2" in resumed and "key3" not in resumed
    resumed.put("key3", "again")
    resumed.put("key4", [4])
    last = Memo(path)
    assert last.get("key3", never) == "again" and last.get("key4", never) == [4]
    assert last.get("key2", never) == resumed.get("key2", never)


def test_a_damaged_line_drops_it_and_what_follows(tmp_path: Path) -> None:
    path = tmp_path / "m"
    filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'["key1", \xff\n' + lines[2])
    resumed = Memo(path)
    assert "key0" in resumed and "key1" not in resumed and "key2" not in resumed
    assert path.read_bytes() == lines[0]


def test_a_later_line_of_the_same_key_wins(tmp_path: Path) -> None:
    memo = Memo(tmp_path / "m")
    memo.put("a", 1)
    memo.put("a", 2)
    assert memo.get("a", never) == 2 == Memo(tmp_path / "m").get("a", never)


def test_an_exception_writes_nothing(tmp_path: Path) -> None:
    memo = Memo(tmp_path / "m")
    with pytest.raises(AssertionError):
        memo.get("a", never)
    assert "a" not in memo and not (tmp_path / "m").exists()


def test_keys_and_values_may_hold_line_ends(tmp_path: Path) -> None:
    Memo(tmp_path / "m").put("a\nb\u2028", "x\r\ny")
    assert Memo(tmp_path / "m").get("a\nb\u2028", never) == "x\r\ny"
