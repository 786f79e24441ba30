"""How much is asked of a device at once: found by trying, and then kept."""

from __future__ import annotations

from reasoning_guard.effort import Effort


def test_the_budget_is_found_by_trying_and_then_kept() -> None:
    """A device that saturates at 4,000 tokens a pass and is slower with more than 5,000: 4,096 stays."""
    effort = Effort(1024, trying=True)
    for _ in range(12):
        sizes = [100] * (effort.tokens // 100)
        effort.learn(sizes, seconds=max(4_000, sum(sizes) * (1.1 if sum(sizes) > 5_000 else 1)) / 1e6)
    assert (effort.tokens, effort.trying) == (4096, False)
    effort.learn([100] * 40, seconds=1e-9)
    assert effort.tokens == 4096


def test_a_budget_that_is_as_fast_is_taken_since_the_next_batch_is_made_ready_meanwhile() -> None:
    effort = Effort(1024, trying=True)
    for _ in range(20):
        sizes = [100] * (effort.tokens // 100)
        effort.learn(sizes, seconds=sum(sizes) / 1e6)
    assert (effort.tokens, effort.trying) == (16_384, False)


def test_budgets_are_compared_on_traces_of_a_length() -> None:
    """Tokens of long traces take longer: a larger budget that has met them first would look as if it did not pay."""
    effort = Effort(1024, trying=True)

    def read(length: int) -> None:
        sizes = [length] * max(1, effort.tokens // length)
        effort.learn(sizes, seconds=(1e3 + sum(sizes) * (1 + length / 50)) / 1e6)

    read(100)
    assert (effort.tokens, effort.proven) == (1024, 1024), "the first of a size is not timed"
    read(100)
    assert (effort.tokens, effort.proven) == (2048, 1024)
    read(1000)
    read(1000)
    assert (effort.tokens, effort.proven, effort.trying) == (1024, 1024, True), "timed again, at what is proven"
    read(1000)
    assert (effort.tokens, effort.proven, effort.trying) == (2048, 1024, True)


def test_lengths_that_never_are_alike_end_the_search() -> None:
    effort = Effort(1024, trying=True)
    for i in range(12):
        length = 100 * 2 ** (i % 4)
        effort.learn([length] * max(1, effort.tokens // length), seconds=1.0)
    assert (effort.tokens, effort.trying) == (1024, False)


def test_batches_that_do_not_fill_the_budget_teach_nothing() -> None:
    effort = Effort(1024, trying=True)
    effort.learn([100] * 3, seconds=1.0)
    assert (effort.tokens, effort.trying, effort.proven) == (1024, True, 1024)
    effort.learn([400, 400], seconds=9.0)
    assert (effort.tokens, effort.proven) == (1024, 1024)
    effort.learn([400, 400], seconds=1.0)
    assert effort.tokens == 2048
    effort.shrink([400, 400], shared=True)
    assert (effort.tokens, effort.trying) == (400, False)
