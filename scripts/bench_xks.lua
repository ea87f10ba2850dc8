-- wrk: sends the requests of a file (4 bytes of length, big-endian, before each) in turn; writes the figures as JSON.
local requests = {}
local at = 0

function init(args)
  local file = assert(io.open(args[1], "rb"))
  while true do
    local head = file:read(4)
    if not head then break end
    local a, b, c, d = head:byte(1, 4)
    requests[#requests + 1] = file:read(((a * 256 + b) * 256 + c) * 256 + d)
  end
  file:close()
end

function setup(thread)
  thread:set("threads", 1)
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency, _)
  local errors = summary.errors
  -- wrk's own table of arguments is gone by now; the command line is not.
  local line = assert(io.open("/proc/self/cmdline", "rb")):read("*a")
  local path = line:match("([^%z]+)%z$")
  local file = assert(io.open(path, "w"))
  file:write(string.format(
    '{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"p999_us":%d,"max_us":%d,"errors":%d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    latency.max, errors.connect + errors.read + errors.write + errors.status + errors.timeout))
  file:close()
end
