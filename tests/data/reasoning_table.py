"""Tries all of reasoning-gym's data sets: whether rows can be made, and whether its scorer, as reasoning_gym_reward
asks it, finds the gold answer right and a wrong one wrong. Writes a table.

  python tests/data/reasoning_table.py > tests/data/reasoning_table.md
"""

import multiprocessing
import os
import time

from mindrlhf_lite.data.reasoning_tasks import ANY, Mixture, settings_of
from mindrlhf_lite.errors import UserError
from mindrlhf_lite.rewards.reasoning import ENTRY, reasoning_gym, reasoning_gym_reward
from mindrlhf_lite.types import CompletionView, Outcome

SECONDS = 20  # that a data set may take
ROWS, WRONG = 10, "surely not"


def tried(task):
    """(usable, a line of the table)."""
    started = time.perf_counter()
    try:
        ((_, rows),) = Mixture([task], None, ROWS).rows()
        found = list(rows)
    except UserError as error:
        return False, f"| {task} | no | {str(error).partition(': ')[2][:100]} | |"
    golds = wrong = 0
    has_golds = found[0]["answer"] != ANY
    for row in found:
        given = (f"<answer>{row['answer']}</answer>", WRONG)
        views = [CompletionView(text, columns={ENTRY: row[ENTRY]}) for text in given]
        scores = [reasoning_gym_reward(view, row["answer"]) for view in views]
        golds += scores[0].outcome is Outcome.CORRECT or not has_golds
        wrong += scores[1].outcome is Outcome.CORRECT
    seconds = time.perf_counter() - started
    why = [f"{ROWS - golds} of {ROWS} gold answers are not found right"] if golds < ROWS else []
    why += [f"any text is found right in {wrong} of {ROWS}"] if wrong else []
    longest = max(len(row["question"]) for row in found)
    unseen = "" if has_golds else "; without gold answers"
    note = "; ".join(why) or f"{longest} characters, {1000 * seconds / ROWS:.0f} ms a row{unseen}"
    return not why, f"| {task} | {'no' if why else 'yes'} | {note} | {num_levels(task)} |"


def num_levels(task):
    try:
        settings_of(task, 0)
    except UserError:
        return ""
    curriculum = reasoning_gym().factory.create_curriculum(task)
    return max(len(attribute.levels) for attribute in curriculum.attributes.values())


def tell(connection, task):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # some print
    connection.send(tried(task))


def table():
    """(data sets that are usable, lines of the table)."""
    context, found = multiprocessing.get_context("fork"), {}
    for task in sorted(reasoning_gym().factory.DATASETS):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=tell, args=(theirs, task), daemon=True)
        process.start()
        found[task] = ours.recv() if ours.poll(SECONDS) else (False, f"| {task} | no | takes over {SECONDS} s | |")
        process.kill()
    return [task for task, (usable, _) in found.items() if usable], [line for _, line in found.values()]


def main():
    usable, lines = table()
    print(f"# reasoning-gym's data sets\n\n{len(usable)} of {len(lines)} are usable as they are.")
    print("Made by `tests/data/reasoning_table.py`.\n")
    print("| data set | usable | longest question, time; or why not | levels |\n| --- | --- | --- | --- |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
