// Plays the scenarios of tests/scenarios/ in the real workerd. Each scenario has a Worker of its own, built with a
// clock that requests set.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { request as send } from "node:http";
import { test } from "node:test";
import { Miniflare } from "miniflare";
import { FIELDS } from "./fields.mjs";
import { MAKES, START_MS, all, differences, earlyDifferences, expectation, millis, random, smaller } from "./scenario.mjs";
import { Upstreams } from "./upstreams.mjs";
import { clocked, instruct, modules, shipped, until, withKv } from "./worker.mjs";

/**
 * The Workers per workerd: starting a hundred takes thirty times as long as starting twenty. They share its cache, so
 * scenarios with kept responses use paths of their own.
 */
const AT_ONCE = 20;

/** The most parts that are removed from a failing scenario. */
const MOST_ROUNDS = 40;

test("scenarios come out as they say in the real workerd", async (t) => {
  const complaints = await play(all(), await upstreamsFor(t));
  assert.equal([...complaints.values()].join(""), "");
});

test("random scenarios come out in the real workerd as in the core", async (t) => {
  const upstreams = await upstreamsFor(t);
  const scenarios = random();
  const complaints = await play(scenarios, upstreams);
  const [failed] = complaints.keys();
  if (failed === undefined) return;
  console.error([...complaints.values()].join(""));
  const file = await shrink(scenarios.find(({ name }) => name === failed), upstreams);
  const again = `TIDEGATE_SCENARIO_SEED=${failed.split("-")[1]} TIDEGATE_SCENARIO_CASES=1 ${MAKES.join(" ")}; then this test`;
  assert.fail(`${complaints.size} differ: ${[...complaints.keys()]}\nwhat is left of the first: ${file}\nthe first again: ${again}`);
});

/** Reduces a failing scenario, and returns the file of what is left. */
async function shrink(failed, upstreams) {
  let small = failed;
  for (let left = MOST_ROUNDS; left > 0; left -= 1) {
    const candidates = smaller(small);
    const fails = await play([...candidates], upstreams);
    const next = candidates.find(({ name }) => fails.has(name));
    if (next === undefined) break;
    small = next;
  }
  return `target/random-scenarios/failed/${small.name}.json`;
}

/** The upstreams of a test's scenarios. */
async function upstreamsFor(t) {
  const upstreams = new Upstreams();
  t.after(() => upstreams.stop());
  return { upstreams, outboundService: { external: { address: await upstreams.start(), http: {} } } };
}

/** Plays these scenarios. Returns the complaints about those that differ, by name. */
async function play(scenarios, { upstreams, outboundService }) {
  const complaints = new Map();
  for (let begin = 0; begin < scenarios.length; begin += AT_ONCE) {
    const some = scenarios.slice(begin, begin + AT_ONCE);
    for (const [at, complaint] of (await playAll(some, outboundService, upstreams)).entries()) {
      if (complaint !== "") complaints.set(some[at].name, complaint);
    }
  }
  return complaints;
}

test("what is shipped has the clock of its host, whatever a request says", () => {
  const wasm = (directory) => readFileSync(new URL("pkg/tidegate_bg.wasm", directory), "latin1");
  assert.ok(wasm(clocked).includes("x-tidegate-test"), "the test build lacks what the test looks for");
  assert.ok(!wasm(shipped).includes("x-tidegate-test"));
});

/** Waits until waiting requests have polled, which they do every 100 ms of real time. */
const looks = () => new Promise((resolve) => setTimeout(resolve, 250));

