// One scenario: its file, and how the outcome of a request differs from what the file expects. The core's suite
// describes the format and checks every file (tests/suite/scenarios/document.rs).
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { isDeepStrictEqual } from "node:util";
import { FIELDS } from "./fields.mjs";
import { answerOf } from "./upstreams.mjs";

const written = new URL("../../tests/scenarios/", import.meta.url);
const made = (of) => new URL(`../../target/random-scenarios/${of}/`, import.meta.url);

/** The command that writes random scenarios. */
export const MAKES = "cargo test --quiet --features cli --test suite -- random_scenarios_are_written".split(" ");

/** The time at which scenarios start, in ms since the Unix epoch. */
export const START_MS = 1_800_014_400_000;

/** All scenarios. */
export const all = () => read(written);

/** The random scenarios, written by the core's suite. */
export function random() {
  if (!existsSync(made("worker"))) throw new Error(`there are no random scenarios: make them by \`${MAKES.join(" ")}\``);
  return read(made("worker"));
}

/** Variants of a random scenario, each with a part removed, smallest first. */
export function smaller(scenario) {
  const file = fileURLToPath(new URL(`${scenario.name}.json`, made("failed")));
  mkdirSync(made("failed"), { recursive: true });
  writeFileSync(file, JSON.stringify({ ...scenario, name: undefined }, null, 2));
  const [command, ...options] = MAKES;
  const cwd = new URL("../../", import.meta.url);
  execFileSync(command, options, { cwd, env: { ...process.env, TIDEGATE_SCENARIO_SMALLER: file }, stdio: "pipe" });
  return read(made("smaller")).sort((one, other) => number(one) - number(other));
}

/** The number of a smaller variant. */
const number = ({ name }) => Number(name.split("--")[1]);

function read(directory) {
  const files = readdirSync(directory).sort();
  return files.map((file) => ({
    name: file.slice(0, -".json".length),
    ...JSON.parse(readFileSync(new URL(file, directory), "utf8")),
  }));
}

/** Parses a time into ms: `"90s"`, `"250ms"`. */
export function millis(text) {
  const [, number, unit] = /^(\d+)(ms|s|m|h|d)$/.exec(text);
  return Number(number) * { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }[unit];
}

/** What a step (from 1) is expected to give on workerd. */
export function expectation(scenario, number) {
  return scenario.differs?.workerd?.steps?.[number] ?? scenario.steps[number - 1].expect;
}

const ANSWERS = ["tidegate_status", "tidegate_stale", "tidegate_static", "tidegate_unavailable"];

function decision({ reason, afterMs }) {
  if (reason === undefined) return afterMs > 0 ? "delayed" : "admitted";
  return ANSWERS.includes(reason) ? "answered" : "refused";
}

/** The differences between the expected and the actual outcome, one per line. */
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
  // The other members of a status page are specific to each host.
  for (const [member, value] of Object.entries(expected.says ?? {})) {
    const other = said(seen.body)[member];
    // Ignores the order of members.
    if (!isDeepStrictEqual(value, other)) compare(member, value, other);
  }
  if (expected.says === undefined) compare("body", expected.body ?? answer.body, seen.body);
  for (const name of FIELDS) compare(name, fields[name] ?? undefined, seen.fields[name]);
  return lines;
}

/** Parses a body as JSON; an empty object if it is none. */
function said(body) {
  try {
    return JSON.parse(body);
  } catch {
    return {};
  }
}

/** How an earlier repetition of a step differs from the decision expected for the last one. */
export function earlyDifferences(expected, seen) {
  if (expected.decision === decision(seen) && expected.status === seen.status) return [];
  return [`before its last time: expected ${expected.decision} ${expected.status}, got ${decision(seen)} ${seen.status}`];
}
