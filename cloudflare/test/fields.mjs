// The header fields by which scenarios are compared, from the list that the suite of the core reads too: those of answers, byte for
// byte, and those of requests that upstreams tell of.
import { readFileSync } from "node:fs";

const lists = new URL("../../tests/suite/scenarios/fields.json", import.meta.url);
export const { compared: FIELDS, told: TOLD } = JSON.parse(readFileSync(lists, "utf8"));
