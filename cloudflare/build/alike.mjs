// Puts functions of a module that are alike near to each other, since gzip looks back 32 KB and no further: 2% of what is sent.
//
//   node alike.mjs MODULE NAMED
//
// It moves nothing itself: NAMED has the functions of MODULE under names in the order in which they are to stand, by which wasm-opt
// moves them (--reorder-functions-by-name).
import { readFileSync, writeFileSync } from "node:fs";

/** A number as WebAssembly writes it (LEB128), and where what is behind it begins. */
function number(bytes, at) {
  for (let value = 0, shift = 0; ; shift += 7) {
    const byte = bytes[at++];
    value += (byte & 0x7f) * 2 ** shift;
    if (byte < 0x80) return [value, at];
  }
}

/** A number as WebAssembly writes it. */
function written(value) {
  const rest = Math.floor(value / 0x80);
  return rest === 0 ? [value] : [(value & 0x7f) | 0x80, ...written(rest)];
}

/** The sections of a module: what each is, the bytes of all of it, and where in these its content begins. */
function* sections(module) {
  for (let at = 8; at < module.length; ) {
    const [length, content] = number(module, at + 1);
    yield { id: module[at], bytes: module.subarray(at, content + length), content: content - at };
    at = content + length;
  }
}

/** The bodies of the functions. */
function bodies({ bytes, content }) {
  let [count, at] = number(bytes, content);
  return Array.from({ length: count }, () => {
    const [length, begin] = number(bytes, at);
    at = begin + length;
    return bytes.subarray(begin, at);
  });
}

/** How many functions are imported: they are numbered first. */
function imported({ bytes, content }) {
  let [count, at] = number(bytes, content);
  let functions = 0;
  const skip = () => {
    const [length, begin] = number(bytes, at);
    at = begin + length;
  };
  for (; count > 0; count -= 1) {
    // Its module's name, and its own.
    skip();
    skip();
    const kind = bytes[at];
    // wasm-bindgen imports nothing but functions and, for exceptions, tags.
    if (kind !== FUNCTION && kind !== TAG) throw new Error(`an import of the kind ${kind}, which is not expected`);
    [, at] = number(bytes, at + (kind === TAG ? 2 : 1));
    functions += kind === FUNCTION ? 1 : 0;
  }
  return functions;
}

/** What each function shares with others, piece by piece: who has a piece, and what it counts for. */
function shared(bodies) {
  const owners = new Map();
  bodies.forEach((body, index) => {
    for (let at = 0; at + PIECE <= body.length; at += 1) {
      const piece = body.toString("latin1", at, at + PIECE);
      const all = owners.get(piece) ?? owners.set(piece, []).get(piece);
      if (all.at(-1) !== index) all.push(index);
    }
  });
  const pieces = bodies.map(() => []);
  for (const all of owners.values()) {
    if (all.length === 1 || all.length > COMMON) continue;
    const piece = { owners: all, weight: Math.log(bodies.length / all.length), near: 0 };
    for (const index of all) pieces[index].push(piece);
  }
  return pieces;
}

/** The functions in the order in which they are to stand: each time the one that shares most, for its length, with those just before. */
function order(bodies) {
  const pieces = shared(bodies);
  const shares = bodies.map(() => 0);
  const left = new Set(bodies.keys());
  const chosen = [];
  let [first, near] = [0, 0];
  const count = (index, step) => {
    for (const piece of pieces[index]) {
      const was = piece.near > 0;
      piece.near += step;
      if (was !== piece.near > 0) for (const owner of piece.owners) shares[owner] += step * piece.weight;
    }
  };
  while (left.size > 0) {
    let [next, most] = [undefined, -1];
    for (const index of left) {
      const share = shares[index] / (bodies[index].length + OVERHEAD);
      if (share > most) [next, most] = [index, share];
    }
    left.delete(next);
    chosen.push(next);
    count(next, 1);
    for (near += bodies[next].length; near > WINDOW; first += 1) {
      near -= bodies[chosen[first]].length;
      count(chosen[first], -1);
    }
  }
  return chosen;
}

/** A section of names: of each function, by its number, that of its place. */
function named(chosen, before) {
  const place = [];
  chosen.forEach((index, at) => (place[index] = at));
  const text = (text) => [...written(text.length), ...Buffer.from(text)];
  const names = place.flatMap((at, index) => [...written(before + index), ...text(String(at).padStart(6, "0"))]);
  const functions = [...written(chosen.length), ...names];
  const content = [...text("name"), FUNCTION_NAMES, ...written(functions.length), ...functions];
  return Buffer.from([0, ...written(content.length), ...content]);
}

/** Bytes that count as one. */
const PIECE = 6;
/** What so many functions have says nothing of them. */
const COMMON = 150;
/** How far gzip looks back, and a little less. */
const WINDOW = 30_000;
/** A function of a few bytes shares all of them with many. */
const OVERHEAD = 40;
const [CUSTOM, IMPORTS, CODE, FUNCTION_NAMES] = [0, 2, 10, 1];
const [FUNCTION, TAG] = [0, 4];

const [, , from, to] = process.argv;
const module = readFileSync(from);
// With the names that there are the functions would have two.
const kept = [...sections(module)].filter(({ id }) => id !== CUSTOM);
const [imports, code] = [IMPORTS, CODE].map((wanted) => kept.find(({ id }) => id === wanted));
const names = named(order(bodies(code)), imported(imports));
writeFileSync(to, Buffer.concat([module.subarray(0, 8), ...kept.map(({ bytes }) => bytes), names]));
