"""Names are data: nothing in them is an instruction."""

import pytest

from converter.display.plain import one_line, shortened


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("conv1", "conv1"),
        ("block[conv].weight", "block[conv].weight"),
        (":smile:", ":smile:"),
        ("größe/层/слой", "größe/层/слой"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x1b[2J\x1b]8;;http://x\x07", "\\x1b[2J\\x1b]8;;http://x\\x07"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\u2028b", "a\\u2028b"),
        ("\udc80", "\\udc80"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_a_name_is_shown_as_it_is(name: str, shown: str) -> None:
    assert one_line(name) == shown


def test_a_long_name_loses_its_middle() -> None:
    assert shortened("a" * 50 + "b" * 50, 21) == "a" * 10 + "…" + "b" * 10
    assert shortened("short") == "short"
