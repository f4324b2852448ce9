// The upstreams of all scenarios: one server, that does with a request what its scenario says just then. Workers reach it as the
// proxy of all hosts. A request tells by `x-scenario: NAME/NUMBER` where it belongs, and by `x-scenario-holds` that its answer is
// held back.
import { createServer } from "node:http";
import { TOLD } from "./fields.mjs";

/** The hosts by which policies of scenarios know their upstreams; the zone's own host is `origin`. */
const HOSTS = Object.fromEntries(["origin", "cdn", "spare", "nowhere"].map((name) => [`${name}.example.net`, name]));

export class Upstreams {
  #does = new Map();
  #asked = new Map();
  #held = new Map();
  #ended = new Set();
  #server = createServer((request, response) => this.#serve(request, response));

  async start() {
    // A connection that is closed for being idle, just as the Worker uses it, would be an upstream that fails.
    this.#server.keepAliveTimeout = 0;
    await new Promise((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `127.0.0.1:${this.#server.address().port}`;
  }

  stop() {
    this.#server.closeAllConnections();
    this.#server.close();
  }

  /** From now on the upstreams of a scenario do this. */
  set(scenario, does) {
    this.#does.set(scenario, does);
  }

  /** Which upstreams were asked for this request. */
  asked(id) {
    return this.#asked.get(id) ?? [];
  }

  /** Whether the answer to this request is held back. */
  holds(id) {
    return this.#held.get(id)?.id === id;
  }

  /** Lets go what a scenario holds under this name. */
  end(scenario, name) {
    this.#ended.add(`${scenario}/${name}`);
    for (const [id, { of, go }] of this.#held) {
      if (of !== `${scenario}/${name}`) continue;
      this.#held.delete(id);
      go();
    }
  }

  #serve(request, response) {
    request.resume();
    const { "x-scenario": id = "", "x-scenario-holds": holds, host } = request.headers;
    const cluster = HOSTS[host] ?? "origin";
    // Where nobody listens, nobody is asked.
    if (cluster === "nowhere") return request.socket.destroy();
    const scenario = id.split("/")[0];
    this.#asked.set(id, [...this.asked(id), cluster]);
    const go = () => {
      const { status, headers, fails, ...says } = answerOf(cluster, this.#does.get(scenario) ?? {});
      const lines = TOLD.filter((name) => name in request.headers).map((name) => `\n${name}: ${request.headers[name]}`);
      const told = [`${request.method} ${request.url}`, ...lines].join("");
      const body = says.tells ? told : says.echoes ? request.url : says.body;
      if (fails === "reset") request.socket.destroy();
      if (fails !== undefined) return;
      // What Node would add is of another time than the scenario's.
      response.sendDate = false;
      response.writeHead(status, { ...headers, "content-length": Buffer.byteLength(body) });
      response.end(request.method === "HEAD" ? undefined : body);
    };
    if (holds === undefined || this.#ended.has(`${scenario}/${holds}`)) go();
    else this.#held.set(id, { id, of: `${scenario}/${holds}`, go });
  }
}

/** What the upstream of this cluster answers. */
export function answerOf(cluster, does) {
  const { status = 200, headers = {}, body = cluster, echoes = false, tells = false, fails } = does[cluster] ?? {};
  return { status, headers: { "content-type": "text/plain", ...headers }, body, echoes, tells, fails };
}
