import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { direct, listen, raw, until, urlOf, worker } from "./worker.mjs";

const text = "the tide comes in ".repeat(100);

/** A policy with one route, whose good responses are kept. */
const keeps = (origin, route = {}, more = {}) => ({
  version: 1,
  upstreams: { origin: { url: typeof origin === "string" ? origin : urlOf(origin), timeout: "300ms" } },
  routes: [{ name: "all", upstreams: ["origin"], fallback: { on: ["connect", "timeout", "reset", "5xx"], stale: "1h" }, ...route }],
  response: { x_tidegate: true },
  ...more,
});

/** An origin that can be taken down, and that counts its responses. */
async function origin(t, answer = (_, response) => response.end(text)) {
  const server = await listen(t, (request, response) => {
    if (server.down) return response.writeHead(500).end("down");
    answer(request, response);
  });
  return server;
}

const isStale = (answer) => answer.headers.get("x-tidegate")?.includes("step=stale");

/**
 * Repeats the request until the kept response comes, and returns it. Storing it is not awaited before the client is
 * answered.
 */
async function stale(get, path, init) {
  let answer;
  await until(async () => {
    answer = await get(path, init);
    if (!isStale(answer)) await answer.arrayBuffer();
    return isStale(answer);
  });
  return answer;
}

/**
 * Sends the request to a good origin so that its response can be kept, then returns the response while the origin is
 * down.
 */
async function afterwards(get, server, path, good = {}, bad = good) {
  assert.ok((await get(path, good)).status < 400);
  // This response is certainly kept, and later than the other.
  assert.equal((await get("/marker")).status, 200);
  server.down = true;
  await (await stale(get, "/marker")).text();
  const answer = await get(path, bad);
  server.down = false;
  return answer;
}

test("when all upstreams fail, the last good answer is served, with its age and where it is from", async (t) => {
  const server = await origin(t, (request, response) => {
    response.setHeader("cache-control", "max-age=60").setHeader("etag", '"v1"').setHeader("x-own", "1");
    response.setHeader("content-length", text.length).end(text);
  });
  // A request for a range asks for no encoding. If responses varied by that, it would get another one.
  const { get } = await direct(t, keeps(server, { cache: { vary: [] } }));
  assert.equal(await (await get("/a?b=c")).text(), text);
  server.down = true;
  const kept = await stale(get, "/a?b=c");
  assert.equal(kept.status, 200);
  assert.equal(await kept.text(), text);
  assert.equal(kept.headers.get("x-own"), "1");
  assert.equal(kept.headers.get("content-length"), `${text.length}`);
  assert.match(kept.headers.get("age"), /^\d$/);
  assert.match(kept.headers.get("cache-status"), /^tidegate; fwd=bypass; fwd-status=500; ttl=\d\d$/);
  const head = await get("/a?b=c", { method: "HEAD" });
  assert.ok(isStale(head));
  assert.equal(head.headers.get("content-length"), `${text.length}`);
  const part = await get("/a?b=c", { headers: { range: "bytes=4-7" } });
  assert.equal(part.status, 206);
  assert.equal(part.headers.get("content-range"), `bytes 4-7/${text.length}`);
  assert.equal(await part.text(), "tide");
  assert.equal((await get("/a?b=c", { headers: { range: "bytes=99999-" } })).status, 416);
  const unchanged = await get("/a?b=c", { headers: { "if-none-match": 'W/"v1"' } });
  assert.equal(unchanged.status, 304);
  assert.equal(unchanged.headers.get("etag"), '"v1"');
  // Nothing is kept for another target or another method.
  assert.equal((await get("/a?b=d")).status, 500);
  assert.equal((await get("/a?b=c", { method: "POST" })).status, 500);
  server.closeAllConnections();
  server.close();
  const unanswered = await get("/a?b=c");
  assert.match(unanswered.headers.get("cache-status"), /detail=unanswered$/);
});

