// The header fields to compare in scenarios, from a list that the core's suite reads too: fields of responses, byte for
// byte, and fields of requests as upstreams report them.
import { readFileSync } from "node:fs";

const lists = new URL("../../tests/suite/scenarios/fields.json", import.meta.url);
export const { compared: FIELDS, told: TOLD } = JSON.parse(readFileSync(lists, "utf8"));
