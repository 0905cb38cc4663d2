-- Takes a place. KEYS: the place. ARGV: how long it is kept, in ms. Answers with the epoch of the
-- holder, and next and hash where they are known.
--
-- An epoch is the server's time in microseconds, or one more than the last: also after the place
-- was lost no holder has that of an earlier one.

local place = redis.pcall('HMGET', KEYS[1], 'epoch', 'next', 'hash')
if place.err and place.err:find('WRONGTYPE', 1, true) then
  redis.call('DEL', KEYS[1])
end
if place.err then
  place = redis.call('HMGET', KEYS[1], 'epoch', 'next', 'hash')
end
local time = redis.call('TIME')
local epoch = time[1] * 1000000 + time[2]
epoch = string.format('%.0f', math.max(epoch, (tonumber(place[1]) or 0) + 1))
redis.call('HSET', KEYS[1], 'epoch', epoch)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return { epoch, place[2], place[3] }