/** Plays these scenarios in one workerd. Returns the complaints about each. */
async function playAll(scenarios, outboundService, upstreams) {
  const log = [];
  const miniflare = new Miniflare({
    workers: scenarios.map(({ name, policy }) => ({
      name,
      modules: modules(policy, clocked),
      ...withKv(clocked, name),
      ...(policy.stores ? { durableObjects: { TIDEGATE_AUTHORITY: { className: "TidegateAuthority", useSQLite: true } } } : {}),
      compatibilityDate: "2026-04-01",
      compatibilityFlags: ["enable_request_signal"],
      outboundService,
      unsafeDirectSockets: [{ host: "127.0.0.1", port: 0 }],
    })),
    // Each Worker logs what its policy asks for that it cannot do.
    handleRuntimeStdio: (...streams) => streams.forEach((stream) => stream.on("data", (data) => log.push(String(data)))),
  });
  try {
    await miniflare.ready;
    for (const { name, policy } of scenarios) await instruct(miniflare, clocked, policy, name);
    const complaints = await Promise.all(
      scenarios.map(async (scenario) => {
        const stage = new Stage(scenario, await miniflare.unsafeGetDirectURL(scenario.name), upstreams);
        await stage.play();
        return stage.complaint();
      }),
    );
    // An isolate that counts alone would come to the same decisions, so check the log too.
    assert.ok(!log.join("").includes("there is no Durable Object"), log.join(""));
    return complaints;
  } finally {
    await miniflare.dispose();
  }
}

/** A scenario under way. */
class Stage {
  #does;
  #sent = 0;
  #flights = [];
  #wrong = "";

  constructor(scenario, base, upstreams) {
    Object.assign(this, { scenario, base, upstreams });
    this.#does = { ...scenario.upstreams };
  }

  async play() {
    for (const [at, step] of this.scenario.steps.entries()) {
      const now = millis(step.at);
      await this.#advance(now);
      Object.assign(this.#does, step.upstreams);
      this.upstreams.set(this.scenario.name, this.#does);
      if (step.ends !== undefined) {
        // Whatever its answer leads to has the draw of the request.
        const draw = this.#flights.find(({ holds }) => holds === step.ends)?.draw ?? "0";
        if (draw !== "0") await this.#ask(now, { draw });
        this.upstreams.end(this.scenario.name, step.ends);
        await this.#take(now, ({ holds }) => holds === step.ends);
        // A request's permits are returned a moment after its response has ended.
        await this.#ask(now, { underWay: this.#flights.length });
      }
      for (let left = step.send === undefined ? 0 : (step.times ?? 1); left > 0; left -= 1) {
        await this.#request(at + 1, step, now, left === 1);
      }
      const next = this.scenario.steps[at + 1];
      if (next === undefined || millis(next.at) !== now) await this.#take(now, ({ due }) => due === now);
    }
    await this.#advance(Infinity);
  }

  complaint() {
    const isLacking = this.scenario.differs?.workerd !== undefined && this.scenario.differs.workerd.steps === undefined;
    if (!isLacking) return this.#wrong;
    if (this.#wrong !== "") return "";
    return `\n  tests/scenarios/${this.scenario.name}.json: workerd is said to differ, and comes through all of it: take that out`;
  }

  /** Moves the clock, and takes the responses that become due on the way. */
  async #advance(to) {
    for (;;) {
      const isDue = ({ due, isRefused }) => due < to || (due === to && !isRefused);
      const [next] = this.#flights.filter(isDue).sort((one, other) => one.due - other.due);
      if (next === undefined || next.due === Infinity) break;
      const { due, draw } = next;
      await this.#ask(due - 1, { draw });
      // Leaves time for a response that comes too early.
      await looks();
      await this.#take(due - 1, (flight) => flight.answered);
      await this.#ask(due, { draw });
      await this.#take(due, (flight) => flight.due === due);
    }
    if (to === Infinity) return;
    await this.#ask(to);
    // Leaves time to renew what requests hold.
    if (this.#flights.some(({ due }) => due > to && due < Infinity)) await looks();
    await this.#take(to, (flight) => flight.answered);
  }

  /**
   * Sets the clock and the random draw, and waits until the Worker has seen all that was sent. Then waits, for a second
   * at most, until no more than `underWay` requests and tasks are under way.
   */
  async #ask(now, { draw = "0", underWay: most = Infinity } = {}) {
    const settled = Date.now() + 1_000;
    const clock = { "x-tidegate-test-now": START_MS + now, "x-tidegate-test-draw": draw };
    const headers = { host: "example.com", ...clock, "x-tidegate-test-asks": 1 };
    await until(async () => {
      const { headers: told } = await exchange(this.base, { path: "/", headers });
      const [seen, underWay] = ["seen", "under-way"].map((name) => Number(told[`x-tidegate-test-${name}`]));
      return seen >= this.#sent && (underWay <= most || Date.now() > settled);
    });
  }

  async #request(number, step, now, isLast) {
    this.#sent += 1;
    const id = `${this.scenario.name}/${this.#sent}`;
    const [method, path] = step.send.split(" ");
    const draw = String((0xffff_ffff_ffff_ffffn / 100n) * BigInt(step.draw_percent ?? 0));
    const headers = {
      ...step.headers,
      host: step.host ?? "example.com",
      "cf-connecting-ip": step.from ?? "192.0.2.1",
      "x-scenario": id,
      "x-tidegate-test-now": START_MS + now,
      "x-tidegate-test-draw": draw,
      ...(step.holds === undefined ? {} : { "x-scenario-holds": step.holds }),
      ...(step.body === undefined ? {} : { "content-length": Buffer.byteLength(step.body) }),
    };
    const { after, decision } = expectation(this.scenario, number);
    // A refused waiting request makes room for a request that arrives at the same time.
    const isRefused = decision === "refused";
    const due = after === undefined ? Infinity : now + millis(after);
    const flight = { number, id, isLast, isRefused, now, due, draw, holds: step.holds, answered: false };
    flight.answer = exchange(this.base, { method, path, headers }, step.body);
    flight.answer.then(
      () => (flight.answered = true),
      () => (flight.answered = true),
    );
    if (after === undefined && step.holds === undefined) return this.#finish(flight, now);
    this.#flights.push(flight);
    if (step.holds === undefined) return this.#ask(now, { draw });
    await until(() => this.upstreams.holds(id) || flight.answered);
    return this.#take(now, (flight) => flight.answered);
  }

  async #take(now, which) {
    for (const flight of this.#flights.filter(which)) {
      this.#flights.splice(this.#flights.indexOf(flight), 1);
      await this.#finish(flight, now);
    }
  }

