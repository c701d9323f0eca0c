"""Everyday sentences with their topic: the base learns the words of the tasks, and to ignore asides.

They do not contain the support desk's product, intents or questions, only words such as "drip", "parcel" or "loud".
"""

import random

from lorasweep.demo import words
from lorasweep.demo.rows import Labelled

# topic -> actions, and their objects
TOPICS = {
    "kitchen": (
        "baked|cut|cooked|ate|burnt|mixed",
        "cake|bread|rice|soup|pan|tea|cheese|fish|hot stew|cup of milk",
    ),
    "sport": (
        "won|lost|ran|played|watched|trained for",
        "game|race|match|ball game|final|team cup|long run|record",
    ),
    "songs": (
        "sang|played|heard|practised|wrote|tuned",
        "song|piano|guitar|drum|melody|choir piece|concert|old tune",
    ),
    "travel": (
        "took|missed|waited for|booked|looked for|got off",
        "train|bus|trip|station|hotel|map|ticket|city tour|plane|holiday trip",
    ),
    "garden": (
        "planted|watered|dug up|measured|touched|looked at",
        "soil|plant|root|wet pot|dry pot|leaf|green moss|dry soil|wet soil|flower in the light|house plants",
    ),
    "school": (
        "read|learnt|failed|explained|wrote|forgot",
        "lesson|test|exam|word list|homework|class|book|sum",
    ),
    "shop": (
        "bought|paid for|returned|took back|was charged for|sold|sent back",
        "coat|shoes|price|bill|money|card|cheap hat|lower price|refund|full price|money from the shop",
    ),
    "post": (
        "sent|ordered|tracked|got|waited for|picked up|missed",
        "parcel|letter|box|package|delivery|wrong address|parcel that arrived late|missing part|parcel not arrived",
    ),
    "phones": (
        "connected|updated|found|lost|dropped|linked",
        "app|phone|network|signal|router|link|code on the phone|screen|offline app|new phone",
    ),
    "plugs": (
        "charged|switched on|switched off|plugged in|shut down|emptied",
        "battery|charger|lamp|cable|empty battery|dark lamp|dock|hot cable|full battery|motor|light",
    ),
    "pipes": (
        "fixed|saw|stepped in|found|felt|stopped",
        "leak|puddle|drip|pipe|flood|wet floor|water on the floor|tight seal|tank that runs over|drops of water|water",
    ),
    "calendar": (
        "planned|changed|moved|skipped|set|started",
        "days|week|time|plan|morning round|schedule|alarm|holiday|wrong time|hours|two days|date",
    ),
    "sounds": (
        "heard|made|feared|woke up from|noticed|hated",
        "loud noise|hum|rattle|strange click|loud motor|loud pump|quiet sound|noise all night|bedroom noise",
    ),
    "housework": (
        "washed|cleaned|wiped|smelled|scrubbed|rinsed",
        "dirt|slime|old cloth|dirty tank|smell|blocked drain|machine of clothes|clean cup|green slime|dirty arm|sponge",
    ),
    "office": (
        "forgot|changed|deleted|asked for|typed|used",
        "password|email|user name|login|account|my name|list of users|new password|log in page|name of the wife",
    ),
    "gauges": (
        "measured|read|tested|trusted|looked at|checked",
        "sensor|probe|value|number|wrong value|sensor that shows dry|jump of the number|dry value|ruler|light value",
    ),
}
TIMES = ("today", "yesterday", "last week", "this morning", "at night", "every night", "again", "twice", "since Monday")
OWNERS = ("the", "the", "a", "my", "our")
OPENERS = (
    "Please note,",
    "Hi,",
    "Hello,",
    "Sorry,",
    "Help!",
    "Sadly",
    "Since Monday",
    "Dear all,",
    "Again:",
    "",
    "",
    "",
)
CLOSERS = ("Thanks.", "What now?", "I am glad.", "It is new.", "Please listen.", "", "", "", "", "")


def topics(rng: random.Random) -> list[Labelled]:
    return [_labelled(rng) for _ in range(12000)]


def sentence(rng: random.Random) -> str:
    return f"{_clause(rng, rng.choice(tuple(TOPICS)))}."


def _labelled(rng: random.Random) -> Labelled:
    """Return a sentence labelled by its event; a part that is "fine" or "works" is an aside."""
    label, other = rng.sample(tuple(TOPICS), 2)
    said = _clause(rng, label)
    if rng.random() < 0.5:
        said = _with_aside(rng, said, _aside(rng, other))
    return Labelled(f"{rng.choice(OPENERS)} {said}. {rng.choice(CLOSERS)}".strip(), label)


def _clause(rng: random.Random, topic: str) -> str:
    did, what = (rng.choice(part.split("|")) for part in TOPICS[topic])
    who = rng.choice((*words.PEOPLE, "I", "we", "my wife", "my cat", "the neighbour"))
    told = f"{who} {did} {rng.choice(OWNERS)} {what}"
    if rng.random() < 0.2:
        told = f"{rng.choice(('how do I fix it:', 'can it be that', 'I think', 'there was trouble, as'))} {told}"
    return f"{told} {rng.choice(TIMES)}" if rng.random() < 0.5 else told


def _aside(rng: random.Random, topic: str) -> str:
    what = rng.choice(TOPICS[topic][1].split("|"))
    return rng.choice(
        (f"the {what} is fine", f"my {what} was all right", f"the {what} works", f"I do not mind the {what}")
    )


def _with_aside(rng: random.Random, said: str, aside: str) -> str:
    return rng.choice(
        (f"{aside} but {said}", f"{said} and {aside}", f"{aside}, still {said}", f"{said}, though {aside}")
    )
