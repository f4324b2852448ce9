// What is specific to a Worker in Rust. Everything that it has in common with the deployed Worker is tested by the same
// files, with TIDEGATE_WORKER=rust.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { asSent, direct, locations, passing, raw, rust, status, until, urlOf, worker } from "./worker.mjs";

/** The example, with a policy in KV or with its own. */
const example = (t, policy, origin, options) =>
  worker(t, policy, origin, { dist: rust.shipped, bindings: { GREETING: "hei" }, ...options });

const limit = { name: "api", algorithm: "fixed-window", quota: { permits: 2, window: "31d" } };
const held = { name: "held", algorithm: "concurrency", quota: { permits: 1 } };
const shared = (more) => ({ ...limit, quota: { permits: 50, window: "31d" }, scope: "global", on_store_failure: "deny", ...more });
const under = (limit, more) => ({ version: 1, limits: [limit], ...more });

const statuses = async (get, count) => {
  const seen = [];
  for (let left = count; left > 0; left -= 1) seen.push(await status(get("/")));
  return seen;
};

test("what passes the handler answers, and what is over the limit that the Worker was built with never reaches it", async (t) => {
  const { get, server } = await example(t, undefined);
  for (let left = 99; left >= 0; left -= 1) {
    const answer = await get("/api/greeting");
    assert.equal(await answer.text(), "hei");
    assert.equal(answer.headers.get("ratelimit-policy"), '"api";q=100;w=60');
    assert.match(answer.headers.get("ratelimit"), new RegExp(`^"api";r=${left};t=`));
  }
  const refused = await get("/api/elsewhere");
  assert.equal(refused.status, 429);
  assert.ok(Number(refused.headers.get("retry-after")) > 0);
  assert.equal(server.seen, 0);
  assert.equal(await (await get("/elsewhere")).text(), "GET /elsewhere");
});

test("a policy in KV stands in place of the built one, and one that is bad does not", async (t) => {
  const good = await example(t, under(limit));
  assert.deepEqual(await statuses(good.get, 3), [200, 200, 429]);
  const bad = await example(t, under({ ...limit, name: "A" }));
  assert.equal((await bad.get("/api/greeting")).headers.get("ratelimit-policy"), '"api";q=100;w=60');
  await until(() => bad.log.some((line) => line.includes('/limits/0/name: "A" is not a name')));
});

