import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { asSent, direct, raw, until, urlOf, worker } from "./worker.mjs";

/** The example of the repository, with the shipped Worker at the path that it imports. */
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

test("each answer of the handler's tells of each limit once, be it fetched, its own, or one without a body again and again", async (t) => {
  const path = "examples/javascript/worker.mjs";
  const contents = `
    import { protect } from "../../entry.mjs";
    const same = new Response(null, { status: 204 });
    const answers = { fetched: (url) => fetch(url), own: (url) => new Response(url), same: () => same };
    export default protect(({ url }) => answers[url.split("/").at(-1)](url));
  `;
  const { get } = await worker(t, { version: 1, limits: [limit, { ...limit, name: "all", match: {}, quota: { permits: 9, window: "31d" } }] }, undefined, {
    main: { type: "ESModule", path, contents },
  });
  // An answer's headers can be changed in place, or not at all. Which it is, is found out once.
  for (const path of ["/same", "/own", "/same", "/fetched", "/own", "/same", "/fetched"]) {
    const answer = await get(path);
    assert.equal(answer.headers.get("ratelimit-policy"), '"all";q=9;w=2678400', path);
    assert.match(await answer.text(), path === "/same" ? /^$/ : new RegExp(`${path}$`));
  }
});

test("an answer of the handler's that no response can be made like goes as it came", async (t) => {
  const odd = await raw(t, "HTTP/1.1 999 Odd\r\nconnection: close\r\ncontent-length: 3\r\n\r\nodd");
  const contents = `
    import { protect } from "../../entry.mjs";
    export default protect(() => fetch("${urlOf(odd)}"));
  `;
  const main = { type: "ESModule", path: "examples/javascript/worker.mjs", contents };
  const { get, log } = await direct(t, { version: 1, limits: [{ ...limit, match: {} }] }, { main });
  const answer = await get("/");
  assert.deepEqual([answer.status, await answer.text()], [999, "odd"]);
  assert.equal((await get("/")).status, 429);
  assert.deepEqual(log, []);
});

test("a handler that throws, at once or later, fails its own request alone, and is not taken for a failure of Tidegate", async (t) => {
  const path = "examples/javascript/worker.mjs";
  const contents = `
    import { protect } from "../../entry.mjs";
    let calls = 0;
    export default protect(({ url }) => {
      calls += 1;
      if (url.endsWith("/now")) throw new Error("of the handler");
      if (url.endsWith("/later")) return Promise.reject(new Error("of the handler"));
      return new Response(String(calls));
    });
  `;
  const all = { ...limit, match: {}, key: [], quota: { permits: 4, window: "31d" } };
  for (const ratelimit of [true, false]) {
    const policy = { version: 1, response: { ratelimit }, limits: [all] };
    const { base, log } = await worker(t, policy, undefined, { main: { type: "ESModule", path, contents } });
    const seen = [];
    for (const path of ["now", "later", "well", "now", "well"]) {
      const answer = await fetch(new URL(path, base));
      seen.push(answer.status);
      const text = await answer.text();
      if (path === "well" && answer.status === 200) assert.equal(text, "3", "nobody was asked twice");
    }
    assert.deepEqual(seen, [500, 500, 200, 500, 429]);
    assert.ok(!log.join("\n").includes("tidegate:"), log.join("\n"));
  }
});

test("where the policy awaits the answer a handler that gives none fails its own request alone, once, and the log says why", async (t) => {
  const path = "examples/javascript/worker.mjs";
  const contents = `
    import { protect } from "../../entry.mjs";
    let calls = 0;
    const gives = {
      "/throws": () => { throw new Error("of the handler") },
      "/forgets": () => undefined,
      "/null": async () => null,
      "/text": () => "text",
      "/error": () => Response.error(),
      "/read": async () => { const answer = new Response("read"); await answer.text(); return answer; },
      "/locked": () => { const answer = new Response("locked"); answer.body.getReader(); return answer; },
    };
    export default protect(({ url }) => {
      calls += 1;
      return (gives[new URL(url).pathname] ?? (() => new Response(String(calls))))();
    });
  `;
  const counts = { ...limit, match: {}, key: [], quota: { permits: 8, window: "31d" } };
  const held = { name: "held", algorithm: "concurrency", key: [], quota: { permits: 1 } };
  const { get, log } = await worker(t, { version: 1, limits: [counts, held] }, undefined, { main: { type: "ESModule", path, contents } });
  const wrong = ["/throws", "/forgets", "/null", "/text", "/error", "/read", "/locked"];
  for (const path of wrong) {
    const answer = await get(path, { signal: AbortSignal.timeout(10_000) });
    assert.equal(answer.status, 503, path);
    await answer.text();
  }
  const well = await get("/well");
  assert.equal(await well.text(), String(wrong.length + 1), "nobody was asked twice");
  assert.equal((await get("/well")).status, 429, "what was counted before still is");
  await until(() => log.filter((line) => line.includes("tidegate: the handler has failed")).length === wrong.length);
  assert.ok(log.some((line) => line.includes("of the handler")));
  assert.ok(!log.some((line) => line.includes("let pass")), log.join("\n"));
});

test("a handler that parses the URL comes to the path that limits have matched", async (t) => {
  const path = "examples/javascript/worker.mjs";
  const contents = readFileSync(new URL(`../${path}`, import.meta.url));
  for (const only_on of [undefined, ["200"]]) {
    const policy = { version: 1, limits: [{ ...limit, match: { path: "/api/greeting" }, ...(only_on && { only_on }) }] };
    const { base } = await direct(t, policy, { main: { type: "ESModule", path, contents } });
    assert.match(await asSent(base, "/api/greeting"), /^HTTP\/1.1 200 /);
    assert.match(await asSent(base, "/api/greeting"), /^HTTP\/1.1 429 /);
    for (const target of ["/x\\..\\api\\greeting", "/api/greeting\u0001", "/api\\greeting"]) {
      assert.match(await asSent(base, target), /^HTTP\/1.1 404 /, target);
    }
  }
});
