"""Turns without an environment: what is answered is a function of the completion alone, when is as a test says."""

import time
from collections import deque

from mindrlhf_lite.turns import Restart


class ScriptedTurns:
    """After each turn `answer(request, sample, number of the turn)` is read, after so many seconds; `turns` of them.

    Args: delay, answer: of (request, sample, number of the turn); begins_again: after every second turn the completion
    goes on behind another prompt.
    """

    def __init__(self, turns=3, max_turn_tokens=4, delay=lambda *place: 0.0, answer=None, begins_again=False):
        self.turns, self.max_turn_tokens, self.delay = turns, max_turn_tokens, delay
        self.answer, self.begins_again = answer or ANSWER, begins_again
        self.numbers, self.pending, self.rooms = {}, deque(), []

    def begin(self, request, sample):
        self.numbers[request, sample] = 0

    def turn_is_over(self, request, sample, token_ids, reason, room):
        place = request, sample, self.numbers[request, sample]
        self.numbers[request, sample] += 1
        self.rooms.append(room)
        ids = self.answer(*place)
        is_last = place[2] + 1 == self.turns or len(ids) >= room
        if self.begins_again and (request + place[2]) % 2:  # behind another prompt, that knows what was written
            ids = Restart(len(token_ids), (*ids, token_ids[0]))
        self.pending.append((time.monotonic() + self.delay(*place), request, sample, () if is_last else ids))

    def take(self, waits):
        while True:
            ready = [each for each in self.pending if each[0] <= time.monotonic()]
            if ready or not waits:
                for each in ready:
                    self.pending.remove(each)
                return [each[1:] for each in ready]
            time.sleep(0.001)


def answer(request, sample, turn):
    """Two to five tokens."""
    return tuple((7 * request + 3 * sample + 11 * turn + place) % 90 for place in range(2 + (request + turn) % 4))


ANSWER = answer
