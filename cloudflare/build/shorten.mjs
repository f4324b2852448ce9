// Gives the module's bindings the short names that wasm-opt has given the module: `node shorten.mjs NAMES BINDINGS`. What wasm-bindgen
// calls its functions is digits in the main, and no compression makes those smaller.
import { readFileSync, writeFileSync } from "node:fs";

const [names, bindings] = process.argv.slice(2);
const { imports, exports } = JSON.parse(readFileSync(names, "utf8"));
// wasm-opt puts all imports into one module of this name.
const from = "./tidegate_bg.js";
const short = new Map([[`"${from}": `, '"a": ']]);
for (const [module, name, to] of imports) {
  if (module !== from) throw new Error(`the module imports ${name} of ${module}, and of ${from} alone it should`);
  short.set(`${name}: `, `${to}: `);
}
for (const [name, to] of exports) short.set(`wasm.${name}`, `wasm.${to}`);

const left = new Set(short.keys());
const text = readFileSync(bindings, "utf8").replace(/"\.\/\w+\.js": |\b__wb\w+: |\bwasm\.\w+/g, (name) => {
  if (!short.has(name)) throw new Error(`the module has no ${name}`);
  left.delete(name);
  return short.get(name);
});
const missing = [...left].filter((name) => !name.startsWith("wasm."));
if (missing.length > 0) throw new Error(`the bindings have no ${missing}`);
writeFileSync(bindings, text);
