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


class Car(Strict):
    colour: Literal["red", "green"] = "red"
    speed: Annotated[float, Field(gt=0)]
    wheels: Annotated[tuple[Wheel, ...], Field(strict=False)] = ()
    spare: Wheel | None = None

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
        ({"speeed": 1.0}, "unknown key 'speeed': did you mean 'speed'? (and 1 more problem)"),
        ({"speed": 1, "x": 2}, "unknown key 'x': it can be colour, spare, speed, wheels"),
        ({}, "the key 'speed' is missing"),
        ({"speed": -1}, "speed = -1: it should be greater than 0"),
        ({"speed": "fast"}, 'speed = "fast": it should be a valid number'),
        ({"speed": True}, "speed = true: it should be a valid number"),
        (
            {"speed": 1, "colour": "gren"},
            "colour = \"gren\": it should be 'red' or 'green'; did you mean 'green'?",
        ),
        ({"speed": 1, "wheels": [{}, {"spoke": 9}]}, "unknown key 'wheels[1].spoke': did you mean 'spokes'?"),
        ({"speed": 1, "spare": {"spokes": 2}}, "spare.spokes = 2: it should be greater than or equal to 3"),
        ({"speed": 1, "spare": {"spoke": 2}}, "unknown key 'spare.spoke': did you mean 'spokes'?"),
        ({"speed": "x" * 99}, f'speed = "{"x" * 56}…: it should be a valid number'),
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
