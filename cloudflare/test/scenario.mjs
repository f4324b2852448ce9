// One scenario: what its file says, and how what came of a request differs from it. The suite of the core describes the format and
// holds every file to it (tests/suite/scenarios/document.rs).
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { isDeepStrictEqual } from "node:util";
import { FIELDS } from "./fields.mjs";
import { answerOf } from "./upstreams.mjs";

const written = new URL("../../tests/scenarios/", import.meta.url);
const made = (of) => new URL(`../../target/random-scenarios/${of}/`, import.meta.url);

/** What makes random scenarios. */
export const MAKES = "cargo test --quiet --features cli --test suite -- random_scenarios_are_written".split(" ");

/** When every scenario begins, in milliseconds since 1970. */
export const START_MS = 1_800_014_400_000;

/** Every scenario there is. */
export const all = () => read(written);

/** The random scenarios, which the suite of the core makes. */
export function random() {
  if (!existsSync(made("worker"))) throw new Error(`there are no random scenarios: make them by \`${MAKES.join(" ")}\``);
  return read(made("worker"));
}

/** What is left of a random scenario when a part is taken out of it, those first that lack the most. */
export function smaller(scenario) {
  const file = fileURLToPath(new URL(`${scenario.name}.json`, made("failed")));
  mkdirSync(made("failed"), { recursive: true });
  writeFileSync(file, JSON.stringify({ ...scenario, name: undefined }, null, 2));
  const [command, ...options] = MAKES;
  const cwd = new URL("../../", import.meta.url);
  execFileSync(command, options, { cwd, env: { ...process.env, TIDEGATE_SCENARIO_SMALLER: file }, stdio: "pipe" });
  return read(made("smaller")).sort((one, other) => number(one) - number(other));
}

/** By which number a smaller scenario was made. */
const number = ({ name }) => Number(name.split("--")[1]);

function read(directory) {
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
  // The other members of what a page says are each host's own.
  for (const [member, value] of Object.entries(expected.says ?? {})) {
    const other = said(seen.body)[member];
    // Whatever the order of their own members.
    if (!isDeepStrictEqual(value, other)) compare(member, value, other);
  }
  if (expected.says === undefined) compare("body", expected.body ?? answer.body, seen.body);
  for (const name of FIELDS) compare(name, fields[name] ?? undefined, seen.fields[name]);
  return lines;
}

/** The object that a body is; one without members when it is none. */
function said(body) {
  try {
    return JSON.parse(body);
  } catch {
    return {};
  }
}

/** How one of the first times of a step differs from how the last one is expected to be decided. */
export function earlyDifferences(expected, seen) {
  if (expected.decision === decision(seen) && expected.status === seen.status) return [];
  return [`before its last time: expected ${expected.decision} ${expected.status}, got ${decision(seen)} ${seen.status}`];
}
