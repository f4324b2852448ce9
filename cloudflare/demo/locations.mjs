// Two locations of the Worker in miniflare, with a shared KV namespace: `node locations.mjs DIRECTORY POLICY`.
// DIRECTORY is a Worker built by `make build`, POLICY a policy file. Prints their addresses as a JSON list on one line,
// and exits when standard input closes.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Miniflare } from "miniflare";

const [directory, policy] = process.argv.slice(2);
const beside = readdirSync(directory).filter((name) => name.endsWith(".mjs") && name !== "entry.mjs");
const module = (type, path, file = join(directory, path)) => ({ type, path, contents: readFileSync(file) });
const modules = [
  // The first module is the entry point.
  ...["entry.mjs", ...beside, "pkg/tidegate.js"].map((path) => module("ESModule", path)),
  module("CompiledWasm", "pkg/tidegate_bg.wasm"),
  { type: "ESModule", path: "policy.json", contents: `export default ${readFileSync(policy)}` },
];

const names = ["hel", "rkv"];
const miniflare = new Miniflare({
  // Nothing reads standard output after its first line.
  handleRuntimeStdio: (...streams) => streams.forEach((stream) => stream.pipe(process.stderr)),
  workers: names.map((name) => ({
    name,
    modules,
    compatibilityDate: "2026-04-01",
    compatibilityFlags: ["enable_request_signal"],
    kvNamespaces: { TIDEGATE: "shared" },
    // Each location has its own socket, and can reach servers on this machine.
    unsafeDirectSockets: [{ host: "127.0.0.1", port: 0 }],
  })),
});
await miniflare.ready;
const urls = await Promise.all(names.map((name) => miniflare.unsafeGetDirectURL(name)));
console.log(JSON.stringify(urls.map((url) => url.host)));

process.stdin.resume();
process.stdin.on("close", () => miniflare.dispose());
