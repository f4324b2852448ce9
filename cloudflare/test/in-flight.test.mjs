import assert from "node:assert/strict";
import { test } from "node:test";
import { locations, until } from "./worker.mjs";

const PERMITS = 4;

const policy = (limit, more) => ({
  version: 1,
  limits: [
    {
      name: "slots", key: [], algorithm: "concurrency", quota: { permits: PERMITS }, lease: "10s", scope: "global",
      on_store_failure: "deny", ...limit,
    },
  ],
  // The machine may be slow.
  stores: { deadline: "5s" },
  ...more,
});

/** A slow origin, which counts the requests that it has at once. */
const slow = (ms) => {
  const seen = { now: 0, most: 0 };
  const origin = (request, response) => {
    seen.now += 1;
    seen.most = Math.max(seen.most, seen.now);
    setTimeout(() => {
      seen.now -= 1;
      response.end("ok");
    }, typeof ms === "function" ? ms(request) : ms);
  };
  return { seen, origin };
};

const status = async (answer) => {
  const response = await answer;
  await response.arrayBuffer();
  return response.status;
};

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

for (const sharing of ["lease", "exact"]) {
  test(`three locations together have no more in flight than permits, and none of them starves (${sharing})`, async (t) => {
    const { seen, origin } = slow(50);
    const { get } = await locations(t, policy({ sharing }), { origin });
    const passed = [0, 0, 0];
    const ends = Date.now() + 4_000;
    const client = async (at) => {
      while (Date.now() < ends) {
        if ((await status(get(at, "/"))) === 200) passed[at] += 1;
        else await pause(20);
      }
    };
    await Promise.all([0, 0, 0, 0, 0, 0, 1, 1, 2].map(client));
    assert.equal(seen.most, PERMITS, `${passed}`);
    assert.ok(passed.every((count) => count >= 5), `${passed}`);
    await until(async () => (await status(get(2, "/"))) === 200);
  });
}

test("objects that are evicted forget nobody who holds a permit", async (t) => {
  let answers = [];
  const { get, shards } = await locations(t, policy(), { origin: (_, response) => answers.push(response) });
  const held = Array.from({ length: PERMITS }, (_, at) => status(get(at % 2, "/")));
  await until(() => answers.length === PERMITS);
  for (let round = 0; round < 3; round += 1) {
    await Promise.all(shards.map((shard) => shard.leave().catch(() => {})));
    assert.equal(await status(get(2, "/")), 429);
    await pause(100);
  }
  answers.forEach((response) => response.end("ok"));
  assert.deepEqual(await Promise.all(held), Array(PERMITS).fill(200));
  answers = { push: (response) => response.end("ok") };
  await until(async () => (await status(get(2, "/"))) === 200);
});

test("a request that outlasts the lease keeps its permit", async (t) => {
  const { seen, origin } = slow((request) => (request.url === "/long" ? 14_000 : 0));
  const { get } = await locations(t, policy({ quota: { permits: 1 } }), { origin });
  const long = status(get(0, "/long"));
  await until(() => seen.now === 1);
  const began = Date.now();
  while (Date.now() - began < 12_500) {
    assert.equal(await status(get(1, "/")), 429, `${Date.now() - began} ms`);
    await pause(200);
  }
  assert.equal(await long, 200);
  await until(async () => (await status(get(1, "/"))) === 200);
});

test("objects that hang leave it to the policy how many are in flight", async (t) => {
  const answers = [];
  const limit = { on_store_failure: "local", quota: { permits: 10 } };
  const stores = { stores: { deadline: "50ms", local_share_percent: 30 } };
  const { get, shards } = await locations(t, policy(limit, stores), { origin: (_, response) => answers.push(response) });
  await Promise.all(shards.map((shard) => shard.fault("hang")));
  const held = Array.from({ length: 8 }, () => status(get(0, "/")));
  await until(() => answers.length === 3);
  await pause(300);
  assert.equal(answers.length, 3);
  answers.forEach((response) => response.end("ok"));
  assert.deepEqual((await Promise.all(held)).sort(), [200, 200, 200, 429, 429, 429, 429, 429]);
});
