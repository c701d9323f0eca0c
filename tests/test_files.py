"""Readers see the old or the new content, never a part."""

import json
from pathlib import Path

import pytest

from lorasweep.core.files import is_secret_name, provision, redact, redact_values, write_bytes, write_json, write_text


def test_folders_are_made_where_needed(tmp_path: Path) -> None:
    write_text(tmp_path / "my runs" / "é.txt", "ü")
    assert (tmp_path / "my runs" / "é.txt").read_bytes() == "ü".encode()


def test_a_write_that_fails_leaves_the_old_content_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("no space left on device")))
        with pytest.raises(OSError, match="no space left"):
            write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_keeps_the_order_of_its_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": 2})
    assert list(json.loads((tmp_path / "a").read_text()).items()) == [("b", 1), ("a", 2)]


def test_a_file_can_be_read_by_whom_the_folder_allows(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_database_is_made_once(tmp_path: Path) -> None:
    made = []

    def create(path: Path) -> None:
        made.append(path)
        path.write_text("data")

    for _ in range(2):
        provision(tmp_path / "new folder" / "a.db", create)
    assert len(made) == 1
    assert (tmp_path / "new folder" / "a.db").read_text() == "data"


def test_a_database_that_fails_half_way_is_not_there(tmp_path: Path) -> None:
    def create(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        provision(tmp_path / "a.db", create)
    assert not list(tmp_path.iterdir())


def test_a_database_that_another_process_made_meanwhile_stays(tmp_path: Path) -> None:
    def create(path: Path) -> None:
        path.write_text("ours")
        (tmp_path / "a.db").write_text("theirs")

    provision(tmp_path / "a.db", create)
    assert (tmp_path / "a.db").read_text() == "theirs"


SECRETS = (
    "HF_TOKEN", "GITHUB_PAT", "OPENAI_API_KEY", "WANDB_API_KEY", "STRIPE_KEY", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD",
    "PGPASS", "MYSQL_PWD", "SENTRY_DSN", "SLACK_WEBHOOK_URL", "SESSION_COOKIE", "BEARER", "JWT", "AUTH_JWT",
    "SSH_PASSPHRASE", "DATABASE_URL", "CLIENT_SECRET", "MLFLOW_TRACKING_PASSWORD", "GOOGLE_CREDENTIALS", "DB_PASS",
    "SSH_PRIVATE_KEY", "PASSWD", "registry_auth", "AZURE_STORAGE_CONNECTION_STRING",
)  # fmt: skip
NO_SECRETS = ("PATH", "HOME", "TOKENIZERS_PARALLELISM", "KEYBOARD", "PATTERN", "COMPASS", "max_new_tokens", "MONKEY")


@pytest.mark.parametrize("name", SECRETS)
def test_the_usual_names_of_secrets_are_known(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "Canary/Q7xZ")
    assert redact_values("say Canary/Q7xZ twice") == "say *** twice"


@pytest.mark.parametrize("name", NO_SECRETS)
def test_names_that_only_contain_such_words_are_none(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "line", ["  max_new_tokens: 32", "end_token: false", "    pad_token: <pad>", "  max_new_tokens: 16,32", "tokens: a"]
)
def test_settings_that_only_contain_the_word_token_stay(line: str) -> None:
    assert redact(line) == line


def test_settings_that_are_named_like_secrets_are_hidden() -> None:
    assert redact("hub.api_token: abc\nPASSWORD=x") == "hub.api_token: ***\nPASSWORD=***"
