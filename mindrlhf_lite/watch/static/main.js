// Which part is shown, and its update every two seconds while somebody looks.

import { get, language, loadWords, place, word } from "./page.js";
import { showCompared, showCompletions } from "./completions.js";
import { resize, showCurves } from "./curves.js";
import { showRuns } from "./overview.js";

const EVERY_MS = 2000;
const PARTS = ["overview", "completions", "compare"];
let isBusy = false;
let isWanted = false; // again, as soon as the update under way is done
let isNew = false; // everything is drawn again: the language has changed

function showPart(part) {
  for (const name of PARTS) {
    document.getElementById(name).hidden = name !== part;
    document.querySelector(`nav a[href="#${name}"]`).classList.toggle("here", name === part);
  }
}

async function draw(isForced) {
  const asked = place();
  const part = PARTS.includes(asked.part) ? asked.part : "overview";
  showPart(part);
  const state = await get("state");
  if (part === "overview") {
    showRuns(state.runs, isForced);
    await showCurves(state, update, isForced);
  } else {
    await (part === "completions" ? showCompletions : showCompared)(state.runs, asked.values, isForced);
  }
}

async function update() {
  isWanted = true;
  if (isBusy) return;
  isBusy = true;
  const offline = document.getElementById("offline");
  while (isWanted) {
    isWanted = false;
    const isForced = isNew;
    isNew = false;
    const started = performance.now();
    try {
      await draw(isForced);
      offline.hidden = true;
      document.body.dataset.updateMs = (performance.now() - started).toFixed(1);
      document.body.dataset.updates = Number(document.body.dataset.updates || 0) + 1;
    } catch (error) {
      offline.textContent = error instanceof TypeError ? word("offline") : error.message;
      offline.hidden = false;
    }
  }
  isBusy = false;
}

document.getElementById("language").addEventListener("click", async () => {
  await loadWords(language === "zh" ? "en" : "zh");
  isNew = true;
  update();
});
for (const form of document.querySelectorAll("form")) form.addEventListener("submit", (event) => event.preventDefault());
document.getElementById("search").addEventListener("input", update);
window.addEventListener("hashchange", update);
window.addEventListener("resize", resize);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  isNew = true;
  update();
});
document.addEventListener("visibilitychange", update);

await loadWords("");
await update();
setInterval(() => document.hidden || update(), EVERY_MS);
