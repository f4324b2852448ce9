// One scenario: what its file says, and how what came of a request differs from it. The suite of the core describes the format and
// holds every file to it (tests/suite/scenarios/document.rs).
import { readFileSync, readdirSync } from "node:fs";
import { FIELDS } from "./fields.mjs";
import { answerOf } from "./upstreams.mjs";

const directory = new URL("../../tests/scenarios/", import.meta.url);

/** When every scenario begins, in milliseconds since 1970. */
export const START_MS = 1_800_014_400_000;

/** Every scenario there is. */
export function all() {
  const files = readdirSync(directory).sort();
  return files.map((file) => ({
    name: file.slice(0, -".json".length),
    ...JSON.parse(readFileSync(new URL(file, directory), "utf8")),
  }));
}

/** A time in milliseconds: `"90s"`, `"250ms"`. */
export function millis(text) {
  const [, number, unit] = /^(\d+)(ms|s|m|h|d)$/.exec(text);
  return Number(number) * { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }[unit];
}

/** What is expected of a step (from 1) here. */
export function expectation(scenario, number) {
  return scenario.differs?.workerd?.steps?.[number] ?? scenario.steps[number - 1].expect;
}

const ANSWERS = ["tidegate_status", "tidegate_stale", "tidegate_static", "tidegate_unavailable"];

function decision({ reason, afterMs }) {
  if (reason === undefined) return afterMs > 0 ? "delayed" : "admitted";
  return ANSWERS.includes(reason) ? "answered" : "refused";
}

/** What differs between what is expected and what came, a line each. */
export function differences(scenario, expected, does, seen) {
  const lines = [];
  const compare = (what, expected, got) => {
    const [one, other] = [expected, got].map((value) => JSON.stringify(value) ?? "none");
    if (one !== other) lines.push(`${what}: expected ${one}, got ${other}`);
  };
  const goesOn = expected.reason === undefined;
  const asked = expected.asked ?? (goesOn ? ["origin"] : []);
  const answer = goesOn ? answerOf(asked.at(-1), does) : { headers: {}, body: "" };
  const own = Object.entries(answer.headers).filter(([name]) => FIELDS.includes(name));
  const fields = { ...scenario.always, ...Object.fromEntries(own) };
  if (expected.decision === "refused") Object.assign(fields, { "content-type": "application/json", "cache-control": "no-store" });
  Object.assign(fields, expected.fields);
  compare("decision", expected.decision, decision(seen));
  compare("status", expected.status, seen.status);
  compare("reason", expected.reason, seen.reason);
  compare("after", `${expected.after === undefined ? 0 : millis(expected.after)} ms`, `${seen.afterMs} ms`);
  compare("asked", asked, seen.asked);
  compare("body", expected.body ?? answer.body, seen.body);
  for (const name of FIELDS) compare(name, fields[name] ?? undefined, seen.fields[name]);
  return lines;
}

/** How one of the first times of a step differs from how the last one is expected to be decided. */
export function earlyDifferences(expected, seen) {
  if (expected.decision === decision(seen) && expected.status === seen.status) return [];
  return [`before its last time: expected ${expected.decision} ${expected.status}, got ${decision(seen)} ${seen.status}`];
}
