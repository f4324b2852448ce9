import assert from "node:assert/strict";
import { test } from "node:test";
import { worker } from "./worker.mjs";

const policy = {
  version: 1,
  limits: [{ name: "api", algorithm: "fixed-window", quota: { permits: 3, window: "31d" } }],
};

test("a client over the limit is refused, with all that it needs to know, and others are not", async (t) => {
  const { get, server } = await worker(t, policy);
  for (const left of [2, 1, 0]) {
    const answer = await get("/a?b=c");
    assert.equal(answer.status, 200);
    assert.equal(await answer.text(), "GET /a?b=c");
    assert.equal(answer.headers.get("ratelimit-policy"), '"api";q=3;w=2678400');
    assert.match(answer.headers.get("ratelimit"), new RegExp(`^"api";r=${left};t=\\d+;pk=:\\S+:$`));
  }
  const refused = await get("/a?b=c");
  assert.equal(refused.status, 429);
  const wait = Number(refused.headers.get("retry-after"));
  assert.ok(wait > 0 && wait <= 31 * 86_400, `${wait}`);
  assert.deepEqual(await refused.json(), { error: "rate limit exceeded", retryAfter: wait });
  assert.equal(refused.headers.get("cache-control"), "no-store");
  assert.equal(server.seen, 3);
  assert.equal((await get("/a", { address: "192.0.2.2" })).status, 200);
});

test("however many headers a policy names, each is found each time", async (t) => {
  const numbers = Array.from({ length: 80 }, (_, at) => at);
  const limits = numbers.map((at) => ({
    name: `h${at}`,
    match: { headers: { [`x-h${at}`]: "yes" } },
    key: [],
    algorithm: "fixed-window",
    quota: { permits: 2, window: "31d" },
  }));
  const { get } = await worker(t, { version: 1, limits, response: { ratelimit: false } });
  const status = async (at) => (await get("/", { headers: { [`x-h${at}`]: "yes" } })).status;
  for (const expected of [200, 200, 429]) {
    for (const at of numbers) assert.equal(await status(at), expected, `x-h${at}`);
  }
});
