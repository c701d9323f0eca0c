"""Texts are not tokenised twice, and a damaged file is replaced."""

from pathlib import Path

import pytest

from lorasweep.data.cache import NOT_IN_TOKENS, cache_dir, cached_rows
from lorasweep.data.formats import Example
from lorasweep.data.render import TokenRow, render
from tests.changes import changed
from tests.tiny import tokenizer

EXAMPLES = [Example(prompt=p, completion=" a", options=(" a", " b"), where=f"x:{p}") for p in ("one", "two\u2028")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "my cache"))
    return tmp_path / "my cache" / "tokens"


class Counting:
    """Tokenises, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def rows(self, examples: list[Example], key: str = "k", max_length: int = 50) -> list[TokenRow]:
        def make() -> list[TokenRow]:
            self.calls += 1
            return render(examples, tokenizer(), max_length)

        return cached_rows(examples, key, max_length, make)


def test_the_second_time_reads_what_the_first_time_made() -> None:
    counting = Counting()
    assert counting.rows(EXAMPLES) == counting.rows(EXAMPLES) == render(EXAMPLES, tokenizer(), 50)
    assert counting.calls == 1


def test_a_file_that_moved_is_not_tokenised_again() -> None:
    counting = Counting()
    counting.rows(EXAMPLES)
    counting.rows([Example(prompt=e.prompt, completion=e.completion, options=e.options) for e in EXAMPLES])
    assert counting.calls == 1


def test_another_tokenizer_length_or_text_is_tokenised_anew() -> None:
    counting = Counting()
    counting.rows(EXAMPLES)
    counting.rows(EXAMPLES, key="other")
    counting.rows(EXAMPLES, max_length=3)
    counting.rows(EXAMPLES[:1])
    assert counting.calls == 4


@pytest.mark.parametrize("keep", [0, 10, -3])
def test_a_damaged_file_is_made_anew(folder: Path, keep: int) -> None:
    counting = Counting()
    rows = counting.rows(EXAMPLES)
    [file] = folder.glob("*")
    file.write_bytes(file.read_bytes()[:keep])
    assert counting.rows(EXAMPLES) == rows
    assert counting.rows(EXAMPLES) == rows
    assert counting.calls == 2


@pytest.mark.parametrize("text", [b"[]", b"{}", b'{"options":[],"rows":[[[1],[1],0,0,0,"","",false]]}', b'"x"'])
def test_a_file_of_another_shape_is_made_anew(folder: Path, text: bytes) -> None:
    import zlib

    counting = Counting()
    rows = counting.rows(EXAMPLES)
    [file] = folder.glob("*")
    file.write_bytes(zlib.compress(text))
    assert counting.rows(EXAMPLES) == rows


def test_the_cache_follows_the_users_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LORASWEEP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_dir() == Path("/somewhere/lorasweep")


@pytest.mark.parametrize(("name", "other"), list(changed(EXAMPLES[0])))
def test_every_field_of_an_example_is_tokenised_anew_or_listed_with_a_reason(
    name: str, other: Example, folder: Path
) -> None:
    for example in (EXAMPLES[0], other):
        cached_rows([example], "k", 50, list)
    assert (len(list(folder.iterdir())) == 1) == bool(NOT_IN_TOKENS.get(name))
