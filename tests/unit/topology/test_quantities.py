"""Quantities: every unit gives the number it stands for, and every slip a sentence that says how to write it."""

import pytest
from pydantic_core import PydanticCustomError

from topology.quantities import DELAY, FIBRE, KEY_RATE, LINE_RATE, LOSS, Dimension


@pytest.mark.parametrize(
    ("dimension", "text", "number"),
    [
        (DELAY, "12 ms", 12.0),
        (DELAY, "12ms", 12.0),
        (DELAY, "250 us", 0.25),
        (DELAY, "0.5 s", 500.0),
        (LOSS, "0.1 %", 0.1),
        (LOSS, "0 %", 0.0),
        (LINE_RATE, "100 Mbit/s", 100.0),
        (LINE_RATE, "1 Gb/s", 1000.0),
        (LINE_RATE, "64 kbps", 0.064),
        (KEY_RATE, "2.5 kb/s", 2500.0),
        (KEY_RATE, "0 b/s", 0.0),
        (FIBRE, "12 km", 12.0),
        (FIBRE, 65, 65.0),
        (FIBRE, "500 m", 0.5),
    ],
)
def test_a_unit_gives_the_number_it_stands_for(dimension: Dimension, text: object, number: float) -> None:
    assert dimension.parse(text) == pytest.approx(number)


@pytest.mark.parametrize(
    ("dimension", "value", "sentence"),
    [
        (DELAY, 12, 'a delay needs a unit: 12 of what? write it like "12 ms"'),
        (DELAY, "12 m", '"m" is not a unit of a delay; known: ms, us, s; write it like "12 ms"'),
        (DELAY, "twelve ms", '"twelve ms" is not a delay; write it like "12 ms"'),
        (DELAY, "-1 ms", "a delay cannot be negative: -1 ms"),
        (DELAY, "11 s", "11 s is too much for a delay: at most 10000 ms"),
        (DELAY, "1e999 ms", '"1e999 ms" is not a delay; write it like "12 ms"'),
        (DELAY, "nan ms", '"nan ms" is not a delay; write it like "12 ms"'),
        (DELAY, True, 'a delay is written like "12 ms"'),
        (DELAY, ["1 ms"], 'a delay is written like "12 ms"'),
        (DELAY, "{evil}", '"{evil}" is not a delay; write it like "12 ms"'),
        (LOSS, "101 %", "101 % is too much for a loss: at most 100 %"),
        (LINE_RATE, "0 Mbit/s", "a rate must be more than 0: 0 Mbit/s"),
        (LINE_RATE, "100 MB/s", '"MB/s" is not a unit of a rate; known: Mbit/s, '),
        (FIBRE, -3, "a length of fibre cannot be negative: -3"),
    ],
)
def test_a_slip_is_told_how_to_write_it(dimension: Dimension, value: object, sentence: str) -> None:
    with pytest.raises(PydanticCustomError) as caught:
        dimension.parse(value)
    assert caught.value.message().startswith(sentence)
