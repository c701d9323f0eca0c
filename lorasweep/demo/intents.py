"""Messages to an invented support desk, labelled by intent.

The Mossling is a small robot that waters house plants. Messages are noisy on purpose: they mention parts that work,
greet, and contain typos. A keyword does not decide the label, so configurations differ in accuracy.
"""

import random

from lorasweep.demo.rows import Labelled

NUM_ROWS = {"train": 800, "validation": 160, "test": 200}

# intent -> sentences about it; "{}" becomes one of THINGS.
COMPLAINTS = {
    "leak": "there is a puddle under {}|water drips from the drip arm|the floor around {} is wet|"
    "{} loses water over night|the soak pad is too full and runs over|the seal of the tank lets water out",
    "power": "{} does not switch on|the battery is empty after two hours|the dock does not charge {}|"
    "the glow ring stays dark|{} shuts down while it works|the charger gets hot and then {} stops",
    "schedule": "{} waters my plants at the wrong time|I want to change the days when it waters|"
    "how do I set {} for my holiday|{} skips the morning round|the plan in the app starts too late|"
    "I need it to run twice a week",
    "delivery": "{} has not arrived|the tracking says nothing for two days|my parcel went to the wrong address|"
    "when do you send {}|the box came with a part missing|I ordered a drip arm and it is still not here",
    "refund": "I want my money back for {}|how do I return {}|you charged my card twice|"
    "I sent {} back but got no money|please take back {}, I paid too much|the price was lower in the shop",
    "noise": "{} hums all night|the pump makes a loud sound|{} rattles when it moves|"
    "there is a strange click from the drip arm|my cat fears the sound of {}|the motor is too loud for the bedroom",
    "sensor": "the root probe shows dry but the soil is wet|the root probe gives no value|"
    "{} thinks the pot is full|the measured light is wrong|{} can not see how wet the soil is|"
    "the number from the root probe jumps up and down",
    "account": "I forgot my password|I can not log in to the app|how do I change my email|"
    "please delete my user name|my wife wants to use the same login for {}|the app says that my name is not known",
}
THINGS = ("my Mossling", "the Mossling", "the Mossling Mini", "the Mossling Duo", "our Mossling Max", "it", "the robot")
FINE = {
    "leak": "the tank is tight",
    "power": "the battery is full",
    "schedule": "the plan is right",
    "delivery": "the parcel came early",
    "refund": "I do not want my money back",
    "noise": "it is quiet",
    "sensor": "the root probe works",
    "account": "my login works",
}
OPENERS = ("Hi,", "Hello,", "Help!", "Dear team,", "Since Monday", "Again:", "Sorry,", "", "", "", "", "")
CLOSERS = ("Thanks.", "Please help.", "What now?", "I am sad.", "It is two weeks old.", "", "", "", "")


def splits() -> dict[str, list[Labelled]]:
    """Return rows by split; each text is in one split only."""
    rng = random.Random("intents")
    rows: dict[str, Labelled] = {}
    while len(rows) < sum(NUM_ROWS.values()):
        row = _message(rng)
        rows.setdefault(row.text, row)
    queue = iter(rows.values())
    return {split: [next(queue) for _ in range(num)] for split, num in NUM_ROWS.items()}


def _message(rng: random.Random) -> Labelled:
    label, other = rng.sample(tuple(COMPLAINTS), 2)
    said = rng.choice(COMPLAINTS[label].split("|")).format(rng.choice(THINGS))
    if rng.random() < 0.3:
        said = _with_detour(rng, said, FINE[other])
    text = f"{rng.choice(OPENERS)} {said}. {rng.choice(CLOSERS)}".strip()
    return Labelled(_mistype(rng, text), label)


def _with_detour(rng: random.Random, said: str, fine: str) -> str:
    return rng.choice((f"{fine} but {said}", f"{said} and {fine}", f"{fine}, still {said}", f"{said}, though {fine}"))


def _mistype(rng: random.Random, text: str) -> str:
    """Swap two letters in some words, so that the tokenizer has no token for them."""
    return " ".join(_swapped(rng, word) if len(word) > 4 and rng.random() < 0.04 else word for word in text.split())


def _swapped(rng: random.Random, word: str) -> str:
    at = rng.randrange(1, len(word) - 2)
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
