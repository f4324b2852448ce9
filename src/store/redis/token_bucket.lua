-- A bucket that lends. Its debt is in ns, and `debt >= what is lent` at any time. Permits are lent for an epoch, a
-- quarter of the time that fills the bucket. Two counters, one per epoch, hold what is lent; the older is dropped when
-- a new epoch begins.
local interval = max(ceil(length * 1000000 / permits), 1)
local capacity = interval * burst
local epoch_length = min(max(floor(floor(capacity / 1000000) / 4), 1), 1000)
local window = now - now % epoch_length
local at, debt, epoch = account[4] or 0, account[5] or 0, account[6] or 0
local lent, lent_before = account[7] or 0, account[8] or 0

-- The bucket as of now. Until a counter is dropped, the debt stays at least that of the counter's permits.
local function drained(from, to)
  return max(debt - min(max(to - from, 0), ceil(capacity / 1000000)) * 1000000, 0)
end
local next_epoch, epoch_after = epoch + epoch_length, epoch + 2 * epoch_length
local first, second = max(min(now, next_epoch), at), max(min(now, epoch_after), at)
debt = max(drained(at, first), (lent + lent_before) * interval)
if now >= next_epoch then
  debt = max(drained(first, second), lent * interval)
end
if now >= epoch_after then
  debt = drained(second, now)
end
if window < epoch then
  -- The clock has stepped back: all lent permits are still out.
  lent, lent_before = lent + lent_before, 0
elseif now >= epoch_after then
  lent, lent_before = 0, 0
elseif window ~= epoch then
  lent, lent_before = 0, lent
end
at, epoch = now, window

local function level()
  return floor(max(capacity - debt, 0) / interval)
end

-- Permits that are not lent must be used soon, and cannot be given back.
local function draw()
  local now_needed, drawn_ahead = parts(level())
  local lendable = epoch_length < 100 and 0 or max(floor(burst / 2) - lent - lent_before, 0)
  local lends = want > need and now_needed + drawn_ahead <= lendable
  if not lends then
    drawn_ahead = min(drawn_ahead, floor(100000000 / interval))
  end
  local count = now_needed + drawn_ahead
  debt = debt + count * interval
  if not lends then
    return count, now + 100, false
  end
  lent = lent + count
  return count, now + epoch_length, true
end

local function give_back(count, charged_in)
  if charged_in == epoch then
    count = min(count, lent)
    lent = lent - count
  elseif charged_in + epoch_length == epoch then
    count = min(count, lent_before)
    lent_before = lent_before - count
  else
    return false
  end
  debt = max(debt - count * interval, 0)
  return true
end

-- How many ms until the debt has fallen to `wanted`, given that it cannot fall below what is lent.
local function down_to(wanted)
  local function after(epochs, count)
    local rest = max(count * interval - wanted, 0)
    return rest == 0 and 0 or max(epoch + epochs * epoch_length - now, 0) * 1000000 + rest
  end
  local ns = max(debt - wanted, 0, after(1, lent + lent_before), after(2, lent))
  return ceil(ns / 1000000)
end

local function balance(needed)
  local affordable = capacity - needed * interval
  return level(), down_to(0), affordable >= 0 and down_to(affordable) or nil
end

local function account_ends()
  return now + down_to(0)
end

local function counted()
  return { at, debt, epoch, lent, lent_before }
end
