"""The three shapes of a demo row, and how each becomes a prompt and its completion.

The layouts are those of lorasweep's own renderer, so the base has seen the layout before it meets the task.
"""

import random
from dataclasses import asdict, dataclass
from typing import Protocol


class Row(Protocol):
    """Anything the base can be trained on."""

    @property
    def pair(self) -> tuple[str, str]: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """A prompt with its right completion and the options it is chosen from; each begins with a space."""

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
    """Hide the answer among the wrong ones: an option's place must carry no hint."""
    options = [f" {answer}", *(f" {word}" for word in wrong)]
    assert len(set(options)) == len(options), options
    rng.shuffle(options)
    return Choice(prompt, f" {answer}", tuple(options))


def as_record(row: Choice | Labelled | Instructed) -> dict[str, object]:
    return asdict(row)