  async #finish({ number, id, isLast, now: sent, due, answer }, now) {
    const expected = expectation(this.scenario, number);
    let found;
    try {
      const { status, headers, body } = await answer;
      const reason = headers["x-tidegate-test-reason"];
      const fields = Object.fromEntries(Object.entries(headers).filter(([name]) => FIELDS.includes(name)));
      // Time that an upstream takes is not a wait of the Worker's.
      const afterMs = due === Infinity ? 0 : now - sent;
      const seen = { status, reason, afterMs, asked: this.upstreams.asked(id), body, fields };
      found = isLast ? differences(this.scenario, expected, this.#does, seen) : earlyDifferences(expected, seen);
    } catch (error) {
      found = [`no answer: ${error}`];
    }
    if (found.length === 0) return;
    const { at, send: what } = this.scenario.steps[number - 1];
    const step = `tests/scenarios/${this.scenario.name}.json, step ${number} (at ${at}, ${what}) on workerd:`;
    this.#wrong += [`\n  ${step}`, ...found].join("\n      ");
  }
}

/** Sends one request exactly as given, and returns the response. */
function exchange(base, options, body) {
  return new Promise((resolve, reject) => {
    const request = send({ host: base.hostname, port: base.port, agent: false, timeout: 30_000, ...options }, (answer) => {
      const pieces = [];
      answer.on("data", (piece) => pieces.push(piece));
      answer.on("error", reject);
      answer.on("end", () =>
        resolve({ status: answer.statusCode, headers: answer.headers, body: Buffer.concat(pieces).toString() }),
      );
    });
    request.on("timeout", () => request.destroy(new Error("no answer within 30 s")));
    request.on("error", reject);
    request.end(body);
  });
}
