-- The state of breakers that many instances share. One hash holds all of them, a field for each: generation, state,
-- since when and until when, how long it was open, how often it has opened, and which instance made the transition.
local key, instance = KEYS[1], ARGV[1]
local max, min = math.max, math.min
local answers = {}

for at = 2, #ARGV, 7 do
  local breaker, from, says = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local age, lasts = tonumber(ARGV[at + 3]), min(tonumber(ARGV[at + 4]), 86400000)
  local record, stored = {}, redis.call('HGET', key, breaker)
  for digits in string.gmatch(stored or '', '%d+') do
    record[#record + 1] = digits
  end
  local generation, state = tonumber(record[1] or 0), tonumber(record[2] or 0)
  local since, ends = tonumber(record[3] or 0), tonumber(record[4] or 0)
  local open_for, opened, author = record[5] or '0', record[6] or '0', record[7]
  local changed = false

  -- Follow a clock that was set back.
  if since > clock then
    since, ends, changed = clock, clock + max(ends - since, 0), true
  end

  -- An instance that knows of a later generation and wants to probe has opened the breaker without being heard. That
  -- opening is over too.
  local knows, over = from >= generation, ends <= clock
  local next_state
  if says == 1 and knows then
    next_state, since, ends = 0, max(clock - age, 0), clock
  elseif says == 2 and knows then
    next_state, since, ends = 1, max(clock - age, 0), clock + lasts
  elseif says == 3 and (from > generation or knows and over) then
    next_state, since, ends = 2, clock, clock + lasts
  elseif says == 4 and from == generation and state == 2 and author == instance then
    ends, changed = max(ends, clock + lasts), true
  end
  if next_state then
    state, changed = next_state, true
    generation = max(max(generation, from) + 1, clock)
    open_for, opened, author = ARGV[at + 5], ARGV[at + 6], instance
  end

  if changed then
    if not stored and redis.call('HLEN', key) >= 8192 then
      -- Of some of the breakers, the one with the oldest transition is forgotten. Instances that know it report it
      -- again.
      local oldest, oldest_generation
      for _, other in ipairs(redis.call('HRANDFIELD', key, 16)) do
        local other_generation = tonumber(string.match(redis.call('HGET', key, other), '%d+') or 0)
        if not oldest or other_generation < oldest_generation then
          oldest, oldest_generation = other, other_generation
        end
      end
      redis.call('HDEL', key, oldest)
    end
    redis.call('HSET', key, breaker,
      string.format('%.0f %.0f %.0f %.0f %s %s %s', generation, state, since, ends, open_for, opened, author or '0'))
    -- After a month without any transition, none of this is needed.
    redis.call('PEXPIRE', key, 2678400000)
  end

  local mine = generation > 0 and author == instance and 1 or 0
  for _, number in ipairs({ generation, state, max(clock - since, 0), max(ends - clock, 0), tonumber(open_for), tonumber(opened), mine }) do
    answers[#answers + 1] = number
  end
end
return answers
