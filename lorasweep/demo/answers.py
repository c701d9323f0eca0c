"""Questions to the support desk of `intents` with short answers, scored by overlap with the reference.

An answer names the topic and the model in the question, then gives steps that depend on both: learning the style of
answers gives one part of the score, learning the product the rest.
"""

import random
from collections.abc import Mapping

from lorasweep.demo.rows import Instructed

NUM_ROWS = {"train": 700, "validation": 100, "test": 150}

# model -> the number its answers mention and the colour of its parts
MODELS: Mapping[str, tuple[int, str]] = {"Mini": (5, "white"), "Duo": (10, "green"), "Max": (20, "black")}

# topic -> the steps of its answer; {n} and {c} come from the model
STEPS = {
    "empty the tank": "pull the {c} lid up and wait {n} minutes",
    "wash the soak pad": "rinse it in warm water and let it dry for {n} hours",
    "restart the pump": "press the {c} button for {n} seconds",
    "pair a phone": "open the app and type the code within {n} minutes",
    "charge the battery": "put it on the {c} dock for {n} hours",
    "reset the root probe": "wipe it with a cloth and push the {c} key",
    "make it quiet": "choose night mode and turn the {c} ring {n} times",
    "plan a holiday": "choose the days and fill the tank with {n} cups",
    "return it": "send it in the {c} box within {n} days",
    "change a password": "ask for a new code and use it within {n} minutes",
    "stop a leak": "press the {c} seal down and wait {n} minutes",
    "add a second user": "open your account and send a code for {n} days",
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
    """Return rows by split; each question about a model is in one split only."""
    rng = random.Random("answers")
    rows: dict[tuple[str, str], Instructed] = {}
    while len(rows) < sum(NUM_ROWS.values()):
        row = _question(rng)
        rows.setdefault((row.instruction, row.input), row)
    queue = iter(rows.values())
    return {split: [next(queue) for _ in range(num)] for split, num in NUM_ROWS.items()}


def _question(rng: random.Random) -> Instructed:
    topic, model = rng.choice(tuple(STEPS)), rng.choice(tuple(MODELS))
    number, colour = MODELS[model]
    steps, greeting = STEPS[topic].format(n=number, c=colour), rng.choice(GREETINGS)
    answer = f"To {topic} on the Mossling {model}, {steps}."
    if rng.random() < 0.5:
        asked, given = rng.choice(BARE_ASKS).format(topic), rng.choice(GIVEN).format(f"Mossling {model}")
        return Instructed(greeting + asked, given, answer)
    return Instructed(greeting + rng.choice(ASKS).format(topic, f"Mossling {model}"), "", answer)
