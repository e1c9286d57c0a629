"""1F1B as data: it computes everything once, never deadlocks with blocking messages, and keeps few inputs."""

import pytest

from mindrlhf_lite.parallel.pipeline_schedule import Action, Work, one_forward_one_backward


@pytest.mark.parametrize("stages", range(1, 9))
@pytest.mark.parametrize("microbatches", [1, 2, 3, 4, 7, 8, 16])
def test_blocking_messages_never_deadlock(stages, microbatches):
    """Simulates rendezvous: a message passes only when sender and receiver both stand at it."""
    queues = [one_forward_one_backward(stage, stages, microbatches) for stage in range(stages)]
    at, kept, most = [0] * stages, [0] * stages, [0] * stages
    while any(at[s] < len(queues[s]) for s in range(stages)):
        moved = False
        for s in range(stages):
            while at[s] < len(queues[s]):
                action = queues[s][at[s]]
                partner = {
                    Work.SEND_OUTPUT: (1, Work.RECEIVE_INPUT),
                    Work.SEND_GRADIENT: (-1, Work.RECEIVE_GRADIENT),
                }.get(action.work)
                if action.work in (Work.RECEIVE_INPUT, Work.RECEIVE_GRADIENT):
                    break  # passes when the sender gets there
                if partner is not None:
                    other = s + partner[0]
                    if at[other] >= len(queues[other]) or queues[other][at[other]] != Action(
                        partner[1], action.microbatch
                    ):
                        break
                    at[other] += 1
                    if partner[1] is Work.RECEIVE_INPUT:
                        kept[other] += 1
                        most[other] = max(most[other], kept[other])
                elif action.work is Work.FORWARD and s == 0:
                    kept[0] += 1
                    most[0] = max(most[0], kept[0])
                elif action.work is Work.BACKWARD:
                    kept[s] -= 1
                at[s] += 1
                moved = True
        assert moved, [queue[i] if i < len(queue) else None for queue, i in zip(queues, at)]
    for s, queue in enumerate(queues):
        for work, present in (
            (Work.FORWARD, s < stages - 1),
            (Work.BACKWARD, True),
            (Work.RECEIVE_INPUT, s > 0),
            (Work.SEND_OUTPUT, s < stages - 1),
            (Work.RECEIVE_GRADIENT, s < stages - 1),
            (Work.SEND_GRADIENT, s > 0),
        ):
            assert [a.microbatch for a in queue if a.work is work] == (list(range(microbatches)) if present else [])
        assert most[s] <= min(stages - s, microbatches)


def test_two_stages_by_hand():
    work = [(a.work.name, a.microbatch) for a in one_forward_one_backward(0, 2, 2)]
    assert work == [
        ("FORWARD", 0),
        ("SEND_OUTPUT", 0),
        ("FORWARD", 1),
        ("RECEIVE_GRADIENT", 0),
        ("SEND_OUTPUT", 1),
        ("BACKWARD", 0),
        ("RECEIVE_GRADIENT", 1),
        ("BACKWARD", 1),
    ]
