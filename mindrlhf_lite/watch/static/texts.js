// Completions and questions as elements.

import { figure, make, word } from "./page.js";

export function fact(label, value, name = "") {
  return make("span", "", `${label} `, make("b", name, value));
}

function shade(advantage, largest) {
  if (typeof advantage !== "number" || !largest) return "";
  const level = Math.min(5, Math.ceil((5 * Math.abs(advantage)) / largest));
  return level ? `${advantage > 0 ? "u" : "d"}${level}` : "";
}

// What the policy wrote: by its tokens' advantages where the file has them, else by the completion's.
function written(segment, advantage, largest) {
  const parts = segment.tokens ?? [[segment.text, advantage]];
  return parts.map(([text, own]) => {
    const span = make("span", shade(own, largest), text);
    if (typeof own === "number") span.title = `${word("advantage")} ${figure(own)}`;
    return span;
  });
}

export function conversation(segments, advantage = null, largest = 0) {
  if (segments.length === 1) return [make("pre", "", ...written(segments[0], advantage, largest))];
  let turn = 0;
  return segments.map((segment) => {
    const who = segment.written ? word("turn", { turn: ++turn }) : word("environment");
    const text = segment.written ? written(segment, advantage, largest) : [segment.text];
    return make("div", `turn ${segment.written ? "" : "environment"}`, make("p", "", who), make("pre", "", ...text));
  });
}

export function completion(row, largest) {
  const facts = make("p", "facts", fact(word("score"), figure(row.reward)));
  for (const [name, score] of Object.entries(row.scores)) facts.append(fact(name, figure(score)));
  facts.append(fact(word("advantage"), figure(row.advantage)));
  facts.append(fact(word("outcome"), row.outcome, row.outcome === "correct" ? "right" : ""));
  facts.append(fact(word("gold"), row.gold), fact(word("tokens"), row.tokens), fact(word("finish"), row.end || row.finish));
  if (row.failure) facts.append(fact(word("failure"), row.failure, "wrong"));
  return make("article", "row", facts, make("pre", "prompt", row.prompt), ...conversation(row.segments, row.advantage, largest));
}

function side(answers, title) {
  const box = make("div", "", make("p", "note", title));
  for (const each of answers) {
    const verdict = each.correct === null ? "unjudged" : each.correct ? "right" : "wrong";
    box.append(make("p", "facts", make("b", verdict, word(verdict)), fact(word("tokens"), figure(each.tokens))), ...conversation(each.segments));
  }
  return box;
}

export function question(row, titles) {
  const facts = make("p", "facts", fact(word("question"), row.index), fact(word("gold"), row.gold));
  const sides = make("div", "sides", side(row.left, titles[0]), side(row.right, titles[1]));
  return make("article", "row", facts, make("pre", "prompt", row.prompt), sides);
}
