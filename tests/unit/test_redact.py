"""What is kept and shown holds no secret and names no user."""

import os

import pytest

from pytest_energy.safety import redact


@pytest.fixture(autouse=True)
def no_secrets_of_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in filter(redact.says_secret, list(os.environ)):
        monkeypatch.delenv(name)


@pytest.mark.parametrize("name", ["HF_TOKEN", "api-key", "ssh.key", "db password", "Authorization"])
def test_names_of_secrets(name: str) -> None:
    assert redact.says_secret(name) is True


@pytest.mark.parametrize("name", ["max_num_batched_tokens", "keyboard", "tokenizer", ""])
def test_names_of_other_settings(name: str) -> None:
    assert redact.says_secret(name) is False


@pytest.mark.parametrize(
    "arguments",
    [
        {"api-key": "x"},
        {"override": [{"HF_TOKEN": "x"}]},
        {"nested": {"deeper": ({"secret": 1},)}},
        {"endpoint": "https://me:word@host/"},
    ],
)
def test_secrets_among_settings_are_refused(arguments: dict[str, object]) -> None:
    said = redact.complaint(arguments, "the marker")
    assert said is not None
    assert said.startswith("the marker: ")
    assert " looks like a secret, and engine settings are kept in recordings" in said


def test_the_setting_is_named_as_vllm_names_it() -> None:
    assert "the marker: api_key looks like" in (
        redact.complaint({"API-KEY": "x"}, "the marker") or ""
    )


def test_plain_settings_are_not_refused() -> None:
    assert redact.complaint({"max_num_seqs": 8, "link": "https://host/@x", "n": [1]}, "m") is None


def test_settings_that_could_not_be_read_back_are_refused() -> None:
    assert redact.complaint({"x": "a" * 10**6}, "the marker") == (
        "the marker: a recording with it could not be read back: "
        "it holds a text of more than 10,000 characters. Give plain, short values."
    )


@pytest.mark.parametrize(
    ("name", "asks"),
    [
        ("trust_remote_code", True),
        ("trust-remote-code", True),
        ("trust_rem", True),  # vLLM completes what is unambiguous
        ("trust_remote_code_revision", True),
        ("trust", True),
        ("trusted", False),
        ("code", False),
    ],
)
def test_a_model_s_code(name: str, asks: bool) -> None:
    assert redact.asks_for_remote_code({"override": {name: True}}) is asks


def test_secrets_of_the_environment_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "abcdef")
    monkeypatch.setenv("LONGER_TOKEN", "abcdefgh")
    monkeypatch.setenv("SHORT_TOKEN", "vllm5")
    monkeypatch.setenv("SOME_PATH", "plainly")
    text = "abcdefgh abcdef vllm5 plainly https://me:word@host/a"
    assert redact.secrets(text) == "*** *** vllm5 plainly https://***@host/a"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:word@host:8000/v1?key=x#y", "http://host:8000/v1"),
        ("http://a@b@host/", "http://host/"),
        ("http://[broken", "(an unreadable URL)"),
    ],
)
def test_urls(text: str, shown: str) -> None:
    assert redact.url(text) == shown


def test_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    text = "/home/me/x /home/mean/x /home/me"
    assert redact.home(text) == "~/x /home/mean/x ~"
    monkeypatch.setenv("HOME", "/")
    assert redact.home(text) == text


def test_paths_are_kept_by_their_last_part() -> None:
    kept = redact.paths({"a": ["/x/y", "~/z"], "b": "meta/llama", "c": "/", "d": 1})
    assert kept == {"a": ["y", "z"], "b": "meta/llama", "c": "/", "d": 1}
