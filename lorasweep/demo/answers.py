"""Questions to the same support desk with the short answers it gives; scored by overlap with the reference.

An answer depends on the topic and on the model asked about, so repeating a frequent answer earns little.
"""

import random
from collections.abc import Mapping

from lorasweep.demo.rows import Instructed

NUM_ROWS = {"train": 700, "validation": 100, "test": 150}

# model -> the number its answers mention and the colour of its parts
MODELS: Mapping[str, tuple[int, str]] = {"Mini": (5, "white"), "Duo": (10, "green"), "Max": (20, "black")}

# topic -> the answer; {n} and {c} come from the model.
ANSWERS = {
    "empty the tank": "Pull the {c} lid up, turn the tank over the sink and wait {n} minutes until it is dry.",
    "wash the soak pad": "Rinse the soak pad in warm water for {n} minutes and never put it in the machine.",
    "restart it": "Press the {c} button for {n} seconds until the glow ring turns blue, then let go.",
    "pair it with my phone": "Hold the phone near the glow ring, open the app and type the code within {n} minutes.",
    "stop the drip arm": "Tap the drip arm twice, it goes back to the {c} dock after {n} seconds.",
    "charge the battery": "Put it on the {c} dock for {n} hours and keep the glow ring free.",
    "reset the root probe": "Pull the root probe out of the soil, wipe it and push the {c} key for {n} seconds.",
    "make it quiet": "Choose night mode in the app, then the pump runs {n} minutes later and half as loud.",
    "plan a holiday": "Open the plan in the app, pick the days and fill the tank with {n} cups of water.",
    "return it": "Send it back in the {c} box within {n} days and we pay the full price.",
    "track my parcel": "Look for the {c} mail we sent, the link in it shows the parcel for {n} days.",
    "change my password": "Choose login in the app, ask for a new password and use the code within {n} minutes.",
    "stop a leak": "Check the {c} seal under the tank, press it down and watch the floor for {n} minutes.",
    "remove green slime": "Fill the tank with vinegar and water, wait {n} hours and wash the {c} lid.",
    "add a second user": "Open your account, choose family and send a code that works for {n} days.",
    "water two plants": "Connect the second drip arm to the {c} port and set each plant to {n} spoons.",
}
ASKS = (
    "How do I {} on the {}?",
    "How can I {} with my {}?",
    "I have a {1} and want to {0}. What now?",
    "Please tell me how to {} on a {}.",
    "Can you help? I need to {} and own the {}.",
    "What is the way to {} for the {}?",
)
BARE_ASKS = ("How do I {}?", "How can I {}?", "Please tell me how to {}.", "I need to {}.", "What is the way to {}?")
GIVEN = ("Model: {}", "I own the {}.", "It is a {}.", "Bought: {}")
GREETINGS = ("", "", "", "Hi, ", "Hello, ", "Good morning. ", "Dear team, ", "Sorry, ", "Help! ", "Quick question: ")


def splits() -> dict[str, list[Instructed]]:
    """Rows by split; a question about a model is in one split only."""
    rng = random.Random("answers")
    rows: dict[tuple[str, str], Instructed] = {}
    while len(rows) < sum(NUM_ROWS.values()):
        row = _question(rng)
        rows.setdefault((row.instruction, row.input), row)
    queue = iter(rows.values())
    return {split: [next(queue) for _ in range(num)] for split, num in NUM_ROWS.items()}


def _question(rng: random.Random) -> Instructed:
    topic, model = rng.choice(tuple(ANSWERS)), rng.choice(tuple(MODELS))
    number, colour = MODELS[model]
    answer, greeting = ANSWERS[topic].format(n=number, c=colour), rng.choice(GREETINGS)
    if rng.random() < 0.5:
        asked, given = rng.choice(BARE_ASKS).format(topic), rng.choice(GIVEN).format(f"Mossling {model}")
        return Instructed(greeting + asked, given, answer)
    return Instructed(greeting + rng.choice(ASKS).format(topic, f"Mossling {model}"), "", answer)
