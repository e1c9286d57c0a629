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

function progress(run) {
  const bar = make("progress");
  bar.max = Math.max(1, run.last_step);
  bar.value = run.step;
  const parts = [`${word("step")} ${run.step} ${word("of")} ${run.last_step}`];
  if (run.phase) parts.push(`${word("phase")}: ${run.phase}`);
  if (run.state === "running") parts.push(run.left_s === null ? word("measuring") : `${word("left")} ${clock(run.left_s)}`);
  if (run.state !== "finished" && run.age_s !== null) parts.push(`${word("newest")}: ${clock(run.age_s)} ${word("ago")}`);
  return [bar, make("p", "note", parts.join(" · "))];
}

function concern(each) {
  const steps = each.first_step === each.last_step ? each.last_step : `${each.first_step}-${each.last_step}`;
  return make("p", each.is_over ? "warning over" : "warning", `${word("steps")} ${steps}: ${each.text}`);
}

function card(run) {
  const name = make("h3", "", run.name, make("span", `state ${run.state}`, word(run.state)));
  const element = make("section", "run", name, ...progress(run), facts(run.newest));
  element.style.borderLeftColor = run.colour;
  for (const text of run.damages) element.append(make("p", "warning", `${word("damaged")}: ${text}`));
  const now = run.concerns.filter((each) => !each.is_over);
  const over = run.concerns.filter((each) => each.is_over);
  element.append(...now.map(concern));
  if (!run.concerns.length) element.append(make("p", "note", `${word("warnings")}: ${word("none")}`));
  element.append(...over.slice(0, 5).map(concern));
  return element;
}

export function showRuns(runs, isForced) {
  const text = JSON.stringify(runs);
  if (text === shown && !isForced) return;
  shown = text;
  document.getElementById("runs").replaceChildren(...runs.map(card));
}
