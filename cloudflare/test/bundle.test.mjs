// What wrangler builds to upload: one minified script, the wasm module, and the policy inside the script.
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { worker } from "./worker.mjs";

const bundle = new URL("../../target/cloudflare/", import.meta.url);
const read = (name) => readFileSync(new URL(name, bundle));

test("what is sent limits as the files do of which it is made", async (t) => {
  const wasm = readdirSync(bundle).find((name) => name.endsWith(".wasm"));
  const { get, log } = await worker(t, null, undefined, {
    modules: [
      { type: "ESModule", path: "entry.js", contents: read("entry.js") },
      { type: "CompiledWasm", path: wasm, contents: read(wasm) },
    ],
    durableObjects: { TIDEGATE_AUTHORITY: { className: "TidegateAuthority", useSQLite: true } },
  });
  // As the policy of this package says.
  const statuses = [];
  for (let left = 101; left > 0; left -= 1) {
    const answer = await get("/a");
    assert.equal(answer.headers.get("ratelimit-policy"), '"api";q=100;w=60');
    statuses.push(answer.status);
  }
  assert.deepEqual(statuses, [...Array(100).fill(200), 429]);
  assert.deepEqual(log, []);
});
