"""What each visitor looks at: changes count at once, and nobody undoes what came later."""

import pytest

from slugdemo.errors import SlugError
from slugdemo.ui import visitors
from slugdemo.ui.view import View
from slugdemo.ui.visitors import Visitors

CAT, DOG = View("pocket-clip", "cat"), View("pocket-clip", "dog")


def refuse(_view: View) -> View:
    raise SlugError("No.")


def test_what_comes_next_starts_from_the_last_change_and_earlier_work_cannot_undo_it() -> None:
    all_of_them = Visitors()
    assert all_of_them.view("me") == View()
    assert all_of_them.begin("me", "first", lambda _nothing: CAT) is CAT
    all_of_them.put("me", "first", DOG)
    assert all_of_them.begin("me", "second") is DOG
    all_of_them.put("me", "first", CAT)
    assert all_of_them.view("me") is DOG
    all_of_them.put("me", "second", CAT)
    assert all_of_them.view("me") is CAT


def test_visitors_are_apart_and_a_refused_change_changes_nothing() -> None:
    all_of_them = Visitors()
    all_of_them.begin("me", 1, lambda _nothing: CAT)
    all_of_them.begin("you", 1, lambda _nothing: DOG)
    with pytest.raises(SlugError):
        all_of_them.begin("me", 2, refuse)
    assert (all_of_them.view("me"), all_of_them.view("you")) == (CAT, DOG)


def test_who_did_nothing_for_the_longest_time_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitors, "REMEMBERED", 2)
    all_of_them = Visitors()
    for name in ("a", "b", "a", "c"):
        all_of_them.begin(name, None, lambda _before: CAT)
    assert [all_of_them.view(name) for name in "abc"] == [CAT, View(), CAT]
