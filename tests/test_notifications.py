"""Notifications: a real webhook and a real mailbox get them; one that is down is a sentence, without what is secret in its address."""

from __future__ import annotations

import pytest
from hooks import mailbox, webhook

from segkit.errors import NotificationError
from segkit.notifications import check, masked, send

DOWN = "http://me:hunter2@127.0.0.1:1/token-abc?key=xyz"


def test_a_webhook_is_told_in_json() -> None:
    with webhook() as hook:
        assert send(hook.url, "Batch 7 failed", "In [3] 1 / 0", well=False) is None
    (message,) = hook.received
    assert (message["title"], message["message"], message["type"]) == ("Batch 7 failed", "In [3] 1 / 0", "failure")


def test_mail_is_sent() -> None:
    with mailbox() as box:
        assert send(box.url, "Batch 7 failed", "In [3] 1 / 0 für Zellen", well=False) is None
    (message,) = box.received
    text = message.get_body(("plain", "html"))
    assert text is not None
    assert (message["Subject"], message["To"]) == ("Batch 7 failed", "lab@example.org")
    assert "In [3] 1 / 0 für Zellen" in text.get_content()


@pytest.mark.parametrize("answer", [500, 404])
def test_a_webhook_that_refuses_is_a_fault(answer: int) -> None:
    with webhook(answer) as hook:
        fault = send(hook.url, "t", "b", well=True)
    assert fault is not None
    assert "could not be notified" in fault
    assert str(answer) in fault


def test_a_webhook_that_is_down_is_a_fault_without_its_secrets() -> None:
    fault = send(DOWN, "t", "b", well=True)
    assert fault is not None
    assert fault.startswith("http://127.0.0.1:1/… could not be notified")
    assert not [secret for secret in ("hunter2", "token-abc", "xyz") if secret in fault]


@pytest.mark.parametrize("url", ["", "nonsense", "json://", "planet://x/y", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(NotificationError, match="webhook"):
        check(url)
    assert "cannot be notified" in (send(url, "t", "b", well=True) or "")


def test_addresses_of_many_kinds_are_taken() -> None:
    for url in (
        "https://host/hook",
        "json://host",
        "mailto://user:password@example.org",
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
    ):
        check(url)
        assert "password" not in masked(url)
