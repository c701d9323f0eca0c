"""Instructions to follow, in the layout of the answers task but about other things."""

import random

from lorasweep.demo import words
from lorasweep.demo.rows import Instructed
from lorasweep.demo.topics import sentence

# An everyday task -> how it is done; "{n}" and "{c}" are given, so that they are copied and not guessed.
HOWTO = {
    "make tea": "Fill the {c} kettle, wait {n} minutes until the water is hot and pour it over the leaves.",
    "clean the window": "Take a {c} cloth, wipe the glass with warm water and let it dry for {n} minutes.",
    "bake bread": "Mix the flour with water, wait {n} hours and put it in the {c} oven.",
    "send a letter": "Put it in a {c} box, write the address on the lid and send it within {n} days.",
    "charge a phone": "Connect the {c} cable to the phone and keep it on the charger for {n} hours.",
    "grow a flower": "Pour {n} cups of water on the soil and make sure that the {c} pot is not full.",
    "give back a coat": "Bring it back to the {c} shop within {n} days and you get the full price.",
    "find the station": "Turn left at the bridge, walk for {n} minutes and look for the {c} door.",
    "tune a guitar": "Press the string, listen to the sound and turn the {c} key slowly {n} times.",
    "join the club": "Open the {c} page, enter your name and email, and choose a plan for {n} months.",
    "set the clock": "Hold the {c} button for {n} seconds, then turn the ring until the time is right.",
    "change the lamp": "Switch off the power, pull the {c} lamp out and push the new one in after {n} minutes.",
}
ASKS = ("How do I {}?", "How can I {}?", "Please tell me how to {}.", "What is the best way to {}?", "I want to {}.")
GIVEN = ("Number: {n}, colour: {c}", "Use {c} and {n}.", "It is {c} and takes {n}.", "{n}, {c}")
OPPOSITES = words.split_words(
    "hot/cold wet/dry loud/quiet old/new full/empty early/late open/closed left/right up/down fast/slow"
)


def instructions(rng: random.Random) -> list[Instructed]:
    kinds = (_howto, _howto, _howto, _copy, _opposite, _fact)
    return [rng.choice(kinds)(rng) for _ in range(8000)]


def _howto(rng: random.Random) -> Instructed:
    """The number and the colour stand in the input, or in the instruction."""
    task, filled = rng.choice(tuple(HOWTO)), {"n": rng.randint(2, 30), "c": rng.choice(words.COLOURS)}
    asked, given = rng.choice(ASKS).format(task), rng.choice(GIVEN).format(**filled)
    answer = HOWTO[task].format(**filled)
    if rng.random() < 0.5:
        return Instructed(asked, given, answer)
    return Instructed(f"{asked} {given}", "", answer)


def _copy(rng: random.Random) -> Instructed:
    text = sentence(rng)
    return Instructed(rng.choice(("Repeat the sentence.", "Say it again.", "Copy this text.")), text, text)


def _opposite(rng: random.Random) -> Instructed:
    word, other = rng.sample(rng.choice(OPPOSITES).split("/"), 2)
    return Instructed(rng.choice(("Give the opposite.", "What is the opposite of this word?")), word, other)


def _fact(rng: random.Random) -> Instructed:
    """Capitals only, in a sentence of its own: the wordings that the probe holds out are never spelled out here."""
    country = rng.choice(tuple(words.COUNTRIES))
    capital = words.COUNTRIES[country][0]
    return Instructed(f"Which city leads {country}?", "", f"{capital} leads {country}.")
