"""Names in ids, topics and files."""

import itertools

import pytest

from edgemm.contracts.slugs import slug, slugs


@pytest.mark.parametrize("name", ["glass", "dog_barking", "Person", "glass break", "c++", "dog (barking)"])
def test_a_name_of_ascii_alone_keeps_the_slug_it_always_had(name):
    old = {"glass break": "glass_break", "c++": "c", "dog (barking)": "dog_barking"}
    assert slugs([name, "other"])[name] == slug(name) == old.get(name, name)


ALIKE = "玻璃,狗,人,🐕,🐈,c,c++,c#,A,a,ä,+,#,/,x,a/b,a_b,a b,a+b,STRASSE,straße,".split(",")  # noqa: SIM905  # read at a glance


def test_no_two_names_share_a_slug_and_none_holds_what_a_topic_forbids():
    found = slugs(ALIKE)
    assert len({word.lower() for word in found.values()}) == len(ALIKE)
    assert all(set(word) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") and word for word in found.values())


def test_order_does_not_matter_and_a_name_that_is_a_slug_keeps_it():
    for order in itertools.permutations(["c", "c++", "c#", "玻璃"]):
        assert slugs(order) == slugs(["c", "c++", "c#", "玻璃"])
    assert slugs(["c++", "c"])["c"] == "c"
    assert slugs(["A", "a"])["a"] == "a"
    assert slugs(["玻璃"])["玻璃"] == slugs(ALIKE)["玻璃"]


def test_a_slug_that_is_taken_is_left_alone():
    assert slugs(["scene"], taken=["Scene"])["scene"] != "scene"
    hashed = slug("玻璃")
    assert len(set(slugs(["玻璃", hashed]).values())) == 2
