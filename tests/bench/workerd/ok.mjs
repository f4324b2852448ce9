// What workerd takes to answer at all.
export default { fetch: () => new Response("ok") };
