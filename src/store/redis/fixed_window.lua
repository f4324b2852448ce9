-- One counter per window: when that window ends, and the permits used in it.
local window = now - now % length
local window_ends = window + length
local ends, used = account[4] or 0, account[5] or 0

-- The count of a past window is zero. The count of a future window was made before the clock stepped back.
local is_now = floor(ends / length) * length == window_ends
local function used_now()
  if is_now then
    return used
  end
  return ends > window_ends and min(used, permits) or 0
end

local function left_now()
  return max(permits - used_now(), 0)
end

local function draw()
  local now_needed, drawn_ahead = parts(left_now())
  local count = now_needed + drawn_ahead
  if count > 0 then
    used, ends, is_now = used_now() + count, window_ends, true
  end
  return count, window_ends, true
end

local function give_back(count, charged_in)
  if charged_in ~= window or ends == 0 then
    return false
  end
  if is_now then
    used = max(used - count, 0)
  end
  return true
end

local function balance(needed)
  local renewed = window_ends - now
  local retry = 0
  if used_now() + needed > permits then
    retry = needed <= permits and renewed or nil
  end
  return left_now(), renewed, retry
end

local function account_ends()
  return window_ends
end

local function counted()
  return { ends, used }
end
