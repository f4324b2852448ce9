import assert from "node:assert/strict";
import { test } from "node:test";
import { Redis, encrypted } from "./redis.mjs";
import { listen, locations, passing, raw, shareFifty, status, until, urlOf } from "./worker.mjs";

const TOKEN = "user:a-token-nobody-may-read";

/** Three locations whose `fetch` reaches servers of this machine directly, with limits that this Redis counts. */
const counted = async (t, redis, limit, { stores, more, bindings = { REDIS_TOKEN: TOKEN }, ...options } = {}) => {
  const origin = await listen(t, (request, response) => response.end("ok"));
  const api = { name: "api", algorithm: "fixed-window", quota: { permits: 50, window: "31d" }, scope: "global", on_store_failure: "deny" };
  const policy = {
    version: 1,
    upstreams: { origin: { url: urlOf(origin) } },
    routes: [{ name: "all", match: { path: "/**" }, upstreams: ["origin"] }],
    limits: [{ ...api, ...limit }],
    // The machine may be slow.
    stores: { deadline: "5s", redis: { token_env: "REDIS_TOKEN", ...redis }, ...stores },
    ...more,
  };
  return locations(t, policy, { outboundService: undefined, durableObjects: undefined, bindings, ...options });
};

const said = (log, words) => until(() => log.some((line) => line.includes(words)));

for (const protocol of ["webdis", "upstash"]) {
  for (const [algorithm, sharing] of [
    ["fixed-window", "lease"],
    ["sliding-window", "lease"],
    ["token-bucket", "lease"],
    ["fixed-window", "exact"],
  ]) {
    test(`three locations together have one quota, counted by Redis (${protocol}, ${algorithm}, ${sharing})`, async (t) => {
      const redis = await Redis.start(t);
      const url = protocol === "webdis" ? await redis.webdis(TOKEN) : (await redis.upstash(TOKEN)).url;
      const { get, log } = await counted(t, { protocol, url }, { algorithm, sharing });
      await shareFifty(get, algorithm);
      const [keys] = await redis.ask(["KEYS", "*"]);
      assert.ok(keys.length === 2 && keys.every((key) => key.startsWith("tg:{")), `${keys}`);
      assert.equal(log.filter((line) => line.includes(`count in Redis, ${new URL(url).host}`)).length, 3, log.join("\n"));
      assert.ok(!log.join("\n").includes(TOKEN));
    });
  }
}

/** The networks that the Worker's `fetch` can reach, and the certificates that it trusts. */
const trusting = (...trustedCertificates) => ({
  outboundService: { network: { allow: ["private"], tlsOptions: { trustedCertificates } } },
});

for (const protocol of ["webdis", "upstash"]) {
  test(`a Redis by https counts as well (${protocol})`, async (t) => {
    const redis = await Redis.start(t);
    const plain = protocol === "webdis" ? await redis.webdis(TOKEN) : (await redis.upstash(TOKEN)).url;
    const { url, certificate } = await encrypted(t, plain);
    const { get, log } = await counted(t, { protocol, url }, { sharing: "exact" }, trusting(certificate));
    assert.equal(await passing(get, 60), 50);
    assert.ok(log.some((line) => line.includes(`count in Redis, ${new URL(url).host}`)), log.join("\n"));
  });
}

test("a Redis whose certificate is not to be trusted, or is another host's, is as one that is away, and is not shown the token", async (t) => {
  const redis = await Redis.start(t);
  const front = await redis.upstash(TOKEN);
  let asked = 0;
  front.act = (request, response) => {
    asked += 1;
    response.end();
  };
  const [own, others] = [await encrypted(t, front.url), await encrypted(t, front.url, "redis.example")];
  for (const [url, trusted] of [[own.url, []], [others.url, [others.certificate]]]) {
    const { get, log } = await counted(t, { url }, { sharing: "exact" }, trusting(...trusted));
    assert.equal(await status(get(0, "/")), 503);
    await said(log, `the store of shared limits, ${url}: Redis cannot be reached or cannot work now`);
  }
  assert.equal(asked, 0);
});

test("requests that wait for the same client are asked for together, and a script that Redis forgets is sent again", async (t) => {
  const redis = await Redis.start(t);
  const front = await redis.upstash(TOKEN);
  const { get, log } = await counted(t, { url: front.url }, {});
  // The answer to the first ask takes so long that all requests have arrived by then.
  front.act = async (request, response, answer) => {
    await new Promise((resolve) => setTimeout(resolve, 300));
    await answer();
  };
  const many = Array.from({ length: 12 }, () => status(get(0, "/")));
  assert.deepEqual(await Promise.all(many), Array(12).fill(200));
  front.act = undefined;
  const verbs = front.pipelines.flat().map(([verb]) => verb);
  assert.deepEqual(verbs.slice(0, 3), ["EVALSHA", "EVAL", "EVALSHA"]);
  assert.ok(verbs.length <= 4, `${verbs}`);
  await redis.ask(["SCRIPT", "FLUSH"]);
  assert.equal(await passing(get, 45), 38);
  assert.ok(front.pipelines.flat().filter(([verb]) => verb === "EVAL").length > 1);
  assert.ok(!log.some((line) => line.includes("the store of shared limits")), log.join("\n"));
});

