// What one client can do to others: nothing.
import assert from "node:assert/strict";
import { connect } from "node:net";
import { test } from "node:test";
import { direct, listen, until, urlOf } from "./worker.mjs";

/** What comes to a request that is sent as it stands, which no client library would send. */
const sent = (base, head, body = "") =>
  new Promise((resolve, reject) => {
    const { hostname, port } = new URL(base);
    let answer = "";
    connect(port, hostname)
      .on("data", (data) => (answer += data))
      .on("close", () => resolve(answer))
      .on("error", reject)
      .write(`${head}\r\nconnection: close\r\n${body && `content-length: ${body.length}\r\n`}\r\n${body}`);
  });

test("what was kept for one client is served to nobody who asks otherwise", async (t) => {
  const server = await listen(t, (request, response) => response.writeHead(server.down ? 503 : 200).end(request.url));
  const { base, get } = await direct(t, {
    version: 1,
    client: { api_key: { header: "x-api-key" }, claims: { header: "x-jwt-payload" }, trusted_headers: ["x-jwt-payload"] },
    upstreams: { origin: { url: urlOf(server) } },
    routes: [{ name: "all", upstreams: ["origin"], fallback: { on: ["5xx"], stale: "1h" }, cache: { vary: [] } }],
  });
  const { host } = new URL(base);
  const plain = (path) => `GET ${path} HTTP/1.1\r\nHost: ${host}`;
  await sent(base, plain("/body"), "q=1");
  await sent(base, `${plain("/key")}\r\nx-api-key: k1`);
  await sent(base, `${plain("/claims")}\r\nx-jwt-payload: e30`);
  await sent(base, "GET /host HTTP/1.1\r\nHost: other.example");
  // Asked for last, so that what was to be kept is when it comes.
  await sent(base, `${plain("/plain")}\r\nx-other: 1`);
  server.down = true;
  await until(async () => (await get("/plain")).status === 200);
  for (const path of ["/body", "/key", "/claims", "/host"]) assert.equal((await get(path)).status, 503, path);
});
