// Reads policy.json as the Worker will, before it is deployed: a bad policy ends the build, and not the protection. Wrangler runs it by
// the name in wrangler.toml.
import { readFileSync } from "node:fs";
import { configure, initSync } from "../pkg/tidegate.js";

const beside = (path) => new URL(`../${path}`, import.meta.url);
initSync({ module: readFileSync(beside("pkg/tidegate_bg.wasm")) });
// Which bindings and secrets the Worker has is not known here, and so not who will count.
const env = new Proxy({}, { get: () => "some" });
console.log = () => {};
try {
  configure(readFileSync(beside("policy.json"), "utf8"), "", env);
} catch (problems) {
  console.error(String(problems).replaceAll("tidegate: policy error:", "policy.json:"));
  process.exitCode = 1;
}
