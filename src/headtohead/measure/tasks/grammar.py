"""Minimal pairs of grammar: two sentences that differ in one word, of which one is English, as in BLiMP (Warstadt et
al. 2020, arXiv 1912.00582), of a vocabulary that networks of a million parameters can learn.

Every form is right as often as it is wrong over a phenomenon, so how frequent a word is tells nothing: what it goes
with has to be known. A pair is kept from training by a hash of the words that have to agree.

agreement     the dog near the cats sleeps . / sleep .      a verb and its subject, often with a noun between
determiner    she sees these dogs . / this dogs .           a determiner and its noun
reflexive     the queen hurts herself . / himself .         a reflexive and its subject, by gender and number
polarity      no dog has ever slept . / already slept .     "ever" wants a negative before it, "already" none
participle    the dog has eaten . / ate .                   the verb's form after "has", and without it
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from headtohead.data.corpora import is_for_testing
from headtohead.data.objectives.base import Draws
from headtohead.errors import UserError
from headtohead.measure.tasks.files import Choice
from headtohead.validation import suggest

ANIMALS = ("dog", "cat", "horse", "bird", "cow", "pig", "goat", "lion", "bear", "frog", "duck", "hen")
PEOPLE = {
    "himself": ("king", "boy", "father", "brother", "man", "uncle", "monk", "prince"),
    "herself": ("queen", "girl", "mother", "sister", "woman", "aunt", "nun", "princess"),
}
PLURALS = {"man": "men", "woman": "women"}
VERBS = {
    "sleep": ("slept", "slept"),
    "sing": ("sang", "sung"),
    "eat": ("ate", "eaten"),
    "fall": ("fell", "fallen"),
    "drink": ("drank", "drunk"),
    "swim": ("swam", "swum"),
    "run": ("ran", "run"),
    "speak": ("spoke", "spoken"),
    "hide": ("hid", "hidden"),
    "wake": ("woke", "woken"),
    "rise": ("rose", "risen"),
    "fly": ("flew", "flown"),
}
"""Past tense and participle."""
CLEAR = tuple(verb for verb, (past, participle) in VERBS.items() if len({verb, past, participle}) == 3)
SEEING = ("see", "like", "hear", "know", "want", "find")
HURTING = ("hurt", "see", "help", "know", "wash", "praise")
ADJECTIVES = ("old", "small", "big", "white", "black", "young", "tired", "happy")
PLACES = ("near", "behind", "with", "under")


def _plural(noun: str) -> str:
    if noun in PLURALS:
        return PLURALS[noun]
    return noun + ("es" if noun.endswith(("s", "x")) else "s")


def _third(verb: str) -> str:
    if verb == "fly":
        return "flies"
    return verb + ("es" if verb.endswith(("sh", "s", "x")) else "s")


def _one_of(draws: Draws, items: tuple[str, ...]) -> str:
    return items[draws.below(len(items))]


def _with(draws: Draws, noun: str) -> str:
    return f"{_one_of(draws, ADJECTIVES)} {noun}" if draws.below(2) else noun


Made = tuple[str, str, str]
"""The words that have to agree, the English sentence, and the other."""


def _agreement(draws: Draws) -> Made:
    noun, verb, many = _one_of(draws, ANIMALS), _one_of(draws, tuple(VERBS)), bool(draws.below(2))
    subject = f"the {_with(draws, _plural(noun) if many else noun)}"
    if draws.below(2):  # a noun of the other number between them
        other = _one_of(draws, ANIMALS)
        subject += f" {_one_of(draws, PLACES)} the {other if many else _plural(other)}"
    right, wrong = (verb, _third(verb)) if many else (_third(verb), verb)
    return f"agreement {noun} {verb}", f"{subject} {right} .", f"{subject} {wrong} ."


def _determiner(draws: Draws) -> Made:
    noun, verb = _one_of(draws, ANIMALS), _one_of(draws, SEEING)
    one, several = (("this", "these"), ("that", "those"))[draws.below(2)]
    start = f"{('he', 'she')[draws.below(2)]} {_third(verb)}"
    many = bool(draws.below(2))
    rest = _with(draws, _plural(noun) if many else noun)
    right, wrong = (several, one) if many else (one, several)
    return f"determiner {one} {noun}", f"{start} {right} {rest} .", f"{start} {wrong} {rest} ."


def _reflexive(draws: Draws) -> Made:
    pronoun = ("himself", "herself")[draws.below(2)]
    noun, verb = _one_of(draws, PEOPLE[pronoun]), _one_of(draws, HURTING)
    other = "herself" if pronoun == "himself" else "himself"
    if draws.below(2):
        subject, right, wrong = _plural(noun), "themselves", pronoun
        said = verb
    else:
        subject, right = noun, pronoun
        wrong = ("themselves", other)[draws.below(2)]
        said = _third(verb)
    start = f"the {_with(draws, subject)} {said}"
    return f"reflexive {noun} {verb}", f"{start} {right} .", f"{start} {wrong} ."


def _polarity(draws: Draws) -> Made:
    noun, verb = _one_of(draws, ANIMALS), _one_of(draws, tuple(VERBS))
    # "ever" is right after "no", "already" after "the": both determiners and both adverbs are right half of the time.
    start, right, wrong = (("no", "ever", "already"), ("the", "already", "ever"))[draws.below(2)]
    start = f"{start} {_with(draws, noun)} has"
    end = f"{VERBS[verb][1]} ."
    return f"polarity {noun} {verb}", f"{start} {right} {end}", f"{start} {wrong} {end}"


def _participle(draws: Draws) -> Made:
    noun, verb = _one_of(draws, ANIMALS), _one_of(draws, CLEAR)
    past, participle = VERBS[verb]
    start = f"the {_with(draws, noun)}"
    if draws.below(2):
        start, right, wrong = f"{start} has", participle, past
    else:
        right, wrong = past, participle
    return f"participle {noun} {verb}", f"{start} {right} .", f"{start} {wrong} ."


PHENOMENA: dict[str, Callable[[Draws], Made]] = {
    "agreement": _agreement,
    "determiner": _determiner,
    "reflexive": _reflexive,
    "polarity": _polarity,
    "participle": _participle,
}


def minimal_pairs(amount: int, phenomenon: str | None = None, seed: int = 0) -> list[Choice]:
    """`amount` different pairs for testing, of one phenomenon or of all in turn: choices without an input.

    Raises:
        UserError: no such phenomenon, or more pairs than there are.
    """
    if phenomenon is not None and phenomenon not in PHENOMENA:
        raise UserError(f"unknown phenomenon '{phenomenon}': {suggest(phenomenon, PHENOMENA)}")
    kinds = list(PHENOMENA) if phenomenon is None else [phenomenon]
    found: dict[str, Choice] = {}
    misses = 0
    for number in count():
        if len(found) == amount:
            return list(found.values())
        kind = kinds[number % len(kinds)]
        draws = Draws(seed, f"pair {kind} {number}")
        key, right, wrong = PHENOMENA[kind](draws)
        answer = draws.below(2)
        name = f"{right}|{wrong}"
        if not is_for_testing(key) or name in found:
            misses += 1
            if misses > 5000 + 20 * len(found):
                raise UserError(f"there are hardly more than {len(found)} minimal pairs: ask for fewer")
            continue
        choices = (right, wrong) if answer == 0 else (wrong, right)
        found[name], misses = Choice(input="", choices=choices, answer=answer), 0
    raise AssertionError("counting never ends")


def sentences(amount: int, seed: int = 0) -> list[str]:
    """English sentences to train on: none of them has the words that a pair for testing asks about together."""
    found: list[str] = []
    for number in count():
        if len(found) == amount:
            return found
        kind = list(PHENOMENA)[number % len(PHENOMENA)]
        key, right, _ = PHENOMENA[kind](Draws(seed, f"sentence {kind} {number}"))
        if not is_for_testing(key):
            found.append(right)
    raise AssertionError("counting never ends")
