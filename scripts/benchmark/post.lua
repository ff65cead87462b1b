-- wrk's request, and one line of figures that needs no parsing of units: microseconds, except where a name says otherwise.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"model":"m","messages":[{"role":"user","content":"hi there"}]}'

function done(summary, latency)
  local e = summary.errors
  io.write(string.format('FIGURES {"p50": %d, "p99": %d, "requests": %d, "duration": %d, "errors": %d}\n',
    latency:percentile(50), latency:percentile(99), summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout))
end
