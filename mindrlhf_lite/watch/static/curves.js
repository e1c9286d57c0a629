// Curves of the chosen metrics, a chart each, a line a run; drawn by uPlot.

import { figure, get, make, word } from "./page.js";

const charts = new Map(); // by metric: {chart, box, gaps}
let chosen = JSON.parse(localStorage.getItem("metrics") || "null");
let versions = "";
let listed = "";

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function widthOf(box) {
  return Math.max(200, box.clientWidth - 14);
}

function newChart(key, runs) {
  const box = make("figure", "curve", make("h3", "", key));
  const gaps = make("p", "note");
  document.getElementById("curves").append(box);
  const axis = { stroke: colour("--faint"), grid: { stroke: colour("--line"), width: 0.5 }, ticks: { stroke: colour("--line") } };
  const lines = runs.map((run) => ({
    label: run.name.slice(-40),
    stroke: run.colour,
    width: 1.5,
    value: (_, value) => figure(value),
  }));
  const options = {
    width: widthOf(box),
    height: 210,
    scales: { x: { time: false } },
    cursor: { sync: { key: "steps" } },
    axes: [{ ...axis }, { ...axis, size: 58, values: (_, ticks) => ticks.map((each) => figure(each)) }],
    series: [{ label: word("step") }, ...lines],
  };
  const chart = new uPlot(options, [[], ...runs.map(() => [])], box);
  box.append(gaps);
  charts.set(key, { chart, box, gaps });
}

function draw(key, runs, lines) {
  const { chart, gaps } = charts.get(key);
  const tables = lines.map((line) => [line.steps, line.values]);
  const joined = tables.length > 1 ? uPlot.join(tables) : tables[0];
  const { min, max } = chart.scales.x;
  const before = chart.data[0];
  const isZoomed = before.length > 1 && (min > before[0] || max < before[before.length - 1]); // by dragging
  chart.setData(joined, !isZoomed);
  if (isZoomed) chart.setScale("x", { min, max });
  const lost = lines.reduce((sum, line) => sum + line.gaps, 0);
  gaps.textContent = lost ? word("gaps", { count: lost }) : "";
}

function dropAll() {
  for (const { chart, box } of charts.values()) {
    chart.destroy();
    box.remove();
  }
  charts.clear();
}

function listMetrics(keys, redraw) {
  const search = document.getElementById("search");
  search.placeholder = word("search");
  const wanted = search.value.toLowerCase();
  const text = JSON.stringify([keys, wanted, chosen]);
  if (text === listed) return;
  listed = text;
  const rows = keys.filter((key) => key.toLowerCase().includes(wanted)).slice(0, 400).map((key) => {
    const box = make("input");
    box.type = "checkbox";
    box.checked = chosen.includes(key);
    box.addEventListener("change", () => {
      chosen = box.checked ? [...chosen, key].slice(-24) : chosen.filter((each) => each !== key);
      localStorage.setItem("metrics", JSON.stringify(chosen));
      redraw();
    });
    return make("label", "", box, " ", key);
  });
  document.getElementById("metrics").replaceChildren(...rows);
}

export async function showCurves(state, redraw, isForced) {
  const keys = [...new Set(state.runs.flatMap((run) => run.keys))].sort();
  chosen = chosen instanceof Array ? chosen : state.default;
  listMetrics(keys, redraw);
  const wanted = chosen.filter((key) => keys.includes(key));
  const now = JSON.stringify([wanted, state.runs.map((run) => run.version)]);
  if (now === versions && !isForced) return;
  const found = wanted.length ? (await get("curves", wanted.map((key) => ["key", key]))).curves : {};
  if (isForced || JSON.stringify([...charts.keys()]) !== JSON.stringify(wanted)) {
    dropAll();
    wanted.forEach((key) => newChart(key, state.runs));
  }
  for (const key of wanted) draw(key, state.runs, found[key]);
  versions = now;
}

export function resize() {
  for (const { chart, box } of charts.values()) chart.setSize({ width: widthOf(box), height: 210 });
}
