-- The ask, and what is stored for the key. One hash holds all of it: the field `account`, and a field for each
-- instance, named by its number. Numbers are integers below 2^53. They are written with `%.0f`, because Lua would write
-- `1e+15`.
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

-- Splits what is granted while `left` permits are left: permits for waiting requests, and permits drawn ahead. The
-- latter are at most a quarter of the rest, so that other instances find some too.
local function parts(left)
  if least > left then
    return 0, 0
  end
  local now_needed = min(need, left)
  return now_needed, min(max(want - need, 0), floor((left - now_needed) / 4))
end

local stored = redis.call('HMGET', key, 'account', instance)
-- When it was last counted, all permits drawn, and when it ends; then what the algorithm counts.
local account = read(stored[1])
-- The sequence number and its grant; the last window with a grant, when that ends, and how many permits can be given
-- back.
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