test("an operator sets a mode by the Worker", async (t) => {
  const token = { token_sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" };
  const { get } = await example(t, under(limit, { status: token }));
  const authorization = "Bearer abc";
  assert.equal(await status(get("/tidegate/mode/maintenance", { method: "PUT", headers: { authorization } })), 202);
  await until(async () => (await status(get("/"))) === 503);
  const page = await (await get("/tidegate/status", { headers: { authorization } })).json();
  assert.equal(page.mode, "maintenance");
});

test("a mode is in force though the policy beside it is bad", async (t) => {
  const { get, miniflare, log } = await example(t, under({ ...limit, name: "A" }));
  await (await miniflare.getKVNamespace("TIDEGATE")).put("mode", "maintenance");
  assert.equal(await status(get("/api/greeting")), 503);
  await until(() => log.some((line) => line.includes("KV's policy is bad, the one that is built in is in force")));
});

test("a handler that parses the URL comes to the path that limits have matched", async (t) => {
  const { base } = await direct(t, under({ ...limit, match: { path: "/api/**" }, quota: { permits: 1, window: "31d" } }), {
    dist: rust.shipped,
    bindings: { GREETING: "hei" },
    outboundService: () => new Response("zone"),
  });
  assert.match(await asSent(base, "/api/greeting"), /hei/);
  assert.match(await asSent(base, "/api/greeting"), /^HTTP\/1.1 429 /);
  for (const target of ["/x\\..\\api\\greeting", "/none/..\\api/greeting"]) assert.match(await asSent(base, target), /zone/, target);
});

test("the handler's answer gives back what its request held, and counts where a limit awaits it", async (t) => {
  const { get } = await example(t, under(held), (request, response) => response.end("whole"));
  for (let left = 3; left > 0; left -= 1) {
    assert.equal(await (await get("/api/greeting")).text(), "hei");
    assert.equal(await (await get("/")).text(), "whole");
  }
  const fails = (request, response) => response.writeHead(request.url === "/none" ? 404 : 200).end();
  const counting = await example(t, under({ ...limit, only_on: ["404"] }), fails);
  const seen = [];
  for (const path of ["/", "/none", "/", "/none", "/"]) seen.push(await status(counting.get(path)));
  assert.deepEqual(seen, [200, 404, 200, 404, 429]);
});

test("a handler that fails is an upstream without an answer where the policy awaits one, and else the Worker's own affair", async (t) => {
  const origin = await raw(t, (socket) => socket.destroy());
  const failing = async (limit) => {
    const { base, log } = await direct(t, under(limit), { dist: rust.shipped });
    const ask = () =>
      new Promise((resolve, reject) => {
        const asked = request(base, { headers: { host: new URL(urlOf(origin)).host } }, (answer) => resolve(answer.resume().statusCode));
        asked.on("error", reject).end();
      });
    return { ask, log };
  };
  const unawaited = await failing({ ...limit, quota: { permits: 9, window: "31d" } });
  assert.equal(await unawaited.ask(), 500);
  const awaited = await failing(held);
  for (let left = 2; left > 0; left -= 1) assert.equal(await awaited.ask(), 503);
  await until(() => awaited.log.some((line) => line.includes("tidegate: the handler has failed")));
});

for (const sharing of ["lease", "exact"]) {
  test(`three locations together have one quota (${sharing})`, async (t) => {
    const policy = under(shared({ sharing }), { stores: { deadline: "5s" } });
    const { get } = await locations(t, policy, { dist: rust.shipped });
    let passed = await passing(get, 120);
    assert.ok(passed <= 50 && passed >= 30, `${passed}`);
    // Permits that one location has drawn and does not use are returned and serve the others.
    await until(async () => (passed += await passing(get, 3)) >= 50);
    assert.equal(passed + (await passing(get, 30)), 50);
  });
}

test("objects that begin again lose no count", async (t) => {
  const durableObjectsPersist = mkdtempSync(join(tmpdir(), "tidegate-objects-"));
  t.after(() => rmSync(durableObjectsPersist, { recursive: true, force: true }));
  const policy = under(shared({ sharing: "exact", quota: { permits: 3, window: "31d" } }), { stores: { deadline: "5s" } });
  const durableObjects = { TIDEGATE_AUTHORITY: { className: "TidegateAuthority", useSQLite: true } };
  const { get, deploy } = await example(t, policy, undefined, { durableObjects, durableObjectsPersist });
  assert.deepEqual(await statuses(get, 2), [200, 200]);
  await deploy(policy);
  assert.deepEqual(await statuses(get, 2), [200, 429]);
});

test("an object that hangs costs a request the deadline, and then the policy decides", async (t) => {
  const world = "(env) => ({ ...env, TIDEGATE_AUTHORITY: { getByName: () => ({ fetch: () => new Promise(() => {}) }) } })";
  const policy = under(shared({ sharing: "exact" }), { stores: { deadline: "50ms" } });
  const { get } = await example(t, policy, undefined, { world });
  const began = Date.now();
  assert.deepEqual(await statuses(get, 2), [503, 503]);
  const took = Date.now() - began;
  assert.ok(took >= 49 && took < 2_000, `${took} ms`);
});

test("a panic costs its request and those under way their answers, and the isolate its counts", async (t) => {
  let answer;
  const origin = (request, response) => {
    if (request.url === "/slow") answer = () => response.end("slow");
    else response.end("quick");
  };
  const policy = { version: 1, limits: [limit, { ...held, quota: { permits: 9 } }] };
  const { get } = await worker(t, policy, origin, { dist: rust.clocked });
  const slow = get("/slow", { address: "192.0.2.2" });
  await until(() => answer);
  assert.deepEqual(await statuses(get, 3), [200, 200, 429]);
  assert.equal((await get("/", { headers: { "x-tidegate-panic": "1" } })).status, 500);
  assert.deepEqual(await statuses(get, 3), [200, 200, 429]);
  answer();
  assert.equal((await slow).status, 500);
});
