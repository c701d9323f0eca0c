"""The three kinds of demo rows, and how each becomes a prompt and its completion.

The layouts are those of lorasweep's renderer, so the base is trained on the layout of the tasks.
"""

import random
from dataclasses import asdict, dataclass
from typing import Protocol


class Row(Protocol):
    """A row that the base can be trained on."""

    @property
    def pair(self) -> tuple[str, str]: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """A prompt with its correct completion and all options; each begins with a space."""

    prompt: str
    completion: str
    options: tuple[str, ...]

    @property
    def pair(self) -> tuple[str, str]:
        return self.prompt, self.completion


@dataclass(frozen=True, slots=True)
class Labelled:
    text: str
    label: str

    @property
    def pair(self) -> tuple[str, str]:
        return f"Text: {self.text}\nLabel:", f" {self.label}"


@dataclass(frozen=True, slots=True)
class Instructed:
    instruction: str
    input: str
    output: str

    @property
    def pair(self) -> tuple[str, str]:
        given = f"### Input:\n{self.input}\n\n" if self.input else ""
        return f"### Instruction:\n{self.instruction}\n\n{given}### Response:\n", self.output


def choice(rng: random.Random, prompt: str, answer: object, wrong: list[str]) -> Choice:
    """Return a row with the options in random order: the position must not reveal the answer."""
    options = [f" {answer}", *(f" {word}" for word in wrong)]
    assert len(set(options)) == len(options), options
    rng.shuffle(options)
    return Choice(prompt, f" {answer}", tuple(options))


def as_record(row: Choice | Labelled | Instructed) -> dict[str, object]:
    return asdict(row)
