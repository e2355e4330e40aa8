"""What goes on to the next round."""

from edgemm.contracts.search_parts import Tried
from edgemm.pipeline.searching.driver import distinct


def test_the_same_recipe_goes_on_once():
    trials = [Tried("a", recipe={"steps": [1]}), Tried("b", recipe={"steps": [2]}), Tried("c", recipe={"steps": [1]})]
    assert [tried.name for tried in distinct(trials)] == ["a", "b"]
