"""Five skills that the base learns, each with held-out rows as a probe of forgetting."""

import random
from collections.abc import Callable, Sequence

from lorasweep.demo import words
from lorasweep.demo.rows import Choice, choice

NUM_PROBES = 60
LARGEST = 20  # largest summand; small enough that every number is a frequent token
SENTIMENTS = ("positive", "negative")


def arithmetic(rng: random.Random) -> list[Choice]:
    numbers = range(LARGEST + 1)
    sums = [(f"{a} + {b} =", a + b) for a in numbers for b in numbers]
    differences = [(f"{a} - {b} =", a - b) for a in range(2 * LARGEST + 1) for b in range(min(a, LARGEST) + 1)]
    asked = sums + differences
    rng.shuffle(asked)
    return [choice(rng, prompt, n, _near(rng, n)) for prompt, n in asked]


def facts(rng: random.Random) -> list[Choice]:
    """Return every fact in one wording, then in others: the probe asks each fact in a wording that is held out."""
    rounds: list[list[Choice]] = [[], [], [], []]
    for kind, templates in enumerate(words.FACTS):
        values = [known[kind] for known in words.COUNTRIES.values()]
        for country, known in words.COUNTRIES.items():
            wrong = [value for value in values if value != known[kind]]
            for asked, way in zip(rounds, rng.sample(templates, 4), strict=True):
                asked.append(choice(rng, way.format(country), known[kind], rng.sample(wrong, 3)))
    return [row for asked in rounds for row in asked]


def relations(rng: random.Random) -> list[Choice]:
    kinds = (_comparison, _comparison, _chain, _gift, _gift)
    return [rng.choice(kinds)(rng) for _ in range(8000)]


def sequences(rng: random.Random) -> list[Choice]:
    kinds = (_steps, _steps, _cycle, _pattern)
    return [rng.choice(kinds)(rng) for _ in range(5000)]


def sentiment(rng: random.Random) -> list[Choice]:
    return [_judgement(rng) for _ in range(5000)]


SKILLS: dict[str, Callable[[random.Random], list[Choice]]] = {
    "arithmetic": arithmetic,
    "facts": facts,
    "relations": relations,
    "sequences": sequences,
    "sentiment": sentiment,
}


def split(skill: str) -> tuple[list[Choice], list[Choice]]:
    """Return training rows and held-out rows, which are the first of the skill; no prompt is in both."""
    rows = list({row.prompt: row for row in SKILLS[skill](random.Random(skill))}.values())
    return rows[NUM_PROBES:], rows[:NUM_PROBES]


def _near(rng: random.Random, number: int) -> list[str]:
    """Return wrong numbers so close that a rough estimate is not sufficient."""
    close = [number + step for step in (-3, -2, -1, 1, 2, 3, 4) if number + step >= 0]
    return [str(wrong) for wrong in rng.sample(close, 3)]


def _comparison(rng: random.Random) -> Choice:
    first, second, *others = rng.sample(words.PEOPLE, 4)
    more, less = rng.choice(words.COMPARISONS)
    if rng.random() < 0.5:
        more, less = less, more
    asked, answer, other = rng.choice(((more, first, second), (less, second, first)))
    prompt = f"{first} is {more} than {second}. The {asked} one is"
    return choice(rng, prompt, answer, [other, *others])


def _chain(rng: random.Random) -> Choice:
    """Return a comparison of three people in either order: the middle one is named twice and never the answer."""
    first, second, third, other = rng.sample(words.PEOPLE, 4)
    more, most, least = rng.choice((("older", "oldest", "youngest"), ("taller", "tallest", "shortest")))
    told = [f"{first} is {more} than {second}.", f"{second} is {more} than {third}."]
    rng.shuffle(told)
    asked, answer, wrong = rng.choice(((most, first, third), (least, third, first)))
    return choice(rng, f"{' '.join(told)} The {asked} one is", answer, [wrong, second, other])


def _gift(rng: random.Random) -> Choice:
    giver, taker, *others = rng.sample(words.PEOPLE, 4)
    gift = rng.choice(words.GIFTS)
    told = rng.choice((f"{giver} gave the {gift} to {taker}.", f"{taker} got the {gift} from {giver}."))
    asked = rng.choice((f"The {gift} now belongs to", f"The new owner of the {gift} is"))
    return choice(rng, f"{told} {asked}", taker, [giver, *others])


def _steps(rng: random.Random) -> Choice:
    step = rng.choice((-5, -3, -2, -1, 1, 2, 3, 4, 5))
    first = rng.randint(0, 20) if step > 0 else rng.randint(-4 * step, 40)
    told = " ".join(str(first + step * n) for n in range(4))
    return choice(rng, told, first + 4 * step, _near(rng, first + 4 * step))


def _cycle(rng: random.Random) -> Choice:
    cycle = rng.choice(words.CYCLES)
    first, length = rng.randrange(len(cycle)), rng.randint(2, 4)
    told = [cycle[(first + n) % len(cycle)] for n in range(length)]
    return _continue(rng, told, cycle[(first + length) % len(cycle)], cycle)


def _pattern(rng: random.Random) -> Choice:
    period = rng.choice((2, 3))
    colours = rng.sample(words.COLOURS, period)
    told = [colours[n % period] for n in range(rng.randint(period + 1, 2 * period + 2))]
    return _continue(rng, told, colours[len(told) % period], words.COLOURS)


def _continue(rng: random.Random, told: list[str], answer: str, world: Sequence[str]) -> Choice:
    wrong = [word for word in world if word != answer]
    return choice(rng, " ".join(told), answer, rng.sample(wrong, 3))


def _judgement(rng: random.Random) -> Choice:
    """Return one or two opinions; if they differ, the one after "but" decides."""
    right, wrong = rng.sample(SENTIMENTS, 2)
    first, second = rng.sample(words.REVIEWED, 2)
    last = f"the {second} was {_judged(rng, right)}"
    same, link = rng.choice(((right, "and"), (wrong, "but")))
    text = f"We thought {last}." if rng.random() < 0.3 else f"The {first} was {_judged(rng, same)} {link} {last}."
    return choice(rng, f"Review: {text}\nFeeling:", right, [wrong])


def _judged(rng: random.Random, sentiment: str) -> str:
    """Return a word of this sentiment, in a third of cases a word of the other sentiment with "not"."""
    liked, disliked = rng.choice(words.LIKED), rng.choice(words.DISLIKED)
    plain, turned = (liked, disliked) if sentiment == "positive" else (disliked, liked)
    return plain if rng.random() < 0.67 else f"not {turned}"
