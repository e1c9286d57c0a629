// What every part of the page uses: words, requests, elements. Texts become text nodes only, never markup.

let words = {};
export let language = localStorage.getItem("language") || "";

export async function get(name, values = {}) {
  const query = new URLSearchParams(values instanceof Array ? values : Object.entries(values));
  if (language) query.set("language", language);
  const answer = await fetch(`api/${name}?${query}`);
  const found = await answer.json();
  if (found.error) throw new Error(found.error);
  return found;
}

export async function loadWords(wanted) {
  if (wanted) {
    language = wanted;
    localStorage.setItem("language", wanted);
  }
  const found = await get("words");
  words = found.words;
  language = found.language;
  document.documentElement.lang = language;
  document.title = words.title;
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = words[element.dataset.word];
}

// values: of the names in braces
export function word(key, values = {}) {
  const text = Object.hasOwn(words, key) ? words[key] : key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (Object.hasOwn(values, name) ? values[name] : whole));
}

// What would be invisible, or turn the text around it, is shown by its code.
export function visible(text) {
  return String(text)
    .replace(/[\u0000-\u0008\u000b-\u001f]/g, (each) => String.fromCharCode(0x2400 + each.charCodeAt(0)))
    .replace(/[\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
      (each) => `<U+${each.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}>`);
}

export function make(tag, name, ...children) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...children.map((each) => (each instanceof Node ? each : visible(each))));
  return element;
}

export function clock(seconds) {
  const whole = Math.round(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const shown = parts[0] ? parts : parts.slice(1);
  return shown.map((each, place) => (place ? String(each).padStart(2, "0") : each)).join(":");
}

export function figure(value, digits = 4) {
  if (value === null || value === undefined) return "-";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return String(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(digits)));
}

export function percent(value) {
  return typeof value === "number" ? `${(100 * value).toFixed(1)} %` : figure(value);
}

// A select with its label. choices: [[value, text], ...]
export function choice(label, choices, value, change) {
  const select = make("select");
  for (const [key, text] of choices) {
    const option = make("option", "", text);
    option.value = key;
    option.selected = String(key) === String(value);
    select.append(option);
  }
  select.addEventListener("change", () => change(select.value));
  return make("label", "", label, select);
}

export function button(text, press, isOff = false) {
  const element = make("button", "", text);
  element.type = "button";
  element.disabled = isOff;
  element.addEventListener("click", press);
  return element;
}

// The place: #part?key=value&...
export function place() {
  const [part, query] = location.hash.slice(1).split("?");
  return { part: part || "overview", values: new URLSearchParams(query || "") };
}

export function go(part, values) {
  location.hash = `${part}?${new URLSearchParams(values)}`;
}
