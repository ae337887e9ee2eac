from __future__ import annotations

from stager.sources.closing import Closing


def test_closing_when_nobody_reads() -> None:
    released: list[int] = []
    closing = Closing(lambda: released.append(1))
    assert not closing.close()
    assert not closing.close()
    assert released == [1]
    with closing.reading() as is_open:
        assert not is_open
    assert released == [1]


def test_closing_under_a_reader_waits_for_it() -> None:
    released: list[int] = []
    closing = Closing(lambda: released.append(1))
    with closing.reading() as is_open:
        assert is_open
        assert closing.close()
        assert closing.close()
        assert released == []
    assert released == [1]
    assert not closing.close()
    assert released == [1]


def test_reading_again_and_again() -> None:
    released: list[int] = []
    closing = Closing(lambda: released.append(1))
    for _ in range(3):
        with closing.reading() as is_open:
            assert is_open
    assert released == []
