// The upstreams of all scenarios: one server that treats a request as its scenario currently says. Workers reach it as
// the proxy for all hosts. A request names its scenario in `x-scenario: NAME/NUMBER`; `x-scenario-holds` asks to hold
// its response.
import { createServer } from "node:http";
import { TOLD } from "./fields.mjs";

/** The hosts of upstreams in the scenarios' policies; the zone's own host is `origin`. */
const HOSTS = Object.fromEntries(["origin", "cdn", "spare", "nowhere"].map((name) => [`${name}.example.net`, name]));

export class Upstreams {
  #does = new Map();
  #asked = new Map();
  #held = new Map();
  #ended = new Set();
  #server = createServer((request, response) => this.#serve(request, response));

  async start() {
    // An idle connection that is closed just as the Worker uses it would look like a failing upstream.
    this.#server.keepAliveTimeout = 0;
    await new Promise((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `127.0.0.1:${this.#server.address().port}`;
  }

  stop() {
    this.#server.closeAllConnections();
    this.#server.close();
  }

  /** Sets what the upstreams of a scenario do from now on. */
  set(scenario, does) {
    this.#does.set(scenario, does);
  }

  /** The upstreams that this request has reached. */
  asked(id) {
    return this.#asked.get(id) ?? [];
  }

  /** Whether the response to this request is held. */
  holds(id) {
    return this.#held.get(id)?.id === id;
  }

  /** Releases the responses that a scenario holds under this name. */
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
    // This host stands for an upstream that accepts no connection.
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
      // Node's `Date` would not be the scenario's time.
      response.sendDate = false;
      response.writeHead(status, { ...headers, "content-length": Buffer.byteLength(body) });
      response.end(request.method === "HEAD" ? undefined : body);
    };
    if (holds === undefined || this.#ended.has(`${scenario}/${holds}`)) go();
    else this.#held.set(id, { id, of: `${scenario}/${holds}`, go });
  }
}

/** The response of this upstream. */
export function answerOf(cluster, does) {
  const { status = 200, headers = {}, body = cluster, echoes = false, tells = false, fails } = does[cluster] ?? {};
  return { status, headers: { "content-type": "text/plain", ...headers }, body, echoes, tells, fails };
}
