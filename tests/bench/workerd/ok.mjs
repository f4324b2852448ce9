// The cost of any response in workerd.
export default { fetch: () => new Response("ok") };
