import assert from "node:assert/strict";
import { test } from "node:test";
import { Redis } from "./redis.mjs";
import { listen, locations, until, urlOf, worker } from "./worker.mjs";

const PROBES = 2;
/** The Durable Object of the Worker in Rust cannot be made to fail by a test. */
const ofJavaScript = { skip: process.env.TIDEGATE_WORKER === "rust" };
const TOKEN = "user:a-token-nobody-may-read";

/** A policy with one upstream, whose breaker all locations share. */
const policy = (breaker, more) => ({
  version: 1,
  breakers: {
    b: {
      scope: "global",
      window: { time: "30s" },
      min_calls: 100,
      consecutive_failures: 3,
      open: { initial: "2s", jitter_percent: 0 },
      half_open: { probes: PROBES, max_wait: "2s" },
      ...breaker,
    },
  },
  upstreams: { origin: { url: "http://origin.example", breaker: "b" } },
  routes: [{ name: "all", upstreams: ["origin"] }],
  response: { x_tidegate: true },
  status: { token_sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
  ...more,
});

/** An origin that fails until it is `well`. */
const fickle = () => {
  const origin = { well: true, seen: 0 };
  origin.answer = (_, response) => {
    origin.seen += 1;
    response.writeHead(origin.well ? 200 : 500).end();
  };
  return origin;
};

/** The state of the breaker in a location, as the next response shows it. */
const stateOf = (get) => async (at) => {
  const answer = await get(at, "/");
  await answer.body?.cancel();
  return answer.headers.get("x-tidegate")?.match(/origin:([a-z-]+)/)?.[1];
};

const statusOf = async (get, at) => (await get(at, "/tidegate/status", { headers: { authorization: "Bearer abc" } })).json();

const fail = async (state, at) => {
  for (let left = 3; left > 0; left -= 1) await state(at);
  await until(async () => (await state(at)) === "open");
};

/** A breaker that opens in one location opens in all, and one set of probes closes it in all. */
const together = async (origin, { get, kv }) => {
  const state = stateOf(get);
  for (const at of [0, 1, 2]) assert.equal(await state(at), "closed");
  origin.well = false;
  await fail(state, 0);
  assert.equal(origin.seen, 6);
  origin.well = true;
  // These two have seen no failure. Their requests pass until they learn of it.
  for (const at of [1, 2]) await until(async () => (await state(at)) !== "closed");
  const before = origin.seen;
  const closed = [false, false, false];
  let probes;
  await until(async () => {
    for (const at of [0, 1, 2]) {
      closed[at] = (await state(at)) === "closed";
      if (closed[at]) probes ??= origin.seen - before;
    }
    return closed.every((closed) => closed);
  });
  assert.ok(probes <= PROBES, `${probes} requests until the first had closed it`);
  const told = await Promise.all([0, 1, 2].map((at) => statusOf(get, at)));
  assert.equal(told.reduce((sum, { breakers: [{ probes }] }) => sum + probes, 0), PROBES);
  assert.ok(told.every(({ breakers: [{ scope, alone }] }) => scope === "global" && alone === false), JSON.stringify(told));
  assert.ok(told.reduce((sum, { totals }) => sum + totals.breakers_learnt, 0) >= 4);
  assert.equal(await kv.get("breakers"), null, "they do not go by KV as well");
};

test("a breaker that opens in one location opens in all, and one set of probes closes it in all", async (t) => {
  const origin = fickle();
  await together(origin, await locations(t, policy(), { origin: origin.answer }));
});

for (const protocol of ["webdis", "upstash"]) {
  test(`the same by Redis, where the policy has one (${protocol})`, async (t) => {
    const origin = fickle();
    const server = await listen(t, origin.answer);
    const redis = await Redis.start(t);
    const url = protocol === "webdis" ? await redis.webdis(TOKEN) : (await redis.upstash(TOKEN)).url;
    const upstreams = { origin: { url: urlOf(server), breaker: "b" } };
    const stores = { redis: { protocol, url, token_env: "REDIS_TOKEN" } };
    const bindings = { REDIS_TOKEN: TOKEN };
    const all = await locations(t, policy({}, { upstreams, stores }), { outboundService: undefined, durableObjects: undefined, bindings });
    await together(origin, all);
    const [keys] = await redis.ask(["KEYS", "*"]);
    assert.ok(keys.length === 1 && /^tg:\{[0-9a-f]{16}\}:b1$/.test(keys[0]), `${keys}`);
    assert.ok(!all.log.join("\n").includes(TOKEN));
  });
}

test("an object that is evicted, or has forgotten all, changes nothing", ofJavaScript, async (t) => {
  const origin = fickle();
  const { get, object: named } = await locations(t, policy({ open: { initial: "60s" } }), { origin: origin.answer });
  const state = stateOf(get);
  for (const at of [0, 1]) assert.equal(await state(at), "closed");
  origin.well = false;
  await fail(state, 0);
  await until(async () => (await state(1)) === "open");
  await named("breakers")
    .leave()
    .catch(() => {});
  const object = named("breakers");
  // A location that starts now learns of it from the object's storage.
  await until(async () => (await state(2)) === "open");
  await object.forget();
  const learnt = (await statusOf(get, 0)).totals.breaker_rounds;
  await until(async () => (await state(0), (await statusOf(get, 0)).totals.breaker_rounds > learnt + 2));
  for (const at of [0, 1, 2]) assert.equal(await state(at), "open");
  assert.equal((await object.records()).length, 1, "whoever knows it has told it again");
});

test("an object remembers 8,192 breakers, and of more it forgets those of which it has heard nothing for longest", ofJavaScript, async (t) => {
  const origin = fickle();
  const { get, object } = await locations(t, policy(), { origin: origin.answer });
  await object("breakers").crowdBreakers(8_300);
  origin.well = false;
  const state = stateOf(get);
  await fail(state, 0);
  await until(async () => (await state(1)) !== "closed");
  assert.equal((await object("breakers").records()).length, 8_192);
});

test("while the object hangs breakers go on by themselves, and agree again when it is well", ofJavaScript, async (t) => {
  const origin = fickle();
  const { get, object: named, log } = await locations(t, policy({ open: { initial: "1s", jitter_percent: 0 } }), { origin: origin.answer });
  const state = stateOf(get);
  for (const at of [0, 1]) assert.equal(await state(at), "closed");
  const object = named("breakers");
  await object.fault("hang");
  origin.well = false;
  await fail(state, 0);
  await until(async () => (await state(0), (await statusOf(get, 0)).breakers[0].alone));
  origin.well = true;
  await until(async () => (await state(0)) === "closed");
  assert.ok(log.some((line) => line.includes("the authority over shared breakers cannot be asked")));
  origin.well = false;
  await fail(state, 0);
  await object.fault();
  await until(async () => (await state(1)) !== "closed");
  origin.well = true;
  for (const at of [0, 1, 2]) await until(async () => (await state(at)) === "closed");
  assert.equal((await statusOf(get, 0)).breakers[0].alone, false);
});

test("without the object every isolate has its own, and says so", async (t) => {
  const { get, log } = await worker(t, policy());
  await (await get("/")).text();
  await until(() => log.some((line) => line.includes('breakers of the scope "global" are each isolate\'s own')));
});
