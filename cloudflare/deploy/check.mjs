// Reads policy.json as the Worker will, before it is deployed: a bad policy ends the build, and not the protection. Wrangler runs it by
// the name in wrangler.toml.
import { readFileSync } from "node:fs";
import { configure, initSync } from "../pkg/tidegate.js";

const beside = (path) => new URL(`../${path}`, import.meta.url);
initSync({ module: readFileSync(beside("pkg/tidegate_bg.wasm")) });
try {
  // Which secrets the Worker has is not known here.
  configure(JSON.stringify(JSON.parse(readFileSync(beside("policy.json"), "utf8"))), "", new Proxy({}, { get: () => "some" }));
} catch (problems) {
  console.error(`policy.json: ${problems}`);
  process.exitCode = 1;
}
