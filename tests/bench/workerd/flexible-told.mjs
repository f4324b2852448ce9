// The same limiter, which also adds its state to the handler's response headers, as a middleware has to.
import { limited } from "./flexible.mjs";

export default limited((state) => {
  const response = new Response("ok");
  response.headers.append("ratelimit-policy", '"api";q=100000000;w=60');
  response.headers.append("ratelimit", `"api";r=${state.remainingPoints};t=${Math.ceil(state.msBeforeNext / 1000)}`);
  return response;
});
