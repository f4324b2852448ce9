-- The answer, whatever the algorithm: credits what is given back, charges what can be granted, and remembers both for
-- the instance, so that a repeated ask changes nothing.
local granted, lasts_until, granted_in = 0, 0, window
local is_known = latest[1] ~= nil
local counters = { unpack(account, 4) }
if is_known and seq <= latest[1] then
  -- The same ask again: its answer may have been lost.
  if seq == latest[1] and latest[4] > now then
    granted, lasts_until, granted_in = latest[2], latest[4], latest[3]
  end
else
  local last_in, last_ends, out = latest[3] or 0, latest[4] or 0, latest[5] or 0
  back = min(back, out)
  if back > 0 and back_of == last_in and give_back(back, last_in) then
    out = out - back
    drawn = max(drawn - back, 0)
  end
  local draw_ends, is_returnable
  granted, draw_ends, is_returnable = draw()
  if granted > 0 then
    out = last_in == window and out or 0
    if is_returnable then
      out = out + granted
    end
    last_in, last_ends = window, draw_ends
    drawn = drawn + granted
  end
  lasts_until, granted_in = last_ends, last_in
  latest = { seq, granted, last_in, last_ends, out }
  counters = counted()
  account[3] = max(account_ends(), last_ends)
end

local left, reset, retry = balance(max(least, 1))
local lives = account[3] - clock
if stored[1] and (ended or lives <= 0) then
  -- What other instances were granted has ended with the account.
  redis.call('DEL', key)
end
if lives > 0 then
  if not is_known and redis.call('HLEN', key) > 1024 then
    -- Of some of the instances, the one whose grant ends first is forgotten: it can no longer give anything back.
    local first, first_ends
    for _, other in ipairs(redis.call('HRANDFIELD', key, 16)) do
      local other_ends = other ~= 'account' and read(redis.call('HGET', key, other))[4]
      if other_ends and (not first or other_ends < first_ends) then
        first, first_ends = other, other_ends
      end
    end
    redis.call('HDEL', key, first)
  end
  redis.call('HSET', key, 'account', write({ now, drawn, account[3], unpack(counters) }), instance, write(latest))
  redis.call('PEXPIRE', key, string.format('%.0f', lives))
end
if granted == 0 then
  return { 0, left, 0, reset, window, drawn, retry }
end
return { granted, left, lasts_until - now, reset, granted_in, drawn, 0 }
