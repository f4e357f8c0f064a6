"""One line for every way a description can be wrong: the key, the value, what would be right."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from headtohead.errors import UserError
from headtohead.validation import suggest, validated


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Wheel(Strict):
    spokes: Annotated[int, Field(ge=3)] = 32


class Door(Strict):
    name: Annotated[str, Field(min_length=1)]
    open: bool | None = None
    handle: str | None = None

    @model_validator(mode="after")
    def _says(self) -> Door:
        if self.open is None and self.handle is None:
            raise ValueError("a door says 'open' or 'handle'")
        return self


class Car(Strict):
    colour: Literal["red", "green"] = "red"
    speed: Annotated[float, Field(gt=0)]
    wheels: Annotated[tuple[Wheel, ...], Field(strict=False)] = ()
    spare: Wheel | None = None
    doors: Annotated[tuple[Door, ...], Field(strict=False)] = ()
    seats: Annotated[tuple[int, ...], Field(strict=False, min_length=2)] = (1, 2)
    pair: Annotated[tuple[int, int], Field(strict=False)] = (1, 2)

    @model_validator(mode="after")
    def _goes(self) -> Car:
        if self.speed == 13:
            raise ValueError("speed = 13 brings bad luck: take 12 or 14")
        if self.speed == 14:
            raise UserError("speed = 14 is told by a parser of its own")
        return self


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"speeed": 1.0}, "unknown key 'speeed': did you mean 'speed'?"),
        (
            {"speeed": 1.0, "colour": 3},
            "unknown key 'speeed': did you mean 'speed'? (and 1 more problem)",
        ),
        ({"speed": 1, "x": 2}, "unknown key 'x': it can be colour, doors, pair, seats, spare, speed, wheels"),
        ({}, "the key 'speed' is missing"),
        ({"speed": -1}, "speed = -1: it should be greater than 0"),
        ({"speed": "fast"}, 'speed = "fast": it should be a number'),
        ({"speed": True}, "speed = true: it should be a number"),
        (
            {"speed": 1, "colour": "gren"},
            "colour = \"gren\": it should be 'red' or 'green'; did you mean 'green'?",
        ),
        ({"speed": 1, "wheels": [{}, {"spoke": 9}]}, "unknown key 'wheels[1].spoke': did you mean 'spokes'?"),
        ({"speed": 1, "spare": {"spokes": 2}}, "spare.spokes = 2: it should be greater than or equal to 3"),
        ({"speed": 1, "spare": {"spoke": 2}}, "unknown key 'spare.spoke': did you mean 'spokes'?"),
        ({"speed": "x" * 99}, f'speed = "{"x" * 56}…: it should be a number'),
        ({"speed": 1, "spare": 4}, "spare = 4: it should be a table"),
        ({"speed": 1, "wheels": {"a": 1}}, "wheels = {…}: it should be a list in brackets"),
        ({"speed": 1, "wheels": [{"spokes": "9"}]}, 'wheels[0].spokes = "9": it should be a whole number'),
        ({"speed": 1, "seats": []}, "seats = []: it should have at least 2 entries"),
        ({"speed": 1, "seats": [1]}, "seats = [1]: it should have at least 2 entries"),
        # An entry that is wrong is one too few besides, and not worth a second word.
        ({"speed": 1, "seats": [1, "x"]}, 'seats[1] = "x": it should be a whole number'),
        ({"speed": 1, "pair": [1]}, "pair = [1]: it has too few entries"),
        ({"speed": 1, "pair": [1, 2, 3]}, "pair = [1, 2, 3]: it should have at most 2 entries"),
        (
            {"speed": 1, "doors": [{"name": "left", "opn": True}]},
            "unknown key 'doors.left.opn': did you mean 'open'?",
        ),
        ({"speed": 1, "doors": [{"name": "", "open": True}]}, 'doors[0].name = "": it should not be empty'),
        ({"speed": 1, "doors": [{"name": "left"}]}, "doors.left: a door says 'open' or 'handle'"),
        ({"speed": 13}, "speed = 13 brings bad luck: take 12 or 14"),
        ({"speed": 14}, "speed = 14 is told by a parser of its own"),
    ],
)
def test_one_line_names_key_value_and_what_is_right(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        validated(Car, data, "cars.toml: car")
    assert str(caught.value) == f"cars.toml: car: {message}"


def test_what_is_right_comes_back() -> None:
    car = validated(Car, {"speed": 3, "wheels": [{"spokes": 4}]}, "cars.toml")
    assert car == Car(speed=3.0, wheels=(Wheel(spokes=4),))


def test_suggestions_are_near_or_few() -> None:
    assert suggest("cilp", ["clip", "steps"]) == "did you mean 'clip'?"
    assert suggest("zzz", ["clip", "steps"]) == "it can be clip, steps"
    assert suggest("zzz", map(str, range(50))) == "there are 50 of them"
