// A card for every run: state, phase, progress, estimate, newest figures, memory, warnings.

import { clock, figure, make, percent, word } from "./page.js";

let shown = "";

function facts(newest) {
  const memory = newest["memory/rss_gb"];
  const gib = (value) => `${figure(value, 3)} GiB`;
  const rows = [
    ["reward", newest["reward/mean"], figure],
    ["correct", newest["reward/outcome/correct"], percent],
    ["accuracy", newest["eval/accuracy"], percent],
    ["loss", newest["loss/total"], figure],
    ["tokens", newest["completion/mean_tokens"], figure],
    ["speed", newest["speed/generated_tokens_per_s"], (value) => figure(value, 3)],
    ["memory", memory, (value) => `${gib(value)} (${word("peak")} ${gib(newest["memory/peak_rss_gb"])})`],
    ["host", newest["host/memory_used_share"], percent],
  ];
  const list = make("dl");
  for (const [key, value, form] of rows) {
    if (value !== undefined) list.append(make("div", key === "memory" ? "wide" : "", make("dt", "", word(key)), make("dd", "", form(value))));
  }
  return list;
}

// What the first rank noted, such as "step 12, generate, compiling".
function phase(text) {
  const found = /^step (\d+), (.*)$/.exec(text);
  if (!found) return text;
  const known = (name) => (word(`phase_${name}`) === `phase_${name}` ? name : word(`phase_${name}`));
  return word("phase", { step: found[1], name: found[2].split(", ").map(known).join(", ") });
}

function progress(run) {
  const bar = make("progress");
  bar.max = Math.max(1, run.last_step);
  bar.value = run.step;
  const parts = [word("step_of", { step: run.step, last: run.last_step }), phase(run.phase)];
  if (run.state === "running") {
    parts.push(run.left_s === null ? word("measuring") : word("left", { time: clock(run.left_s) }));
  }
  if (run.state !== "finished" && run.age_s !== null) parts.push(word("age", { time: clock(run.age_s) }));
  return [bar, make("p", "note", parts.filter(Boolean).join(" · "))];
}

function concern(each) {
  const key = each.first_step === each.last_step ? "at_step" : "at_steps";
  const values = { first: each.first_step, last: each.last_step, text: each.text };
  return make("p", each.is_over ? "warning over" : "warning", word(key, values));
}

function card(run) {
  const name = make("h3", "", run.name, make("span", `state ${run.state}`, word(run.state)));
  const element = make("section", "run", name, ...progress(run), facts(run.newest));
  element.style.borderLeftColor = run.colour;
  for (const text of run.damages) element.append(make("p", "warning", word("damaged", { text })));
  const now = run.concerns.filter((each) => !each.is_over);
  const over = run.concerns.filter((each) => each.is_over);
  element.append(...now.map(concern));
  if (!run.concerns.length) element.append(make("p", "note", word("no_warnings")));
  element.append(...over.slice(0, 5).map(concern));
  return element;
}

export function showRuns(runs, isForced) {
  const text = JSON.stringify(runs);
  if (text === shown && !isForced) return;
  shown = text;
  document.getElementById("runs").replaceChildren(...runs.map(card));
}