test("an encoded answer is kept as what it stands for", async (t) => {
  for (const [coding, encode] of [["gzip", gzipSync], ["br", brotliCompressSync]]) {
    const server = await origin(t, (request, response) => {
      if (request.url === "/marker") return response.end("marker");
      const body = encode(text);
      const headers = { "content-encoding": coding, "content-length": body.length, etag: '"v1"', vary: "accept-encoding" };
      response.writeHead(200, headers).end(body);
    });
    const { get } = await direct(t, keeps(server));
    const answer = await afterwards(get, server, "/a");
    assert.ok(isStale(answer), coding);
    assert.equal(answer.headers.get("etag"), 'W/"v1"');
    assert.equal(answer.headers.get("content-encoding"), null);
    assert.equal(await answer.text(), text);
  }
});

test("what is one client's own is not kept, nor what the answer or the request forbids", async (t) => {
  const cases = [
    ["cookie set", { "set-cookie": "a=b" }, {}],
    ["no-store", { "cache-control": "no-store" }, {}],
    ["private", { "cache-control": "private" }, {}],
    ["varies", { vary: "cookie" }, {}],
    ["authorized", {}, { authorization: "Bearer x" }],
    ["cookie sent", {}, { cookie: "a=b" }],
    ["no-store asked", {}, { "cache-control": "no-store" }],
    ["too large", { "x-large": "1" }, {}],
    ["a part", { "content-range": "bytes 0-3/9" }, {}],
  ];
  const server = await origin(t, (request, response) => {
    const found = cases.find(([name]) => request.url === `/${encodeURIComponent(name)}`);
    for (const [name, value] of Object.entries(found?.[1] ?? {})) response.setHeader(name, value);
    response.end(found?.[1]["x-large"] ? "x".repeat(5_000) : text);
  });
  const { get } = await direct(t, keeps(server, {}, { state: { kept: { max_object: 4_096 } } }));
  for (const [name, , headers] of cases) {
    const answer = await afterwards(get, server, `/${encodeURIComponent(name)}`, { headers }, {});
    assert.equal(answer.status, 500, name);
  }
  assert.ok(isStale(await afterwards(get, server, "/kept")));
  // A client that may see more than others gets no response that was kept for others.
  server.down = true;
  assert.equal((await get("/kept", { headers: { authorization: "Bearer x" } })).status, 500);
});

test("an answer that breaks off is not kept, one that a client leaves neither, and the next one is", async (t) => {
  let whole = false;
  const broken = await raw(t, (socket) => {
    socket.write(`HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\n${whole ? "0123456789" : "01234"}`);
    socket.end();
  });
  const { get } = await direct(t, keeps(broken));
  await assert.rejects((await get("/a")).text());
  whole = true;
  assert.equal(await (await get("/a")).text(), "0123456789");
  broken.close();
  const kept = await stale(get, "/a");
  assert.equal(await kept.text(), "0123456789");
});

test("kept answers are apart by what the route varies by, outlive the isolate, and end with their version", async (t) => {
  const server = await origin(t, (request, response) =>
    response.setHeader("vary", "x-market").end(`for ${request.headers["x-market"]}`),
  );
  const cachePersist = mkdtempSync(join(tmpdir(), "tidegate-cache-"));
  t.after(() => rmSync(cachePersist, { recursive: true, force: true }));
  const under = (version, more) => keeps(server, { cache: { vary: ["x-market"], version } }, more);
  const { get, deploy } = await direct(t, under("1"), { cachePersist });
  const of = (market) => ({ headers: { "x-market": market } });
  for (const market of ["de", "fr"]) await (await get("/a", of(market))).text();
  server.down = true;
  for (const market of ["de", "fr"]) assert.equal(await (await stale(get, "/a", of(market))).text(), `for ${market}`);
  assert.equal((await get("/a", of("it"))).status, 500);
  // Other isolates and later deployments can read it: it is not sealed with a secret of one isolate.
  await deploy(under("1", { limits: [{ name: "more", quota: { permits: 1_000, window: "1h" } }] }));
  assert.ok(isStale(await get("/a", of("de"))));
  await deploy(under("2"));
  assert.equal((await get("/a", of("de"))).status, 500);
});

