-- The authority's clock is that of Redis, in ms since the Unix epoch, whatever the instances' clocks say.
local time = redis.call('TIME')
local clock = time[1] * 1000 + math.floor(time[2] / 1000)
