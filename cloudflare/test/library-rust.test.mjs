import assert from "node:assert/strict";
import { test } from "node:test";
import { rust, until, worker } from "./worker.mjs";

/** The Worker in Rust under a policy in KV, or under its own; its handler asks `origin` for all but one path. */
const example = (t, policy, origin, options) => worker(t, policy, origin, { dist: rust.shipped, bindings: { GREETING: "hei" }, ...options });

const limit = { name: "api", algorithm: "fixed-window", match: { path: "/api/**" }, quota: { permits: 1, window: "31d" } };

const status = async (answer) => {
  const { status, body } = await answer;
  await body?.cancel();
  return status;
};

test("a Worker in Rust answers what passes, and what is over the limit it was built with never reaches its handler", async (t) => {
  const { get, server } = await example(t, undefined);
  for (let at = 1; at <= 100; at += 1) {
    const answer = await get("/api/greeting");
    assert.equal(await answer.text(), "hei");
    assert.equal(answer.headers.get("ratelimit-policy"), '"api";q=100;w=60');
    assert.match(answer.headers.get("ratelimit"), new RegExp(`"api";r=${100 - at};t=`));
  }
  const refused = await get("/api/elsewhere");
  assert.equal(refused.status, 429);
  assert.ok(Number(refused.headers.get("retry-after")) > 0);
  assert.equal(server.seen, 0);
  assert.equal(await (await get("/elsewhere")).text(), "GET /elsewhere");
});
