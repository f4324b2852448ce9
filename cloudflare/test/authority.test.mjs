import assert from "node:assert/strict";
import { test } from "node:test";
import { until, worker } from "./worker.mjs";

const objects = { TIDEGATE_AUTHORITY: { className: "TidegateAuthority", useSQLite: true } };

/** The Durable Object of this name in a shipped Worker, and its answers to asks. */
const authority = async (t, options = {}) => {
  const it = await worker(t, { version: 1 }, undefined, { world: "(env) => env", durableObjects: objects, ...options });
  let namespace = await it.miniflare.getDurableObjectNamespace("TIDEGATE_AUTHORITY");
  const stub = (name = "one") => namespace.get(namespace.idFromName(name));
  const ask = async (more, name) => grant(await stub(name).ask(bytes(more)));
  const deploy = async (policy) => {
    await it.deploy(policy);
    namespace = await it.miniflare.getDurableObjectNamespace("TIDEGATE_AUTHORITY");
  };
  return { ...it, stub, ask, deploy };
};

const FIXED_WINDOW = 0;
const LONGEST_MS = 31 * 86_400_000;
const of = { key: 7n, algorithm: FIXED_WINDOW, permits: 10, window_ms: LONGEST_MS, burst: 10, instance: 1, seq: 1 };

/** An ask as the core encodes it. */
const bytes = (more) => {
  const ask = { need: 1, least: 1, want: 1, back: 0, back_of: 0, ...of, ...more };
  const fields = [ask.key, ask.algorithm, ask.permits, ask.window_ms, ask.burst, ask.instance, ask.seq];
  const numbers = [1, ...fields, ask.need, ask.least, ask.want, ask.back, ask.back_of];
  return new Uint8Array(BigUint64Array.from(numbers, BigInt).buffer);
};

const grant = (bytes) => {
  const [version, granted, left, lasts, retryAfter, reset, window] = new BigUint64Array(bytes.slice().buffer);
  assert.equal(version, 1n);
  return { granted: Number(granted), left: Number(left), lasts, retryAfter, reset, window };
};

test("an object counts each key, charges once for an ask that comes twice, and takes back what was not used", async (t) => {
  const { ask } = await authority(t);
  const first = await ask({ want: 3 });
  assert.equal(first.granted + first.left, 10);
  assert.deepEqual((await ask({ want: 3 })).granted, first.granted);
  const other = await ask({ instance: 2, need: 5, least: 1, want: 5 });
  assert.equal(other.left, 10 - first.granted - 5);
  const back = await ask({ seq: 2, need: 0, least: 0, want: 0, back: first.granted, back_of: first.window });
  assert.equal(back.left, 5);
  assert.equal((await ask({ key: 8n })).left, 9);
  assert.equal((await ask({ instance: 3, need: 9, least: 9, want: 9 })).granted, 0);
});

test("an object that is evicted between asks has forgotten nothing", async (t) => {
  const { ask, stub } = await authority(t);
  assert.equal((await ask({ need: 4, want: 4 })).granted, 4);
  await assert.rejects(stub().leave());
  assert.equal((await ask({ need: 4, want: 4 })).granted, 4, "the ask is remembered");
  assert.equal((await ask({ instance: 2, need: 9, want: 9 })).granted, 6, "and so is the count");
});

test("an object that is started anew, with all of workerd, has forgotten nothing", async (t) => {
  const { ask, deploy } = await authority(t);
  assert.equal((await ask({ need: 4, want: 4 })).granted, 4);
  await deploy({ version: 1 });
  assert.equal((await ask({ instance: 2, need: 9, want: 9 })).granted, 6);
});

test("what has ended is forgotten by an alarm, and none is set when nothing is left", async (t) => {
  const { ask, stub } = await authority(t);
  await ask({ key: 99n });
  for (const name of ["one", "two"]) {
    for (let key = 1n; key <= 20n; key += 1n) await ask({ key, window_ms: 500 }, name);
    const { alarm } = await stub(name).kept();
    assert.ok(alarm > Date.now() + 50_000, `${alarm}`);
  }
  for (const [name, keys] of [["one", 1], ["two", 0]]) {
    await until(async () => {
      await stub(name).ring();
      return (await stub(name).kept()).keys === keys;
    });
    assert.equal((await stub(name).kept()).alarm !== null, keys > 0);
  }
});

test("an object counts anew what has ended, though nothing has cleaned it up", async (t) => {
  const { ask } = await authority(t);
  const short = { window_ms: 400, permits: 1 };
  assert.equal((await ask(short)).granted, 1);
  await until(async () => (await ask({ ...short, instance: 2 })).granted === 1);
});

test("an object remembers 100,000 clients, and of more it forgets those whose counts end first", async (t) => {
  const { ask, stub } = await authority(t);
  assert.equal((await ask({ need: 4, want: 4 })).granted, 4);
  await stub().crowd(99_999, Date.now() + 600_000);
  assert.equal((await stub().kept()).keys, 100_000);
  for (let key = 20n; key < 25n; key += 1n) await ask({ key });
  const { keys } = await stub().kept();
  assert.ok(keys <= 100_000 && keys > 99_000, `${keys}`);
  assert.equal((await ask({ instance: 2, need: 9, want: 9 })).granted, 6);
});

test("an object whose core fails says so at once, has charged nothing, and serves the next ask", async (t) => {
  const dist = new URL("../../target/cloudflare-panics/", import.meta.url);
  const { ask, stub, log } = await authority(t, { dist });
  assert.equal((await ask({ need: 4, want: 4 })).granted, 4);
  for (const [wrong, says] of [
    [{ algorithm: 9 }, /another version/],
    [{ permits: 1n << 40n }, /another version/],
    [{ key: (1n << 64n) - 1n }, /unreachable/],
  ]) {
    const began = Date.now();
    assert.match(await stub().tried(bytes({ instance: 2, ...wrong })), says);
    assert.ok(Date.now() - began < 2_000);
  }
  await until(() => log.some((line) => line.includes("as the ask asked")));
  assert.equal((await ask({ instance: 2, need: 9, want: 9 })).granted, 6);
});