test("a slow client does not delay what is kept, and what is kept does not delay the client", async (t) => {
  let end;
  const server = await origin(t, (request, response) => {
    if (request.url === "/marker") return response.end("marker");
    response.write("first");
    end = () => response.end(" last");
  });
  const { get } = await direct(t, keeps(server));
  const answer = await get("/a");
  const reader = answer.body.getReader();
  assert.equal(Buffer.from((await reader.read()).value).toString(), "first");
  end();
  assert.equal(Buffer.from((await reader.read()).value).toString(), " last");
  assert.ok(isStale(await afterwards(get, server, "/marker")));
  server.down = true;
  assert.equal(await (await stale(get, "/a")).text(), "first last");
});

test("answers tell caches what the route says, and pages what they will need", async (t) => {
  const server = await listen(t, (request, response) => {
    if (request.url === "/own") response.setHeader("cache-control", "no-store");
    if (request.url === "/error") response.statusCode = 404;
    response.setHeader("content-type", request.url === "/page" ? "text/html" : "text/css").end("x");
  });
  const route = {
    cache: { ttl: "1d", stale_while_revalidate: "1h", immutable: true },
    preload: [{ path: "/app.css", as: "style" }],
    fallback: undefined,
  };
  const { get } = await direct(t, keeps(server, route));
  const said = async (path, init) => (await get(path, init)).headers;
  const rule = "max-age=86400, stale-while-revalidate=3600, immutable";
  assert.equal((await said("/page")).get("cache-control"), rule);
  assert.equal((await said("/page", { method: "HEAD" })).get("cache-control"), rule);
  assert.equal((await said("/page")).get("link"), "</app.css>; rel=preload; as=style");
  assert.equal((await said("/a.css")).get("link"), null);
  assert.equal((await said("/own")).get("cache-control"), "no-store");
  assert.equal((await said("/error")).get("cache-control"), null);
});

const variants = { formats: ["avif", "webp"], widths: [320, 640], rewrite: "/image/format={format},width={width}{path}" };
const wants = { headers: { accept: "image/webp,*/*" } };

test("an image is asked for as the variant that the client needs", async (t) => {
  const server = await listen(t, (request, response) => response.end(request.url));
  const { get } = await direct(t, keeps(`${urlOf(server)}/base`, { variants }));
  const answer = await get("/a.jpg?w=300&v=1", wants);
  assert.equal(await answer.text(), "/base/image/format=webp,width=320/a.jpg?v=1");
  assert.equal(answer.headers.get("vary"), "accept, sec-ch-width");
  assert.equal(await (await get("/a.jpg")).text(), "/base/a.jpg");
  assert.equal(await (await get("/a.css", wants)).text(), "/base/a.css");
});

test("where the zone has image transformations, it is Cloudflare that is asked", async (t) => {
  const asked = [];
  const policy = keeps("http://images.example.net", { variants: { ...variants, cf_image: true } });
  policy.upstreams.origin.timeout = "10s";
  const outboundService = (request) => {
    asked.push([request.url, request.cf?.image]);
    return new Response("image");
  };
  const { get } = await worker(t, policy, undefined, { outboundService });
  assert.equal(await (await get("/a.jpg?w=300&v=1", wants)).text(), "image");
  await (await get("/a.jpg", { headers: { accept: "image/webp", via: "1.1 image-resizing-proxy" } })).text();
  assert.deepEqual(asked, [
    ["http://images.example.net/a.jpg?v=1", { format: "webp", width: 320, fit: "scale-down" }],
    ["http://images.example.net/a.jpg", undefined],
  ]);
});
