"""The folder of a search: whose it is, and what may go on in it."""

import pytest

from edgemm.errors import OutputError
from edgemm.pipeline.searching import place

HERE = {"recipe": ["prune"], "seed": 0}
ELSEWHERE = {**HERE, "device": "ssh://nvidia@orin"}


def test_a_search_that_tried_nothing_yet_gives_way_to_the_mended_one(tmp_path):
    with pytest.raises(ConnectionError), place.taken(tmp_path, {**ELSEWHERE, "recipe": ["mistaken"]}):
        raise ConnectionError
    with place.taken(tmp_path, HERE):
        (tmp_path / place.JOURNAL).write_text("")
    with pytest.raises(OutputError, match=r"holds another search(.|\n)*recipe"), place.taken(tmp_path, {**HERE, "recipe": ["other"]}):
        pass


@pytest.mark.parametrize(("before", "now"), [(HERE, ELSEWHERE), (ELSEWHERE, HERE)])
def test_times_of_a_board_and_of_this_machine_are_not_mixed(before, now, tmp_path):
    with place.taken(tmp_path, before):
        (tmp_path / place.JOURNAL).write_text("")
    with pytest.raises(OutputError, match=r"with other values of: device"), place.taken(tmp_path, now):
        pass


def test_two_searches_do_not_share_a_folder(tmp_path):
    with place.taken(tmp_path, HERE), pytest.raises(OutputError, match="another search runs in"), place.taken(tmp_path, HERE):
        pass
