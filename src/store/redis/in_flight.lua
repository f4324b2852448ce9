-- Permits of requests in flight, which are held. Each instance has a field: its last ask, how many permits it holds, until
-- when, since when it waits in line, and for how many permits. `back` is what it keeps of what it holds.
local all = redis.call('HGETALL', key)
local others, count, held_by_others, ends, mine = {}, 0, 0, 0, nil
for place = 1, #all, 2 do
  local name, holder = all[place], read(all[place + 1])
  if name ~= 'account' then
    if holder[3] > now + length then
      -- After the clock has stepped back, the lease would last too long.
      holder[3] = now + length
      redis.call('HSET', key, name, write({ unpack(holder) }))
    end
    if holder[3] <= now then
      redis.call('HDEL', key, name)
    elseif name == instance then
      mine = holder
    else
      count = count + 1
      holder.name = name
      others[count] = holder
      held_by_others = held_by_others + holder[2]
      ends = max(ends, holder[3])
    end
  end
end

-- Whether an instance lacks permits and has asked recently: its lease began with its last ask.
local function is_in_line(holder)
  return holder[5] > 0 and holder[3] - length + 1500 > now
end
local lacked = 0
for _, other in ipairs(others) do
  lacked = lacked + (is_in_line(other) and other[5] or 0)
end

local held = 0
if mine and seq < mine[1] then
  -- An earlier ask says nothing about now.
  ends = max(ends, mine[3])
elseif mine and seq == mine[1] then
  held, ends = mine[2], max(ends, mine[3])
else
  local before = mine or { 0, 0, 0, 0, 0 }
  -- Permits whose lease has expired meanwhile are still in use: the instance gets them back, unless others have them.
  local there = max(permits - held_by_others, 0)
  local kept = min(back, max(before[2], there))
  local since = is_in_line(before) and before[4] or now
  -- Permits that come free are reserved for instances that have waited in line longer.
  local reserved = 0
  for _, other in ipairs(others) do
    local is_before = other[4] < since or other[4] == since and tonumber(other.name) < tonumber(instance)
    reserved = reserved + (is_in_line(other) and is_before and other[5] or 0)
  end
  want = lacked > 0 and need or want
  local served, ahead = parts(max(there - kept - reserved, 0))
  local short = least <= permits and min(need - served, max(least, 1)) or 0
  since = short == 0 and 0 or served == 0 and since or now
  held = kept + served + ahead
  local is_remembered = mine ~= nil or count < 1024
  if not is_remembered then
    local first
    for _, other in ipairs(others) do
      local is_earlier = not first or other[3] < first[3]
        or other[3] == first[3] and tonumber(other.name) < tonumber(first.name)
      first = other[2] == 0 and is_earlier and other or first
    end
    if first then
      redis.call('HDEL', key, first.name)
      lacked = lacked - (is_in_line(first) and first[5] or 0)
      ends = 0
      for _, other in ipairs(others) do
        ends = other ~= first and max(ends, other[3]) or ends
      end
      is_remembered = true
    end
  end
  if is_remembered then
    mine = { seq, held, now + length, since, short }
    ends = max(ends, mine[3])
  else
    held = 0
  end
end

local sum = held_by_others + (mine and mine[2] or 0)
local left = max(permits - sum, 0)
local called = min(max(lacked - left, 0), held)
local lasts = held > 0 and mine[3] - now or 0
local lives = ends - clock
if lives > 0 then
  redis.call('HSET', key, 'account', write({ now, sum, ends }))
  if mine then
    redis.call('HSET', key, instance, write(mine))
  end
  redis.call('PEXPIRE', key, string.format('%.0f', lives))
end
return { held, left, lasts, 0, called, sum, least <= permits and 0 or nil }
