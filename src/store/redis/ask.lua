-- What is asked, and what is known of the key. One hash holds all of it: the field `account`, and one for each instance by
-- its number. Numbers are whole and below 2^53, which is why they are written with `%.0f`: Lua's own way is `1e+15`.
local key = KEYS[1]
local permits, length, burst = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local instance, seq = ARGV[4], tonumber(ARGV[5])
local need, least, want = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local back, back_of = tonumber(ARGV[9]), tonumber(ARGV[10])
local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max

local function read(text)
  local numbers = {}
  for digits in string.gmatch(text or '', '%d+') do
    numbers[#numbers + 1] = tonumber(digits)
  end
  return numbers
end

local function write(numbers)
  for place, number in ipairs(numbers) do
    numbers[place] = string.format('%.0f', number)
  end
  return table.concat(numbers, ' ')
end

-- While so much is left: what those get who wait, and what may be had ahead, a quarter of the rest at most, so that
-- other instances find some too.
local function parts(left)
  if least > left then
    return 0, 0
  end
  local now_needed = min(need, left)
  return now_needed, min(max(want - need, 0), floor((left - now_needed) / 4))
end

local stored = redis.call('HMGET', key, 'account', instance)
-- When it was last counted, all that was granted, when it ends; then what the algorithm counts.
local account = read(stored[1])
-- Sequence number, what was granted to it; the last window in which something was, until when, and how much is out.
local latest = read(stored[2])

-- A clock that steps back a little is taken to stand still until it has caught up.
local now = clock
local last = account[1] or 0
if last > now and last - now <= 10000 then
  now = last
end
local ended = (account[3] or 0) <= now
if ended then
  account, latest = {}, {}
end
local drawn = account[2] or 0
