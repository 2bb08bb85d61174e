"""Quantities with units, as a description writes them: "12 ms", "2.5 kb/s", "100 Mbit/s", "0.1 %", "12 km".

Each type here turns the text into one plain number in the unit its name says. A bare number is refused, so that
nobody has to guess a unit; only `fibre_km`, whose key says it, takes one.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

_QUANTITY: Final = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S*)\s*", re.ASCII)

_RATES_BPS: Final = {
    f"{prefix}{unit}": factor
    for prefix, factor in {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}.items()
    for unit in ("b/s", "bit/s", "bps")
}


@dataclass(frozen=True)
class Dimension:
    """What is measured, the units it may be written in, and each unit's size in the number that comes out."""

    noun: str
    units: Mapping[str, float]
    example: str
    minimum: float = 0.0
    maximum: float = math.inf
    bare_number: bool = False
    positive: bool = False

    def parse(self, value: object) -> float:
        """The number in the dimension's own unit; raises PydanticCustomError with a sentence for the user."""
        number, unit = self._split(value)
        if unit not in self.units:
            known = ", ".join(dict.fromkeys(self.units))
            raise _refusal(f'"{unit}" is not a unit of {self.noun}; known: {known}; write it like "{self.example}"')
        result = number * self.units[unit]
        if result < self.minimum:
            raise _refusal(f"{self.noun} cannot be negative: {value}")
        if self.positive and result == 0:
            raise _refusal(f"{self.noun} must be more than 0: {value}")
        if result > self.maximum:
            raise _refusal(f"{value} is too much for {self.noun}: at most {self.maximum:g} {next(iter(self.units))}")
        return result

    def _split(self, value: object) -> tuple[float, str]:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise _refusal(f'{self.noun} is written like "{self.example}"')
        match = _QUANTITY.fullmatch(value if isinstance(value, str) else repr(value))
        if match is None or not math.isfinite(float(match[1])):
            raise _refusal(f'"{value}" is not {self.noun}; write it like "{self.example}"')
        if not match[2] and self.bare_number:
            return float(match[1]), next(iter(self.units))
        if not match[2]:
            raise _refusal(f'{self.noun} needs a unit: {match[1]} of what? write it like "{self.example}"')
        return float(match[1]), match[2]


def _refusal(sentence: str) -> PydanticCustomError:
    # Pydantic formats the message's braces, of which a user's text may hold any number.
    return PydanticCustomError("quantity", "{sentence}", {"sentence": sentence})


DELAY: Final = Dimension("a delay", {"ms": 1.0, "us": 1e-3, "s": 1e3}, "12 ms", maximum=10_000)
LOSS: Final = Dimension("a loss", {"%": 1.0}, "0.1 %", maximum=100)
LINE_RATE: Final = Dimension(
    "a rate", {"Mbit/s": 1.0} | {u: f / 1e6 for u, f in _RATES_BPS.items()}, "100 Mbit/s", positive=True
)
KEY_RATE: Final = Dimension("a secret key rate", {"b/s": 1.0} | _RATES_BPS, "2.5 kb/s")
FIBRE: Final = Dimension("a length of fibre", {"km": 1.0, "m": 1e-3}, "12 km", maximum=1_000, bare_number=True)


def _schema(dimension: Dimension) -> WithJsonSchema:
    units = "|".join(re.escape(unit) for unit in dimension.units)
    text = {"type": "string", "pattern": rf"^\s*[0-9.]+\s*({units})\s*$", "examples": [dimension.example]}
    described = {"description": f"{dimension.noun}, such as {dimension.example}"}
    bare = {"anyOf": [{"type": "number", "minimum": 0}, text]}
    return WithJsonSchema((bare if dimension.bare_number else text) | described)


DelayMs = Annotated[float, BeforeValidator(DELAY.parse), _schema(DELAY)]
LossPercent = Annotated[float, BeforeValidator(LOSS.parse), _schema(LOSS)]
RateMbps = Annotated[float, BeforeValidator(LINE_RATE.parse), _schema(LINE_RATE)]
KeyRateBps = Annotated[float, BeforeValidator(KEY_RATE.parse), _schema(KEY_RATE)]
FibreKm = Annotated[float, BeforeValidator(FIBRE.parse), _schema(FIBRE)]
