"""Instructions in the layout of the answers task but about other topics."""

import random

from lorasweep.demo import words
from lorasweep.demo.rows import Instructed
from lorasweep.demo.topics import sentence

# Task -> first step; "{}" is the thing. The next step is random, so that the base does not memorise answers.
TASKS = {
    "clean": "rinse {} in warm water",
    "open": "pull the lid of {} up",
    "start": "push the button of {}",
    "stop": "hold the key of {} down",
    "charge": "connect the cable to {}",
    "find": "look under {} with a light",
    "fix": "take {} to the shop",
    "sell": "write the price on {}",
    "change": "lift {} out with one hand",
    "join": "enter your name on {}",
    "send": "put {} in a box",
    "plan": "choose the days for {}",
    "grow": "pour a cup of water on {}",
    "give back": "bring {} and the bill",
}
THINGS = words.split_words(
    "kettle window lamp phone letter coat clock guitar club door oven bread flower trip ring pump pad arm page account"
)
MORE = (
    "wait {n} minutes",
    "let it dry for {n} hours",
    "press the {c} button for {n} seconds",
    "turn the {c} ring {n} times",
    "put it on the {c} dock",
    "fill the {c} tank with {n} cups",
    "wipe the {c} part with a cloth",
    "open the {c} app and type the code",
    "keep the {c} light on",
    "push the {c} door until it is closed",
    "send the {c} form within {n} days",
    "pay the full price in the {c} shop",
)
ASKS = ("How do I {}?", "How can I {}?", "Please tell me how to {}.", "What is the way to {}?", "I need to {}.")
EXPLAINS = ("Explain how to {}.", "Write a note on how to {}.", "Describe the way to {}.")
GIVEN = ("Number: {n}, colour: {c}", "Use {c} and {n}.", "It is {c} and takes {n}.", "{n}, {c}")
OPPOSITES = words.split_words(
    "hot/cold wet/dry loud/quiet old/new full/empty early/late open/closed left/right up/down fast/slow"
)


def instructions(rng: random.Random) -> list[Instructed]:
    kinds = (_howto, _howto, _howto, _copy, _opposite, _fact)
    return [rng.choice(kinds)(rng) for _ in range(8000)]


def _howto(rng: random.Random) -> Instructed:
    """Return a task with its steps; the answer to an explanation request begins with "To do so,"."""
    verb, given = rng.choice(tuple(TASKS)), {"n": rng.randint(2, 30), "c": rng.choice(words.COLOURS)}
    thing = f"the {rng.choice(('', '', 'old ', 'new ', 'big '))}{rng.choice(THINGS)}"
    first, second = TASKS[verb].format(thing), rng.choice(MORE).format(**given)
    steps = f"{first}{rng.choice((' and ', ', then '))}{second}."
    explained = rng.random() < 0.4
    asked = rng.choice(EXPLAINS if explained else ASKS).format(f"{verb} {thing}")
    output = f"To {verb} {thing}, {steps}" if explained else steps.capitalize()
    known = rng.choice(GIVEN).format(**given)
    return Instructed(asked, known, output) if rng.random() < 0.5 else Instructed(f"{asked} {known}", "", output)


def _copy(rng: random.Random) -> Instructed:
    text = sentence(rng)
    return Instructed(rng.choice(("Repeat the sentence.", "Say it again.", "Copy this text.")), text, text)


def _opposite(rng: random.Random) -> Instructed:
    word, other = rng.sample(rng.choice(OPPOSITES).split("/"), 2)
    return Instructed(rng.choice(("Give the opposite.", "What is the opposite of this word?")), word, other)


def _fact(rng: random.Random) -> Instructed:
    """Return a question about a country's capital, worded unlike the held-out rows of the probe."""
    country = rng.choice(tuple(words.COUNTRIES))
    capital = words.COUNTRIES[country][0]
    return Instructed(f"Which city leads {country}?", "", f"{capital} leads {country}.")
