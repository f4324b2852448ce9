// rate-limiter-flexible in an isolate's memory, by address.
import RateLimiterMemory from "rate-limiter-flexible/lib/RateLimiterMemory.js";

const limiter = new RateLimiterMemory({ points: 100_000_000, duration: 60 });

/** Calls `pass` with the limiter's state for requests within the limit. */
export const limited = (pass) => ({
  async fetch(request) {
    try {
      return pass(await limiter.consume(request.headers.get("cf-connecting-ip")));
    } catch {
      return new Response("too many requests", { status: 429 });
    }
  },
});

export default limited(() => new Response("ok"));
