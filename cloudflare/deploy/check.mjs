// Parses policy.json as the Worker does, before a deployment: a bad policy fails the build. Wrangler runs this file, as
// wrangler.toml says.
import { readFileSync } from "node:fs";
import { configure, initSync } from "../pkg/tidegate.js";

const beside = (path) => new URL(`../${path}`, import.meta.url);
initSync({ module: readFileSync(beside("pkg/tidegate_bg.wasm")) });
// The Worker's bindings and secrets are unknown here, so assume that each of them exists. Hide the log line about where
// limits are counted, which would be wrong.
const env = new Proxy({}, { get: () => "some" });
console.log = () => {};
try {
  configure(readFileSync(beside("policy.json"), "utf8"), "", env);
} catch (problems) {
  console.error(String(problems).replaceAll("tidegate: policy error:", "policy.json:"));
  process.exitCode = 1;
}
