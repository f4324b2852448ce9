import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { worker } from "./worker.mjs";

/** The example as it stands in the repository, with the Worker that is shipped where it imports that from. */
const example = (t, policy) => {
  const path = "examples/javascript/worker.mjs";
  const main = { type: "ESModule", path, contents: readFileSync(new URL(`../${path}`, import.meta.url)) };
  return worker(t, policy, undefined, { main, bindings: { GREETING: "hei" } });
};

const limit = { name: "api", algorithm: "fixed-window", match: { path: "/api/**" }, quota: { permits: 1, window: "31d" } };

test("a Worker with a handler of its own answers what passes, and what is over a limit never reaches it", async (t) => {
  const { get, server } = await example(t, { version: 1, limits: [limit] });
  const first = await get("/api/greeting");
  assert.deepEqual(await first.json(), { greeting: "hei" });
  assert.equal(first.headers.get("ratelimit-policy"), '"api";q=1;w=2678400');
  assert.equal((await get("/api/greeting")).status, 429);
  assert.equal((await get("/elsewhere")).status, 404);
  assert.equal(server.seen, 0, "the zone's origin was not asked");
});

test("the handler also answers requests whose answer matters to a limit, and routes lead past it", async (t) => {
  const { get, server } = await example(t, {
    version: 1,
    limits: [{ ...limit, only_on: ["404"] }],
    upstreams: { origin: { url: "http://origin.example.net" } },
    routes: [{ name: "assets", match: { path: "/assets/**" }, upstreams: ["origin"] }],
  });
  const seen = [];
  for (const path of ["/api/greeting", "/api/none", "/api/greeting"]) seen.push((await get(path)).status);
  assert.deepEqual(seen, [200, 404, 429]);
  assert.equal(await (await get("/assets/a")).text(), "GET /assets/a");
  assert.equal(server.seen, 1);
});

test("an answer without a body that the handler gives again and again tells of each limit once", async (t) => {
  const path = "examples/javascript/worker.mjs";
  const contents = `
    import { protect } from "../../entry.mjs";
    const same = new Response(null, { status: 204 });
    export default protect(({ url }) => (url.endsWith("/fetched") ? fetch(url) : same));
  `;
  const { get } = await worker(t, { version: 1, limits: [limit, { ...limit, name: "all", match: {}, quota: { permits: 9, window: "31d" } }] }, undefined, {
    main: { type: "ESModule", path, contents },
  });
  for (const path of ["/same", "/same", "/fetched"]) {
    const answer = await get(path);
    assert.equal(answer.headers.get("ratelimit-policy"), '"all";q=9;w=2678400', path);
  }
});
