-- Two counters, the older one weighted by how much of its window the sliding one still covers. Stored: when everything
-- counted has expired, which is two windows after the newer one began, and both counts.
local window = now - now % length
local window_ends = window + length
local fresh, current, previous = account[4] or 0, account[5] or 0, account[6] or 0
local covered = window_ends - now

-- How many windows the counters are ahead of now; negative if they are behind.
local function drift()
  return floor(fresh / length) - window_ends / length - 1
end

-- The counters as of the current window. What was counted in a future window, before the clock stepped back, counts as
-- used in this one.
local function counts()
  local ahead_of_now = drift()
  if fresh == 0 or ahead_of_now < -1 then
    return 0, 0
  elseif ahead_of_now == -1 then
    return 0, current
  elseif ahead_of_now == 0 then
    return current, previous
  end
  return min(current + previous, permits), 0
end

local function left_now()
  local new, old = counts()
  return max(permits - new - ceil(old * covered / length), 0)
end

local function draw()
  local now_needed, drawn_ahead = parts(left_now())
  local count = now_needed + drawn_ahead
  if count > 0 then
    current, previous = counts()
    current, fresh = current + count, window_ends + length
  end
  return count, window_ends, true
end

local function give_back(count, charged_in)
  if charged_in ~= window or fresh == 0 then
    return false
  end
  local ahead_of_now = drift()
  if ahead_of_now == 0 then
    current = max(current - count, 0)
  elseif ahead_of_now == 1 then
    previous = max(previous - count, 0)
  end
  return true
end

local function balance(needed)
  local new, old = counts()
  local retry = 0
  if needed > permits then
    retry = nil
  else
    -- When the fading count begins to fade, that count, and how much of it may remain.
    local from, fading, room
    if new + needed <= permits then
      from, fading, room = window, old, permits - new - needed
    else
      -- Not within this window. In the next one, this window's count is the older one.
      from, fading, room = window_ends, new, permits - needed
    end
    if from == window_ends or fading * covered > room * length then
      local may_be_left = fading > 0 and floor(room * length / fading) or length
      retry = max(from + max(length - may_be_left, 0) - now, 0)
    end
  end
  return left_now(), window_ends - now, retry
end

local function account_ends()
  return window_ends + length
end

local function counted()
  return { fresh, current, previous }
end
