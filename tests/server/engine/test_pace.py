"""Many fast streams share a number of pieces a second; a slow one, or one alone, never waits."""

from contextlib import ExitStack

from hypothesis import given
from hypothesis import strategies as st

from senryu.server.engine.pace import LONGEST, PIECES, Pace


def test_one_stream_alone_tells_a_thousand_tokens_a_second_as_they_come() -> None:
    with Pace().stream() as stream:
        assert not any(stream.rest(token / 1_000) for token in range(100))


def test_streams_of_a_slow_model_never_rest() -> None:
    pace = Pace()
    with ExitStack() as opened:
        streams = [opened.enter_context(pace.stream()) for _ in range(300)]
        assert not any(
            stream.rest(step * 2 * LONGEST) for step in range(1, 20) for stream in streams
        )


@given(
    streams=st.integers(1, 190),
    gaps=st.lists(st.floats(0.0001, 0.05), min_size=5, max_size=60),
)
def test_all_streams_together_tell_no_more_pieces_than_that(
    streams: int, gaps: list[float]
) -> None:
    pace = Pace()
    with ExitStack() as opened:
        told = 0
        longest = 0.0
        for stream in [opened.enter_context(pace.stream()) for _ in range(streams)]:
            now = 1.0
            for gap in gaps:
                now += gap
                told += 1
                now += stream.rest(now)
            longest = max(longest, now - 1.0)
        # The first two of each are free: the one that a person waits for, and what comes after it.
        assert told - 2 * streams <= longest * PIECES + 1


def test_no_stream_rests_longer_than_a_reader_notices() -> None:
    pace = Pace()
    with ExitStack() as opened:
        streams = [opened.enter_context(pace.stream()) for _ in range(1_000)]
        assert not any(stream.rest(1.0) for stream in streams)
        assert all(0 < stream.rest(1.0) <= LONGEST + 1e-9 for stream in streams)


def test_streams_that_have_ended_leave_their_share_to_the_others() -> None:
    pace = Pace()
    with pace.stream():
        with ExitStack() as opened:
            for _ in range(63):
                opened.enter_context(pace.stream())
            assert pace.apart == 64 / PIECES
        assert pace.apart == 1 / PIECES
