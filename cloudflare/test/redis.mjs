// A real redis-server for one test, and a front for it: a real Webdis, or a server with Upstash's REST protocol.
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer as createSocketServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createServer as createTlsServer } from "node:tls";
import { listen, until, urlOf } from "./worker.mjs";

/** A Redis without persistence. It and its fronts end with the test. */
export class Redis {
  #server;

  static async start(test) {
    const redis = new Redis();
    redis.test = test;
    redis.port = await freePort();
    test.after(() => redis.stop());
    await redis.restart();
    return redis;
  }

  /** Restarts it at the same port, empty. */
  async restart() {
    this.stop();
    const options = ["--port", this.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    this.#server = await started("redis-server", options.map(String), this.port);
  }

  stop() {
    this.#server?.kill("SIGKILL");
  }

  /** Pauses it until the returned function is called. */
  pause() {
    this.#server.kill("SIGSTOP");
    return () => this.#server.kill("SIGCONT");
  }

  /** Redis's answers to these commands, on a new connection. */
  async ask(...commands) {
    const socket = connect(this.port, "127.0.0.1");
    const words = commands.map((command) => [`*${command.length}\r\n`, ...command.map(bulk)].join(""));
    socket.write(words.join(""));
    let text = "";
    const answers = [];
    for await (const piece of socket.setEncoding("latin1")) {
      text += piece;
      answers.length = 0;
      for (let at = 0; at !== undefined && answers.length < commands.length; ) {
        const [answer, next] = parsed(text, at);
        if (next !== undefined) answers.push(answer);
        at = next;
      }
      if (answers.length === commands.length) return answers;
    }
    throw new Error("Redis has closed the connection");
  }

  /** The URL of a Webdis in front of it. If `password` is given, it is required. */
  async webdis(password) {
    const port = await freePort();
    const directory = mkdtempSync(join(tmpdir(), "tidegate-webdis-"));
    this.test.after(() => rmSync(directory, { recursive: true }));
    const file = join(directory, "webdis.json");
    const open = [{ disabled: ["DEBUG"] }];
    const settings = {
      redis_host: "127.0.0.1",
      redis_port: this.port,
      http_host: "127.0.0.1",
      http_port: port,
      threads: 2,
      daemonize: false,
      database: 0,
      acl: password ? [{ disabled: ["*"] }, { http_basic_auth: password, enabled: ["*"] }] : open,
      logfile: join(directory, "webdis.log"),
    };
    writeFileSync(file, JSON.stringify(settings));
    const webdis = await started("webdis", [file], port);
    this.test.after(() => webdis.kill("SIGKILL"));
    return `http://127.0.0.1:${port}`;
  }

  /**
   * An Upstash front, which requires the token. `pipelines` are the commands of each request. If `act` is set, it
   * answers instead, and can call the regular answer.
   */
  async upstash(token) {
    const front = { pipelines: [], act: undefined };
    const server = await listen(this.test, async (request, response) => {
      let text = "";
      for await (const piece of request.setEncoding("utf8")) text += piece;
      const tell = (status, answer) => {
        response.writeHead(status, { "content-type": "application/json" });
        response.end(JSON.stringify(answer));
      };
      const answer = async () => {
        const is = (error) => tell(401, { error });
        if (request.headers.authorization !== `Bearer ${token}`) return is("WRONGPASS invalid or missing auth token");
        const commands = JSON.parse(text);
        front.pipelines.push(commands);
        const answers = await this.ask(...commands).catch(() => undefined);
        if (answers === undefined) return tell(503, { error: "ERR cannot reach Redis" });
        tell(200, answers.map((it) => (it instanceof Error ? { error: it.message } : { result: it })));
      };
      await (front.act ?? answer)(request, response, answer);
    });
    front.url = urlOf(server);
    return front;
  }
}

/** The same server by https at `localhost`: its URL, and a certificate for `name`. */
export async function encrypted(test, url, name = "localhost") {
  const directory = mkdtempSync(join(tmpdir(), "tidegate-tls-"));
  test.after(() => rmSync(directory, { recursive: true }));
  const [key, cert] = ["key.pem", "cert.pem"].map((file) => join(directory, file));
  const subject = ["-subj", `/CN=${name}`, "-addext", `subjectAltName=DNS:${name}`];
  const options = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
  execFileSync("openssl", ["req", ...options, ...subject, "-keyout", key, "-out", cert], { stdio: "ignore" });
  const sockets = new Set();
  const server = createTlsServer({ key: readFileSync(key), cert: readFileSync(cert) }, (socket) => {
    const behind = connect(new URL(url).port, "127.0.0.1");
    socket.pipe(behind).pipe(socket);
    for (const [one, other] of [[socket, behind], [behind, socket]]) {
      sockets.add(one);
      one.on("error", () => other.destroy());
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  test.after(() => {
    sockets.forEach((socket) => socket.destroy());
    server.close();
  });
  return { url: `https://localhost:${server.address().port}`, certificate: readFileSync(cert, "utf8") };
}

/** Starts a program, and waits until it accepts connections. */
async function started(program, options, port) {
  const said = [];
  const child = spawn(program, options, { stdio: ["ignore", "pipe", "pipe"] });
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => said.push(String(data)));
  running.add(child);
  let failure;
  child.once("error", (error) => (failure = error));
  child.once("exit", () => (failure ??= new Error("it has ended")));
  await until(() => failure !== undefined || accepts(port));
  if (failure !== undefined) throw new Error(`${program} does not start (see \`make test\`): ${failure.message}: ${said.join("")}`);
  return child;
}

/** These processes end with the test's process, however that ends. */
const running = new Set();
process.once("exit", () => running.forEach((child) => child.kill("SIGKILL")));

const accepts = (port) =>
  new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => resolve(true) || socket.destroy());
    socket.once("error", () => resolve(false));
  });

function freePort() {
  const server = createSocketServer();
  return new Promise((resolve) => {
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

const bulk = (word) => `$${Buffer.byteLength(String(word))}\r\n${word}\r\n`;

/**
 * Parses the RESP2 answer that starts at `at`. Returns it and the start of the next one; nothing if it is incomplete.
 */
function parsed(text, at) {
  const ends = text.indexOf("\r\n", at);
  if (ends < 0) return [];
  const [kind, line, rest] = [text[at], text.slice(at + 1, ends), ends + 2];
  const length = Number(line);
  if (kind === "+") return [line, rest];
  if (kind === "-") return [new Error(line), rest];
  if (kind === ":") return [length, rest];
  if (length < 0) return [null, rest];
  if (kind === "$") return text.length < rest + length + 2 ? [] : [text.slice(rest, rest + length), rest + length + 2];
  const items = [];
  let next = rest;
  while (next !== undefined && items.length < length) {
    let item;
    [item, next] = parsed(text, next);
    items.push(item);
  }
  return [items, next];
}
