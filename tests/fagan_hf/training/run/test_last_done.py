from fagan_hf.training.run.last_done import LastDone


def test_nothing_is_current_before_it_was_done():
    assert not LastDone().is_current("drawn", 0)


def test_what_was_done_is_current_until_another_image():
    last_done = LastDone()
    last_done.note("drawn", 8)
    assert last_done.is_current("drawn", 8)
    assert not last_done.is_current("drawn", 12)
    assert not last_done.is_current("drawn", 4), "a run that was rolled back is before it"
    last_done.note("drawn", 12)
    assert last_done.is_current("drawn", 12)
    assert not last_done.is_current("drawn", 8), "only the last time counts"


def test_each_thing_counts_for_itself():
    last_done = LastDone()
    last_done.note("drawn", 8)
    assert not last_done.is_current("shown", 8)
    last_done.note("shown", 12)
    assert last_done.is_current("drawn", 8)
    assert not last_done.is_current("shown", 8)


def test_what_is_forgotten_has_to_be_done_again_and_the_rest_stays():
    last_done = LastDone()
    for what in ("drawn", "shown", "evaluated"):
        last_done.note(what, 8)
    last_done.forget("drawn", "shown", "never done")
    assert [last_done.is_current(what, 8) for what in ("drawn", "shown", "evaluated")] == [False, False, True]
    last_done.note("drawn", 8)
    assert last_done.is_current("drawn", 8)


def test_two_sessions_share_nothing():
    one, other = LastDone(), LastDone()
    one.note("drawn", 8)
    assert not other.is_current("drawn", 8)
