-- Takes a batch of a projection with the place behind it, in one step.
--
-- KEYS: the place; the streams; then one for each hash that is set or removed, in their order.
-- ARGV: epoch of the holder; next before and after ('' and '': the place stays); hash after; how
-- long the place is kept, in ms; how many streams; for each of them how long it is kept in ms ('0':
-- for ever), about how many entries are kept, how many follow, and for each entry its sequence and
-- its fields; then for each hash 'drop', or 'put', how long it is kept, how its first fields
-- compare ('n' whole number, 't' bytes; none: the first one stays), and its fields. Fields are:
-- how many arguments follow, then names and values by turns.
--
-- Nothing is written before all that can be refused was looked at.

local byte = string.byte
local turn = 0

local function argument()
  turn = turn + 1
  return ARGV[turn]
end

-- Where the fields are that follow: the first, and the one before the last.
local function fields()
  local count = tonumber(argument())
  local first = turn + 1
  turn = turn + count
  return first, turn
end

-- Lua's own comparison of strings follows the locale of the server.
local function bytes_order(a, b)
  if a == b then return 0 end
  for i = 1, math.min(#a, #b) do
    local x, y = byte(a, i), byte(b, i)
    if x ~= y then return x < y and -1 or 1 end
  end
  return #a < #b and -1 or 1
end

-- Lua's own numbers end to tell whole ones apart at 2^53.
local function number_order(a, b)
  local below, under = byte(a) == 45, byte(b) == 45
  if below ~= under then return below and -1 or 1 end
  local order
  if #a ~= #b then order = #a < #b and -1 or 1 else order = bytes_order(a, b) end
  return below and -order or order
end

-- What a key holds; nothing if it is of another type, as nobody but a stranger would make it.
local function held(key, names)
  local values = redis.pcall('HMGET', key, unpack(names))
  if not values.err then return values end
  if values.err:find('WRONGTYPE', 1, true) then return {} end
  -- Fails in the same way, with its code.
  return redis.call('HMGET', key, unpack(names))
end

local epoch, before, after = argument(), argument(), argument()
local hash, kept = argument(), argument()
local place = held(KEYS[1], { 'epoch', 'next' })
if place[1] ~= epoch then return 'fenced' end
if before ~= '' and place[2] and place[2] ~= before then
  -- The same commit again, whose answer was lost.
  if place[2] == after then return 'done' end
  return 'fenced'
end

local streams = tonumber(argument())
local last = {}
for stream = 1, streams do
  local key = KEYS[1 + stream]
  last[stream] = '0'
  if redis.call('EXISTS', key) == 1 then
    local about = redis.call('XINFO', 'STREAM', key)
    for i = 1, #about, 2 do
      if about[i] == 'last-generated-id' then last[stream] = about[i + 1]:match('^%d+') end
    end
  end
end

-- Whether there is memory is looked at before the first write, if that one takes some, and not
-- again: this one changes nothing, and takes some as far as the server knows.
redis.call('HSET', KEYS[1], 'epoch', epoch)

for stream = 1, streams do
  local key, ttl, most = KEYS[1 + stream], argument(), argument()
  for _ = 1, tonumber(argument()) do
    local sequence = argument()
    local first, final = fields()
    if number_order(sequence, last[stream]) > 0 then
      redis.call('XADD', key, 'MAXLEN', '~', most, sequence .. '-0', unpack(ARGV, first, final))
      last[stream] = sequence
    end
  end
  if ttl ~= '0' then redis.call('PEXPIRE', key, ttl) end
end

-- Whether the row from argument `first` on is newer than the one at `key`.
local function newer(key, orders, first)
  if orders == '' then return redis.call('EXISTS', key) == 0 end
  local names = {}
  for i = 1, #orders do names[i] = ARGV[first + 2 * i - 2] end
  local there = held(key, names)
  for i = 1, #orders do
    if not there[i] then return true end
    local compare = orders:sub(i, i) == 'n' and number_order or bytes_order
    local order = compare(ARGV[first + 2 * i - 1], there[i])
    if order ~= 0 then return order > 0 end
  end
  return false
end

for i = 2 + streams, #KEYS do
  local key = KEYS[i]
  if argument() == 'drop' then
    redis.call('DEL', key)
  else
    local ttl, orders = argument(), argument()
    local first, final = fields()
    if newer(key, orders, first) then
      redis.call('DEL', key)
      redis.call('HSET', key, unpack(ARGV, first, final))
      redis.call('PEXPIRE', key, ttl)
    end
  end
end

if before ~= '' then
  redis.call('HSET', KEYS[1], 'next', after, 'hash', hash)
  redis.call('PEXPIRE', KEYS[1], kept)
end
return 'done'
