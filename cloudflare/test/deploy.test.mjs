import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const at = (path) => fileURLToPath(new URL(path, import.meta.url));

test("wrangler deploys a policy that can be read, and tells the errors of one that cannot", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "tidegate-deploy-"));
  t.after(() => rmSync(directory, { recursive: true }));
  cpSync(at("../../dist/cloudflare"), directory, { recursive: true });
  const deploy = (policy) =>
    new Promise((resolve) => {
      writeFileSync(join(directory, "policy.json"), policy);
      const options = ["deploy", "--dry-run", "--outdir", join(directory, "out")];
      const env = { ...process.env, WRANGLER_SEND_METRICS: "false", CI: "1" };
      execFile(at("../node_modules/.bin/wrangler"), options, { cwd: directory, env }, (error, stdout, stderr) =>
        resolve({ failed: error !== null, said: stdout + stderr }),
      );
    });
  const limits = [{ name: "api", quota: { permits: 1, window: "60s" }, scope: "global" }];
  // The secrets of a Worker are unknown before it runs.
  const stores = { redis: { url: "https://redis.example.com", token_env: "REDIS_TOKEN" } };
  const good = await deploy(JSON.stringify({ version: 1, limits, stores }));
  assert.ok(!good.failed && good.said.includes("--dry-run: exiting now") && !good.said.includes("count in"), good.said);
  for (const [policy, error] of [
    ['{ "version": 1, "limits": [{ "name": "api", "quota": { "permits": 0, "window": "60s" } }] }', "policy.json: /limits/0/quota/permits: 0 is out of range"],
    ['{ "version": 1,', "policy.json: line 1, column 15: the document cannot be read as JSON"],
  ]) {
    const bad = await deploy(policy);
    assert.ok(bad.failed && bad.said.includes(error) && !bad.said.includes("exiting now"), bad.said);
  }
});
