// rate-limiter-flexible as a service for Envoy's ext_authz filter, which asks it about every request. It asks Redis in
// turn. `node limiter.cjs PORT REDIS_PORT PERMITS`, with PERMITS requests per second.
const { createServer } = require("node:http");
const { Redis } = require("ioredis");
const { RateLimiterRedis } = require("rate-limiter-flexible");

const [port, redisPort, points] = process.argv.slice(2).map(Number);
const limiter = new RateLimiterRedis({ storeClient: new Redis(redisPort, "127.0.0.1"), points, duration: 1 });

createServer(async (_, response) => {
  try {
    await limiter.consume("api");
    response.writeHead(200);
  } catch (refusal) {
    // It throws the client's state if the request is over the limit, or else an error.
    response.writeHead(refusal instanceof Error ? 503 : 429);
  }
  response.end();
}).listen(port, "127.0.0.1");