test("asks for many clients go several in one request while all calls are taken", async (t) => {
  const redis = await Redis.start(t);
  const front = await redis.upstash(TOKEN);
  const { get } = await counted(t, { url: front.url }, {});
  assert.equal(await status(get(0, "/")), 200);
  front.pipelines.length = 0;
  let under_way = 0;
  let most = 0;
  front.act = async (request, response, answer) => {
    most = Math.max(most, (under_way += 1));
    await new Promise((resolve) => setTimeout(resolve, 100));
    under_way -= 1;
    await answer();
  };
  const asked = Array.from({ length: 120 }, (_, at) => status(get(0, "/", { address: `192.0.2.${at + 100}` })));
  assert.deepEqual(new Set(await Promise.all(asked)), new Set([200]));
  const sizes = front.pipelines.map((commands) => commands.length);
  assert.ok(most <= 16 && Math.max(...sizes) > 1 && Math.max(...sizes) <= 16, `${most}: ${sizes}`);
});

test("while Redis is away the policy decides, and afterwards Redis counts again", async (t) => {
  for (const protocol of ["webdis", "upstash"]) {
    for (const [on_store_failure, expected] of [["allow", 200], ["deny", 503], ["local", 200]]) {
      const redis = await Redis.start(t);
      const url = protocol === "webdis" ? await redis.webdis(TOKEN) : (await redis.upstash(TOKEN)).url;
      const { get, log } = await counted(t, { protocol, url }, { on_store_failure, sharing: "exact" });
      assert.equal(await status(get(0, "/")), 200);
      redis.stop();
      await until(async () => (await status(get(0, "/"))) === expected && log.some((line) => line.includes("the store of shared limits")));
      await said(log, "Redis cannot be reached or cannot work now");
      await redis.restart();
      await until(async () => (await status(get(0, "/"))) === 200 && (await redis.ask(["KEYS", "*"]))[0].length === 1);
      await until(async () => (await passing(get, 30)) === 0);
    }
  }
});

test("a wrong token leaves it to the policy, and is told without being shown", async (t) => {
  const redis = await Redis.start(t);
  const wrong = "user:another-token";
  for (const protocol of ["webdis", "upstash"]) {
    const url = protocol === "webdis" ? await redis.webdis(TOKEN) : (await redis.upstash(TOKEN)).url;
    const status_page = { path: "/tidegate", addresses: ["192.0.2.1"] };
    const { get, log } = await counted(t, { protocol, url }, {}, { bindings: { REDIS_TOKEN: wrong }, more: { status: status_page } });
    assert.equal(await status(get(0, "/")), 503);
    await said(log, `the store of shared limits, ${url}: Redis refuses the credentials`);
    let page;
    await until(async () => /"store_ask_failures":[1-9]/.test((page = await (await get(0, "/tidegate/status")).text())));
    assert.match(page, /"store":{"answers":/);
    const encoded = Buffer.from(wrong).toString("base64");
    for (const text of [page, log.join("\n")]) assert.ok(!text.includes(wrong) && !text.includes(encoded), text);
  }
});

test("a policy whose token the Worker does not have is refused, and says which", async (t) => {
  for (const bindings of [{}, { REDIS_TOKEN: { no: "text" } }]) {
    const outboundService = () => new Response("passed");
    const { get, log } = await counted(t, { url: "http://127.0.0.1:9" }, {}, { bindings, outboundService });
    assert.equal(await (await get(0, "/")).text(), "passed");
    const error = "/stores/redis/token_env: the Worker has no secret or variable REDIS_TOKEN";
    await said(log, error);
    assert.equal(log.filter((line) => line.includes(error)).length, 1, "once is enough");
  }
});

test("a Redis that is slow, or answers what is no answer, costs a request the deadline at most", async (t) => {
  const elsewhere = await listen(t, (request, response) => response.end(String(request.headers.authorization)));
  const fronts = {
    slow: await raw(t, () => {}),
    garbage: await raw(t, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\ngarbage"),
    "not HTTP": await raw(t, "garbage"),
    "status 500": await raw(t, "HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\n[]"),
    redirect: await raw(t, `HTTP/1.1 307 There\r\nlocation: ${urlOf(elsewhere)}/\r\ncontent-length: 0\r\n\r\n`),
    "half a body": await raw(t, (socket) => socket.write('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n[{"result"')),
    "no end": await raw(t, (socket) => {
      socket.write("HTTP/1.1 200 OK\r\n\r\n[");
      const more = setInterval(() => socket.write(" ".repeat(100_000)), 1);
      socket.on("close", () => clearInterval(more));
    }),
  };
  for (const [name, front] of Object.entries(fronts)) {
    const stores = { deadline: "1s" };
    const { get, log } = await counted(t, { url: urlOf(front) }, { sharing: "exact" }, { stores });
    const took = [];
    for (let left = 2; left > 0; left -= 1) {
      const began = Date.now();
      assert.equal(await status(get(0, "/")), 503, name);
      took.push(Date.now() - began);
    }
    // A call may last four times the deadline.
    assert.ok(took.every((ms) => ms < 3_000), `${name}: ${took}`);
    await said(log, "the store of shared limits");
    assert.ok(front.seen > 0, name);
  }
  assert.equal(elsewhere.seen, 0);
});
