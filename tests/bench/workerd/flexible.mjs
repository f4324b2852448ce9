// rate-limiter-flexible in an isolate's memory, by address.
import RateLimiterMemory from "rate-limiter-flexible/lib/RateLimiterMemory.js";

const limiter = new RateLimiterMemory({ points: 100_000_000, duration: 60 });

/** Answers what is within the limit with the response of `pass`, who is told what the limiter says. */
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
