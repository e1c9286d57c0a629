"""An engine whose policy says what a test wants, turn by turn: RolloutEngine without a model."""

from dataclasses import replace

import numpy as np

from mindrlhf_lite.turns import Restart
from mindrlhf_lite.types import Completion, FinishReason


class ScriptedEngine:
    """Args: says: (request, sample) -> its texts; each ends with `stop`, unless it is cut at max_turn_tokens."""

    cache_length = 4096

    def __init__(self, encode, says, stop):
        self.encode, self.says, self.stop = encode, says, stop

    def generate(self, requests, sampling, progress=None, on_token=None, *, turns):
        self.requests, self.restarts = requests, {}
        places = [(index, sample) for index, request in enumerate(requests) for sample in range(request.num_samples)]
        states = {place: [iter(self.says(*place)), [], [], None] for place in places}
        for place in places:
            turns.begin(*place)
            self._say(place, states[place], sampling, on_token, turns)
        left = set(places)
        while left:
            for index, sample, ids in turns.take(waits=True):
                state = states[index, sample]
                if isinstance(ids, Restart):
                    assert ids.start == len(state[1])
                    self.restarts.setdefault((index, sample), []).append(ids)
                else:
                    state[1] += ids
                    state[2] += [False] * len(ids)
                if ids:
                    self._say((index, sample), state, sampling, on_token, turns)
                else:
                    left.remove((index, sample))
        return [
            [
                replace(self._completion(states[index, sample]), restarts=tuple(self.restarts.get((index, sample), ())))
                for sample in range(request.num_samples)
            ]
            for index, request in enumerate(requests)
        ]

    def _say(self, place, state, sampling, on_token, turns):
        ids = [*self.encode(next(state[0])), self.stop]
        room = min(sampling.max_tokens - len(state[1]), turns.max_turn_tokens or sampling.max_tokens)
        own = ids[:room]
        state[1] += own
        state[2] += [True] * len(own)
        state[3] = FinishReason.STOP if own[-1] == self.stop else FinishReason.LENGTH
        for token in own:
            if on_token:
                on_token(*place, token)
        turns.turn_is_over(*place, state[1], state[3], sampling.max_tokens - len(state[1]))

    @staticmethod
    def _completion(state):
        zeros = np.zeros(len(state[1]), np.float32)
        return Completion(tuple(state[1]), zeros, zeros, state[3], np.array(state[2], bool))
