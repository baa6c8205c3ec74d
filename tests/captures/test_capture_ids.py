"""The compact notation of ids, and splits made of it."""

import pickle

import pytest

from r3avatar.captures import CaptureError, Split, parse_ids


@pytest.mark.parametrize(
    "text, expected",
    [
        ("7", [7]),
        (7, [7]),
        ("0-3", [0, 1, 2, 3]),
        ("0-9/5", [0, 5]),
        ("110-149/5", list(range(110, 150, 5))),
        ("0, 2-6/2,9", [0, 2, 4, 6, 9]),
        ([3, "1"], [3, 1]),
    ],
)
def test_notation(text, expected):
    assert parse_ids(text) == expected


@pytest.mark.parametrize("text", ["", "a", "3-", "5-3", "0-9/0", "0-9:2", "1,1", [1, 1], "-3"])
def test_wrong_notation(text):
    with pytest.raises(ValueError):
        parse_ids(text)


def test_split_cameras_are_names():
    assert Split.parse("0-4/2", 7) == Split(["0", "2", "4"], [7])
    assert Split.parse(["Camera_B1", 3], "0-1") == Split(["Camera_B1", "3"], [0, 1])
    with pytest.raises(ValueError, match="1 cameras and 0 frames"):
        Split(["0"], [])


def test_errors_survive_processes():
    error = CaptureError("a.smc", "Mask/0", expected="x", found="y", fix="z")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "a.smc: Mask/0: expected x, found y. Fix: z."
