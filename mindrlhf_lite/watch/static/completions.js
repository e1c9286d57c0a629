// A step's completions by reward, and two checkpoints' answers side by side.

import { button, choice, get, go, make, percent, word } from "./page.js";
import { completion, question } from "./texts.js";

let seen = "";

function parts(name) {
  const main = document.getElementById(name);
  return { controls: main.querySelector(".controls"), rows: main.querySelector(".rows") };
}

// Rows page by page; more(start) gives {count, rows}.
async function fill(box, more, element, first) {
  const found = first ?? (await more(box.childElementCount));
  box.append(...found.rows.map((row) => element(row, found)));
  if (box.childElementCount < found.count) {
    const next = button(`${word("more")} (${found.count - box.childElementCount})`, () => {
      next.remove();
      fill(box, more, element);
    });
    box.append(next);
  }
}

function runChoice(runs, label, value, change) {
  return choice(label, runs.map((run, place) => [place, run.name]), value, change);
}

export async function showCompletions(runs, values, isForced) {
  const run = Number(values.get("run") || 0);
  const order = values.get("order") || "best";
  const steps = (await get("steps", { run })).step;
  const isFollowing = !values.get("step");
  const step = isFollowing ? steps[steps.length - 1] : Number(values.get("step"));
  const now = JSON.stringify(["step", run, order, step, steps.length]);
  if (now === seen && !isForced) return;
  const { controls, rows } = parts("completions");
  const with_ = (changed) => go("completions", { run, order, ...(isFollowing ? {} : { step }), ...changed });
  const place = steps.indexOf(step);
  const orders = ["best", "worst", "grouped"].map((each) => [each, word(each)]);
  controls.replaceChildren(
    runChoice(runs, word("run"), run, (value) => go("completions", { run: value, order })),
    choice(word("step"), steps.map((each) => [each, each]), step, (value) => with_({ step: value })),
    button(word("older"), () => with_({ step: steps[place - 1] }), place <= 0),
    button(word("newer"), () => with_({ step: steps[place + 1] }), place < 0 || place + 1 >= steps.length),
    button(word("follow"), () => go("completions", { run, order }), isFollowing),
    choice(word("order"), orders, order, (value) => with_({ order: value })),
  );
  if (step === undefined) {
    rows.replaceChildren(make("p", "note", word("no_completions")));
  } else {
    const more = (start) => get("completions", { run, step, order, start });
    const first = await more(0);
    rows.replaceChildren();
    await fill(rows, more, (row, found) => completion(row, found.largest_advantage), first);
  }
  seen = now;
}

export async function showCompared(runs, values, isForced) {
  const number = (name, otherwise) => (values.get(name) === null ? otherwise : Number(values.get(name)));
  const run = [number("run_a", 0), number("run_b", number("run_a", 0))];
  const steps = await Promise.all(run.map(async (each) => (await get("steps", { run: each })).eval));
  const step = [number("step_a", steps[0][0]), number("step_b", steps[1][steps[1].length - 1])];
  const show = values.get("show") || "all";
  const now = JSON.stringify(["eval", run, step, steps.map((each) => each.length), show]);
  if (now === seen && !isForced) return;
  const { controls, rows } = parts("compare");
  const counts = document.getElementById("counts");
  if (step.includes(undefined)) {
    controls.replaceChildren();
    counts.textContent = "";
    rows.replaceChildren(make("p", "note", word("no_evaluations")));
    seen = now;
    return;
  }
  const asked = { run_a: run[0], step_a: step[0], run_b: run[1], step_b: step[1], show };
  const with_ = (changed) => go("compare", { ...asked, ...changed });
  const more = (start) => get("compare", { ...asked, start });
  const found = await more(0);
  const side = (place, letter, label) => [
    runChoice(runs, label, run[place], (value) => go("compare", { ...asked, [`run_${letter}`]: value })),
    choice(word("step"), steps[place].map((each) => [each, each]), step[place], (value) => with_({ [`step_${letter}`]: value })),
  ];
  const shows = ["all", "changed", "better", "worse"].map((each) => [each, `${word(each)} (${found.counts[each]})`]);
  controls.replaceChildren(
    ...side(0, "a", word("left_side")),
    ...side(1, "b", word("right_side")),
    choice(word("show"), shows, show, (value) => with_({ show: value })),
  );
  const [before, after] = found.shares.map(percent);
  counts.textContent = word("common", { count: found.counts.all, before, after });
  const titles = [0, 1].map((place) => word("answers_of", { run: runs[run[place]].name, step: step[place] }));
  rows.replaceChildren();
  await fill(rows, more, (row) => question(row, titles), found);
  seen = now;
}
